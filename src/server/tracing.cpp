#include "server/tracing.h"

#include <algorithm>
#include <utility>

namespace millrace::server {

void TraceQueue::on_pressure(std::function<void()> call) {
  const std::lock_guard lock(mutex_);
  on_pressure_ = std::move(call);
}

void TraceQueue::push(TraceRecord&& record) noexcept {
  traced_.fetch_add(1, std::memory_order_relaxed);
  try {
    const std::lock_guard lock(mutex_);
    if (records_.size() < most_) {
      records_.push_back(std::move(record));
      if (records_.size() == (most_ + 1) / 2 && on_pressure_) on_pressure_();
      return;
    }
  } catch (...) {  // no memory for it
  }
  dropped_.fetch_add(1, std::memory_order_relaxed);
}

std::deque<TraceRecord> TraceQueue::take(std::size_t most) {
  std::deque<TraceRecord> taken;
  const std::lock_guard lock(mutex_);
  if (records_.size() <= most) {
    taken.swap(records_);
  } else {
    const auto end = records_.begin() + static_cast<std::ptrdiff_t>(most);
    std::move(records_.begin(), end, std::back_inserter(taken));
    records_.erase(records_.begin(), end);
  }
  return taken;
}

TraceCounters TraceQueue::counters() const noexcept {
  return {traced_.load(std::memory_order_relaxed), dropped_.load(std::memory_order_relaxed)};
}

void RequestTrace::submitted(const std::string& version, const std::string& id) {
  record_.version = version;
  record_.id = id;
}

void RequestTrace::ran(const Response& response) noexcept {
  record_.times = response.times;
  record_.device = response.device;
  record_.lane = response.lane;
  record_.batch_items = response.batch_items;
}

void RequestTrace::failed(const Error& error) {
  record_.failed = true;
  record_.error = error.message;
}

void RequestTrace::over(int status, bool failed, TimePoint now) noexcept {
  record_.status = status;
  record_.failed |= failed;
  record_.ended = now;
  write_down();
}

void RequestTrace::write_down() noexcept {
  if (!queue_) return;
  if (record_.ended == TimePoint()) {
    record_.ended = Clock::now();
    record_.failed = true;
  }
  std::exchange(queue_, nullptr)->push(std::move(record_));
}

RequestTracePtr begin_trace(const std::shared_ptr<TraceQueue>& queue, TraceSettings& settings,
                            std::string_view model, std::string_view traceparent,
                            std::string_view protocol, TimePoint received) {
  if (!queue || !settings.any()) return nullptr;
  const auto parent = parse_traceparent(traceparent);
  const std::optional<bool> told = parent ? std::optional(parent->sampled) : std::nullopt;
  if (!settings.sample(model, told)) return nullptr;
  TraceRecord record;
  record.context = parent ? *parent : TraceContext{new_trace_number(), new_trace_number(), 0, true};
  record.parent_span = record.context.span;
  record.context.span = new_trace_number();
  record.protocol = protocol;
  record.model = model;
  record.received = received;
  return std::make_shared<RequestTrace>(queue, std::move(record));
}

}  // namespace millrace::server
