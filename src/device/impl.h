// What stands behind StreamRef, EventRef and Buffer: implemented once per kind of device.
//
// The refs check their arguments (null refs, null addresses, events of the wrong device) before
// they call these, so that every device refuses the same mistakes with the same words.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include <millrace/device.h>
#include <millrace/error.h>

namespace millrace {

/// A place in a stream's work, as an event named it at some moment. Outlives both event and stream.
class StreamPoint {
 public:
  virtual ~StreamPoint() = default;
  /// Blocks the calling thread until the point is reached. Errors: gpu_fault.
  virtual Result<void> synchronize() const = 0;
};

class EventImpl {
 public:
  virtual ~EventImpl() = default;
  [[nodiscard]] virtual DeviceId device() const noexcept = 0;
  [[nodiscard]] virtual Result<bool> query() const = 0;
  virtual Result<void> synchronize() const = 0;
  [[nodiscard]] virtual Result<TimePoint> time() const = 0;
  /// The point that the event names now, for streams of another kind of device to wait for; null
  /// when never recorded. A device that cannot name a point exactly may name a later one of that
  /// stream.
  [[nodiscard]] virtual Result<std::shared_ptr<const StreamPoint>> point() const = 0;
};

class StreamImpl {
 public:
  /// Finishes what is enqueued, as `Stream::~Stream` says, unless abandoned.
  virtual ~StreamImpl() = default;
  [[nodiscard]] virtual DeviceId device() const noexcept = 0;
  virtual Result<void> copy(void* target, const void* source, std::size_t bytes) = 0;
  virtual Result<void> gather(std::span<const CopyPiece> pieces) = 0;
  virtual Result<void> fill(void* target, std::uint8_t value, std::size_t bytes) = 0;
  virtual Result<void> run(std::function<void()> task) = 0;
  /// `event` is of this stream's own device.
  virtual Result<void> record(EventImpl& event) = 0;
  /// `event` may be of any device.
  virtual Result<void> wait(const EventImpl& event) = 0;
  virtual Result<void> signal(std::atomic<std::uint64_t>& word, std::uint64_t value,
                              Waker* waker) = 0;
  [[nodiscard]] virtual Result<bool> query() const = 0;
  virtual Result<void> synchronize() = 0;
  [[nodiscard]] virtual void* native_handle() const noexcept = 0;
  /// The destructor, called next, must not wait.
  virtual void abandon() noexcept = 0;
};

/// Where a device's memory comes from. Shared with those whose memory may outlive the device
/// object.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  /// `bytes` > 0. Aligned to at least 256 bytes. Errors: out_of_memory.
  [[nodiscard]] virtual Result<void*> allocate(std::size_t bytes, MemoryKind kind) = 0;
  /// Exactly what `allocate` gave.
  virtual void free(void* data, std::size_t bytes, MemoryKind kind) noexcept = 0;
  /// Whether the host may read and write this kind of memory through plain pointers.
  [[nodiscard]] virtual bool host_addressable(MemoryKind kind) const noexcept = 0;
};
}  // namespace millrace
