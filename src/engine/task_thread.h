// A thread that does what is handed to it, in order.
#pragma once

#include <condition_variable>
#include <functional>
#include <future>
#include <mutex>
#include <string>
#include <vector>

#include "base/thread.h"

namespace millrace {

/// The destructor does what was handed over before it, then joins; `abandon` leaves the thread to
/// itself instead.
class TaskThread {
 public:
  explicit TaskThread(std::string name);
  ~TaskThread();

  void post(std::function<void()> task);
  /// Posts and waits for it to be done.
  void call(std::function<void()> task);
  /// For a thread whose task never returns: neither waited for nor told anything again.
  void abandon() noexcept;

 private:
  // Shared with the thread, which may outlive this.
  struct Shared {
    std::mutex mutex;
    std::condition_variable wake;
    std::vector<std::function<void()>> tasks;
    bool stop = false;
  };
  std::shared_ptr<Shared> shared_;
  Thread thread_;
};

}  // namespace millrace
