// Learning that runs of a graph are over, without anything enqueued behind each.
#pragma once

#include <atomic>
#include <cstdint>

#include <millrace/device.h>

namespace millrace {

/// A number in pinned memory that work on one stream raises by one. To write a word behind each run
/// costs the host 1.1 us (an H200); as a part of the graph it costs it nothing.
class RunCounter {
 public:
  RunCounter() = default;
  /// Zero. Loads what `raise` needs, so that it can be captured. Slow.
  [[nodiscard]] static Result<RunCounter> make(Device& gpu, StreamRef stream);
  /// Enqueues on `stream`, a `cudaStream_t` of the GPU, or adds to what is being captured there.
  /// All that raises one counter must run one after the other.
  [[nodiscard]] Result<void> raise(void* stream) const;
  [[nodiscard]] const std::atomic<std::uint64_t>* value() const noexcept {
    return static_cast<const std::atomic<std::uint64_t>*>(word_.data());
  }
  /// Leaves the memory alive: the GPU may still write it.
  void abandon() noexcept;

 private:
  Buffer count_;  // the GPU's own
  Buffer word_;
};

}  // namespace millrace
