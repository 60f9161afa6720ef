#include "engine/model_queue.h"

#include <algorithm>

namespace millrace {
namespace {

/// How many waiting requests one look considers beyond a full batch, so that a queue of many shapes
/// does not make every look as long as the queue.
constexpr std::size_t kLookBeyond = 64;
/// How many shapes one look considers: while the oldest request waits for more of its own shape, a
/// full batch of another must not.
constexpr std::size_t kMostShapes = 8;
/// How many requests are looked through for one that suits the lane, and how often the oldest may
/// be passed over for one.
constexpr int kLookForSuiting = 64;
constexpr int kMostPassedOver = 32;

}  // namespace

ModelQueue::ModelQueue(std::string model, const QueueLimits& limits, const BatchPolicy& batching,
                       std::vector<DeviceId> devices)
    : model_(std::move(model)),
      limits_(limits),
      batching_(batching),
      devices_(std::move(devices)) {}

std::size_t ModelQueue::location_of(DeviceId device) const noexcept {
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    if (devices_[i] == device) return i + 1;
  }
  return 0;
}

Result<void> ModelQueue::admit(const RequestState& request) const {
  if (closed_) return *closed_;
  if (full()) {
    return Error{ErrorCode::queue_full,
                 "the queue of model \"" + model_ + "\" holds " +
                     std::to_string(limits_.max_requests) +
                     " requests, its limit (limits.max_requests); try again later"};
  }
  // A request larger than the whole limit is let in alone, or it could never run.
  if (requests() > 0 && bytes() + request.bytes > limits_.max_bytes) {
    return Error{ErrorCode::queue_full, "the queue of model \"" + model_ + "\" holds " +
                                            std::to_string(bytes()) + " of at most " +
                                            std::to_string(limits_.max_bytes) +
                                            " bytes (limits.max_bytes); try again later"};
  }
  return {};
}

ModelQueue::Level& ModelQueue::level_of(int priority) {
  auto at = std::find_if(levels_.begin(), levels_.end(),
                         [priority](const Level& level) { return level.priority <= priority; });
  if (at != levels_.end() && at->priority == priority) return *at;
  Level level;
  level.priority = priority;
  level.locations.resize(devices_.size() + 1);
  return *levels_.insert(at, std::move(level));
}

void ModelQueue::link(RequestState& request) {
  request.sequence = next_sequence_++;
  Level& level = level_of(request.request.priority);
  level.locations[request.location].push_back(request);
  ++level.requests;
  requests_.store(requests() + 1, std::memory_order_relaxed);
  bytes_.store(bytes() + request.bytes, std::memory_order_relaxed);
  items_.store(items() + request.items, std::memory_order_seq_cst);
  if (request.deadline != TimePoint::max()) {
    by_deadline_.push(request);
    publish_deadline();
  }
}

void ModelQueue::unlink(RequestState& request) {
  const auto level =
      std::find_if(levels_.begin(), levels_.end(), [&request](const Level& candidate) {
        return candidate.priority == request.request.priority;
      });
  level->locations[request.location].remove(request);
  if (--level->requests == 0 && levels_.size() > 1) levels_.erase(level);
  requests_.store(requests() - 1, std::memory_order_relaxed);
  bytes_.store(bytes() - request.bytes, std::memory_order_relaxed);
  items_.store(items() - request.items, std::memory_order_seq_cst);
  if (request.in_deadlines.in_heap()) {
    by_deadline_.remove(request);
    publish_deadline();
  }
}

BatchDecision ModelQueue::offer(const PullQuery& query) {
  passed_shapes_.clear();
  BatchDecision decision = offer_next_shape(query);
  TimePoint wait_until = decision.wait_until;
  while (decision.take == 0 && other_shapes_ && passed_shapes_.size() < kMostShapes) {
    decision = offer_next_shape(query);
    wait_until = std::min(wait_until, decision.wait_until);
  }
  if (decision.take == 0) decision.wait_until = wait_until;
  return decision;
}

/// Of the first shape that is not passed, which then is.
BatchDecision ModelQueue::offer_next_shape(const PullQuery& query) {
  const auto passed = [this](std::uint64_t shape) {
    return std::find(passed_shapes_.begin(), passed_shapes_.end(), shape) != passed_shapes_.end();
  };
  other_shapes_ = false;
  offered_.clear();
  waiting_.clear();
  QueueSnapshot snapshot;
  std::int64_t items = 0;
  std::size_t looked_at = 0;
  TimePoint ask_again = TimePoint::max();
  const std::size_t look_limit = static_cast<std::size_t>(batching_.max_items) + kLookBeyond;

  for (const Level& level : levels_) {
    cursors_.clear();
    for (const List& list : level.locations) {
      RequestState* head = list.front();
      if (head && head->location > 0) {
        const PullDecision pull = choose_pull(devices_[head->location - 1], head->bytes,
                                              query.puller, query.loads, query.now);
        if (!pull.pull) {
          ask_again = std::min(ask_again, pull.ask_again);
          head = nullptr;
        }
      }
      if (head) cursors_.push_back(head);
    }
    while (!cursors_.empty() && !snapshot.more_behind && looked_at < look_limit) {
      const auto first = std::min_element(
          cursors_.begin(), cursors_.end(),
          [](const RequestState* a, const RequestState* b) { return a->sequence < b->sequence; });
      RequestState* request = *first;
      if (RequestState* next = List::next(*request)) {
        *first = next;
      } else {
        cursors_.erase(first);
      }
      ++looked_at;
      if (request->stage.load(std::memory_order_relaxed) != RequestState::Stage::queued) continue;
      if (passed(request->shape_key)) continue;
      if (!offered_.empty() && request->shape_key != offered_.front()->shape_key) {
        other_shapes_ = true;
        continue;
      }
      if (items + request->items > batching_.max_items) {
        snapshot.more_behind = true;
        break;
      }
      items += request->items;
      offered_.push_back(request);
      waiting_.push_back({request->items, request->submitted, request->deadline});
    }
  }

  snapshot.waiting = waiting_;
  snapshot.nothing_will_come = closed_.has_value() || full();
  snapshot.lane_idle_from = query.lane_idle_from;
  snapshot.lead = query.lead;
  snapshot.batch_time = query.batch_time;
  BatchDecision decision = next_batch(snapshot, query.now, batching_);
  if (decision.take > 0) return decision;
  decision.wait_until = std::min(decision.wait_until, ask_again);
  if (!offered_.empty()) passed_shapes_.push_back(offered_.front()->shape_key);
  return decision;
}

