#include "cli/bench_compare.h"

#include <algorithm>
#include <functional>

#include "cli/bench_peers.h"

namespace millrace::cli {
namespace {

constexpr Duration kRamp = std::chrono::milliseconds(60);

double seconds_of(Duration time) { return std::chrono::duration<double>(time).count(); }

Error unsupported(std::string message) { return {ErrorCode::unsupported, std::move(message)}; }

struct EngineWindow {
  double items_per_s = 0;
  double p50_us = 0;
};

Result<EngineWindow> engine_window(LoadGenerator& load, Duration window) {
  load.start();
  sleep_unless_interrupted(kRamp);
  (void)load.take();
  const TimePoint start = Clock::now();
  sleep_unless_interrupted(window);
  const Tally tally = load.take();
  const double seconds = seconds_of(Clock::now() - start);
  Result<void> stopped = load.stop();
  if (!stopped.ok()) return std::move(stopped).error();
  if (tally.errors > 0) return Error{ErrorCode::internal, load.first_error()};
  return EngineWindow{static_cast<double>(tally.items) / seconds,
                      static_cast<double>(tally.latency.quantile(0.5)) / 1000};
}

std::vector<double> values_of(const std::vector<PairSample>& samples,
                              const std::function<double(const PairSample&)>& value) {
  std::vector<double> values;
  values.reserve(samples.size());
  for (const PairSample& sample : samples) values.push_back(value(sample));
  return values;
}

Json spread_json(const Spread& spread, const std::function<double(double)>& rounded) {
  return {{"median", rounded(spread.median)},
          {"low", rounded(spread.low)},
          {"high", rounded(spread.high)},
          {"min", rounded(spread.min)},
          {"max", rounded(spread.max)}};
}

}  // namespace

double Comparison::peer_items_per_s() const {
  return median_of(
      values_of(samples, [](const PairSample& sample) { return sample.peer_items_per_s; }));
}
double Comparison::peer_p50_us() const {
  return median_of(values_of(samples, [](const PairSample& sample) { return sample.peer_p50_us; }));
}
Spread Comparison::ratio() const {
  return spread_of(values_of(samples, [](const PairSample& sample) {
    return sample.engine_items_per_s / std::max(sample.peer_items_per_s, 1e-9);
  }));
}
Spread Comparison::p50_excess_us() const {
  return spread_of(values_of(
      samples, [](const PairSample& sample) { return sample.engine_p50_us - sample.peer_p50_us; }));
}

Result<std::vector<Comparison>> compare(const CompareSetup& setup, const Model& model,
                                        const BenchInputs& inputs, LoadGenerator& load,
                                        Progress& progress) {
  const std::string& backend = model.info().backend;
  PeersMaker make = peers_maker(backend);
  if (!make) {
    return unsupported("there is nothing to compare the backend " + in_quotes(backend) +
                       " with; --compare works for tensorrt, onnxruntime and reference:identity");
  }
  Result<std::vector<Peer>> peers = make(setup, model, inputs, progress);
  if (!peers.ok()) return std::move(peers).error();
  std::vector<Comparison> comparisons;
  for (const Peer& peer : *peers) comparisons.push_back({peer.name, peer.what, peer.setup, {}});
  for (int pair = 0; pair < setup.pairs && !interrupted(); ++pair) {
    for (std::size_t i = 0; i < peers->size() && !interrupted(); ++i) {
      const Result<EngineWindow> engine = engine_window(load, setup.window);
      if (!engine.ok()) return engine.error();
      const direct::Figures figures =
          (*peers)[i].loop->run(seconds_of(kRamp), seconds_of(setup.window));
      if (!figures.error.empty())
        return Error{ErrorCode::internal, (*peers)[i].name + ": " + figures.error};
      if (figures.wrong > 0)
        return Error{ErrorCode::internal, (*peers)[i].name + " gave " +
                                              std::to_string(figures.wrong) + " wrong answers"};
      if (interrupted()) break;  // that pair was cut short
      comparisons[i].samples.push_back({engine->items_per_s, figures.items_per_s(), engine->p50_us,
                                        figures.latency.quantile_us(0.5)});
      progress.update(static_cast<std::uint64_t>(pair) * peers->size() + i + 1);
    }
  }
  return comparisons;
}

Json comparison_json(const Comparison& comparison) {
  const auto tenth = [](double value) { return std::round(value * 10) / 10; };
  const auto fine = [](double value) { return std::round(value * 10000) / 10000; };
  Json json = {{"name", comparison.name},
               {"what", comparison.what},
               {"items_per_s", tenth(comparison.peer_items_per_s())},
               {"ratio", fine(comparison.ratio().median)},
               {"ratio_spread", spread_json(comparison.ratio(), fine)},
               {"p50_us", fine(comparison.peer_p50_us())},
               {"p50_excess_us", spread_json(comparison.p50_excess_us(), fine)}};
  for (const auto& [name, value] : comparison.setup.items()) json[name] = value;
  json["samples"] = Json::array();
  for (const PairSample& sample : comparison.samples) {
    json["samples"].push_back({{"engine_items_per_s", tenth(sample.engine_items_per_s)},
                               {"peer_items_per_s", tenth(sample.peer_items_per_s)},
                               {"engine_p50_us", fine(sample.engine_p50_us)},
                               {"peer_p50_us", fine(sample.peer_p50_us)}});
  }
  return json;
}

}  // namespace millrace::cli
