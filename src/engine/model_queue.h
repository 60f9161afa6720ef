// Where a model's requests wait, bound to no device yet.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include <millrace/model.h>

#include "engine/batching.h"
#include "engine/pull.h"
#include "engine/request_state.h"

namespace millrace {

/// What a driver with a free lane asks of a queue.
struct PullQuery {
  DeviceId puller;
  std::span<const DeviceLoad> loads;  // of the devices that run the model, for `choose_pull`
  TimePoint now;
  TimePoint lane_idle_from;
  Duration lead{};
  Duration batch_time{};
  /// Whether the free lane has a run prepared for where this request's data lies; null: none has.
  /// Called under the queue's lock, of single requests that make a batch alone.
  bool (*suits_lane)(const void* context, const RequestState& request) = nullptr;
  const void* suits_context = nullptr;
};

struct PullAnswer {
  std::size_t requests = 0;  // in the batch that would go, or went
  std::int64_t items = 0;
  TimePoint wait_until = TimePoint::max();
  TimePoint earliest_deadline = TimePoint::max();  // among the batch
  std::int64_t seen_items = 0;                     // in the queue when this was decided
  bool suited = true;  // the lane, where the query asked for that and the batch is one request
};

/// Bounded by requests and by bytes. Ordered by priority, then by arrival. Within a priority,
/// requests whose data lies on one of the model's devices wait in that device's list (location 1 +
/// its position), others in location 0. Thread-safe.
class ModelQueue {
 public:
  /// `batching` must have its `max_items` settled (at least 1).
  ModelQueue(std::string model, const QueueLimits& limits, const BatchPolicy& batching,
             std::vector<DeviceId> devices);

  /// The location of data on `device`.
  [[nodiscard]] std::size_t location_of(DeviceId device) const noexcept;

  /// Errors: queue_full; the reason of `close`. `on_queued` runs in the order of arrival.
  template <class OnQueued>
  Result<void> push(RequestState& request, OnQueued&& on_queued) {
    std::lock_guard lock(mutex_);
    if (Result<void> room = admit(request); !room) return room;
    link(request);
    on_queued();
    return {};
  }
  /// What would go now; takes nothing.
  [[nodiscard]] PullAnswer peek(const PullQuery& query);
  /// Takes the next batch, if it is to go now, and appends it to `batch`; each is then `running`.
  PullAnswer take(const PullQuery& query, std::vector<RequestState*>& batch);
  /// Takes out a request that its caller has claimed as withdrawn.
  void remove(RequestState& request);
  /// Claims as withdrawn and takes out all whose deadline is `now` or before.
  void take_expired(TimePoint now, std::vector<RequestState*>& expired);
  /// Claims as withdrawn and takes out all of that location.
  void take_location(std::size_t location, std::vector<RequestState*>& all);
  /// Claims as withdrawn and takes out everything.
  void take_all(std::vector<RequestState*>& all);
  /// No more requests are let in, for `reason`; what waits goes without delay.
  void close(Error reason);
  void reopen();

  // Cheap looks without the lock; exact when nobody changes the queue.
  [[nodiscard]] std::int64_t items() const noexcept {
    return items_.load(std::memory_order_seq_cst);
  }
  [[nodiscard]] std::size_t requests() const noexcept {
    return requests_.load(std::memory_order_relaxed);
  }
  /// No request more is let in: what waits need not wait for another.
  [[nodiscard]] bool full() const noexcept { return requests() >= limits_.max_requests; }
  [[nodiscard]] std::size_t bytes() const noexcept {
    return bytes_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] TimePoint next_deadline() const noexcept {
    return TimePoint(Duration(next_deadline_.load(std::memory_order_relaxed)));
  }

 private:
  using List = IntrusiveList<RequestState, &RequestState::in_list>;
  struct DeadlineOf {
    TimePoint operator()(const RequestState& request) const noexcept { return request.deadline; }
  };
  struct Level {
    int priority = 0;
    std::size_t requests = 0;
    std::vector<List> locations;  // by location
  };

  void take_from(std::size_t location, std::vector<RequestState*>& all);
  Result<void> admit(const RequestState& request) const;
  void link(RequestState& request);
  void unlink(RequestState& request);
  Level& level_of(int priority);
  BatchDecision offer(const PullQuery& query);
  BatchDecision offer_next_shape(const PullQuery& query);
  bool prefer_suiting(const PullQuery& query);
  void publish_deadline();

  const std::string model_;
  const QueueLimits limits_;
  const BatchPolicy batching_;
  const std::vector<DeviceId> devices_;

  mutable std::mutex mutex_;
  // Guarded by mutex_:
  std::vector<Level> levels_;  // descending priority; few
  IndexedHeap<RequestState, DeadlineOf, &RequestState::in_deadlines> by_deadline_;
  std::uint64_t next_sequence_ = 0;
  std::optional<Error> closed_;
  // Scratch of `offer`, kept for its capacity.
  std::vector<RequestState*> offered_;
  std::vector<WaitingRequest> waiting_;
  std::vector<RequestState*> cursors_;
  std::vector<std::uint64_t> passed_shapes_;  // whose batches are to wait
  bool other_shapes_ = false;                 // were seen and are not passed yet

  std::atomic<std::int64_t> items_{0};
  std::atomic<std::size_t> requests_{0};
  std::atomic<std::size_t> bytes_{0};
  std::atomic<Duration::rep> next_deadline_{TimePoint::max().time_since_epoch().count()};
};

}  // namespace millrace
