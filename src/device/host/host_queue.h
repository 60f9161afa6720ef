// The work of one host stream and the thread that does it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <millrace/device.h>
#include <millrace/error.h>

#include "base/thread.h"
#include "device/host/host_fault.h"
#include "device/host/progress.h"
#include "device/impl.h"

namespace millrace {

/// When a timed event was reached. Shared by the event and the tasks that will write it.
struct EventTime {
  std::mutex mutex;
  std::uint64_t recorded = 0;  // how often the event was recorded
  std::uint64_t written = 0;   // the recording that `time` belongs to
  TimePoint time;
};

class HostQueue;

/// While it lives, tasks that this thread enqueues wake no sleeping queue: one wake for all of a
/// queue comes at its end, or when the thread waits for a queue. Does not nest. For who enqueues
/// several tasks in a row and blocks on nothing else meanwhile.
class HeldWakes {
 public:
  /// `takes`: about how long it takes to do the tasks. Where that is little, a HelpingHand of the
  /// calling thread may have them. `own`: they are what the thread is going to wait for.
  explicit HeldWakes(Duration takes = Duration::max(), bool own = false) noexcept;
  ~HeldWakes();
  HeldWakes(const HeldWakes&) = delete;
  HeldWakes& operator=(const HeldWakes&) = delete;
};

/// While it lives, short work that the calling thread enqueues on a sleeping queue waits for `help`
/// instead of waking the queue's thread. The innermost of a thread counts. For who holds no lock
/// and has nothing more urgent to do.
class HelpingHand {
 public:
  /// `most`: how long the work may take. Waking a thread costs some microseconds of its own, and
  /// delays the work by more.
  explicit HelpingHand(Duration most = std::chrono::microseconds(20)) noexcept;
  struct Own {};
  /// Of a thread that is going to wait: it takes its own work, however long that is, and no other.
  explicit HelpingHand(Own) noexcept;
  /// As `help`.
  ~HelpingHand();
  HelpingHand(const HelpingHand&) = delete;
  HelpingHand& operator=(const HelpingHand&) = delete;

  /// Does what waits, and short work that comes of it for the same queue, on the calling thread.
  /// For the queue's thread are: what is left after a while, tasks that wait for others, and longer
  /// work that was enqueued since, with all that is left.
  void help() noexcept;
  /// Wakes the queue's thread instead, of the calling thread's innermost hand.
  static void pass_on() noexcept;

 private:
  friend class HeldWakes;
  HelpingHand* const outer_;
  const bool own_;
  const Duration most_;
  std::shared_ptr<HostQueue> queue_;  // owes its thread a wake
};

/// An ordered queue of tasks. Owned by its thread and by all who name a point in it, so that
/// streams may go in any order and an abandoned one stays whole. Tasks are numbered from 1; a point
/// is a number.
///
/// Done by its thread, or by one that helps: by one of them at a time.
class HostQueue : public std::enable_shared_from_this<HostQueue> {
 public:
  struct Copy {
    void* target;
    const void* source;
    std::size_t bytes;
  };
  struct Gather {
    std::size_t first;  // in the pieces of the same batch
    std::size_t count;
  };
  struct Fill {
    void* target;
    std::size_t bytes;
    std::uint8_t value;
  };
  struct Run {
    std::function<void()> task;
  };
  struct Stamp {
    std::shared_ptr<EventTime> time;
    std::uint64_t recording;
  };
  struct WaitForQueue {
    std::shared_ptr<HostQueue> queue;
    std::uint64_t count;
  };
  struct WaitForPoint {
    std::shared_ptr<const StreamPoint> point;
  };
  struct Signal {
    std::atomic<std::uint64_t>* word;
    std::uint64_t value;
    Waker* waker;
  };
  using Task = std::variant<Copy, Gather, Fill, Run, Stamp, WaitForQueue, WaitForPoint, Signal>;

  /// Starts the thread. Errors: unavailable when the system has none to give.
  /// `fault`: of the device; may be null.
  [[nodiscard]] static Result<std::shared_ptr<HostQueue>> start(
      const std::string& name, std::shared_ptr<const HostFault> fault = nullptr);

  /// Each enqueues and returns the number of the task.
  template <class Kind>
  std::uint64_t push(Kind task) {
    std::unique_lock lock(mutex_);
    tasks_.emplace_back(std::move(task));
    return pushed(std::move(lock));
  }
  std::uint64_t push_gather(std::span<const CopyPiece> pieces);

  /// The number of the last task enqueued.
  [[nodiscard]] std::uint64_t last() const noexcept {
    return last_.load(std::memory_order_acquire);
  }
  [[nodiscard]] bool reached(std::uint64_t count) const noexcept {
    return progress_.reached(count);
  }
  void await(std::uint64_t count) noexcept;
  /// What a device that was waited for reported; stays once set.
  [[nodiscard]] std::optional<Error> failure() const;
  /// Whether the device has failed for good, as an error.
  [[nodiscard]] Result<void> check_device() const {
    return fault_ ? fault_->check() : Result<void>();
  }
  /// Whether the caller is a task of this queue.
  [[nodiscard]] bool on_own_thread() const noexcept;
  /// Whether the caller is a task that a helper does which should not block.
  [[nodiscard]] static bool on_helper() noexcept;
  /// Whether the queue's thread sleeps, and is to be woken by the next task. For tests.
  [[nodiscard]] bool asleep() const noexcept;

  /// No task may follow. The thread ends when it has done those enqueued.
  void close() noexcept;
  /// Closes and waits for the thread to end. On the queue's own thread: as `abandon`.
  void finish() noexcept;
  /// Closes and leaves the thread to itself.
  void abandon() noexcept;

 private:
  using Pieces = std::vector<CopyPiece>;

  friend class HeldWakes;
  friend class HelpingHand;
  enum class Doing : std::uint8_t { nobody, thread, helper };

  // Numbers the task just appended, unlocks, and wakes the thread if it sleeps.
  std::uint64_t pushed(std::unique_lock<std::mutex> lock);
  void work() noexcept;
  // Swaps everything enqueued into `doing_`; sleeps for it. False: closed and empty.
  bool take() noexcept;
  // The same for a helper, which does not sleep. False: nothing is for it, or nothing any more.
  bool take_as_helper(bool first, Duration most) noexcept;
  void help(Duration most, bool own) noexcept;
  // Does and empties `doing_`.
  void do_taken() noexcept;
  void execute(Task& task) noexcept;
  static void skip(const Task& task) noexcept;
  void fail(Error error) noexcept;

  std::shared_ptr<const HostFault> fault_;  // written before the thread starts
  mutable std::mutex mutex_;
  std::vector<Task> tasks_;             // under mutex_
  Pieces pieces_;                       // under mutex_: those of the gathers in tasks_
  bool asleep_ = false;                 // under mutex_: the thread sleeps and nobody has woken it
  Duration takes_{};                    // under mutex_: the longest of what tasks_ belong to
  Doing who_ = Doing::nobody;           // under mutex_: has `doing_`
  bool closed_ = false;                 // under mutex_
  std::atomic<std::uint64_t> last_{0};  // written under mutex_

  // Of whoever has them:
  std::vector<Task> doing_;
  Pieces doing_pieces_;
  std::uint64_t done_ = 0;

  Waker waker_;
  Progress progress_;
  std::atomic<bool> failed_{false};
  mutable std::mutex failure_mutex_;
  std::optional<Error> failure_;  // under failure_mutex_
  Thread thread_;                 // set before the queue is handed out
};

}  // namespace millrace
