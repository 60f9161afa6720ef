// A histogram that is written while it is read.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include <millrace/statistics.h>

namespace millrace {

/// Counts into the buckets of `Histogram` in fixed memory (37 KB), without locks. Any thread may
/// take a snapshot at any time; it holds every value recorded before and perhaps some recorded
/// meanwhile. Later snapshots are never below earlier ones in any bucket, so they subtract.
class LiveHistogram {
 public:
  LiveHistogram() = default;
  LiveHistogram(const LiveHistogram&) = delete;
  LiveHistogram& operator=(const LiveHistogram&) = delete;

  /// From any thread.
  void record(std::uint64_t value, std::uint64_t times = 1) noexcept {
    sum_.fetch_add(value * times, std::memory_order_relaxed);
    counts_[Histogram::bucket_of(value)].fetch_add(times, std::memory_order_relaxed);
  }
  /// Cheaper, for a histogram that only one thread at a time records into.
  void record_alone(std::uint64_t value, std::uint64_t times = 1) noexcept {
    add_alone(sum_, value * times);
    add_alone(counts_[Histogram::bucket_of(value)], times);
  }

  [[nodiscard]] Histogram snapshot() const;

 private:
  static void add_alone(std::atomic<std::uint64_t>& word, std::uint64_t amount) noexcept {
    word.store(word.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }

  std::atomic<std::uint64_t> sum_{0};
  std::array<std::atomic<std::uint64_t>, Histogram::kBuckets> counts_{};
};

}  // namespace millrace
