#include "engine/batching.h"

#include <algorithm>

namespace millrace {
namespace {

/// A thread that sleeps until some time may wake that much later: a deadline must not pass
/// meanwhile.
constexpr Duration kLateWake = std::chrono::milliseconds(1);

struct Prefix {
  std::size_t requests = 0;
  std::int64_t items = 0;
};

/// The longest prefix that fits in `limit` items.
Prefix fitting_prefix(std::span<const WaitingRequest> waiting, std::int64_t limit) {
  Prefix prefix;
  for (const WaitingRequest& request : waiting) {
    if (prefix.items + request.items > limit) break;
    prefix.items += request.items;
    ++prefix.requests;
  }
  return prefix;
}

/// The longest prefix whose items are exactly one of the preferred sizes; empty when there is none.
Prefix preferred_prefix(std::span<const WaitingRequest> waiting,
                        std::span<const std::int64_t> preferred) {
  Prefix best;
  Prefix prefix;
  for (const WaitingRequest& request : waiting) {
    prefix.items += request.items;
    ++prefix.requests;
    if (std::find(preferred.begin(), preferred.end(), prefix.items) != preferred.end()) {
      best = prefix;
    }
  }
  return best;
}

}  // namespace

BatchDecision next_batch(const QueueSnapshot& queue, TimePoint now, const BatchPolicy& policy) {
  if (queue.waiting.empty()) return {};
  const std::int64_t limit = std::max<std::int64_t>(policy.max_items, 1);
  const Prefix all = fitting_prefix(queue.waiting, limit);
  const BatchDecision everything{all.requests, all.items};

  const bool next_does_not_fit = all.requests < queue.waiting.size() || queue.more_behind;
  if (all.items >= limit || next_does_not_fit || queue.nothing_will_come) return everything;

  const Prefix preferred =
      preferred_prefix(queue.waiting.first(all.requests), policy.preferred_items);
  if (preferred.requests > 0) return {preferred.requests, preferred.items};

  TimePoint oldest = TimePoint::max();
  TimePoint deadline = TimePoint::max();
  for (const WaitingRequest& request : queue.waiting.first(all.requests)) {
    oldest = std::min(oldest, request.enqueued);
    deadline = std::min(deadline, request.deadline);
  }
  // Until `go` waiting is free or wanted; the deadline bounds both.
  TimePoint go = std::max(oldest + policy.max_delay, queue.lane_idle_from - queue.lead);
  if (deadline != TimePoint::max()) {
    go = std::min(go, deadline - queue.batch_time - queue.batch_time / 4 - queue.lead - kLateWake);
  }
  if (go <= now) return everything;
  return {0, 0, go};
}

std::int64_t choose_run_size(std::int64_t items, std::span<const RunCost> costs) {
  const auto bucket = std::find_if(costs.begin(), costs.end(),
                                   [items](const RunCost& cost) { return cost.items >= items; });
  if (bucket == costs.end()) return 0;
  if (bucket->items == items || bucket->eager == Duration::zero()) return bucket->items;
  const RunCost below = bucket == costs.begin() ? RunCost{0, {}, bucket->eager} : *(bucket - 1);
  const double part =
      static_cast<double>(items - below.items) / static_cast<double>(bucket->items - below.items);
  const double eager = static_cast<double>(below.eager.count()) * (1 - part) +
                       static_cast<double>(bucket->eager.count()) * part;
  return static_cast<double>(bucket->prepared.count()) <= eager ? bucket->items : 0;
}

}  // namespace millrace
