#include "server/grpc/stream_call.h"

#include <utility>
#include <vector>

#include "base/try.h"
#include "server/grpc/infer_call.h"
#include "server/status.h"

namespace millrace::server {
namespace {

constexpr std::string_view kMethod = "ModelStreamInfer";

}  // namespace

StreamCall::StreamCall(GrpcContext& context, CallHandle call, std::string traceparent,
                       std::optional<TimePoint> deadline) noexcept
    : context_(context),
      call_(std::move(call)),
      traceparent_(std::move(traceparent)),
      deadline_(deadline) {
  context_.add_live();
  const std::scoped_lock lock(context_.streams_mutex);
  context_.streams.insert(this);
}

void StreamCall::start(GrpcContext& context, CallHandle call, std::string traceparent,
                       std::optional<TimePoint> deadline) {
  auto* self = new StreamCall(context, std::move(call), std::move(traceparent), deadline);
  const std::scoped_lock lock(self->mutex_);
  self->awaited_ = 1;
  Batch().receive_close(&self->cancelled_by_).start(self->call_.get(), self->closed_);
  self->read();
  if (context.stopping) self->half_closed_ = self->stopped_ = true;
}

void StreamCall::end_if(bool over) noexcept {
  if (!over) return;
  GrpcContext& context = context_;
  {
    const std::scoped_lock lock(context.streams_mutex);
    context.streams.erase(this);
  }
  delete this;
  context.drop_live();
}

void StreamCall::read() {
  if (reading_ || half_closed_ || cancelled_) return;
  if (requests_.size() + outgoing_.size() >= context_.options.max_calls_per_stream) return;
  reading_ = true;
  ++awaited_;
  Batch batch;
  if (!std::exchange(initial_sent_, true)) batch.send_initial_metadata(context_.options.compress);
  batch.receive_message(&raw_message_).start(call_.get(), read_);
}

void StreamCall::read_done(bool) {
  BufferHandle buffer(std::exchange(raw_message_, nullptr));
  const bool end = !buffer;
  if (!end) take(std::move(buffer));
  std::unique_lock lock(mutex_);
  reading_ = false;
  half_closed_ = half_closed_ || end;
  read();
  pump();
  const bool over = release();
  lock.unlock();
  end_if(over);
}

/// The read that brought the message is awaited until this returns: it is never the last.
void StreamCall::take(BufferHandle buffer) {
  const std::size_t bytes = ReceivedMessage::size(buffer);
  context_.calls.fetch_add(1, std::memory_order_relaxed);
  context_.received_bytes.fetch_add(bytes, std::memory_order_relaxed);
  const TimePoint received = Clock::now();
  std::uint64_t number = 0;
  {
    const std::scoped_lock lock(mutex_);
    number = next_number_++;
    requests_[number] = {.bytes = bytes, .received = received};
    ++awaited_;  // its answer
  }
  const bool counted = context_.budget.take(bytes);
  const auto message = caught(
      [&] { return ReceivedMessage::open(std::move(buffer), context_.options.max_request_bytes); });
  if (message) {
    RequestNames names = read_request_names(message->pieces());
    const std::scoped_lock lock(mutex_);
    requests_[number].model = std::move(names.model);
    requests_[number].id = std::move(names.id);
  }
  if (!counted) {
    context_.refused.fetch_add(1, std::memory_order_relaxed);
    (void)fail(number, over_budget(), false);
    return;
  }
  if (!message) {
    (void)fail(number, message.error(), true);
    return;
  }
  const auto submitted = caught([&] { return submit(number, message->pieces(), received); });
  if (!submitted) {
    (void)fail(number, submitted.error(), true);
  }
}

Result<void> StreamCall::submit(std::uint64_t number, Pieces pieces, TimePoint received) {
  MILLRACE_ASSIGN(Call call, read_infer_request(pieces, context_.receive));
  call.deadline = deadline_;
  call.any_order = false;
  call.trace = context_.service.begin_trace(call.model, traceparent_, "grpc", received);
  if (call.trace) {
    const std::scoped_lock lock(mutex_);
    requests_[number].trace = call.trace;
  }
  const Parameter* wants = call.parameters.find("triton_enable_empty_final_response");
  const bool* says = wants ? std::get_if<bool>(wants) : nullptr;
  if (says && *says) {
    const std::scoped_lock lock(mutex_);
    requests_[number].wants_final = true;
  }
  MILLRACE_ASSIGN(
      CallTicket ticket,
      context_.service.infer(std::move(call), [this, number](Result<Answer> answer, bool last) {
        answered(number, std::move(answer), last);
      }));
  const std::scoped_lock lock(mutex_);
  if (const auto found = requests_.find(number); found != requests_.end()) {
    found->second.ticket = std::move(ticket);
  }
  return {};
}

void StreamCall::answered(std::uint64_t number, Result<Answer> answer, bool last) noexcept {
  if (!answer) return end_if(fail(number, answer.error(), true));
  std::unique_lock lock(mutex_);
  const Request& request = requests_.at(number);
  if (request.wants_final) answer->parameters.set("triton_final_response", last);
  Outgoing outgoing{.request_bytes = request.bytes, .received = request.received, .last = last};
  if (last) outgoing.trace = request.trace;
  outgoing.traffic = std::move(answer->traffic);
  if (context_.options.on_call) outgoing.model = request.model;
  lock.unlock();
  outgoing.message = write_stream_answer(*std::move(answer));
  lock.lock();
  outgoing_.push_back(std::move(outgoing));
  if (last) requests_.erase(number);
  pump();
  const bool over = last && release();
  lock.unlock();
  end_if(over);
}

bool StreamCall::fail(std::uint64_t number, const Error& error, bool counted) {
  const std::scoped_lock lock(mutex_);
  const Request& request = requests_.at(number);
  outgoing_.push_back({.message = write_stream_error(error, request.model, request.id),
                       .request_bytes = request.bytes,
                       .received = request.received,
                       .status = grpc_status(error.code),
                       .text = context_.options.on_call ? error.message : std::string(),
                       .counted = counted,
                       .trace = request.trace,
                       .model = request.model});
  requests_.erase(number);
  pump();
  return release();
}

void StreamCall::pump() {
  if (cancelled_ && !sending_) {
    for (const Outgoing& outgoing : outgoing_) drop(outgoing);
    outgoing_.clear();
  }
  if (sending_ || cancelled_) return;
  if (!outgoing_.empty()) {
    sending_ = true;
    ++awaited_;
    outgoing_.front().ready = Clock::now();
    const BufferHandle buffer = to_buffer(std::move(outgoing_.front().message));
    outgoing_.front().answer_bytes = grpc_byte_buffer_length(buffer.get());
    context_.sent_bytes.fetch_add(outgoing_.front().answer_bytes, std::memory_order_relaxed);
    Batch().send_message(buffer.get()).start(call_.get(), sent_);
    return;
  }
  if (half_closed_ && requests_.empty() && !std::exchange(ending_, true)) {
    ++awaited_;
    const grpc_slice details = grpc_slice_from_static_string(stopped_ ? kStopping : "");
    const int status = stopped_ ? grpc_status(ErrorCode::unavailable) : kStatusOk;
    Batch().send_status(status, &details).start(call_.get(), ended_);
  }
}

/// An answer that was sent, or never will be.
void StreamCall::drop(const Outgoing& outgoing) noexcept {
  if (outgoing.last && outgoing.counted) context_.budget.give(outgoing.request_bytes);
  if (outgoing.last) context_.count(cancelled_ ? kStatusCancelled : outgoing.status);
  if (outgoing.trace) {
    const int status = cancelled_ ? kStatusCancelled : outgoing.status;
    outgoing.trace->over(status, status != kStatusOk, Clock::now());
  }
  if (outgoing.last && context_.options.on_call) {
    const std::string traced =
        outgoing.trace ? to_traceparent(outgoing.trace->context()) : traceparent_;
    context_.options.on_call({.method = kMethod,
                              .peer = {},
                              .status = cancelled_ ? kStatusCancelled : outgoing.status,
                              .message = outgoing.text,
                              .request_bytes = outgoing.request_bytes,
                              .answer_bytes = outgoing.answer_bytes,
                              .received = outgoing.received,
                              .ready = outgoing.ready,
                              .answered = Clock::now(),
                              .model = outgoing.model,
                              .traceparent = traced,
                              .traffic = cancelled_ ? nullptr : outgoing.traffic.get()});
  }
}

void StreamCall::sent(bool ok) {
  std::unique_lock lock(mutex_);
  sending_ = false;
  cancelled_ = cancelled_ || !ok;
  drop(outgoing_.front());
  outgoing_.pop_front();
  read();
  pump();
  const bool over = release();
  lock.unlock();
  end_if(over);
}

void StreamCall::ended(bool) {
  std::unique_lock lock(mutex_);
  const bool over = release();
  lock.unlock();
  end_if(over);
}

void StreamCall::closed(bool) {
  if (cancelled_by_ != 0) cancel_all();
  std::unique_lock lock(mutex_);
  if (cancelled_by_ != 0) pump();
  const bool over = release();
  lock.unlock();
  end_if(over);
}

void StreamCall::stop() {
  const std::scoped_lock lock(mutex_);
  if (half_closed_) return;
  stopped_ = half_closed_ = true;
  pump();
}

/// The caller went away.
void StreamCall::cancel_all() {
  std::vector<CallTicket> tickets;
  {
    const std::scoped_lock lock(mutex_);
    cancelled_ = true;
    for (const auto& [number, request] : requests_) tickets.push_back(request.ticket);
  }
  for (CallTicket& ticket : tickets) ticket.cancel();  // which may answer here and now
}

}  // namespace millrace::server
