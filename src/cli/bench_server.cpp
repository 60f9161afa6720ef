#include "cli/bench_server.h"

#include "base/try.h"

namespace millrace::cli {

Result<BenchCell> bench_server(const ServerBench& bench) {
  MILLRACE_ASSIGN(std::unique_ptr<LoadTarget> target, server_target(bench.server));
  BenchCell cell;
  cell.info = target->info();
  cell.info.max_items = bench.load.request_items;
  cell.model = bench.server.model.name;
  cell.scenario = bench.scenario;
  cell.load = bench.load;
  cell.server = ServerFacts{bench.server.url, bench.server.shared, bench.server.pid != 0};
  MILLRACE_ASSIGN(const BenchInputs inputs,
                  BenchInputs::open(cell.info, bench.input, {}, bench.load.seed));
  MILLRACE_ASSIGN(const std::unique_ptr<LoadGenerator> load,
                  LoadGenerator::make(std::move(target), inputs, bench.load));
  Progress progress("measuring", 0, "requests");
  std::uint64_t answered = 0;
  MILLRACE_ASSIGN(cell.measurement,
                  measure(*load,
                          plan_windows(std::chrono::duration_cast<Duration>(
                              std::chrono::duration<double>(bench.seconds))),
                          bench.load.arrival == Arrival::poisson || bench.whole,
                          [&](const WindowSample& sample) {
                            progress.update(answered += static_cast<std::uint64_t>(
                                                sample.requests_per_s * sample.seconds));
                          }));
  cell.first_error = load->first_error();
  return cell;
}

}  // namespace millrace::cli
