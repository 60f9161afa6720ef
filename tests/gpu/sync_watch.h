// Sees every call into the CUDA driver, whoever in the process makes it, and records those that
// have no place in a steady state: what waits for the device, takes or returns memory, copies
// synchronously, uses a default stream, or copies asynchronously from or to pageable memory.
//
// It stands on CUPTI, which is opened at run time: the path in the environment's MILLRACE_CUPTI if
// there is one, else libcupti.so.13 where the dynamic linker or the dependency folder has it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/error.h>

namespace millrace {

/// What is wrong with a call.
enum class CallFault : std::uint8_t {
  synchronizes,    // waits for a context, a stream or an event
  allocates,       // takes, returns, registers or maps memory, be it stream-ordered
  copies,          // a copy or a memset that is not Async
  default_stream,  // the legacy or the per-thread default stream
  pageable,        // an Async copy of host memory that is not pinned: it may wait
  loads,           // brings code onto the device or takes it away
  creates,         // makes or destroys a context, stream, event or graph: only costs time
};

/// "synchronizes", "default_stream", ...
[[nodiscard]] std::string_view to_string(CallFault fault) noexcept;

/// What is wrong with every call of a driver function, whatever its arguments, by its name, with or
/// without a suffix such as _v2 or _ptsz. Nothing for the others.
[[nodiscard]] std::optional<CallFault> fault_of(std::string_view function) noexcept;

/// Calls of one function with one fault on one thread.
struct Violation {
  std::string function;  // of the driver: "cuMemAlloc_v2"
  CallFault fault = CallFault::synchronizes;
  std::uint64_t count = 0;
  pid_t thread = 0;
  std::string thread_name;
  std::vector<std::string> backtrace;  // of the first call, innermost first: "library(symbol+0x1f)"
};

/// For a test's message: one violation and its backtrace per paragraph.
[[nodiscard]] std::string to_string(const std::vector<Violation>& violations);

/// A watch over the calling process. All functions may be called on any thread.
class SyncWatch {
 public:
  /// Starts a watch, not armed yet. Errors: unavailable, with the reason, when there is no CUPTI,
  /// it refuses, or the process has a watch or a profiler already.
  [[nodiscard]] static Result<std::unique_ptr<SyncWatch>> start();
  ~SyncWatch();
  SyncWatch(const SyncWatch&) = delete;
  SyncWatch& operator=(const SyncWatch&) = delete;

  /// From here to `disarm`, calls are counted and faults recorded, on top of what there is. Calls
  /// under way on other threads count or not.
  void arm() noexcept;
  void disarm() noexcept;
  /// Forgets what was counted and recorded.
  void clear();

  /// This thread (as gettid numbers it) may wait for contexts, streams and events from here on. It
  /// may do nothing else that others may not.
  void allow_thread(pid_t thread);
  /// Likewise every thread of this name, as pthread_getname_np gives it at the time of the call.
  void allow_threads_named(std::string name);

  /// What was recorded, but for `creates`, in order of first occurrence.
  [[nodiscard]] std::vector<Violation> violations() const;
  /// What was recorded as `creates`.
  [[nodiscard]] std::vector<Violation> creations() const;
  /// Calls by function, of all functions that were called while armed.
  [[nodiscard]] std::map<std::string, std::uint64_t> counts() const;
  /// The sum of `counts` over the functions whose names begin so: "cuMemcpy", "cuLaunch".
  [[nodiscard]] std::uint64_t count(std::string_view prefix) const;

 private:
  SyncWatch() = default;
};

}  // namespace millrace
