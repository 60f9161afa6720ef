#include "engine/request_state.h"

#include "base/pool.h"
#include "device/futex.h"

namespace millrace {
namespace {

/// For the whole process, since tickets may outlive an engine; never destroyed, since leases may be
/// dropped at exit.
Pool<RequestState>& pool() {
  static auto* pool = new Pool<RequestState>(4096);
  return *pool;
}

}  // namespace

RequestState* RequestState::make() { return pool().take().release(); }

void RequestState::fulfil() noexcept {
  if (ready_.exchange(kReady, std::memory_order_acq_rel) == kWaited) futex_wake(&ready_, 1 << 30);
}

bool RequestState::wait(TimePoint until) noexcept {
  for (;;) {
    std::uint32_t seen = ready_.load(std::memory_order_acquire);
    if (seen == kReady) return true;
    if (seen == kPending &&
        !ready_.compare_exchange_strong(seen, kWaited, std::memory_order_acq_rel)) {
      continue;
    }
    if (!futex_wait(ready_, kWaited, until)) return fulfilled();
  }
}

void RequestState::release_tensors() noexcept {
  request.inputs.clear();
  request.outputs.clear();
}

void RequestState::clear() noexcept {
  release_tensors();
  request.priority = 0;
  request.deadline.reset();
  request.id.clear();
  request.sequence = {};
  request.intended.reset();
  items = 1;
  bytes = 0;
  shape_key = 0;
  location = 0;
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
