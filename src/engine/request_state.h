// A submitted request on its way through the engine.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include <millrace/request.h>

#include "base/indexed_heap.h"
#include "base/intrusive_list.h"

namespace millrace {

class ModelState;

/// Recycled, never shared between requests in flight. One lease is held by the engine until the
/// answer is handed over, another by the caller's ticket or future.
///
/// Who may touch it: `submit` until it is queued; then whoever moves `stage` away from `queued` (a
/// driver that takes it into a batch, a canceller, or whoever expires it) until the answer is
/// handed over.
class RequestState final : public Lease::Counted {
 public:
  enum class Stage : std::uint32_t { queued, running, withdrawn, answered };

  /// With one count, for `Lease::adopt`.
  [[nodiscard]] static RequestState* make();

  /// Moves queued -> `to`; false when somebody else was first.
  [[nodiscard]] bool claim(Stage to) noexcept {
    Stage expected = Stage::queued;
    return stage.compare_exchange_strong(expected, to, std::memory_order_acq_rel);
  }

  /// Stores the answer of a future and wakes its waiter.
  void fulfil() noexcept;
  [[nodiscard]] bool fulfilled() const noexcept {
    return ready_.load(std::memory_order_acquire) == kReady;
  }
  /// False when `until` passed first.
  bool wait(TimePoint until) noexcept;

  /// Lets go of the caller's inputs and targets. Only when no device touches them any more.
  void release_tensors() noexcept;

  void dispose() noexcept override;

  // Set by submit.
  ModelState* model = nullptr;  // alive until the answer is handed over
  Request request;              // inputs in the model's order
  Callback callback;            // empty: a future
  std::int64_t items = 1;
  std::size_t bytes = 0;
  std::uint64_t shape_key = 0;          // equal keys may share a batch
  std::size_t location = 0;             // see ModelQueue
  InlineVector<std::size_t, 4> wanted;  // the model's index of each of request.outputs
  /// Bit k: the target of request.outputs[k] is host memory that the device does not reach.
  std::uint64_t pageable_targets = 0;
  [[nodiscard]] bool pageable_target(std::size_t k) const noexcept {
    return (pageable_targets >> k & 1) != 0;
  }
  /// Inputs in memory that is copied once it is ready, by a thread of the lane's stream: the
  /// request's own view is where the copy goes.
  struct LateInput {
    std::size_t input = 0;  // its index
    TensorView source;
    Lease lease;
  };
  std::vector<LateInput> late_inputs;
  TimePoint submitted;
  TimePoint deadline = TimePoint::max();

  /// When the driver expects the batch to end, on the steady clock; 0: not known yet.
  std::atomic<Duration::rep> expected_end{0};
  /// Waiters may spin through the last stretch, where waking a sleeping thread would cost more.
  bool may_spin = false;

  // The queue's own.
  std::uint64_t sequence = 0;
  int passed_over = 0;  // for one that suits a lane better
  ListHook<RequestState> in_list;
  HeapPosition in_deadlines;

  // The answer.
  std::atomic<Stage> stage{Stage::queued};
  bool order_ready = false;  // guarded by the model's order lock
  std::optional<Result<Response>> answer;

 private:
  static constexpr std::uint32_t kPending = 0;
  static constexpr std::uint32_t kWaited = 1;
  static constexpr std::uint32_t kReady = 2;

  void clear() noexcept;
  /// True when fulfilled meanwhile; else sets by when to look again.
  bool spin_near_end(TimePoint& sleep_until) const noexcept;

  std::atomic<std::uint32_t> ready_{kPending};
};

}  // namespace millrace
