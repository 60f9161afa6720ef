#include "server/grpc/infer_call.h"

#include <new>
#include <utility>

#include <grpc/support/alloc.h>

#include "base/log.h"
#include "base/try.h"
#include "server/grpc/decompress.h"
#include "server/status.h"

namespace millrace::server {
namespace {

constexpr std::size_t kMostFreeCalls = 1024;
constexpr std::string_view kMethod = "ModelInfer";

/// The trailing metadata that tells the caller of a traced request its span; none for others.
class TraceMetadata {
 public:
  explicit TraceMetadata(const RequestTrace* trace) {
    if (!trace) return;
    const std::string text = to_traceparent(trace->context());
    entry_.key = grpc_slice_from_static_string("traceresponse");
    entry_.value = grpc_slice_from_copied_buffer(text.data(), text.size());
    count_ = 1;
  }
  ~TraceMetadata() {
    if (count_ > 0) grpc_slice_unref(entry_.value);
  }
  TraceMetadata(const TraceMetadata&) = delete;
  TraceMetadata& operator=(const TraceMetadata&) = delete;
  [[nodiscard]] std::span<grpc_metadata> entries() noexcept { return {&entry_, count_}; }

 private:
  grpc_metadata entry_{};
  std::size_t count_ = 0;
};

}  // namespace

Result<ReceivedMessage> ReceivedMessage::open(BufferHandle buffer, std::size_t most) {
  if (!buffer) {
    return Error{ErrorCode::invalid_argument, "the call ended before its message had come"};
  }
  ReceivedMessage message;
  message.pieces_ = pieces_of(*buffer);
  const grpc_compression_algorithm algorithm = buffer->data.raw.compression;
  if (algorithm != GRPC_COMPRESS_NONE) {
    MILLRACE_ASSIGN(std::string text, decompress(message.pieces_, algorithm, most));
    message.decompressed_ = std::make_unique<const std::string>(std::move(text));
    message.pieces_.assign(1, *message.decompressed_);
    if (message.decompressed_->empty()) message.pieces_.clear();
  }
  message.buffer_ = std::move(buffer);
  return message;
}

std::string ReceivedMessage::text() const {
  std::string text;
  for (const std::string_view piece : pieces_) text += piece;
  return text;
}

void InferQueue::arm() {
  std::unique_ptr<InferCall> call;
  if (free_.empty()) {
    call = std::make_unique<InferCall>(context_, *this);
  } else {
    call = std::move(free_.back());
    free_.pop_back();
  }
  context_.add_live();
  call.release()->ask();
}

void InferQueue::take_back(InferCall* call) noexcept {
  std::unique_ptr<InferCall> owned(call);
  if (free_.size() < kMostFreeCalls) free_.push_back(std::move(owned));
  owned.reset();
  context_.drop_live();
}

void InferCall::ask() noexcept {
  metadata_.clear();
  raw_call_ = nullptr;
  raw_message_ = nullptr;
  const grpc_call_error error = grpc_server_request_registered_call(
      queue_.server_, queue_.method_, &raw_call_, &deadline_, metadata_.array(), &raw_message_,
      queue_.queue_, queue_.queue_, asked_.tag());
  if (error != GRPC_CALL_OK) {
    log_error("gRPC takes no more calls: ", grpc_call_error_to_string(error));
    queue_.take_back(this);
  }
}

void InferCall::asked(bool ok) {
  if (!ok) return queue_.take_back(this);  // the server stops
  queue_.arm();
  received_ = Clock::now();
  call_.reset(raw_call_);
  awaited_ = 2;  // the close and the answer
  cancelled_ = 0;
  status_ = kStatusOk;
  request_bytes_ = answer_bytes_ = 0;
  Batch().receive_close(&cancelled_).start(call_.get(), closed_);
  context_.calls.fetch_add(1, std::memory_order_relaxed);
  if (auto refused = refusal(context_.options, Access::client, metadata_)) {
    BufferHandle(raw_message_).reset();
    return fail(refused->status, refused->text);
  }
  if (const auto submitted = caught([this] { return submit(); }); !submitted) {
    fail(grpc_status(submitted.error().code), submitted.error().message);
  }
}

Result<void> InferCall::submit() {
  BufferHandle buffer(std::exchange(raw_message_, nullptr));
  request_bytes_ = ReceivedMessage::size(buffer);
  context_.received_bytes.fetch_add(request_bytes_, std::memory_order_relaxed);
  counted_ = context_.budget.take(request_bytes_);
  if (!counted_) {
    context_.refused.fetch_add(1, std::memory_order_relaxed);
    return over_budget();
  }
  MILLRACE_ASSIGN(const ReceivedMessage message,
                  ReceivedMessage::open(std::move(buffer), context_.options.max_request_bytes));
  MILLRACE_ASSIGN(Call call, read_infer_request(message.pieces(), context_.receive));
  call.deadline = to_time_point(deadline_);
  trace_ =
      context_.service.begin_trace(call.model, metadata_.find("traceparent"), "grpc", received_);
  call.trace = trace_;
  if (context_.options.on_call) model_ = call.model;
  ++queue_.submitted_;
  // The answer may come, and be sent, before `infer` returns; what it still touches is only freed
  // on this thread.
  MILLRACE_ASSIGN(
      ticket_, context_.service.infer(std::move(call), [this](Result<Answer>&& found, bool last) {
        if (!last) return;  // a unary call has one answer
        if (found) {
          traffic_ = std::move(found->traffic);
          answer(write_infer_answer(*std::move(found)));
        } else {
          fail(grpc_status(found.error().code), found.error().message);
        }
      }));
  return {};
}

void InferCall::answer(Message&& message) noexcept {
  const BufferHandle buffer = to_buffer(std::move(message));
  answer_bytes_ = grpc_byte_buffer_length(buffer.get());
  ready_ = Clock::now();
  TraceMetadata traced(trace_.get());
  Batch()
      .send_initial_metadata(context_.options.compress)
      .send_message(buffer.get())
      .send_status(kStatusOk, nullptr, traced.entries())
      .start(call_.get(), sent_);
}

void InferCall::fail(int status, std::string_view text) noexcept {
  status_ = status;
  if (context_.options.on_call) text_ = text;
  ready_ = Clock::now();
  const grpc_slice details = grpc_slice_from_copied_buffer(text.data(), text.size());
  TraceMetadata traced(trace_.get());
  Batch()
      .send_initial_metadata()
      .send_status(status, &details, traced.entries())
      .start(call_.get(), sent_);
  grpc_slice_unref(details);
}

void InferCall::closed(bool) {
  if (cancelled_ != 0) ticket_.cancel();
  if (--awaited_ == 0) finish();
}

void InferCall::sent(bool ok) {
  sent_at_ = Clock::now();
  if (!ok && status_ == kStatusOk) status_ = kStatusCancelled;
  if (--awaited_ == 0) finish();
}

void InferCall::finish() noexcept {
  ticket_ = {};
  if (std::exchange(counted_, false)) context_.budget.give(request_bytes_);
  context_.sent_bytes.fetch_add(answer_bytes_, std::memory_order_relaxed);
  context_.count(status_);
  if (trace_) trace_->over(status_, status_ != kStatusOk, sent_at_);
  if (context_.options.on_call) record();
  trace_.reset();
  traffic_.reset();
  model_.clear();
  text_.clear();
  call_.reset();
  queue_.take_back(this);
}

void InferCall::record() const {
  char* peer = grpc_call_get_peer(call_.get());
  const std::string traced = trace_ ? to_traceparent(trace_->context()) : std::string();
  context_.options.on_call({.method = kMethod,
                            .peer = peer,
                            .status = status_,
                            .message = text_,
                            .request_bytes = request_bytes_,
                            .answer_bytes = answer_bytes_,
                            .received = received_,
                            .ready = ready_,
                            .answered = sent_at_,
                            .model = model_,
                            .traceparent = trace_ ? traced : metadata_.find("traceparent"),
                            .traffic = status_ == kStatusOk ? traffic_.get() : nullptr});
  gpr_free(peer);
}

}  // namespace millrace::server
