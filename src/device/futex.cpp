#include "device/futex.h"

#include <cerrno>
#include <ctime>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace millrace {
namespace {

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t) &&
              std::atomic<std::uint32_t>::is_always_lock_free);

// steady_clock counts from the same instant as CLOCK_MONOTONIC, which is what the kernel compares
// with.
timespec to_timespec(TimePoint time) {
  auto since = time.time_since_epoch();
  if (since < Duration::zero()) since = Duration::zero();
  auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since);
  auto rest = std::chrono::duration_cast<std::chrono::nanoseconds>(since - seconds);
  timespec result{};
  result.tv_sec = static_cast<time_t>(seconds.count());
  result.tv_nsec = static_cast<long>(rest.count());
  return result;
}

}  // namespace

bool futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                TimePoint until) noexcept {
  timespec limit{};
  const timespec* timeout = nullptr;
  if (until != TimePoint::max()) {
    limit = to_timespec(until);
    timeout = &limit;
  }
  // The BITSET form takes an absolute time; without FUTEX_CLOCK_REALTIME it is monotonic.
  long rc = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, expected, timeout, nullptr,
                    FUTEX_BITSET_MATCH_ANY);
  return rc == 0 || errno != ETIMEDOUT;
}

void futex_wake(const std::atomic<std::uint32_t>* word, int threads) noexcept {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, threads, nullptr, nullptr, 0);
}

}  // namespace millrace
