#include "cli/bench_measure.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <deque>
#include <thread>

#include "cli/print.h"

namespace millrace::cli {
namespace {

std::atomic<bool> interrupt_flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler sets it");

struct sigaction earlier_action;

double seconds_of(Duration time) { return std::chrono::duration<double>(time).count(); }

// What one window brought.
struct Window {
  double seconds = 0;
  double cpu_s = 0;
  Tally tally;
  ModelStatistics statistics;
};

void add(Measurement& total, const Window& window) {
  total.seconds += window.seconds;
  total.cpu_s += window.cpu_s;
  total.tally.merge(window.tally);
  merge(total.statistics, window.statistics);
}

WindowSample sample_of(const Window& window) {
  WindowSample sample;
  sample.seconds = window.seconds;
  sample.items_per_s = static_cast<double>(window.tally.items) / window.seconds;
  sample.requests_per_s = static_cast<double>(window.tally.requests) / window.seconds;
  sample.p50_us = static_cast<double>(window.tally.latency.quantile(0.5)) / 1000;
  sample.p99_us = static_cast<double>(window.tally.latency.quantile(0.99)) / 1000;
  sample.cpu_s = window.cpu_s;
  sample.errors = window.tally.errors;
  return sample;
}

// Cuts the time into windows: each ends where the next begins.
class Cutter {
 public:
  Cutter(LoadGenerator& load, const Model& model) : load_(load), model_(model) {
    (void)load_.take();
    mark();
  }
  Window cut() {
    const TimePoint start = start_;
    const double cpu = cpu_;
    ModelStatistics before = std::move(statistics_);
    Window window;
    window.tally = load_.take();
    mark();
    window.seconds = seconds_of(start_ - start);
    window.cpu_s = cpu_ - cpu;
    window.statistics = difference(statistics_, before);
    return window;
  }

 private:
  void mark() {
    start_ = Clock::now();
    cpu_ = process_cpu_seconds();
    statistics_ = model_.statistics();
  }

  LoadGenerator& load_;
  const Model& model_;
  TimePoint start_;
  double cpu_ = 0;
  ModelStatistics statistics_;
};

}  // namespace

InterruptGuard::InterruptGuard() {
  interrupt_flag.store(false);
  struct sigaction action {};
  action.sa_handler = [](int) { interrupt_flag.store(true); };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second one does what it does by default
  sigaction(SIGINT, &action, &earlier_action);
}

InterruptGuard::~InterruptGuard() { sigaction(SIGINT, &earlier_action, nullptr); }

bool interrupted() noexcept { return interrupt_flag.load(std::memory_order_relaxed); }

bool sleep_unless_interrupted(Duration time) {
  const TimePoint end = Clock::now() + time;
  while (!interrupted()) {
    const TimePoint now = Clock::now();
    if (now >= end) return true;
    std::this_thread::sleep_until(std::min(end, now + std::chrono::milliseconds(50)));
  }
  return false;
}

double process_cpu_seconds() noexcept {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::uint64_t resident_bytes() noexcept {
  std::FILE* const file = std::fopen("/proc/self/statm", "re");
  if (!file) return 0;
  unsigned long long size = 0;
  unsigned long long resident = 0;
  const int read = std::fscanf(file, "%llu %llu", &size, &resident);
  std::fclose(file);
  return read == 2 ? resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

void merge(ModelStatistics& into, const ModelStatistics& more) {
  for (const auto field :
       {&ModelStatistics::requests, &ModelStatistics::succeeded, &ModelStatistics::failed,
        &ModelStatistics::rejected, &ModelStatistics::expired, &ModelStatistics::cancelled,
        &ModelStatistics::items, &ModelStatistics::batches, &ModelStatistics::prepared_batches,
        &ModelStatistics::bound_in_place}) {
    into.*field += more.*field;
  }
  for (std::size_t i = 0; i < kEagerReasons; ++i) into.eager_batches[i] += more.eager_batches[i];
  into.device_time += more.device_time;
  for (std::size_t i = 0; i < kPhases; ++i) into.phases[i].merge(more.phases[i]);
  into.batch_items.merge(more.batch_items);
}

Result<Measurement> measure(LoadGenerator& load, const Model& model, const WindowPlan& plan,
                            bool whole, const WindowCallback& on_window) {
  Measurement all;  // after the warm-up
  std::deque<std::pair<std::size_t, Window>>
      last;  // the latest kStableWindows, with their place in the samples
  std::vector<double> rates;
  const TimePoint start = Clock::now();
  load.start();
  Cutter cutter(load, model);
  for (bool more = true; more;) {
    more = sleep_unless_interrupted(plan.window);
    Window window = cutter.cut();
    all.samples.push_back(sample_of(window));
    all.errors += window.tally.errors;
    const bool warm = Clock::now() - start > plan.warm_up + plan.window / 2;
    // Whoever interrupts the warm-up wants to see what there is.
    all.samples.back().counted = warm || !more;
    on_window(all.samples.back());
    if (all.samples.back().counted) {
      add(all, window);
      rates.push_back(all.samples.back().items_per_s);
      last.emplace_back(all.samples.size() - 1, std::move(window));
      if (last.size() > kStableWindows) last.pop_front();
      all.stable = more && is_stable(rates);
      if (all.stable && !whole) break;
    }
    if (Clock::now() - start + plan.window / 2 >= plan.most) break;
  }
  all.interrupted = interrupted();
  all.resident_bytes = resident_bytes();
  Result<void> stopped = load.stop();
  if (!stopped.ok()) return std::move(stopped).error();
  all.errors += load.take().errors;  // of what was in flight at the end
  if (!all.stable || whole) return all;
  Measurement stable;
  stable.samples = std::move(all.samples);
  stable.errors = all.errors;
  stable.resident_bytes = all.resident_bytes;
  stable.interrupted = all.interrupted;
  stable.stable = true;
  for (WindowSample& sample : stable.samples) sample.counted = false;
  for (const auto& [place, window] : last) {
    stable.samples[place].counted = true;
    add(stable, window);
  }
  return stable;
}

}  // namespace millrace::cli
