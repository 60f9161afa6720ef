#include "engine/executor.h"

#include <utility>

#include <millrace/inline_vector.h>

#include "base/log.h"
#include "engine/model_state.h"

namespace millrace {
namespace {

/// How long a stretch of callbacks or submissions may put off what they submitted.
constexpr Duration kLongestDeferral = std::chrono::microseconds(30);
constexpr int kLooksBetweenClocks = 16;

struct Deferred {
  bool on = false;
  TimePoint since;
  InlineVector<Waker*, 8> wakers;
};
thread_local Deferred deferred;

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

}  // namespace

void DeferredWakes::enable() noexcept { deferred.on = true; }

void DeferredWakes::flush_if_old() noexcept {
  if (!deferred.wakers.empty() && Clock::now() - deferred.since > kLongestDeferral) flush();
}

bool DeferredWakes::put_off(Waker& waker) {
  if (!deferred.on) return false;
  for (const Waker* known : deferred.wakers) {
    if (known == &waker) return true;
  }
  if (deferred.wakers.empty()) deferred.since = Clock::now();
  deferred.wakers.push_back(&waker);
  return true;
}

void DeferredWakes::flush() noexcept {
  // A wake may drive a device here, which must not put anything off in turn.
  const bool on = std::exchange(deferred.on, false);
  while (!deferred.wakers.empty()) {
    Waker* waker = deferred.wakers.back();
    deferred.wakers.pop_back();
    waker->wake();
  }
  deferred.on = on;
}

Executor::Executor(int threads, Duration spin) {
  for (int i = 0; i < threads; ++i) {
    auto worker = std::make_unique<Worker>();
    worker->thread =
        Thread("mr-callback-" + std::to_string(i), [raw = worker.get(), spin] { raw->loop(spin); });
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

void Executor::Worker::loop(Duration spin) {
  std::vector<RequestState*> batch;
  DeferredWakes::enable();
  for (;;) {
    const bool stopping = stop.load(std::memory_order_acquire);
    {
      std::lock_guard lock(mutex);
      batch.swap(answered);
      posted.store(false, std::memory_order_relaxed);
    }
    if (batch.empty()) {
      if (stopping) return;
      if (spins_until_posted(spin)) continue;
      waker.wait_until(TimePoint::max());
      continue;
    }
    for (RequestState* state : batch) {
      run_callback(*state);
      DeferredWakes::flush_if_old();
    }
    DeferredWakes::flush();
    batch.clear();
  }
}

}  // namespace millrace
