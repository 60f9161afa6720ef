// How many runs may compute at a time over all models: what keeps to the thread budget.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>

namespace millrace::onnxruntime {

/// Hands out passes in the order in which they were asked for, so that a busy model cannot keep
/// another one out. Thread-safe.
class Gate {
 public:
  /// A lane's way through the gate, again and again. Must not go while waiting or inside.
  class Pass {
   private:
    friend class Gate;
    enum class State { outside, waiting, inside };
    // All under the gate's mutex.
    State state_ = State::outside;
    std::condition_variable changed_;
  };

  explicit Gate(int capacity) : free_(capacity), capacity_(capacity) {}

  /// Blocks until there is room. False when `ended` is set (and `wake` called) before that.
  bool enter(Pass& pass, const std::atomic<bool>& ended);
  /// Goes in whether there is room or not: for a short run on a thread that must not block.
  void squeeze_in(Pass& pass) noexcept;
  /// Does nothing when the pass is not inside.
  void leave(Pass& pass) noexcept;
  /// Lets a waiting `enter` look at `ended`.
  void wake(Pass& pass) noexcept;
  /// Those inside beyond a smaller capacity stay until they leave.
  void set_capacity(int capacity) noexcept;
  [[nodiscard]] int capacity() const noexcept;
  [[nodiscard]] int inside() const noexcept;
  [[nodiscard]] int waiting() const noexcept;

 private:
  void admit() noexcept;  // under mutex_

  mutable std::mutex mutex_;
  int free_;                   // under mutex_; negative: more are inside than there is room for
  int capacity_;               // under mutex_
  std::deque<Pass*> waiting_;  // under mutex_
};

}  // namespace millrace::onnxruntime
