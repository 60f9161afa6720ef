// Device memory that several streams use in turn.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include <millrace/device.h>

namespace millrace {

/// One block of scratch memory for the lanes of a plan. What is enqueued as a turn starts, on the
/// device, when the turn before it is over, whatever streams they are on; the host never waits. A
/// stream that hangs in its turn holds up the others. Thread-safe.
class SharedBlock {
 public:
  [[nodiscard]] static Result<std::unique_ptr<SharedBlock>> make(DeviceRef device,
                                                                 std::size_t bytes);

  [[nodiscard]] void* data() const noexcept { return block_.data(); }
  [[nodiscard]] std::size_t bytes() const noexcept { return block_.bytes(); }

  /// Calls `enqueue`, which enqueues on `stream` what uses the block. Returns what it returns.
  template <class Enqueue>
  Result<void> take_turn(StreamRef stream, Enqueue&& enqueue) {
    const std::lock_guard lock(mutex_);
    Result<void> waits = stream.wait(over_);
    if (!waits) return waits;
    Result<void> enqueued = std::forward<Enqueue>(enqueue)();
    // What failed may still have enqueued a part of its work.
    Result<void> recorded = stream.record(over_);
    return enqueued ? std::move(recorded) : std::move(enqueued);
  }

 private:
  SharedBlock() = default;
  Buffer block_;
  std::mutex mutex_;
  Event over_;  // of the latest turn; guarded by mutex_
};

}  // namespace millrace
