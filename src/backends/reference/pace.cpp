#include "backends/reference/pace.h"

#include <sys/prctl.h>
#include <time.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>

#include "backends/reference/test_hooks.h"

namespace millrace {
namespace reference {
namespace {

// What all that wait share. Never destroyed: a batch may hang for longer than the program runs.
struct Waiting {
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t releases = 0;  // under mutex
  std::size_t hung = 0;        // under mutex
};

Waiting& waiting() {
  static auto* const all = new Waiting;
  return *all;
}

std::chrono::nanoseconds thread_time() noexcept {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

// The kernel rounds sleeps up by 50 us to save power; a device does not.
void sleep_exactly_on_this_thread() noexcept {
  thread_local const int done = prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
  (void)done;
}

}  // namespace

void Interrupt::begin() {
  const std::lock_guard lock(waiting().mutex);
  running_ = true;
  ended_ = false;
}

bool Interrupt::finish() {
  const std::lock_guard lock(waiting().mutex);
  running_ = false;
  return ended_;
}

void Interrupt::end() {
  const std::lock_guard lock(waiting().mutex);
  if (running_) ended_ = true;
  waiting().changed.notify_all();
}

void sleep_until(std::chrono::steady_clock::time_point until, Interrupt* interrupt) {
  sleep_exactly_on_this_thread();
  if (interrupt == nullptr) return std::this_thread::sleep_until(until);
  std::unique_lock lock(waiting().mutex);
  waiting().changed.wait_until(lock, until, [&] { return interrupt->ended_; });
}

void compute_for(std::chrono::nanoseconds time, Interrupt* interrupt) {
  const std::chrono::nanoseconds end = thread_time() + time;
  volatile std::uint32_t value = 1;
  while (thread_time() < end) {
    for (int i = 0; i < 256; ++i) value = value * 1664525U + 1013904223U;
    if (interrupt != nullptr) {
      const std::lock_guard lock(waiting().mutex);
      if (interrupt->ended_) return;
    }
  }
}

void hang(Interrupt* interrupt) {
  Waiting& all = waiting();
  std::unique_lock lock(all.mutex);
  ++all.hung;
  all.changed.notify_all();
  const std::uint64_t before = all.releases;
  all.changed.wait(
      lock, [&] { return all.releases != before || (interrupt != nullptr && interrupt->ended_); });
  --all.hung;
}

}  // namespace reference

void release_hung_reference_batches() {
  reference::Waiting& all = reference::waiting();
  const std::lock_guard lock(all.mutex);
  ++all.releases;
  all.changed.notify_all();
}

std::size_t hung_reference_batches() {
  reference::Waiting& all = reference::waiting();
  const std::lock_guard lock(all.mutex);
  return all.hung;
}

}  // namespace millrace
