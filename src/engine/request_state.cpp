#include "engine/request_state.h"

#include "base/pool.h"
#include "base/thread.h"
#include "device/futex.h"

namespace millrace {
namespace {

/// For the whole process, since tickets may outlive an engine; never destroyed, since leases may be
/// dropped at exit.
Pool<RequestState>& pool() {
  static auto* pool = new Pool<RequestState>(4096);
  return *pool;
}

/// One of the few who may spin; others sleep.
class SpinPermit {
 public:
  SpinPermit() noexcept : granted_(spinners().fetch_add(1, std::memory_order_relaxed) < kMost) {}
  SpinPermit(const SpinPermit&) = delete;
  SpinPermit& operator=(const SpinPermit&) = delete;
  ~SpinPermit() { spinners().fetch_sub(1, std::memory_order_relaxed); }
  [[nodiscard]] bool granted() const noexcept { return granted_; }

 private:
  static constexpr int kMost = 2;
  static std::atomic<int>& spinners() noexcept {
    static std::atomic<int> count{0};
    return count;
  }
  const bool granted_;
};

}  // namespace

RequestState* RequestState::make() { return pool().take().release(); }

void RequestState::fulfil() noexcept {
  if (ready_.exchange(kReady, std::memory_order_acq_rel) == kWaited) futex_wake(&ready_, 1 << 30);
}

bool RequestState::spin_near_end(TimePoint& sleep_until) const noexcept {
  // A timed sleep may end late by a thread's timer slack, 50 us by default.
  constexpr Duration kBefore = std::chrono::microseconds(120);
  constexpr Duration kAfter = std::chrono::microseconds(60);
  constexpr Duration kUntilLaunched = std::chrono::microseconds(20);
  const SpinPermit permit;
  if (!permit.granted()) return false;
  const TimePoint start = Clock::now();
  for (;;) {
    if (fulfilled()) return true;
    const TimePoint now = Clock::now();
    const Duration::rep expected = expected_end.load(std::memory_order_relaxed);
    if (expected == 0) {
      if (now - start > kUntilLaunched) return false;
      continue;
    }
    const TimePoint end{Duration(expected)};
    if (now > end + kAfter) return false;
    if (now < end - kBefore) {
      sleep_until = std::min(sleep_until, end - kBefore);
      return false;
    }
    spin_pause();
  }
}

bool RequestState::wait(TimePoint until) noexcept {
  for (;;) {
    TimePoint sleep_until = until;
    if (may_spin && spin_near_end(sleep_until)) return true;
    std::uint32_t seen = ready_.load(std::memory_order_acquire);
    if (seen == kReady) return true;
    if (seen == kPending &&
        !ready_.compare_exchange_strong(seen, kWaited, std::memory_order_acq_rel)) {
      continue;
    }
    const bool woken = futex_wait(ready_, kWaited, sleep_until);
    if (!woken && sleep_until == until) return fulfilled();
    if (!woken) {  // spins from here on: nobody needs to wake it
      seen = kWaited;
      ready_.compare_exchange_strong(seen, kPending, std::memory_order_acq_rel);
    }
  }
}

void RequestState::release_tensors() noexcept {
  request.inputs.clear();
  request.outputs.clear();
  late_inputs.clear();
}

void RequestState::clear() noexcept {
  release_tensors();
  request.priority = 0;
  request.deadline.reset();
  request.id.clear();
  request.brief_callback = false;
  request.sequence = {};
  request.intended.reset();
  items = 1;
  bytes = 0;
  shape_key = 0;
  location = 0;
  pageable_targets = 0;
  expected_end.store(0, std::memory_order_relaxed);
  may_spin = false;
  passed_over = 0;
  wanted.clear();
  callback = nullptr;
  answer.reset();
  model = nullptr;
  deadline = TimePoint::max();
  order_ready = false;
  stage.store(Stage::queued, std::memory_order_relaxed);
  ready_.store(kPending, std::memory_order_relaxed);
}

void RequestState::dispose() noexcept {
  clear();
  renew();
  pool().put(this);
}

}  // namespace millrace
