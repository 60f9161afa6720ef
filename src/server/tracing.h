// Which requests are traced, and what is written down of them.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include <millrace/request.h>

#include "server/settings.h"
#include "server/trace_context.h"

namespace millrace::server {

/// What is known of a traced request when it is over. Times that it did not reach are at zero.
struct TraceRecord {
  TraceContext context;           // its own span
  std::uint64_t parent_span = 0;  // the caller's; 0: it begins the trace
  std::string_view protocol;      // "http", "grpc"
  std::string model;
  std::string version;  // empty: it was not found
  std::string id;
  TimePoint received;
  RequestTimes times;  // all zero where nothing was computed
  DeviceId device;
  int lane = 0;
  std::int64_t batch_items = 0;
  TimePoint ended;  // the last byte was handed to the network
  int status = -1;  // the protocol's; -1: the caller went away before
  bool failed = false;
  std::string error;
};

struct TraceCounters {
  std::uint64_t traced = 0;   // requests
  std::uint64_t dropped = 0;  // of these, because the queue was full
};

/// Records on their way to whoever exports them. Bounded: what comes while it is full is counted
/// and dropped. Every function may be called from any thread; none waits for anything.
class TraceQueue {
 public:
  explicit TraceQueue(std::size_t most) : most_(most) {}
  /// Called, with the queue's lock, when it is half full.
  void on_pressure(std::function<void()> call);
  void push(TraceRecord&& record) noexcept;
  /// All that is there, at most `most`.
  [[nodiscard]] std::deque<TraceRecord> take(std::size_t most);
  [[nodiscard]] TraceCounters counters() const noexcept;

 private:
  const std::size_t most_;
  mutable std::mutex mutex_;
  std::deque<TraceRecord> records_;    // guarded by mutex_
  std::function<void()> on_pressure_;  // guarded by mutex_
  std::atomic<std::uint64_t> traced_{0};
  std::atomic<std::uint64_t> dropped_{0};
};

/// A request that is traced, from its arrival to the last byte of its answer. Used by one thread at
/// a time. It is written down when it is over, or at the latest when the last who holds it lets go.
class RequestTrace {
 public:
  RequestTrace(std::shared_ptr<TraceQueue> queue, TraceRecord record) noexcept
      : queue_(std::move(queue)), record_(std::move(record)) {}
  ~RequestTrace() { write_down(); }
  RequestTrace(const RequestTrace&) = delete;
  RequestTrace& operator=(const RequestTrace&) = delete;

  /// Its own span, for the answer's header.
  [[nodiscard]] const TraceContext& context() const noexcept { return record_.context; }

  // By the service.
  void submitted(const std::string& version, const std::string& id);
  void ran(const Response& response) noexcept;
  void failed(const Error& error);
  // By the front end: its answer is with the network, with the protocol's status.
  void over(int status, bool failed, TimePoint now) noexcept;

 private:
  void write_down() noexcept;

  std::shared_ptr<TraceQueue> queue_;  // null: it is written down
  TraceRecord record_;
};

/// Null, mostly: the request is not traced.
using RequestTracePtr = std::shared_ptr<RequestTrace>;

/// Decides. A caller's trace is gone on with, and if the caller says whether it is sampled, that
/// holds; requests without one are sampled by the settings.
[[nodiscard]] RequestTracePtr begin_trace(const std::shared_ptr<TraceQueue>& queue,
                                          TraceSettings& settings, std::string_view model,
                                          std::string_view traceparent, std::string_view protocol,
                                          TimePoint received);

}  // namespace millrace::server
