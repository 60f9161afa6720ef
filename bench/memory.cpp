// Whether memory grows with the number of requests served: resident memory after the first tenth of
// them and at the end.
#include "support.h"

namespace {

using namespace millrace;

bench::Json measure(std::uint64_t requests) {
  EngineOptions engine_options;
  engine_options.devices.devices = {"host:0"};
  Engine engine = bench::value_or_die(Engine::create(engine_options));
  ModelConfig config;
  config.path = "reference:identity";
  config.batching.max_items = 64;
  const Model model = bench::value_or_die(engine.load(config));
  cli::LoadOptions options;
  options.concurrency = 256;
  const auto load = bench::load_on(model, options);
  const std::uint64_t step = std::max<std::uint64_t>(requests / 10, 1);
  std::uint64_t answered = 0;
  bench::Json points = bench::Json::array();
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::uint64_t most = 0;
  load->start();
  for (std::uint64_t next = step; next <= requests; next += step) {
    while (answered < next) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const cli::Tally tally = load->take();
      if (tally.errors > 0) bench::die(load->first_error());
      answered += tally.requests;
    }
    last = cli::resident_bytes();
    if (first == 0) first = last;
    most = std::max(most, last);
    points.push_back({{"requests", answered}, {"rss_bytes", last}});
  }
  bench::ok_or_die(load->stop());
  const auto mib = [&](std::uint64_t bytes) {
    return (static_cast<double>(bytes) - static_cast<double>(first)) / 1048576;
  };
  return {{"model", "reference:identity"},
          {"requests", answered},
          {"growth_mib", mib(last)},
          {"most_growth_mib", mib(most)},
          {"points", points}};
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t requests = 10'000'000;
  return bench::run(
      argc, argv, "Serves many requests with the identity model and watches resident memory.",
      [&](CLI::App& app) {
        app.add_option("--requests", requests, "How many (default: 10 million)")
            ->check(CLI::Range(std::uint64_t{10}, std::uint64_t{1} << 40));
      },
      [&] { return measure(requests); });
}
