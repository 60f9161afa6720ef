#include "device/host/host_stream.h"

#include <utility>

#include "base/try.h"

namespace millrace {
namespace {

class SharedHostPoint final : public StreamPoint {
 public:
  explicit SharedHostPoint(HostPoint point) : point_(std::move(point)) {}
  Result<void> synchronize() const override { return point_.synchronize(); }

 private:
  const HostPoint point_;
};

}  // namespace

// HostPoint

Result<bool> HostPoint::query() const {
  if (queue) MILLRACE_TRY(queue->check_device());
  if (!reached()) return false;
  if (queue) {
    if (auto failure = queue->failure()) return *std::move(failure);
  }
  return true;
}

Result<void> HostPoint::synchronize() const {
  if (!queue) return {};
  if (!reached() && queue->on_own_thread()) {
    return Error{
        ErrorCode::invalid_argument,
        "a task of a host stream waits for that stream's own later work, which would never "
        "return; use Stream::wait, or wait on another thread"};
  }
  queue->await(count);
  MILLRACE_TRY(queue->check_device());
  if (auto failure = queue->failure()) return *std::move(failure);
  return {};
}

// HostEvent

HostEvent::HostEvent(DeviceId device, EventTiming timing)
    : device_(device),
      time_(timing == EventTiming::timed ? std::make_shared<EventTime>() : nullptr) {}

HostPoint HostEvent::host_point() const {
  std::lock_guard lock(mutex_);
  return point_;
}

void HostEvent::record(const std::shared_ptr<HostQueue>& queue) {
  std::lock_guard lock(mutex_);
  if (point_.queue != queue) point_.queue = queue;
  if (!time_) {
    point_.count = queue->last();
    return;
  }
  std::uint64_t recording = 0;
  {
    std::lock_guard time_lock(time_->mutex);
    recording = ++time_->recorded;
  }
  point_.count = queue->push(HostQueue::Stamp{time_, recording});
}

Result<TimePoint> HostEvent::time() const {
  if (!time_) {
    return Error{ErrorCode::invalid_argument,
                 "event time: the event is untimed; make it with EventTiming::timed"};
  }
  std::lock_guard lock(time_->mutex);
  if (time_->recorded == 0) {
    return Error{ErrorCode::unavailable, "event time: the event was never recorded"};
  }
  if (time_->written != time_->recorded) {
    return Error{ErrorCode::unavailable, "event time: the event is not reached yet"};
  }
  return time_->time;
}

Result<std::shared_ptr<const StreamPoint>> HostEvent::point() const {
  HostPoint point = host_point();
  if (!point.queue) return std::shared_ptr<const StreamPoint>();
  return std::shared_ptr<const StreamPoint>(std::make_shared<SharedHostPoint>(std::move(point)));
}

// HostStream

HostStream::~HostStream() {
  if (queue_) queue_->finish();
}

void HostStream::abandon() noexcept {
  queue_->abandon();
  queue_.reset();
}

Result<void> HostStream::copy(void* target, const void* source, std::size_t bytes) {
  MILLRACE_TRY(check_device());
  queue_->push(HostQueue::Copy{target, source, bytes});
  return {};
}

Result<void> HostStream::gather(std::span<const CopyPiece> pieces) {
  MILLRACE_TRY(check_device());
  queue_->push_gather(pieces);
  return {};
}

Result<void> HostStream::fill(void* target, std::uint8_t value, std::size_t bytes) {
  MILLRACE_TRY(check_device());
  queue_->push(HostQueue::Fill{target, bytes, value});
  return {};
}

Result<void> HostStream::run(std::function<void()> task) {
  MILLRACE_TRY(check_device());
  queue_->push(HostQueue::Run{std::move(task)});
  return {};
}

Result<void> HostStream::record(EventImpl& event) {
  MILLRACE_TRY(check_device());
  static_cast<HostEvent&>(event).record(queue_);
  return {};
}

Result<void> HostStream::wait(const EventImpl& event) {
  MILLRACE_TRY(check_device());
  if (event.device().kind == DeviceKind::host) {
    HostPoint point = static_cast<const HostEvent&>(event).host_point();
    if (point.queue) MILLRACE_TRY(point.queue->check_device());
    if (point.queue == queue_) return {};  // a stream's own earlier work comes first anyway
    if (point.reached()) {
      auto reached = point.query();
      return reached ? Result<void>() : std::move(reached.error());
    }
    queue_->push(HostQueue::WaitForQueue{std::move(point.queue), point.count});
    return {};
  }
  MILLRACE_ASSIGN(auto point, event.point());
  if (point) queue_->push(HostQueue::WaitForPoint{std::move(point)});
  return {};
}

Result<void> HostStream::signal(std::atomic<std::uint64_t>& word, std::uint64_t value,
                                Waker* waker) {
  MILLRACE_TRY(check_device());
  queue_->push(HostQueue::Signal{&word, value, waker});
  return {};
}

Result<bool> HostStream::query() const { return HostPoint{queue_, queue_->last()}.query(); }

Result<void> HostStream::synchronize() { return HostPoint{queue_, queue_->last()}.synchronize(); }

}  // namespace millrace
