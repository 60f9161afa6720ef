// How models share a device: by weight when both want all of it, by priority class when one may not
// wait.
#include <random>
#include <vector>

#include "support.h"

namespace {

using namespace millrace;

Model load_busy(Engine& engine, const std::string& name, int batch_us, double weight,
                int priority_class) {
  ModelConfig config;
  config.name = name;
  config.path = "reference:busy?mode=sleep&batch_us=" + std::to_string(batch_us);
  config.batching.max_items = 4;
  config.weight = weight;
  config.priority_class = priority_class;
  return bench::value_or_die(engine.load(config));
}

Engine make_engine(int cap) {
  EngineOptions options;
  options.devices.devices = {"host:0"};
  options.max_batches_in_flight = cap;
  return bench::value_or_die(Engine::create(options));
}

cli::LoadOptions saturating() {
  cli::LoadOptions load;
  load.concurrency = 16;
  load.request_items = 4;
  return load;
}

// Device time of a model of weight 3 over that of one of weight 1, both saturated, in each window.
bench::Json weights(int cap, double seconds, int rounds) {
  Engine engine = make_engine(cap);
  const Model heavy = load_busy(engine, "heavy", 1000, 3, 0);
  const Model light = load_busy(engine, "light", 2000, 1,
                                0);  // longer batches: it is time that is shared, not turns
  const auto heavy_load = bench::load_on(heavy, saturating());
  const auto light_load = bench::load_on(light, saturating());
  heavy_load->start();
  light_load->start();
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds / 2));
  std::vector<double> ratios;
  bench::Json samples = bench::Json::array();
  for (int round = 0; round < rounds; ++round) {
    const Duration heavy_before = heavy.statistics().device_time;
    const Duration light_before = light.statistics().device_time;
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    const double heavy_s =
        std::chrono::duration<double>(heavy.statistics().device_time - heavy_before).count();
    const double light_s =
        std::chrono::duration<double>(light.statistics().device_time - light_before).count();
    ratios.push_back(heavy_s / std::max(light_s, 1e-9));
    samples.push_back({{"heavy_s", heavy_s}, {"light_s", light_s}});
  }
  bench::ok_or_die(heavy_load->stop());
  bench::ok_or_die(light_load->stop());
  const cli::Spread spread = cli::spread_of(ratios);
  return {{"max_batches_in_flight", cap},
          {"device_time_ratio", spread.median},
          {"min", spread.min},
          {"max", spread.max},
          {"samples", samples}};
}

// How long a request of a high class waits while work of a low one fills the device: its latency
// less the time of its own batch.
bench::Json priority(double seconds) {
  constexpr int kLowBatchUs = 5000;
  constexpr int kHighBatchUs = 1000;
  Engine engine = make_engine(1);
  const Model low = load_busy(engine, "low", kLowBatchUs, 1, 0);
  const Model high = load_busy(engine, "high", kHighBatchUs, 1, 1);
  const auto low_load = bench::load_on(low, saturating());
  std::vector<float> item(std::size_t{4} * 16, 1.0F);
  low_load->start();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  Histogram waits;
  std::mt19937 random(1);
  std::uniform_int_distribution<int> pause_us(0, 2 * kLowBatchUs);
  const TimePoint end =
      Clock::now() + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
  while (Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::microseconds(pause_us(random)));
    Request request;
    request.inputs.push_back(
        {high.info().inputs[0].name, TensorView::of(item.data(), {4, 16}), {}});
    const Response response = bench::value_or_die(high.infer(std::move(request)));
    const auto wait = response.times.completed - response.times.submitted -
                      std::chrono::microseconds(kHighBatchUs);
    waits.record(static_cast<std::uint64_t>(
        std::max<std::int64_t>(std::chrono::nanoseconds(wait).count(), 0)));
  }
  bench::ok_or_die(low_load->stop());
  return {{"low_batch_us", kLowBatchUs},
          {"high_batch_us", kHighBatchUs},
          {"requests", waits.count()},
          {"wait_us", cli::latency_json(waits)}};
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 1;
  int rounds = 9;
  return bench::run(
      argc, argv, "Measures how weighted and prioritized models share one host device.",
      [&](CLI::App& app) {
        app.add_option("--seconds", seconds, "Length of a window (default: 1)")
            ->check(CLI::Range(0.01, 3600.0));
        app.add_option("--rounds", rounds, "Windows for each setting (default: 9)")
            ->check(CLI::Range(1, 1000));
      },
      [&] {
        return bench::Json{{"weights", {weights(1, seconds, rounds), weights(2, seconds, rounds)}},
                           {"priority", priority(seconds * rounds)}};
      });
}
