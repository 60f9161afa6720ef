#include "device/host/host_queue.h"

#include <cstring>
#include <exception>
#include <utility>

#include <millrace/inline_vector.h>

#include "base/log.h"
#include "base/try.h"

namespace millrace {
namespace {

thread_local const HostQueue* current_queue = nullptr;

/// Wakers of sleeping queues that have work since; the queues' streams are alive meanwhile.
struct Held {
  bool on = false;
  InlineVector<Waker*, 4> wakers;

  void release() noexcept {
    for (Waker* waker : wakers) waker->wake();
    wakers.clear();
  }
};
thread_local Held held;

template <class... Handlers>
struct Overloaded : Handlers... {
  using Handlers::operator()...;
};
template <class... Handlers>
Overloaded(Handlers...) -> Overloaded<Handlers...>;

void call(const std::function<void()>& task) noexcept {
  try {
    task();
  } catch (const std::exception& error) {
    log_error("a task on a host stream threw an exception, which is ignored: ", error.what());
  } catch (...) {
    log_error("a task on a host stream threw something that is no std::exception; it is ignored");
  }
}

void copy_rows(const CopyPiece& piece) noexcept {
  if (piece.bytes == 0) return;
  auto* target = static_cast<std::byte*>(piece.target);
  const auto* source = static_cast<const std::byte*>(piece.source);
  for (std::size_t i = 0; i < piece.rows; ++i) {
    std::memcpy(target, source, piece.bytes);
    target += piece.bytes;
    source += piece.source_pitch;
  }
}

}  // namespace

HeldWakes::HeldWakes() noexcept { held.on = true; }

HeldWakes::~HeldWakes() {
  held.on = false;
  held.release();
}

void HostQueue::await(std::uint64_t count) noexcept {
  held.release();
  progress_.await(count);
}

Result<std::shared_ptr<HostQueue>> HostQueue::start(const std::string& name,
                                                    std::shared_ptr<const HostFault> fault) {
  auto queue = std::make_shared<HostQueue>();
  queue->fault_ = std::move(fault);
  // The thread owns the queue too, and lets go when it ends.
  MILLRACE_ASSIGN(queue->thread_, Thread::start(name, [queue] { queue->work(); }));
  return queue;
}

std::uint64_t HostQueue::pushed(std::unique_lock<std::mutex> lock) {
  const std::uint64_t number = last_.load(std::memory_order_relaxed) + 1;
  last_.store(number, std::memory_order_release);
  const bool wake = std::exchange(asleep_, false);
  lock.unlock();
  if (wake && held.on) {
    held.wakers.push_back(&waker_);
  } else if (wake) {
    waker_.wake();
  }
  return number;
}

std::uint64_t HostQueue::push_gather(std::span<const CopyPiece> pieces) {
  std::unique_lock lock(mutex_);
  tasks_.emplace_back(Gather{pieces_.size(), pieces.size()});
  pieces_.insert(pieces_.end(), pieces.begin(), pieces.end());
  return pushed(std::move(lock));
}

std::optional<Error> HostQueue::failure() const {
  if (!failed_.load(std::memory_order_acquire)) return std::nullopt;
  std::lock_guard lock(failure_mutex_);
  return failure_;
}

void HostQueue::fail(Error error) noexcept {
  std::lock_guard lock(failure_mutex_);
  if (!failure_) failure_ = std::move(error);
  failed_.store(true, std::memory_order_release);
}

bool HostQueue::on_own_thread() const noexcept { return current_queue == this; }

void HostQueue::close() noexcept {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  waker_.wake();
}

void HostQueue::finish() noexcept {
  close();
  thread_.join();  // which only lets go when the caller is that thread
}

void HostQueue::abandon() noexcept {
  close();
  thread_.detach();
}

void HostQueue::work() noexcept {
  current_queue = this;
  std::vector<Task> tasks;
  Pieces pieces;
  std::uint64_t done = 0;
  while (take(tasks, pieces)) {
    for (Task& task : tasks) {
      if (fault_ && fault_->broken()) {
        skip(task);
      } else {
        execute(task, pieces);
      }
      task = Task();  // what it held goes before the task counts as done
      progress_.advance(++done);
    }
    tasks.clear();
    pieces.clear();
  }
}

bool HostQueue::take(std::vector<Task>& tasks, Pieces& pieces) noexcept {
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      if (!tasks_.empty()) {
        tasks_.swap(tasks);
        pieces_.swap(pieces);
        return true;
      }
      if (closed_) return false;
      asleep_ = true;
    }
    waker_.wait_until(TimePoint::max());
  }
}

/// Of a device that failed: nothing happens, but who waits for a word is told to look.
void HostQueue::skip(const Task& task) noexcept {
  const auto* signal = std::get_if<Signal>(&task);
  if (signal && signal->waker) signal->waker->wake();
}

void HostQueue::execute(Task& task, const Pieces& pieces) noexcept {
  std::visit(
      Overloaded{
          [](const Copy& copy) { std::memcpy(copy.target, copy.source, copy.bytes); },
          [&](const Gather& gather) {
            for (const CopyPiece& piece : std::span(pieces).subspan(gather.first, gather.count)) {
              copy_rows(piece);
            }
          },
          [](const Fill& fill) { std::memset(fill.target, fill.value, fill.bytes); },
          [](const Run& run) { call(run.task); },
          [](const Stamp& stamp) {
            const TimePoint now = Clock::now();
            std::lock_guard lock(stamp.time->mutex);
            if (stamp.recording > stamp.time->written) {
              stamp.time->written = stamp.recording;
              stamp.time->time = now;
            }
          },
          [this](const WaitForQueue& wait) {
            wait.queue->await(wait.count);
            if (auto failure = wait.queue->failure()) fail(*std::move(failure));
          },
          [this](const WaitForPoint& wait) {
            if (auto reached = wait.point->synchronize(); !reached)
              fail(std::move(reached.error()));
          },
          [](const Signal& signal) {
            signal.word->store(signal.value, std::memory_order_release);
            if (signal.waker) signal.waker->wake();
          },
      },
      task);
}

}  // namespace millrace
