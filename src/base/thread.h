// Threads with a name, joined on destruction.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <thread>

#include <millrace/error.h>

namespace millrace {

/// A joining thread. What the function throws is logged and ends the thread only.
class Thread {
 public:
  Thread() noexcept = default;
  /// Starts a thread; the first 15 bytes of `name` show in debuggers and `top`. Throws
  /// std::system_error when the system refuses; `start` says so with a Result.
  Thread(std::string name, std::function<void()> body);
  /// Errors: unavailable, when the system has no thread to give.
  [[nodiscard]] static Result<Thread> start(const std::string& name, std::function<void()> body);

  Thread(Thread&&) noexcept = default;
  Thread& operator=(Thread&& other) noexcept;
  /// Waits for the thread to end. On the thread itself, lets it go instead.
  ~Thread();

  [[nodiscard]] bool joinable() const noexcept { return thread_.joinable(); }
  [[nodiscard]] std::thread::id id() const noexcept { return thread_.get_id(); }
  /// Waits for the thread to end; does nothing when there is none.
  void join() noexcept;
  /// Lets it run on by itself: for a thread that is stuck in somebody else's call.
  void detach() noexcept;

 private:
  std::thread thread_;
};

/// For loops that wait for another thread: leaves the core's other hardware thread alone for a
/// moment.
inline void spin_pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// Names the calling thread.
void name_this_thread(std::string_view name) noexcept;

}  // namespace millrace
