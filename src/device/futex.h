// Linux futexes: sleeping until a 32-bit word changes.
#pragma once

#include <atomic>
#include <cstdint>

#include <millrace/device.h>

namespace millrace {

/// Sleeps while `word` holds `expected`, until woken; may return early. Pass TimePoint::max() for
/// ever. Returns false when `until` has passed.
bool futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                TimePoint until) noexcept;
/// Wakes at most `threads` sleepers. `word` need no longer exist: only its address is used.
void futex_wake(const std::atomic<std::uint32_t>* word, int threads) noexcept;

}  // namespace millrace
