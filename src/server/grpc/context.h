// What all calls of a gRPC server share.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <new>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/thread.h"
#include "server/grpc/events.h"
#include "server/grpc/infer_request.h"
#include "server/grpc/server.h"
#include "server/service.h"

namespace millrace::server {

/// How many inferences and bytes of messages are in the server at a time.
class Budget {
 public:
  Budget(std::size_t max_calls, std::size_t max_bytes) noexcept
      : max_calls_(max_calls), max_bytes_(max_bytes) {}
  /// False, and nothing is taken, where that is beyond a limit.
  [[nodiscard]] bool take(std::size_t bytes) noexcept;
  void give(std::size_t bytes) noexcept;
  [[nodiscard]] std::uint64_t calls() const noexcept { return calls_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

 private:
  const std::size_t max_calls_;
  const std::size_t max_bytes_;
  std::atomic<std::uint64_t> calls_{0};
  std::atomic<std::uint64_t> bytes_{0};
};

/// A few threads for what may take long: loading a model, mapping memory. They start when needed.
class Workers {
 public:
  void run(std::function<void()> task);
  /// Runs what is left.
  ~Workers();

 private:
  void work();
  static constexpr std::size_t kMostThreads = 8;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::vector<Thread> threads_;
  std::size_t idle_ = 0;
  bool stopping_ = false;
};

class StreamCall;

struct GrpcContext {
  GrpcContext(Service& the_service, GrpcOptions the_options);

  Service& service;
  const GrpcOptions options;
  const ReceiveBuffer receive;
  Budget budget;
  Workers workers;

  std::atomic<std::uint64_t> calls{0}, failed{0}, refused{0}, received_bytes{0}, sent_bytes{0};
  std::array<std::atomic<std::uint64_t>, 17> by_status{};
  /// An inference is over.
  void count(int status) noexcept {
    if (status != 0) failed.fetch_add(1, std::memory_order_relaxed);
    const auto place = static_cast<std::size_t>(status);
    if (place < by_status.size()) by_status[place].fetch_add(1, std::memory_order_relaxed);
  }

  /// Objects that wait for an event or an answer. The queues end when there are none.
  std::atomic<std::int64_t> live{0};
  void add_live() noexcept { live.fetch_add(1); }
  void drop_live() noexcept {
    if (live.fetch_sub(1) == 1) live.notify_all();
  }
  void wait_until_none_live() noexcept;

  /// Streams do not end by themselves: told to when the server stops.
  std::atomic<bool> stopping{false};
  std::mutex streams_mutex;
  std::unordered_set<StreamCall*> streams;
  void stop_streams();
};

enum class Access : std::uint8_t { open, client, control };
struct Refusal {
  int status = 0;  // of gRPC
  std::string text;
};
/// What a call is told that its bearer token does not open; nothing: it does.
[[nodiscard]] std::optional<Refusal> refusal(const GrpcOptions& options, Access access,
                                             const Metadata& metadata);

// Statuses of gRPC that are no ErrorCode.
inline constexpr int kStatusOk = 0;
inline constexpr int kStatusCancelled = 1;
inline constexpr int kStatusPermissionDenied = 7;
inline constexpr int kStatusUnauthenticated = 16;

/// What calls are told that are still there when the server stops.
inline constexpr const char* kStopping = "the server stops; try another, or again later";

/// What `function` returns, a Result; what it throws (no memory, as a rule) as an error.
template <class Function>
[[nodiscard]] auto caught(const Function& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory for the request"};
  } catch (const std::exception& error) {
    return Error{ErrorCode::internal, error.what()};
  }
}

/// What a refused request is told.
[[nodiscard]] Error over_budget();

}  // namespace millrace::server
