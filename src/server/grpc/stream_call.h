// A stream of ModelStreamInfer: many requests in flight, answers as they come.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <unordered_map>

#include "server/grpc/context.h"
#include "server/grpc/events.h"

namespace millrace::server {

/// Deletes itself when the stream is over: nothing is awaited, neither events nor answers.
///
/// Requests are read until `max_calls_per_stream` of them are unanswered; then a slow client feels
/// it by HTTP/2's flow control. What is wrong with one request is said in its answer and ends
/// nothing else.
class StreamCall {
 public:
  static void start(GrpcContext& context, CallHandle call, std::string traceparent,
                    std::optional<TimePoint> deadline);
  /// Reads no more; the stream ends, as unavailable, when what it has is answered.
  void stop();

 private:
  /// A request that was submitted.
  struct Request {
    CallTicket ticket{};
    std::string model{}, id{};
    std::size_t bytes = 0;
    TimePoint received{};
    bool wants_final = false;  // its last answer is to say so
    RequestTracePtr trace{};
  };
  /// An answer that waits to be sent.
  struct Outgoing {
    Message message{};
    std::size_t request_bytes = 0;
    std::size_t answer_bytes = 0;
    TimePoint received{};
    int status = kStatusOk;
    std::string text{};
    bool last = true;
    bool counted = true;  // in the budget
    RequestTracePtr trace{};
    std::shared_ptr<ServedTraffic> traffic{};
    std::string model{};
    TimePoint ready{};
  };

  StreamCall(GrpcContext& context, CallHandle call, std::string traceparent,
             std::optional<TimePoint> deadline) noexcept;
  void read_done(bool ok);
  void sent(bool ok);
  void closed(bool ok);
  void ended(bool ok);

  void take(BufferHandle buffer);
  /// The error is to be answered at once.
  [[nodiscard]] Result<void> submit(std::uint64_t number, Pieces pieces, TimePoint received);
  void answered(std::uint64_t number, Result<Answer> answer, bool last) noexcept;
  /// As `release`.
  [[nodiscard]] bool fail(std::uint64_t number, const Error& error, bool counted);
  void cancel_all();

  // These are called with the lock, and may start batches.
  void read();
  void pump();
  void drop(const Outgoing& outgoing) noexcept;
  /// One that is awaited less; true: it was the last, delete this after unlocking.
  [[nodiscard]] bool release() noexcept { return --awaited_ == 0; }
  void end_if(bool over) noexcept;

  GrpcContext& context_;
  const CallHandle call_;
  const std::string traceparent_;
  const std::optional<TimePoint> deadline_;
  EventOf<StreamCall, &StreamCall::read_done> read_{this};
  EventOf<StreamCall, &StreamCall::sent> sent_{this};
  EventOf<StreamCall, &StreamCall::closed> closed_{this};
  EventOf<StreamCall, &StreamCall::ended> ended_{this};
  grpc_byte_buffer* raw_message_ = nullptr;
  int cancelled_by_ = 0;

  std::mutex mutex_;
  std::unordered_map<std::uint64_t, Request> requests_;
  std::deque<Outgoing> outgoing_;  // the first is being sent while `sending_`
  std::uint64_t next_number_ = 0;
  std::size_t awaited_ = 0;  // events, and answers of the service
  bool initial_sent_ = false;
  bool reading_ = false;
  bool sending_ = false;
  bool half_closed_ = false;
  bool cancelled_ = false;
  bool ending_ = false;
  bool stopped_ = false;
};

}  // namespace millrace::server
