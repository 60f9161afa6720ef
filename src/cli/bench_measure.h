// One measurement: windows of a running load until they are steady.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <millrace/model.h>

#include "cli/bench_windows.h"
#include "cli/load_generator.h"

namespace millrace::cli {

/// While one lives, Ctrl-C (SIGINT) sets a flag; the second one ends the program.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};
[[nodiscard]] bool interrupted() noexcept;
/// False when interrupted meanwhile.
bool sleep_unless_interrupted(Duration time);

/// CPU time of this process, of all its threads.
[[nodiscard]] double process_cpu_seconds() noexcept;
/// Memory of this process that is in the machine's; 0 where the system does not say.
[[nodiscard]] std::uint64_t resident_bytes() noexcept;

struct WindowSample {
  double seconds = 0;
  double items_per_s = 0;
  double requests_per_s = 0;
  double p50_us = 0;
  double p99_us = 0;
  double cpu_s = 0;
  std::uint64_t errors = 0;
  std::uint64_t refused = 0;                // of those
  double server_cpu_s = 0;                  // 0 where not known
  std::uint64_t server_resident_bytes = 0;  // at the end; 0 where not known
  bool counted = false;                     // within the figures
};

struct Measurement {
  double seconds = 0;  // of the windows counted, as all that follows
  Tally tally;
  ModelStatistics statistics;
  double cpu_s = 0;                  // of the process
  std::uint64_t all_requests = 0;    // of all loads that were measured together
  std::uint64_t errors = 0;          // of all windows, the warm-up included
  std::uint64_t refused = 0;         // of those
  ServerTotals server;               // of what is measured, where it is one
  std::uint64_t resident_bytes = 0;  // at the end
  bool stable = false;
  bool interrupted = false;
  std::vector<WindowSample> samples;

  [[nodiscard]] double items_per_s() const {
    return seconds > 0 ? static_cast<double>(tally.items) / seconds : 0;
  }
  [[nodiscard]] double requests_per_s() const {
    return seconds > 0 ? static_cast<double>(tally.requests) / seconds : 0;
  }
};

/// Called after each window, on the thread that measures.
using WindowCallback = std::function<void(const WindowSample&)>;

/// Several loads at once, in windows that they share: stable when each is. One measurement for
/// each, in their order. Otherwise as for one load, below.
[[nodiscard]] Result<std::vector<Measurement>> measure(std::span<LoadGenerator* const> loads,
                                                       const WindowPlan& plan, bool whole,
                                                       const WindowCallback& on_window);

/// Starts the load, warms up, then counts windows until the stable rule holds (the figures are then
/// those of the stable windows) or the time is over (of all windows after the warm-up), and stops
/// the load. `whole`: the stable rule ends nothing. When interrupted, the window begun counts as
/// far as it came. Errors: those of `LoadGenerator::stop`.
[[nodiscard]] Result<Measurement> measure(LoadGenerator& load, const WindowPlan& plan, bool whole,
                                          const WindowCallback& on_window);

/// Adds the counts, times and histograms of `more`.
void merge(ModelStatistics& into, const ModelStatistics& more);

}  // namespace millrace::cli
