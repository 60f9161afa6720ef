#include "cli/bench_compare.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <set>

#include "direct/direct.h"
#include "direct/machine.h"

namespace millrace::cli {
namespace {

constexpr Duration kRamp = std::chrono::milliseconds(60);
constexpr std::size_t kMostBatchBytes = std::size_t{256} << 20;

double seconds_of(Duration time) { return std::chrono::duration<double>(time).count(); }

Error unsupported(std::string message) { return {ErrorCode::unsupported, std::move(message)}; }

// A peer ready to run.
struct Peer {
  std::string name;
  std::string what;
  Json setup;
  std::unique_ptr<direct::Loop> loop;
};

// ONNX's number of an element type (enum DataType of its protobuf); 0: none, or strings.
int onnx_type(DataType type) noexcept {
  switch (type) {
    case DataType::fp32:
      return 1;
    case DataType::uint8:
      return 2;
    case DataType::int8:
      return 3;
    case DataType::uint16:
      return 4;
    case DataType::int16:
      return 5;
    case DataType::int32:
      return 6;
    case DataType::int64:
      return 7;
    case DataType::boolean:
      return 9;
    case DataType::fp16:
      return 10;
    case DataType::fp64:
      return 11;
    case DataType::uint32:
      return 12;
    case DataType::uint64:
      return 13;
    case DataType::bf16:
      return 16;
    case DataType::fp8_e4m3:
      return 17;
    case DataType::fp8_e5m2:
      return 19;
    case DataType::bytes:
      return 0;
  }
  return 0;
}

int total_lanes(const ModelInfo& info) {
  int lanes = 0;
  for (const ModelInfo::Placement& placement : info.placements) lanes += placement.lanes;
  return std::max(lanes, 1);
}

std::string threads_text(int threads, int intra, bool spinning) {
  return std::to_string(threads) + (threads == 1 ? " thread" : " threads") + " over Run, " +
         std::to_string(intra) + " within an operator" + (spinning ? ", spinning" : "");
}

// The loops over ONNX Runtime's own interface.
class OnnxPeers {
 public:
  OnnxPeers(const CompareSetup& setup, const Model& model, const BenchInputs& inputs)
      : setup_(setup),
        model_(model),
        info_(model.info()),
        inputs_(inputs),
        alone_(setup.load.arrival == Arrival::blocking) {
    // Where the engine combines requests, the loop by hand runs batches as large as the engine may
    // make.
    const bool combines = setup.batching && !alone_ && setup.load.request_items < info_.max_items;
    items_ = combines ? info_.max_items : setup.load.request_items;
  }

  Result<std::vector<Peer>> make(Progress& progress) {
    std::vector<Peer> peers;
    for (const std::string& name : setup_.peers) {
      Result<void> made = name == "naive" ? add_naive(peers) : add_direct(peers, progress);
      if (!made.ok()) return std::move(made).error();
    }
    return peers;
  }

 private:
  struct Threads {
    int over_run = 1;
    int intra = 1;
    bool spinning = false;
    friend bool operator==(const Threads&, const Threads&) = default;
  };

  // Fills the tensors of `setup`; their memory stays in `memory_`.
  Result<void> add_tensors(direct::OnnxSetup& setup, std::int64_t items) {
    setup.items = items;
    setup.model = setup_.model_path;
    Result<void> batches = add_batches(setup, items);
    if (!batches.ok()) return batches;
    for (const TensorInfo& output : info_.outputs) {
      if (onnx_type(output.type) == 0)
        return unsupported("the loops compared with do not handle BYTES (output " +
                           in_quotes(output.name) + ")");
      Shape shape = output.shape;
      if (output.batch_axis >= 0) shape[static_cast<std::size_t>(output.batch_axis)] = items;
      const Result<std::size_t> bytes = byte_count(output.type, shape);
      setup.outputs.push_back({output.name,
                               onnx_type(output.type),
                               {shape.begin(), shape.end()},
                               nullptr,
                               bytes.ok() ? *bytes : 0});
    }
    return {};
  }

