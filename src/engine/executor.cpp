#include "engine/executor.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <millrace/inline_vector.h>

#include "base/log.h"
#include "device/host/host_queue.h"
#include "engine/model_state.h"

namespace millrace {
namespace {

/// How long a stretch of callbacks or submissions may put off what they submitted.
constexpr Duration kLongestDeferral = std::chrono::microseconds(30);
constexpr int kLooksBetweenClocks = 16;

/// About what a wake costs who wakes.
constexpr Duration kWake = std::chrono::microseconds(3);
/// What a thread does itself when it has nothing else to do.
constexpr Duration kBrief = std::chrono::microseconds(20);
/// And when requests come one at a time, so that nobody waits for it: to wake another thread takes
/// long where processors sleep deeply.
constexpr Duration kLone = std::chrono::milliseconds(1);
constexpr int kLoneOften = 8;
constexpr int kLoneMost = 16;
/// How often what callbacks submitted is served by their own thread before others get their turn.
constexpr int kRounds = 8;
/// Of the answer to a brief callback, and of all that one round brings: more takes long to write as
/// text and to send.
constexpr std::size_t kBriefBytes = 4 * 1024;
constexpr std::size_t kRoundBytes = 64 * 1024;

struct Deferred {
  bool on = false;
  bool burst = false;
  bool waking = false;    // a lease that goes meanwhile may submit, but nothing is flushed within
  bool collects = false;  // callbacks that come due are for this thread
  const Executor* own = nullptr;
  bool rested = false;
  int submissions = 0;  // since the last flush
  int lone = 0;         // rises with flushes of one after a rest, falls with others
  TimePoint since;
  InlineVector<Waker*, 8> wakers;
  std::vector<RequestState*> collected;
  std::size_t collected_bytes = 0;  // of those of others
  std::vector<RequestState*> running;
};
thread_local Deferred deferred;

/// Counts it if so.
bool is_brief(const RequestState& state) noexcept {
  if (!state.request.brief_callback) return false;
  if (!state.answer->ok()) return true;
  std::size_t bytes = 0;
  for (const NamedTensor& output : (*state.answer)->outputs) {
    if (output.view.type == DataType::bytes) return false;
    const Result<std::size_t> plain = output.view.bytes();
    bytes += plain ? *plain : kRoundBytes;
  }
  if (bytes > kBriefBytes || deferred.collected_bytes + bytes > kRoundBytes) return false;
  deferred.collected_bytes += bytes;
  return true;
}

void run_callback(RequestState& state) noexcept {
  ModelState& model = *state.model;
  const Lease engines = Lease::adopt(&state);
  try {
    state.callback(std::move(*state.answer), true);
  } catch (const std::exception& error) {
    log_error("model \"", model.config().name, "\": a callback threw: ", error.what());
  } catch (...) {
    log_error("model \"", model.config().name, "\": a callback threw");
  }
  state.callback = nullptr;
  state.answer.reset();
  model.finished_one();
}

/// Takes from `answered` what the calling thread will run itself.
void collect(const Executor& executor, std::vector<RequestState*>& answered) {
  const auto ours = [&](const RequestState* state) {
    if (state->model->config().batching.preserve_order) return false;
    return deferred.own == &executor || is_brief(*state);
  };
  const auto others = std::stable_partition(answered.begin(), answered.end(), ours);
  deferred.collected.insert(deferred.collected.end(), answered.begin(), others);
  answered.erase(answered.begin(), others);
}

/// `helps`: with work that takes no longer. Zero: with none.
void wake_all(Duration helps, bool collects) noexcept {
  // A wake may drive a device here, which must not put anything off in turn.
  const bool on = std::exchange(deferred.on, false);
  const bool outer = std::exchange(deferred.collects, collects);
  const bool within = std::exchange(deferred.waking, true);
  std::optional<HelpingHand> hand;
  if (helps > Duration::zero()) hand.emplace(helps);
  while (!deferred.wakers.empty()) {
    Waker* waker = deferred.wakers.back();
    deferred.wakers.pop_back();
    waker->wake();
  }
  hand.reset();  // helps
  deferred.waking = within;
  deferred.collects = outer;
  deferred.on = on;
}

bool put_off_for_long() noexcept {
  return !deferred.wakers.empty() && Clock::now() - deferred.since > kLongestDeferral;
}

/// `here`: what comes of it may be for this thread as well.
void run_all(std::vector<RequestState*>& answered, bool here) noexcept {
  for (RequestState* state : answered) {
    run_callback(*state);
    // There is more to do here: others get the work, unless telling them takes as long.
    if (put_off_for_long()) wake_all(here ? kWake : Duration::zero(), here);
  }
  answered.clear();
}

void run_collected(bool here) noexcept {
  deferred.running.swap(deferred.collected);
  deferred.collected_bytes = 0;
  run_all(deferred.running, here);
}

/// Whether requests come one at a time, and mostly while the thread does nothing. One that comes
/// right behind an answer may be the next of the same caller.
bool come_alone() noexcept {
  const bool rested = std::exchange(deferred.rested, false);
  if (std::exchange(deferred.submissions, 0) > 1) {
    deferred.lone = 0;
  } else {
    deferred.lone = std::clamp(deferred.lone + (rested ? 1 : -2), 0, kLoneMost);
  }
  return deferred.lone >= kLoneOften;
}

/// False when there was nothing to do.
bool flush_once() noexcept {
  if (deferred.wakers.empty() && deferred.collected.empty()) return false;
  wake_all(come_alone() ? kLone : kBrief, true);
  run_collected(true);
  return true;
}

}  // namespace

void DeferredWakes::enable(const Executor* own) noexcept {
  deferred.on = true;
  deferred.own = own;
}

void DeferredWakes::flush_if_old() noexcept {
  if (put_off_for_long()) flush();
}

void DeferredWakes::flush() noexcept {
  for (int round = 0; round < kRounds; ++round) {
    if (!flush_once()) return;
  }
  // What is left, and what comes of it, is for others.
  wake_all(Duration::zero(), false);
  run_collected(false);
  wake_all(Duration::zero(), false);
}

void DeferredWakes::rested() noexcept { deferred.rested = true; }

void DeferredWakes::flush_to_wait() noexcept {
  if (!deferred.wakers.empty()) wake_all(kBrief, false);
}

bool DeferredWakes::put_off(Waker& waker) {
  if (!deferred.on) return false;
  if (deferred.burst && put_off_for_long()) wake_all(kWake, false);
  ++deferred.submissions;
  for (const Waker* known : deferred.wakers) {
    if (known == &waker) return true;
  }
  if (deferred.wakers.empty()) deferred.since = Clock::now();
  deferred.wakers.push_back(&waker);
  return true;
}

bool DeferredWakes::begin_burst() noexcept {
  if (deferred.on || deferred.waking) return false;
  deferred.on = true;
  deferred.burst = true;
  return true;
}

void DeferredWakes::end_burst() noexcept {
  deferred.burst = false;
  flush();
  deferred.on = false;
}

Executor::Executor(int threads, Duration spin) {
  for (int i = 0; i < threads; ++i) {
    auto worker = std::make_unique<Worker>();
    worker->thread = Thread("mr-callback-" + std::to_string(i),
                            [this, raw = worker.get(), spin] { raw->loop(*this, spin); });
    workers_.push_back(std::move(worker));
  }
}

Executor::~Executor() { stop(); }

void Executor::stop() noexcept {
  for (auto& worker : workers_) {
    worker->stop.store(true, std::memory_order_release);
    worker->waker.wake();
    worker->thread.join();
  }
}

void Executor::post(std::size_t key, std::vector<RequestState*>& answered) {
  if (deferred.collects) collect(*this, answered);
  if (answered.empty()) return;
  Worker& worker = *workers_[key % workers_.size()];
  {
    std::lock_guard lock(worker.mutex);
    worker.answered.insert(worker.answered.end(), answered.begin(), answered.end());
    worker.posted.store(true, std::memory_order_release);
  }
  answered.clear();
  worker.waker.wake();
}

bool Executor::Worker::spins_until_posted(Duration spin) const noexcept {
  if (spin <= Duration::zero()) return false;
  const TimePoint until = Clock::now() + spin;
  do {
    for (int i = 0; i < kLooksBetweenClocks; ++i) {
      if (posted.load(std::memory_order_acquire)) return true;
      spin_pause();
    }
  } while (Clock::now() < until);
  return false;
}

void Executor::Worker::loop(const Executor& own, Duration spin) {
  std::vector<RequestState*> batch;
  DeferredWakes::enable(&own);
  for (;;) {
    const bool stopping = stop.load(std::memory_order_acquire);
    {
      std::lock_guard lock(mutex);
      batch.swap(answered);
      posted.store(false, std::memory_order_relaxed);
    }
    const bool idle = batch.empty();
    run_all(batch, true);
    if (flush_once() || !idle) continue;
    if (stopping) return;
    if (!spins_until_posted(spin)) waker.wait_until(TimePoint::max());
  }
}

}  // namespace millrace
