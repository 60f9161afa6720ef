#include "device/host/progress.h"

#include <climits>

#include "device/futex.h"

namespace millrace {
namespace {

constexpr std::uint64_t kNobody = ~std::uint64_t{0};

}  // namespace

// Both sides write one variable and then read the other's (done_, wanted_), all sequentially
// consistent, so that at least one of them sees what the other wrote.

void Progress::advance(std::uint64_t done) noexcept {
  done_.store(done, std::memory_order_seq_cst);
  if (wanted_.load(std::memory_order_seq_cst) > done) return;
  wanted_.exchange(kNobody, std::memory_order_seq_cst);
  wakes_.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(&wakes_, INT_MAX);
}

void Progress::await(std::uint64_t count) noexcept {
  for (;;) {
    // The word is read before asking: if the request is taken away after that, the word has
    // changed.
    std::uint32_t wakes = wakes_.load(std::memory_order_seq_cst);
    std::uint64_t wanted = wanted_.load(std::memory_order_seq_cst);
    while (count < wanted &&
           !wanted_.compare_exchange_weak(wanted, count, std::memory_order_seq_cst)) {
    }
    if (done_.load(std::memory_order_seq_cst) >= count) return;
    futex_wait(wakes_, wakes, TimePoint::max());
  }
}

}  // namespace millrace
