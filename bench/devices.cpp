// Whether four devices do four times the work of one, and whether a slow one among them holds the
// others up: a model that sleeps, on host devices, measured in turn.
#include <vector>

#include "support.h"

namespace {

using namespace millrace;

constexpr int kDevices = 4;
constexpr double kSlowness = 3;

struct Setup {
  Engine engine;
  Model model;
  std::unique_ptr<cli::LoadGenerator> load;
};

Setup make(int devices, double slowness_of_last) {
  EngineOptions options;
  for (int i = 0; i < devices; ++i) {
    options.devices.devices.push_back("host:" + std::to_string(i));
    options.devices.host.push_back({.slowness = i + 1 == devices ? slowness_of_last : 1.0});
  }
  Engine engine = bench::value_or_die(Engine::create(options));
  ModelConfig config;
  config.path = "reference:busy?batch_us=4000&mode=sleep";
  config.batching.max_items = 8;
  Model model = bench::value_or_die(engine.load(config));
  cli::LoadOptions load;
  load.request_items = 8;
  load.concurrency = 4 * kDevices;  // of one device as well: all have the same to choose from
  auto generator = bench::load_on(model, load);
  return {std::move(engine), std::move(model), std::move(generator)};
}

double rate_of(Setup& setup, double seconds) {
  setup.load->start();
  const bench::Window window = bench::count_for(*setup.load, 0.1, seconds);
  bench::ok_or_die(setup.load->stop());
  return window.items_per_s();
}

bench::Json measure(double seconds, int rounds) {
  Setup one = make(1, 1);
  Setup four = make(kDevices, 1);
  Setup uneven = make(kDevices, kSlowness);
  std::vector<double> scaling;
  std::vector<double> share;
  bench::Json samples = bench::Json::array();
  for (int round = 0; round < rounds; ++round) {
    const double single = rate_of(one, seconds);
    const double all = rate_of(four, seconds);
    const double mixed = rate_of(uneven, seconds);
    scaling.push_back(all / single);
    share.push_back(mixed / (single * (kDevices - 1 + 1 / kSlowness)));
    samples.push_back(
        {{"one_items_per_s", single}, {"four_items_per_s", all}, {"uneven_items_per_s", mixed}});
  }
  const cli::Spread scaling_spread = cli::spread_of(scaling);
  const cli::Spread share_spread = cli::spread_of(share);
  return {{"model", "reference:busy?batch_us=4000&mode=sleep"},
          {"devices", kDevices},
          {"scaling", scaling_spread.median},
          {"scaling_min", scaling_spread.min},
          {"scaling_max", scaling_spread.max},
          {"slowness", kSlowness},
          {"share_of_ideal", share_spread.median},
          {"share_of_ideal_min", share_spread.min},
          {"share_of_ideal_max", share_spread.max},
          {"samples", samples}};
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 1;
  int rounds = 7;
  return bench::run(
      argc, argv,
      "Compares one host device with four, and with four of which one is three times slower.",
      [&](CLI::App& app) {
        app.add_option("--seconds", seconds, "Length of a window (default: 1)")
            ->check(CLI::Range(0.01, 3600.0));
        app.add_option("--rounds", rounds, "How often each is measured (default: 7)")
            ->check(CLI::Range(1, 1000));
      },
      [&] { return measure(seconds, rounds); });
}