/// A batch of one request whose data lies on the device runs fastest on a lane that is prepared for
/// where it lies: of those behind the oldest that are like it, one that suits the lane goes first.
/// The oldest does not wait for ever, and one with a deadline not at all. True when the one that
/// goes suits the lane.
bool ModelQueue::prefer_suiting(const PullQuery& query) {
  RequestState& oldest = *offered_.front();
  if (query.suits_lane(query.suits_context, oldest)) return true;
  if (oldest.passed_over >= kMostPassedOver || oldest.deadline != TimePoint::max()) return false;
  RequestState* other = List::next(oldest);
  for (int looked = 0; other && looked < kLookForSuiting; other = List::next(*other), ++looked) {
    if (other->stage.load(std::memory_order_relaxed) != RequestState::Stage::queued ||
        other->shape_key != oldest.shape_key || other->items != oldest.items ||
        !query.suits_lane(query.suits_context, *other)) {
      continue;
    }
    ++oldest.passed_over;
    offered_.front() = other;
    return true;
  }
  return false;
}

PullAnswer ModelQueue::peek(const PullQuery& query) {
  std::lock_guard lock(mutex_);
  const BatchDecision decision = offer(query);
  PullAnswer answer{decision.take, decision.items, decision.wait_until};
  answer.seen_items = items();
  for (std::size_t i = 0; i < decision.take; ++i) {
    answer.earliest_deadline = std::min(answer.earliest_deadline, waiting_[i].deadline);
  }
  return answer;
}

PullAnswer ModelQueue::take(const PullQuery& query, std::vector<RequestState*>& batch) {
  std::lock_guard lock(mutex_);
  const BatchDecision decision = offer(query);
  PullAnswer answer{0, 0, decision.wait_until};
  answer.seen_items = items();
  if (query.suits_lane && decision.take == 1) answer.suited = prefer_suiting(query);
  for (std::size_t i = 0; i < decision.take; ++i) {
    RequestState* request = offered_[i];
    if (!request->claim(RequestState::Stage::running)) continue;  // just cancelled
    unlink(*request);
    batch.push_back(request);
    ++answer.requests;
    answer.items += request->items;
    answer.earliest_deadline = std::min(answer.earliest_deadline, request->deadline);
  }
  return answer;
}

void ModelQueue::remove(RequestState& request) {
  std::lock_guard lock(mutex_);
  if (request.in_list.linked()) unlink(request);
}

void ModelQueue::take_expired(TimePoint now, std::vector<RequestState*>& expired) {
  std::lock_guard lock(mutex_);
  while (!by_deadline_.empty() && by_deadline_.top()->deadline <= now) {
    RequestState* request = by_deadline_.top();
    if (request->claim(RequestState::Stage::withdrawn)) {
      unlink(*request);
      expired.push_back(request);
    } else {  // being cancelled: its canceller takes it out of the lists
      by_deadline_.pop();
      publish_deadline();
    }
  }
}

void ModelQueue::take_all(std::vector<RequestState*>& all) {
  std::lock_guard lock(mutex_);
  for (std::size_t location = 0; location <= devices_.size(); ++location) take_from(location, all);
}

void ModelQueue::take_location(std::size_t location, std::vector<RequestState*>& all) {
  std::lock_guard lock(mutex_);
  take_from(location, all);
}

/// With the mutex held.
void ModelQueue::take_from(std::size_t location, std::vector<RequestState*>& all) {
  std::vector<RequestState*> waiting;
  for (const Level& level : levels_) {
    for (RequestState& request : level.locations[location]) waiting.push_back(&request);
  }
  for (RequestState* request : waiting) {
    if (!request->claim(RequestState::Stage::withdrawn)) continue;
    unlink(*request);
    all.push_back(request);
  }
}

void ModelQueue::close(Error reason) {
  std::lock_guard lock(mutex_);
  closed_ = std::move(reason);
}

void ModelQueue::reopen() {
  std::lock_guard lock(mutex_);
  closed_.reset();
}

void ModelQueue::publish_deadline() {
  const TimePoint next = by_deadline_.empty() ? TimePoint::max() : by_deadline_.top()->deadline;
  next_deadline_.store(next.time_since_epoch().count(), std::memory_order_relaxed);
}

}  // namespace millrace
