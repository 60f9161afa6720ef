// The threads that run callers' callbacks.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include <millrace/device.h>

#include "base/thread.h"
#include "engine/request_state.h"

namespace millrace {

class Executor;

/// Wakes put off while a thread runs callbacks or serves callers, so that what a stretch of them
/// submits forms one batch instead of one for each. When the stretch is over, the thread drives
/// host devices itself, does brief batches itself, and calls callbacks that come due meanwhile: all
/// that would cost more wakes than work.
class DeferredWakes {
 public:
  /// The calling thread puts wakes off from now on, and calls `flush` whenever it is about to wait.
  /// `own`: the executor it is a thread of, whose callbacks it may run; others run only brief ones.
  static void enable(const Executor* own = nullptr) noexcept;
  /// Flushes if something has been put off for long. To be called between two submissions, where
  /// `flush` may be.
  static void flush_if_old() noexcept;
  /// Notes `waker`; false when the calling thread puts nothing off. `waker` must outlive the
  /// executor's threads.
  static bool put_off(Waker& waker);
  /// Wakes what the calling thread has put off, and may run callbacks: not within one, nor with a
  /// lock that one may want.
  static void flush() noexcept;
  /// The same without callbacks, for a thread that may be within one.
  static void flush_to_wait() noexcept;
  /// Says that the calling thread had nothing to do before what it does now. Where that is so again
  /// and again, with one submission each, requests come one at a time: the thread does longer
  /// batches itself then.
  static void rested() noexcept;
  /// As `enable`, for a while, for a thread that may not know of this class: what it puts off for
  /// long is woken as it submits. False when it puts wakes off already, or is just waking others.
  static bool begin_burst() noexcept;
  /// Ends what `begin_burst` began. As `flush`.
  static void end_burst() noexcept;
};

/// Answers with callbacks are handed over here. A callback that blocks holds up the callbacks
/// behind it on its thread, never a driver.
class Executor {
 public:
  /// `spin`: how long a thread looks for more before it sleeps. Waking one costs who posts about as
  /// much as a short batch's launch; zero where processors have better to do.
  explicit Executor(int threads, Duration spin = Duration::zero());
  ~Executor();
  /// Runs what was posted before, then joins. Nothing may be posted afterwards.
  void stop() noexcept;

  /// Takes over `answered`, whose `answer` and `callback` are set; leaves it empty with its
  /// capacity. Posts of equal keys run in their order, on one thread, where a model keeps the
  /// order; others may be for the calling thread, when it is through with what it does.
  void post(std::size_t key, std::vector<RequestState*>& answered);
  [[nodiscard]] std::size_t threads() const noexcept { return workers_.size(); }

 private:
  struct Worker {
    Waker waker;
    std::mutex mutex;
    std::vector<RequestState*> answered;  // guarded by mutex
    std::atomic<bool> posted{false};
    std::atomic<bool> stop{false};
    Thread thread;
    void loop(const Executor& own, Duration spin);
    [[nodiscard]] bool spins_until_posted(Duration spin) const noexcept;
  };
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace millrace
