// What happened, as figures that can be read at any time, merged and subtracted.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/device.h>
#include <millrace/error.h>

namespace millrace {

/// A histogram of non-negative integers (nanoseconds, items) with buckets of at most 1% relative
/// width, in the manner of HdrHistogram: exact below 128, 128 buckets per power of two above.
/// Values over 2^42 (73 minutes in nanoseconds) are counted in the last bucket.
///
/// A plain value: copying, merging and subtracting snapshots is what makes windows out of totals.
class Histogram {
 public:
  static constexpr int kSubBucketBits = 7;
  static constexpr int kMaxBits = 42;
  static constexpr std::size_t kBuckets = std::size_t{kMaxBits - kSubBucketBits + 1}
                                          << kSubBucketBits;

  [[nodiscard]] static std::size_t bucket_of(std::uint64_t value) noexcept;
  /// The middle of the bucket, which is reported for all values in it.
  [[nodiscard]] static std::uint64_t value_of(std::size_t bucket) noexcept;

  void record(std::uint64_t value, std::uint64_t times = 1) noexcept;
  void merge(const Histogram& other);
  /// Takes away an earlier snapshot of the same histogram.
  void subtract(const Histogram& earlier);

  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] double mean() const noexcept;
  /// The smallest recorded value (within a bucket's width) that at least `q` (0..1) of all values
  /// do not exceed; 0 when empty.
  [[nodiscard]] std::uint64_t quantile(double q) const noexcept;
  [[nodiscard]] std::uint64_t max() const noexcept;
  /// Counts per bucket; empty or `kBuckets` long.
  [[nodiscard]] const std::vector<std::uint64_t>& counts() const noexcept { return counts_; }
  void add_to_bucket(std::size_t bucket, std::uint64_t times, std::uint64_t sum) noexcept;

 private:
  std::vector<std::uint64_t> counts_;
  std::uint64_t count_ = 0;
  double sum_ = 0;
};

/// The phases of a request's walk, each from the point before it. `queue` and `total` are recorded
/// of every request; the others, which need device times, of the batches sampled (all of them on
/// host devices). Where all are recorded, the first six add up to `total`.
enum class Phase : std::uint8_t {
  queue,     // submit -> a driver picked it
  stage,     // picked -> the lane started on its batch: enqueueing, and waiting behind the batch
             // before
  copy_in,   // -> inputs in the batch
  compute,   // -> outputs computed
  copy_out,  // -> outputs where they go
  complete,  // -> the answer handed over
  total,     // submit -> the answer handed over
};
inline constexpr std::size_t kPhases = 7;
[[nodiscard]] std::string_view to_string(Phase phase) noexcept;

/// Why a batch of a model that was asked for graphs ran without one.
enum class EagerReason : std::uint8_t {
  unknown_shapes,  // they are known only with a request, so that nothing was prepared
  blocking,        // outputs whose size is known only after computing
  not_captured,    // its run could not be captured
  cheaper,         // running eagerly was measured to cost less than padding up to a graph's size
};
inline constexpr std::size_t kEagerReasons = 4;
[[nodiscard]] std::string_view to_string(EagerReason reason) noexcept;

/// What one device has done of a model's work.
struct DeviceStatistics {
  DeviceId device;
  std::uint64_t requests = 0;  // succeeded
  std::uint64_t items = 0;     // of those
  std::uint64_t batches = 0;
  std::uint64_t moved_requests = 0;  // whose data lay on another of the model's devices
  Duration device_time{};            // sum over batches
  Histogram total;                   // nanoseconds: submit -> the answer handed over
};

/// Totals of one model since it was loaded.
struct ModelStatistics {
  std::uint64_t requests = 0;  // answered, in whatever way
  std::uint64_t succeeded = 0;
  std::uint64_t failed = 0;    // by an error of the model or device
  std::uint64_t rejected = 0;  // queue full
  std::uint64_t expired = 0;   // deadline passed
  std::uint64_t cancelled = 0;
  std::uint64_t items = 0;  // of succeeded requests
  std::uint64_t batches = 0;
  std::uint64_t prepared_batches = 0;  // run as prepared (graphs)
  /// Batches that were to run as graphs and did not, by reason; none where graphs were not asked
  /// for. Runs while loading do not count.
  std::array<std::uint64_t, kEagerReasons> eager_batches{};
  std::uint64_t bound_in_place = 0;       // batches whose input was bound where it lay
  std::uint64_t queued_requests = 0;      // now
  std::uint64_t queued_bytes = 0;         // now
  std::uint64_t running_batches = 0;      // now
  std::uint64_t busy_lanes = 0;           // now: that have a batch or more
  Duration device_time{};                 // sum over batches
  std::array<Histogram, kPhases> phases;  // nanoseconds; request-weighted
  Histogram batch_items;
  std::vector<DeviceStatistics> devices;  // as ModelInfo::placements; none of an ensemble

  [[nodiscard]] const Histogram& phase(Phase p) const noexcept {
    return phases[static_cast<std::size_t>(p)];
  }
  [[nodiscard]] std::uint64_t eager(EagerReason reason) const noexcept {
    return eager_batches[static_cast<std::size_t>(reason)];
  }
  /// Over all reasons.
  [[nodiscard]] std::uint64_t eager() const noexcept;
};

/// One batch's way through its phases. Device times are absent where they were not sampled.
struct BatchTimeline {
  std::string model;
  DeviceId device;
  int lane = 0;
  int slot = 0;
  std::uint64_t batch = 0;  // counts per engine
  std::int64_t items = 0;
  int requests = 0;
  bool failed = false;
  TimePoint submitted;  // of the oldest request
  TimePoint picked;
  TimePoint staged;
  std::optional<TimePoint> started, copied_in, computed, copied_out;
  TimePoint completed;
};

/// Writes timelines in the Trace Event Format, which Perfetto and chrome://tracing read: a process
/// per device, a track per lane and per phase. Errors: unavailable when the file cannot be written
/// (disk full included); nothing half-written is left.
[[nodiscard]] Result<void> write_chrome_trace(std::span<const BatchTimeline> timelines,
                                              const std::string& path);

}  // namespace millrace
