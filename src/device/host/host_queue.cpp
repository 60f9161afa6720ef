#include "device/host/host_queue.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include <millrace/inline_vector.h>

#include "base/log.h"
#include "base/try.h"

namespace millrace {
namespace {

/// How long a helper goes on with what comes after the work that it was left.
constexpr Duration kHelpsFor = std::chrono::microseconds(30);

thread_local const HostQueue* current_queue = nullptr;
thread_local bool helping = false;  // what `current_queue` has

/// Sleeping queues that have work since, and their wakers; the queues' streams are alive meanwhile.
struct Held {
  struct Sleeper {
    HostQueue* queue = nullptr;
    Waker* waker = nullptr;
  };
  bool on = false;
  Duration takes = Duration::max();
  bool own = false;
  InlineVector<Sleeper, 4> sleepers;

  void release() noexcept {
    for (const Sleeper& sleeper : sleepers) sleeper.waker->wake();
    sleepers.clear();
  }
};
thread_local Held held;
thread_local HelpingHand* hand = nullptr;

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

HeldWakes::HeldWakes(Duration takes, bool own) noexcept {
  held.on = true;
  held.takes = takes;
  held.own = own;
}

HeldWakes::~HeldWakes() {
  held.on = false;
  const Duration takes = std::exchange(held.takes, Duration::max());
  const bool own = std::exchange(held.own, false);
  if (hand && (hand->own_ ? own : takes <= hand->most_) && !hand->queue_ && !current_queue &&
      !held.sleepers.empty()) {
    hand->queue_ = held.sleepers.back().queue->shared_from_this();
    held.sleepers.pop_back();
  }
  held.release();
}

HelpingHand::HelpingHand(Duration most) noexcept
    : outer_(std::exchange(hand, this)), own_(false), most_(most) {}

HelpingHand::HelpingHand(Own) noexcept
    : outer_(std::exchange(hand, this)), own_(true), most_(Duration::max()) {}

HelpingHand::~HelpingHand() {
  help();
  hand = outer_;
}

void HelpingHand::help() noexcept {
  const std::shared_ptr<HostQueue> queue = std::move(queue_);
  if (queue) queue->help(most_, own_);
}

void HelpingHand::pass_on() noexcept {
  if (!hand || !hand->queue_) return;
  hand->queue_->waker_.wake();
  hand->queue_.reset();
}

void HostQueue::await(std::uint64_t count) noexcept {
  held.release();
  HelpingHand::pass_on();
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
  takes_ = std::max(takes_, held.takes);
  lock.unlock();
  if (wake && held.on) {
    held.sleepers.push_back({this, &waker_});
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

bool HostQueue::on_helper() noexcept { return helping; }

bool HostQueue::asleep() const noexcept {
  std::lock_guard lock(mutex_);
  return asleep_;
}

void HostQueue::close() noexcept {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  waker_.wake();
}

void HostQueue::finish() noexcept {
  if (on_own_thread()) return abandon();  // of a helper, for whose end the thread waits
  close();
  thread_.join();
}

void HostQueue::abandon() noexcept {
  close();
  thread_.detach();
}

void HostQueue::work() noexcept {
  current_queue = this;
  while (take()) do_taken();
}

void HostQueue::do_taken() noexcept {
  for (Task& task : doing_) {
    if (fault_ && fault_->broken()) {
      skip(task);
    } else {
      execute(task);
    }
    task = Task();  // what it held goes before the task counts as done
    progress_.advance(++done_);
  }
  doing_.clear();
  doing_pieces_.clear();
}

bool HostQueue::take() noexcept {
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      if (who_ != Doing::helper) {
        who_ = Doing::nobody;
        if (!tasks_.empty()) {
          who_ = Doing::thread;
          takes_ = Duration::zero();
          tasks_.swap(doing_);
          pieces_.swap(doing_pieces_);
          return true;
        }
        if (closed_) return false;
        asleep_ = true;
      }
    }
    waker_.wait_until(TimePoint::max());
  }
}

bool HostQueue::take_as_helper(bool first, Duration most) noexcept {
  {
    const auto waits = [](const Task& task) {
      return std::holds_alternative<WaitForQueue>(task) ||
             std::holds_alternative<WaitForPoint>(task);
    };
    std::lock_guard lock(mutex_);
    if (first && who_ != Doing::nobody) return false;  // it looks again when it is through
    who_ = Doing::nobody;
    if (tasks_.empty()) {
      asleep_ = true;
      if (!closed_) return false;
    } else if (takes_ <= most && std::none_of(tasks_.begin(), tasks_.end(), waits)) {
      who_ = Doing::helper;
      takes_ = Duration::zero();
      tasks_.swap(doing_);
      pieces_.swap(doing_pieces_);
      return true;
    }
  }
  waker_.wake();
  return false;
}

void HostQueue::help(Duration most, bool own) noexcept {
  const HostQueue* const outside = std::exchange(current_queue, this);
  helping = !own;
  const TimePoint until = Clock::now() + kHelpsFor;
  constexpr Duration kNone{-1};
  for (bool more = take_as_helper(true, most); more;
       more = take_as_helper(false, !own && Clock::now() < until ? most : kNone)) {
    do_taken();
  }
  helping = false;
  current_queue = outside;
}

/// Of a device that failed: nothing happens, but who waits for a word is told to look.
void HostQueue::skip(const Task& task) noexcept {
  const auto* signal = std::get_if<Signal>(&task);
  if (signal && signal->waker) signal->waker->wake();
}

void HostQueue::execute(Task& task) noexcept {
  std::visit(Overloaded{
                 [](const Copy& copy) { std::memcpy(copy.target, copy.source, copy.bytes); },
                 [&](const Gather& gather) {
                   for (const CopyPiece& piece :
                        std::span(doing_pieces_).subspan(gather.first, gather.count)) {
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
