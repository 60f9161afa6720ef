#include <millrace/device.h>

#include "device/futex.h"

namespace millrace {
namespace {

constexpr std::uint32_t kNothing = 0;
constexpr std::uint32_t kWoken = 1;
constexpr std::uint32_t kAsleep = 2;

}  // namespace

void Waker::wake() noexcept {
  if (instead_) {
    instead_(context_);
    return;
  }
  // Always an exchange, even when a wake is kept already: what this thread wrote before must be
  // visible to the waiter that takes the wake.
  if (state_.exchange(kWoken, std::memory_order_acq_rel) == kAsleep) futex_wake(&state_, 1);
}

bool Waker::wait_until(TimePoint until) noexcept {
  std::uint32_t seen = kNothing;
  if (!state_.compare_exchange_strong(seen, kAsleep, std::memory_order_acq_rel)) {
    state_.exchange(kNothing, std::memory_order_acq_rel);
    return true;
  }
  while (futex_wait(state_, kAsleep, until)) {
    if (state_.load(std::memory_order_relaxed) == kWoken) break;
  }
  return state_.exchange(kNothing, std::memory_order_acq_rel) == kWoken;
}

}  // namespace millrace
