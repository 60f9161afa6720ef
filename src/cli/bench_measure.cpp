#include "cli/bench_measure.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <deque>
#include <optional>
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
  double cpu_s = 0;                // of the process
  std::uint64_t all_requests = 0;  // of all loads
  Tally tally;
  ModelStatistics statistics;
  ServerTotals server;
};

void add(Measurement& total, const Window& window) {
  total.seconds += window.seconds;
  total.cpu_s += window.cpu_s;
  total.all_requests += window.all_requests;
  total.tally.merge(window.tally);
  merge(total.statistics, window.statistics);
  total.server.add(window.server);
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
  sample.refused = window.tally.refused;
  sample.server_cpu_s = window.server.cpu_s;
  sample.server_resident_bytes = window.server.resident_bytes;
  return sample;
}

// Cuts the time into windows: each ends where the next begins.
class Cutter {
 public:
  explicit Cutter(std::span<LoadGenerator* const> loads) : loads_(loads) {
    for (LoadGenerator* each : loads_) (void)each->take();
    mark();
  }
  // One window of each load.
  std::vector<Window> cut() {
    const TimePoint start = start_;
    const double cpu = cpu_;
    const std::vector<ModelStatistics> before = std::move(statistics_);
    const std::vector<ServerTotals> server = std::move(server_);
    std::vector<Window> windows(loads_.size());
    for (std::size_t i = 0; i < loads_.size(); ++i) windows[i].tally = loads_[i]->take();
    mark();
    std::uint64_t requests = 0;
    for (const Window& window : windows) requests += window.tally.requests;
    for (std::size_t i = 0; i < loads_.size(); ++i) {
      windows[i].seconds = seconds_of(start_ - start);
      windows[i].cpu_s = cpu_ - cpu;
      windows[i].all_requests = requests;
      windows[i].statistics = difference(statistics_[i], before[i]);
      windows[i].server = server_[i].since(server[i]);
    }
    return windows;
  }

 private:
  void mark() {
    start_ = Clock::now();
    cpu_ = process_cpu_seconds();
    statistics_.clear();
    server_.clear();
    for (LoadGenerator* each : loads_) {
      statistics_.push_back(each->target().statistics());
      server_.push_back(each->target().server());
    }
  }

  const std::span<LoadGenerator* const> loads_;
  TimePoint start_;
  double cpu_ = 0;
  std::vector<ModelStatistics> statistics_;
  std::vector<ServerTotals> server_;
};

// What becomes of one load: all windows after the warm-up, and the latest few by themselves.
class Course {
 public:
  void add(Window window, bool counted) {
    all_.samples.push_back(sample_of(window));
    all_.samples.back().counted = counted;
    all_.errors += window.tally.errors;
    all_.refused += window.tally.refused;
    if (!counted) return;
    cli::add(all_, window);
    rates_.push_back(all_.samples.back().items_per_s);
    last_.emplace_back(all_.samples.size() - 1, std::move(window));
    if (last_.size() > kStableWindows) last_.pop_front();
  }
  [[nodiscard]] const WindowSample& latest() const { return all_.samples.back(); }
  [[nodiscard]] bool stable() const { return is_stable(rates_); }
  void add_errors(const Tally& tally) {
    all_.errors += tally.errors;
    all_.refused += tally.refused;
  }

  // `stable`: the figures are those of the latest windows alone.
  Measurement finish(bool stable, bool whole, std::uint64_t resident) {
    all_.interrupted = interrupted();
    all_.resident_bytes = resident;
    all_.stable = stable;
    if (!stable || whole) return std::move(all_);
    Measurement latest;
    latest.samples = std::move(all_.samples);
    latest.errors = all_.errors;
    latest.refused = all_.refused;
    latest.resident_bytes = resident;
    latest.interrupted = all_.interrupted;
    latest.stable = true;
    for (WindowSample& sample : latest.samples) sample.counted = false;
    for (const auto& [place, window] : last_) {
      latest.samples[place].counted = true;
      cli::add(latest, window);
    }
    return latest;
  }

 private:
  Measurement all_;                                  // after the warm-up
  std::deque<std::pair<std::size_t, Window>> last_;  // with their place in the samples
  std::vector<double> rates_;
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
  if (into.devices.size() < more.devices.size()) into.devices.resize(more.devices.size());
  for (std::size_t i = 0; i < more.devices.size(); ++i) {
    DeviceStatistics& device = into.devices[i];
    device.device = more.devices[i].device;
    for (const auto field : {&DeviceStatistics::requests, &DeviceStatistics::items,
                             &DeviceStatistics::batches, &DeviceStatistics::moved_requests}) {
      device.*field += more.devices[i].*field;
    }
    device.device_time += more.devices[i].device_time;
    device.total.merge(more.devices[i].total);
  }
}

Result<std::vector<Measurement>> measure(std::span<LoadGenerator* const> loads,
                                         const WindowPlan& plan, bool whole,
                                         const WindowCallback& on_window) {
  std::vector<Course> courses(loads.size());
  const TimePoint start = Clock::now();
  for (LoadGenerator* each : loads) each->start();
  Cutter cutter(loads);
  bool stable = false;
  for (bool more = true; more;) {
    more = sleep_unless_interrupted(plan.window);
    std::vector<Window> windows = cutter.cut();
    const bool warm = Clock::now() - start > plan.warm_up + plan.window / 2;
    // Whoever interrupts the warm-up wants to see what there is.
    const bool counted = warm || !more;
    for (std::size_t i = 0; i < loads.size(); ++i) {
      courses[i].add(std::move(windows[i]), counted);
      on_window(courses[i].latest());
    }
    stable = counted && more &&
             std::all_of(courses.begin(), courses.end(),
                         [](const Course& course) { return course.stable(); });
    if (stable && !whole) break;
    if (Clock::now() - start + plan.window / 2 >= plan.most) break;
  }
  const std::uint64_t resident = resident_bytes();
  std::optional<Error> error;
  for (std::size_t i = 0; i < loads.size(); ++i) {
    Result<void> stopped = loads[i]->stop();
    if (!stopped.ok() && !error) error = std::move(stopped).error();
    courses[i].add_errors(loads[i]->take());  // of what was in flight at the end
  }
  if (error) return *std::move(error);
  std::vector<Measurement> measured;
  measured.reserve(courses.size());
  for (Course& course : courses) measured.push_back(course.finish(stable, whole, resident));
  return measured;
}

Result<Measurement> measure(LoadGenerator& load, const WindowPlan& plan, bool whole,
                            const WindowCallback& on_window) {
  LoadGenerator* const one = &load;
  Result<std::vector<Measurement>> measured = measure({&one, 1}, plan, whole, on_window);
  if (!measured.ok()) return std::move(measured).error();
  return std::move(measured->front());
}

}  // namespace millrace::cli
