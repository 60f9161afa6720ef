#include "direct/machine.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#include "direct/direct.h"

namespace direct {
namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t ns_between(Clock::time_point from, Clock::time_point to) {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(std::chrono::nanoseconds(to - from).count(), 0));
}

using Word = std::atomic<std::uint32_t>;

void wait_while(Word& word, std::uint32_t value) {
  while (word.load(std::memory_order_acquire) == value) {
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
  }
}

void change(Word& word, std::uint32_t value) {
  word.store(value, std::memory_order_release);
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

constexpr std::uint32_t kPing = 0;
constexpr std::uint32_t kPong = 1;
constexpr std::uint32_t kStop = 2;

// Keeps the calling thread on the first or the last processor that the process may use.
void stay_on(bool first) {
  cpu_set_t usable;
  CPU_ZERO(&usable);
  if (sched_getaffinity(0, sizeof usable, &usable) != 0) return;
  int found = -1;
  for (int cpu = 0; cpu < CPU_SETSIZE && !(first && found >= 0); ++cpu) {
    if (CPU_ISSET(cpu, &usable)) found = cpu;
  }
  if (found < 0) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(found, &one);
  sched_setaffinity(0, sizeof one, &one);
}

}  // namespace

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) {
    return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  }
  return std::max(1, CPU_COUNT(&set));
}

WakeTimes measure_wake(double seconds) {
  Word word{kPing};
  std::thread other([&] {
    stay_on(true);
    for (;;) {
      wait_while(word, kPing);
      if (word.load(std::memory_order_acquire) == kStop) return;
      change(word, kPing);
    }
  });
  Latencies round_trips;
  std::thread one([&] {
    stay_on(false);
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    for (auto start = Clock::now(); start < end;) {
      change(word, kPong);
      wait_while(word, kPong);
      const auto now = Clock::now();
      round_trips.record(ns_between(start, now));
      start = now;
    }
    change(word, kStop);
  });
  one.join();
  other.join();
  return {round_trips.quantile_us(0.5) / 2, round_trips.quantile_us(0.99) / 2};
}

TimerLag measure_timer_lag(double seconds) {
  Latencies lags;
  std::uint64_t worst = 0;
  std::thread sleeper([&] {
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    for (auto due = Clock::now() + std::chrono::milliseconds(1); due < end;) {
      std::this_thread::sleep_until(due);
      const auto now = Clock::now();
      lags.record(ns_between(due, now));
      worst = std::max(worst, ns_between(due, now));
      due = std::max(due + std::chrono::milliseconds(1), now);
    }
  });
  sleeper.join();
  return {lags.quantile_us(0.5), lags.quantile_us(0.99), static_cast<double>(worst) / 1000};
}

}  // namespace direct