  Result<void> add_batches(direct::OnnxSetup& setup, std::int64_t items) {
    std::size_t count = std::max<std::size_t>(
        static_cast<std::size_t>(setup_.load.concurrency) *
            static_cast<std::size_t>(setup_.load.request_items) / static_cast<std::size_t>(items),
        2 * static_cast<std::size_t>(direct::usable_cores()));
    for (std::size_t k = 0; k < count; ++k) {
      Result<std::vector<NamedTensor>> content = inputs_.make(k, items);
      if (!content.ok()) return std::move(content).error();
      if (k == 0)
        count = std::clamp<std::size_t>(
            kMostBatchBytes / std::max<std::size_t>(bytes_of(*content), 1), 2, count);
      std::vector<direct::Tensor>& batch = setup.batches.emplace_back();
      for (NamedTensor& input : *content) {
        const Result<std::size_t> bytes = input.view.bytes();
        if (onnx_type(input.view.type) == 0)
          return unsupported("the loops compared with do not handle BYTES (input " +
                             in_quotes(input.name) + ")");
        if (!bytes.ok()) return bytes.error();
        batch.push_back({input.name,
                         onnx_type(input.view.type),
                         {input.view.shape.begin(), input.view.shape.end()},
                         input.view.data,
                         *bytes});
        memory_.push_back(std::move(input.lease));
      }
    }
    return {};
  }

  Result<std::unique_ptr<direct::OnnxLoop>> open(const direct::OnnxSetup& setup) {
    std::string error;
    std::unique_ptr<direct::OnnxLoop> loop = direct::make_onnx_loop(setup, error);
    if (!loop)
      return Error{ErrorCode::unavailable, "the loop compared with cannot start: " + error};
    return loop;
  }

  // The engine must give the same answer to the same batch.
  Result<void> check(direct::OnnxLoop& loop, const direct::OnnxSetup& setup) {
    Request request;
    Result<std::vector<NamedTensor>> content = inputs_.make(0, setup.items);
    if (!content.ok()) return std::move(content).error();
    for (const NamedTensor& input : *content) request.inputs.push_back(input);
    const Result<Response> expected = model_.infer(std::move(request));
    if (!expected.ok()) return expected.error();
    std::string error;
    std::vector<std::string> found = loop.run_once(0, error);
    if (!error.empty()) return Error{ErrorCode::internal, "the loop compared with fails: " + error};
    std::vector<NamedTensor> outputs(expected->outputs.begin(), expected->outputs.end());
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const Result<std::size_t> bytes = outputs[i].view.bytes();
      if (!bytes.ok() || i >= found.size() || found[i].size() != *bytes) {
        return Error{ErrorCode::internal,
                     "output " + in_quotes(outputs[i].name) +
                         ": the loop compared with gives another size than the engine"};
      }
      outputs[i].view.data = found[i].data();
    }
    const std::string difference =
        difference_of(outputs, {expected->outputs.data(), expected->outputs.size()});
    if (difference.empty()) return {};
    return Error{ErrorCode::internal,
                 "the loop compared with and the engine answer differently: " + difference};
  }

  Result<void> add_naive(std::vector<Peer>& peers) {
    direct::OnnxSetup setup;
    setup.naive = true;
    setup.intra_threads = direct::usable_cores();
    Result<void> tensors = add_tensors(setup, setup_.load.request_items);
    if (!tensors.ok()) return tensors;
    Result<std::unique_ptr<direct::OnnxLoop>> loop = open(setup);
    if (!loop.ok()) return std::move(loop).error();
    Result<void> checked = check(**loop, setup);
    if (!checked.ok()) return checked;
    peers.push_back(
        {"naive",
         "one session with default options, one request at a time",
         {{"threads", 1}, {"intra_threads", setup.intra_threads}, {"batch", setup.items}},
         std::move(*loop)});
    return {};
  }

  // As many threads as the engine has lanes, each with as many within an operator.
  Threads engines_threads() const {
    Threads threads;
    threads.over_run = alone_ ? 1 : std::min(total_lanes(info_), setup_.load.concurrency);
    threads.intra = intra_threads();
    const auto spinning = setup_.options.find("spinning");
    threads.spinning = spinning != setup_.options.end() && spinning->second == "1";
    return threads;
  }

