#include "server/grpc/context.h"

#include <utility>

#include "server/bearer.h"
#include "server/grpc/stream_call.h"

namespace millrace::server {

bool Budget::take(std::size_t bytes) noexcept {
  const std::uint64_t calls = calls_.fetch_add(1, std::memory_order_relaxed);
  const std::uint64_t before = bytes_.fetch_add(bytes, std::memory_order_relaxed);
  if (calls < max_calls_ && (before + bytes <= max_bytes_ || before == 0)) return true;
  give(bytes);
  return false;
}

void Budget::give(std::size_t bytes) noexcept {
  calls_.fetch_sub(1, std::memory_order_relaxed);
  bytes_.fetch_sub(bytes, std::memory_order_relaxed);
}

void Workers::run(std::function<void()> task) {
  const std::scoped_lock lock(mutex_);
  tasks_.push_back(std::move(task));
  if (idle_ < tasks_.size() && threads_.size() < kMostThreads) {
    auto thread = Thread::start("grpc-worker", [this] { work(); });
    if (thread) {
      threads_.push_back(*std::move(thread));
    } else if (threads_.empty()) {  // no thread at all: here, late rather than never
      std::function<void()> only = std::move(tasks_.back());
      tasks_.pop_back();
      only();
    }
  }
  changed_.notify_one();
}

void Workers::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
    --idle_;
    if (tasks_.empty()) return;
    const std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

Workers::~Workers() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  threads_.clear();
}

GrpcContext::GrpcContext(Service& the_service, GrpcOptions the_options)
    : service(the_service),
      options(std::move(the_options)),
      receive([this](std::string_view model, std::size_t bytes) {
        return service.receive_buffer(model, bytes);
      }),
      budget(options.max_calls, options.max_bytes) {}

void GrpcContext::wait_until_none_live() noexcept {
  for (std::int64_t count = live.load(); count != 0; count = live.load()) live.wait(count);
}

void GrpcContext::stop_streams() {
  stopping = true;
  const std::scoped_lock lock(streams_mutex);
  for (StreamCall* stream : streams) stream->stop();
}

std::optional<Refusal> refusal(const GrpcOptions& options, Access access,
                               const Metadata& metadata) {
  if (access == Access::open) return {};
  switch (admission(metadata.find("authorization"), access == Access::control, options.tokens,
                    options.control_tokens)) {
    case Admission::admitted:
      return {};
    case Admission::not_allowed:
      return Refusal{kStatusPermissionDenied, "this token does not allow that"};
    case Admission::unknown:
      break;
  }
  return Refusal{kStatusUnauthenticated,
                 "expected \"authorization: Bearer TOKEN\" with a token known here"};
}

Error over_budget() {
  return {ErrorCode::queue_full,
          "the server has as many requests, or bytes of them, as it takes at a time; try again "
          "later"};
}

}  // namespace millrace::server
