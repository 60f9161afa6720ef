#include "server/grpc/context.h"

#include <utility>

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

namespace {

/// Takes the same time wherever the texts differ.
bool same_secret(std::string_view a, std::string_view b) noexcept {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^
                  static_cast<unsigned char>(b.empty() ? 0 : b[i % b.size()]);
  }
  return difference == 0;
}

}  // namespace

std::optional<std::string> refusal(const GrpcOptions& options, Access access,
                                   const Metadata& metadata) {
  const bool control = access == Access::control && !options.control_tokens.empty();
  const std::vector<std::string>& tokens = control ? options.control_tokens : options.tokens;
  if (access == Access::open || tokens.empty()) return {};
  constexpr std::string_view kScheme = "Bearer ";
  const std::string_view given = metadata.find("authorization");
  if (given.empty()) return "expected \"authorization: Bearer TOKEN\" with the call";
  bool same = false;
  for (const std::string& token : tokens) {
    same = (given.starts_with(kScheme) && same_secret(given.substr(kScheme.size()), token)) || same;
  }
  if (same) return {};
  return "the token that came with the call is not one that opens it";
}

Error over_budget() {
  return {ErrorCode::queue_full,
          "the server has as many requests, or bytes of them, as it takes at a time; try again "
          "later"};
}

}  // namespace millrace::server
