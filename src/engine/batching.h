// Which waiting requests form the next batch, and when.
#pragma once

#include <cstdint>
#include <span>

#include <millrace/model.h>

namespace millrace {

/// A waiting request as the decision sees it.
struct WaitingRequest {
  std::int64_t items = 1;
  TimePoint enqueued;
  TimePoint deadline = TimePoint::max();
};

/// What a queue offers one lane: requests that may run together (one shape), in the order in which
/// they must go. The list may stop once its items reach the policy's maximum.
struct QueueSnapshot {
  std::span<const WaitingRequest> waiting;
  /// More requests of this shape wait behind these: they did not fit.
  bool more_behind = false;
  /// Nothing more can arrive: the queue is full, or the model is draining.
  bool nothing_will_come = false;
  /// When the lane will start to idle if it gets no work; now or earlier: it idles.
  TimePoint lane_idle_from;
  /// Time between deciding and the lane having its inputs: what must be taken off `lane_idle_from`.
  Duration lead{};
  /// What a batch usually takes; a deadline closer than this cannot afford to wait.
  Duration batch_time{};
};

struct BatchDecision {
  /// Requests to take from the front; 0: none yet.
  std::size_t take = 0;
  std::int64_t items = 0;
  /// When to decide again if nothing happens before; only when `take` is 0. `TimePoint::max()`: no
  /// need.
  TimePoint wait_until = TimePoint::max();
};

/// Decides, never acts: no clock, lock or device inside.
///
/// - A full batch, or one that the next request does not fit into, goes at once.
/// - The largest preferred size that can be formed exactly goes at once.
/// - A smaller batch goes as soon as waiting cannot help: nothing more will come, the oldest has
/// waited
///   `max_delay`, or a deadline is near. With no delay allowed it goes when the lane is about to
///   idle: until then, waiting costs nothing and may fill it.
[[nodiscard]] BatchDecision next_batch(const QueueSnapshot& queue, TimePoint now,
                                       const BatchPolicy& policy);

/// What prepared and eager runs of a lane cost, measured when it was prepared.
struct RunCost {
  std::int64_t items = 0;  // a prepared size
  Duration prepared{};
  Duration eager{};  // zero: the lane cannot run eagerly
};

/// The prepared size to pad `items` up to, or 0 to run them eagerly. `costs` ascends by items.
/// Eager costs in between are interpolated linearly.
[[nodiscard]] std::int64_t choose_run_size(std::int64_t items, std::span<const RunCost> costs);

}  // namespace millrace
