// What the machine itself costs, measured: no loop can be faster than this.
#pragma once

namespace direct {

/// Processors that this process may run on.
[[nodiscard]] int usable_cores();

/// From one thread's wake-up call to the other thread running: half the round trip of two threads
/// that wake each other in turn through a futex, each on a processor of its own where there are
/// two. (Left to the scheduler, they share one now and then, and a wake is but a switch, some 0.8
/// us.) Microseconds; takes about `seconds`.
struct WakeTimes {
  double p50_us = 0;
  double p99_us = 0;
};
[[nodiscard]] WakeTimes measure_wake(double seconds);

/// How late a thread that does nothing but sleep until the next millisecond wakes, with the
/// kernel's timer slack turned off as the load generator does. Microseconds; takes about `seconds`.
struct TimerLag {
  double p50_us = 0;
  double p99_us = 0;
  double max_us = 0;
};
[[nodiscard]] TimerLag measure_timer_lag(double seconds);

}  // namespace direct
