// A call of ModelInfer, from its request to its answer; then it waits for the next one.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/grpc/context.h"
#include "server/grpc/events.h"

namespace millrace::server {

/// A message as it was received, decompressed where it was compressed.
class ReceivedMessage {
 public:
  /// Errors: as `decompress`; invalid_argument where there is no message (`buffer` is null).
  [[nodiscard]] static Result<ReceivedMessage> open(BufferHandle buffer, std::size_t most);
  [[nodiscard]] Pieces pieces() const noexcept { return pieces_; }
  /// All of it, copied.
  [[nodiscard]] std::string text() const;
  /// As long as it came.
  [[nodiscard]] static std::size_t size(const BufferHandle& buffer) noexcept {
    return buffer ? grpc_byte_buffer_length(buffer.get()) : 0;
  }

 private:
  BufferHandle buffer_;
  std::unique_ptr<const std::string> decompressed_;
  std::vector<std::string_view> pieces_;
};

class InferQueue;

/// Everything happens on the queue's thread, but for the answer, which comes on any.
class InferCall {
 public:
  InferCall(GrpcContext& context, InferQueue& queue) noexcept : context_(context), queue_(queue) {}
  /// Waits for a call to come.
  void ask() noexcept;

 private:
  void asked(bool ok);
  void closed(bool ok);
  void sent(bool ok);
  /// What came, as a call of the service, which answers later. The error is to be answered now.
  [[nodiscard]] Result<void> submit();
  void answer(Message&& message) noexcept;
  void fail(int status, std::string_view text) noexcept;
  void finish() noexcept;
  void record() const;

  GrpcContext& context_;
  InferQueue& queue_;
  EventOf<InferCall, &InferCall::asked> asked_{this};
  EventOf<InferCall, &InferCall::closed> closed_{this};
  EventOf<InferCall, &InferCall::sent> sent_{this};

  grpc_call* raw_call_ = nullptr;
  CallHandle call_;
  grpc_byte_buffer* raw_message_ = nullptr;
  gpr_timespec deadline_{};
  Metadata metadata_;
  CallTicket ticket_;
  TimePoint received_, ready_, sent_at_;
  std::string model_;
  std::shared_ptr<ServedTraffic> traffic_;  // of an answer
  RequestTracePtr trace_;
  int awaited_ = 0;  // events
  int cancelled_ = 0;
  bool counted_ = false;  // in the budget
  int status_ = kStatusOk;
  std::string text_;
  std::size_t request_bytes_ = 0;
  std::size_t answer_bytes_ = 0;
};

/// The calls of one completion queue that wait, and those that are done with.
class InferQueue {
 public:
  InferQueue(GrpcContext& context, grpc_server* server, void* method,
             grpc_completion_queue* queue) noexcept
      : context_(context), server_(server), method_(method), queue_(queue) {}
  /// One more call waits.
  void arm();
  /// Calls that were submitted since the engine was told of such.
  [[nodiscard]] int submitted() const noexcept { return submitted_; }
  void told() noexcept { submitted_ = 0; }

 private:
  friend class InferCall;
  void take_back(InferCall* call) noexcept;

  GrpcContext& context_;
  grpc_server* server_;
  void* method_;
  grpc_completion_queue* queue_;
  int submitted_ = 0;
  std::vector<std::unique_ptr<InferCall>> free_;
};

}  // namespace millrace::server
