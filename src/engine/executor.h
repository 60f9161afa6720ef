// The threads that run callers' callbacks.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include <millrace/device.h>

#include "base/thread.h"
#include "engine/request_state.h"

namespace millrace {

/// Answers with callbacks are handed over here. A callback that blocks holds up the callbacks
/// behind it on its thread, never a driver.
class Executor {
 public:
  explicit Executor(int threads);
  /// Runs what was posted before, then joins.
  ~Executor();

  /// Takes over `answered`, whose `answer` and `callback` are set; leaves it empty with its
  /// capacity. Posts of equal keys run in their order, on one thread.
  void post(std::size_t key, std::vector<RequestState*>& answered);
  [[nodiscard]] std::size_t threads() const noexcept { return workers_.size(); }

 private:
  struct Worker {
    Waker waker;
    std::mutex mutex;
    std::vector<RequestState*> answered;  // guarded by mutex
    std::atomic<bool> stop{false};
    Thread thread;
    void loop();
  };
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace millrace