  // What the engine was told or says of itself; else what the budget of running lanes and pool
  // workers leaves.
  int intra_threads() const {
    std::string text;
    for (const auto& [name, value] : info_.metadata) {
      if (name == "intra_op_threads") text = value;
    }
    if (const auto found = setup_.options.find("intra_op_threads"); found != setup_.options.end())
      text = found->second;
    int threads = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), threads).ec == std::errc() &&
        threads > 0)
      return threads;
    return std::max(1, direct::usable_cores() - total_lanes(info_) + 1);
  }

  Result<void> add_direct(std::vector<Peer>& peers, Progress& progress) {
    direct::OnnxSetup setup;
    Result<void> tensors = add_tensors(setup, items_);
    if (!tensors.ok()) return tensors;
    const Threads own = engines_threads();
    Result<Threads> best = find_best(setup, own, progress);
    if (!best.ok()) return std::move(best).error();
    Result<void> added = add(peers, setup, "direct", own);
    if (added.ok() && !(*best == own)) added = add(peers, setup, "direct_best", *best);
    return added;
  }

  Result<void> add(std::vector<Peer>& peers, direct::OnnxSetup setup, std::string name,
                   const Threads& threads) {
    set(setup, threads);
    Result<std::unique_ptr<direct::OnnxLoop>> loop = open(setup);
    if (!loop.ok()) return std::move(loop).error();
    Result<void> checked = check(**loop, setup);
    if (!checked.ok()) return checked;
    peers.push_back({std::move(name),
                     threads_text(threads.over_run, threads.intra, threads.spinning),
                     {{"threads", threads.over_run},
                      {"intra_threads", threads.intra},
                      {"spinning", threads.spinning},
                      {"batch", setup.items}},
                     std::move(*loop)});
    return {};
  }

  static void set(direct::OnnxSetup& setup, const Threads& threads) {
    setup.threads = threads.over_run;
    setup.intra_threads = threads.intra;
    setup.spinning = threads.spinning;
  }

  // Powers of two up to the cores, and the cores.
  static std::vector<int> counts() {
    const int cores = direct::usable_cores();
    std::vector<int> counts;
    for (int n = 1; n < cores; n *= 2) counts.push_back(n);
    counts.push_back(cores);
    return counts;
  }

  // By the median latency of a single caller, else by throughput.
  Result<Threads> find_best(direct::OnnxSetup setup, const Threads& own, Progress& progress) {
    Threads best = own;
    double best_score = -1;
    std::uint64_t tried = 0;
    for (const int over_run : alone_ ? std::vector<int>{1} : counts()) {
      for (const int intra : counts()) {
        for (const bool spinning : {false, true}) {
          if ((spinning && intra == 1) || over_run + intra - 1 > 2 * direct::usable_cores() ||
              interrupted())
            continue;
          const Threads threads{over_run, intra, spinning};
          set(setup, threads);
          Result<std::unique_ptr<direct::OnnxLoop>> loop = open(setup);
          if (!loop.ok()) return std::move(loop).error();
          const direct::Figures figures =
              (*loop)->run(seconds_of(setup_.trial) / 4, seconds_of(setup_.trial));
          if (!figures.error.empty())
            return Error{ErrorCode::internal, "the loop compared with fails: " + figures.error};
          const double score =
              alone_ ? 1 / std::max(figures.latency.quantile_us(0.5), 1e-3) : figures.items_per_s();
          if (score > best_score) {
            best_score = score;
            best = threads;
          }
          progress.update(++tried);
        }
      }
    }
    return best;
  }

  const CompareSetup& setup_;
  const Model& model_;
  const ModelInfo& info_;
  const BenchInputs& inputs_;
  const bool alone_;
  std::int64_t items_ = 1;
  std::vector<Lease> memory_;  // that the loops read as long as they live
};

Result<std::vector<Peer>> pipeline_peers(const CompareSetup& setup, const Model& model,
                                         const BenchInputs& inputs) {
  const ModelInfo& info = model.info();
  if (std::find(setup.peers.begin(), setup.peers.end(), "naive") != setup.peers.end()) {
    return unsupported(
        "there is no naive loop for reference models, which have no library of their own; use "
        "--compare direct");
  }
  if (!setup.model_path.starts_with("reference:identity")) {
    return unsupported(
        "among reference models only reference:identity has something to compare with, got " +
        in_quotes(setup.model_path));
  }
  const Result<std::vector<NamedTensor>> item = inputs.make(0, 1);
  if (!item.ok()) return item.error();
  direct::PipelineSetup pipeline;
  pipeline.concurrency = setup.load.concurrency;
  pipeline.request_items = setup.load.request_items;
  pipeline.max_batch_items = setup.batching ? info.max_items : setup.load.request_items;
  pipeline.lanes = total_lanes(info);
  pipeline.slots = info.placements.empty() ? 2 : info.placements[0].slots;
  pipeline.item_bytes = bytes_of(*item);
  std::vector<Peer> peers;
  peers.push_back({"direct",
                   "a pipeline of the same threads and queues without the engine",
                   {{"lanes", pipeline.lanes},
                    {"slots", pipeline.slots},
                    {"concurrency", pipeline.concurrency},
                    {"batch", pipeline.max_batch_items}},
                   direct::make_pipeline(pipeline)});
  return peers;
}

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
  if (backend != "onnxruntime" && backend != "reference") {
    return unsupported("there is nothing to compare the backend " + in_quotes(backend) +
                       " with; --compare works for onnxruntime and reference:identity");
  }
  OnnxPeers onnx(setup, model, inputs);
  Result<std::vector<Peer>> peers =
      backend == "onnxruntime" ? onnx.make(progress) : pipeline_peers(setup, model, inputs);
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
