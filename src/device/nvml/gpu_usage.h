// How busy the machine's GPUs are, sampled while somebody asks.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <millrace/device.h>

#include "base/thread.h"
#include "device/nvml/nvml_api.h"

namespace millrace {

/// What one GPU does now, by whomever it is used. Nullopt for what it does not tell.
struct GpuUsage {
  std::string uuid;
  std::optional<double> utilization;         // of the time, 0..1, in which a kernel ran
  std::optional<double> memory_utilization;  // likewise: in which memory was read or written
  std::optional<double> power_watts;
  std::optional<double> power_limit_watts;
  std::optional<double> energy_joules;  // since the driver was loaded
};

/// Of all GPUs that have a UUID.
[[nodiscard]] std::vector<GpuUsage> read_gpu_usage(const NvmlFunctions& nvml);

/// Reads once a second, on a thread of its own, as long as it is asked, and sleeps when nobody has
/// asked for a minute. Where there is no NVML there is no thread either, after the first question.
class GpuUsageSampler {
 public:
  using Read = std::function<std::vector<GpuUsage>()>;
  /// Answers how to read, or nullptr where that cannot be done; called on the thread, once.
  using Open = std::function<Read()>;

  /// From NVML.
  GpuUsageSampler();
  explicit GpuUsageSampler(Open open) : open_(std::move(open)) {}
  ~GpuUsageSampler();
  GpuUsageSampler(const GpuUsageSampler&) = delete;
  GpuUsageSampler& operator=(const GpuUsageSampler&) = delete;

  /// The last sample. After a pause, waits for a new one, at most a second; empty when there is
  /// none. From any thread.
  [[nodiscard]] std::vector<GpuUsage> latest();

 private:
  void work();

  const Open open_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<GpuUsage> sample_;
  TimePoint sampled_;  // when
  TimePoint asked_;    // last
  bool started_ = false;
  bool over_ = false;  // there is nothing to read
  bool stopping_ = false;
  Thread thread_;
};

}  // namespace millrace
