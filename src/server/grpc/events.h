// gRPC's C library in the few forms that the server uses: events of a completion queue, batches of
// operations of a call, messages.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>

#include <millrace/device.h>

#include "server/grpc/infer_answer.h"
#include "server/grpc/wire.h"

namespace millrace::server {

#if defined(MILLRACE_THREAD_SANITIZER)
// gRPC's archive is not instrumented: that what happens before something is started happens before
// its event has to be said.
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

/// What an event of a completion queue points to.
class Event {
 public:
  /// On the queue's thread. False: what was started was not done.
  virtual void happened(bool ok) noexcept = 0;

  /// The tag for gRPC, as something is started whose event this is.
  [[nodiscard]] void* tag() noexcept {
#if defined(MILLRACE_THREAD_SANITIZER)
    __tsan_release(this);
#endif
    return this;
  }
  static void happen(void* tag, bool ok) noexcept {
#if defined(MILLRACE_THREAD_SANITIZER)
    __tsan_acquire(tag);
#endif
    static_cast<Event*>(tag)->happened(ok);
  }

 protected:
  ~Event() = default;
};

/// Calls a function of the object that it is a member of.
template <class Object, void (Object::*function)(bool)>
class EventOf final : public Event {
 public:
  explicit EventOf(Object* object) noexcept : object_(object) {}
  void happened(bool ok) noexcept override { (object_->*function)(ok); }

 private:
  Object* object_;
};

struct CallDeleter {
  void operator()(grpc_call* call) const noexcept { grpc_call_unref(call); }
};
using CallHandle = std::unique_ptr<grpc_call, CallDeleter>;

struct BufferDeleter {
  void operator()(grpc_byte_buffer* buffer) const noexcept { grpc_byte_buffer_destroy(buffer); }
};
using BufferHandle = std::unique_ptr<grpc_byte_buffer, BufferDeleter>;

/// Metadata as it came with a call; valid as long as the call.
class Metadata {
 public:
  Metadata() noexcept { grpc_metadata_array_init(&array_); }
  ~Metadata() { grpc_metadata_array_destroy(&array_); }
  Metadata(const Metadata&) = delete;
  Metadata& operator=(const Metadata&) = delete;

  [[nodiscard]] grpc_metadata_array* array() noexcept { return &array_; }
  /// Empty where there is none of that name.
  [[nodiscard]] std::string_view find(std::string_view name) const noexcept;
  void clear() noexcept { array_.count = 0; }

 private:
  grpc_metadata_array array_;
};

[[nodiscard]] inline std::string_view to_view(const grpc_slice& slice) noexcept {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

/// The pieces of a message that is not compressed.
[[nodiscard]] std::vector<std::string_view> pieces_of(const grpc_byte_buffer& buffer);
/// Parts with a lease are not copied: their memory is kept until the message is sent.
[[nodiscard]] BufferHandle to_buffer(Message&& message);

/// The time that gRPC gives for a call; none: it has no end.
[[nodiscard]] std::optional<TimePoint> to_time_point(gpr_timespec deadline) noexcept;

/// Operations of a call that are done together, and the one event when they are.
class Batch {
 public:
  Batch& send_initial_metadata(bool compress = false) noexcept;
  /// The buffer's content is taken.
  Batch& send_message(grpc_byte_buffer* buffer) noexcept;
  /// What they point to must outlast `start`.
  Batch& send_status(int status, const grpc_slice* details,
                     std::span<grpc_metadata> trailing = {}) noexcept;
  Batch& receive_message(grpc_byte_buffer** buffer) noexcept;
  Batch& receive_close(int* cancelled) noexcept;
  /// From here on the event may happen, and whatever it deletes may be gone.
  void start(grpc_call* call, Event& event) noexcept;

 private:
  grpc_op& add(grpc_op_type type) noexcept;
  std::array<grpc_op, 4> operations_{};
  std::size_t count_ = 0;
};

}  // namespace millrace::server
