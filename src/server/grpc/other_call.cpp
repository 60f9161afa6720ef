#include "server/grpc/other_call.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include <grpc/support/alloc.h>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "server/grpc/infer_call.h"
#include "server/grpc/reflection.h"
#include "server/grpc/stream_call.h"
#include "server/status.h"

namespace millrace::server {
namespace {

/// What stands behind the last "/" of a method's path.
std::string_view short_name(std::string_view path) noexcept {
  return path.substr(path.rfind('/') + 1);
}

}  // namespace

OtherCalls::OtherCalls(GrpcContext& context, Watchers& watchers, grpc_server* server,
                       grpc_completion_queue* queue) noexcept
    : context_(context), watchers_(watchers), server_(server), queue_(queue) {
  grpc_call_details_init(&details_);
}

OtherCalls::~OtherCalls() { grpc_call_details_destroy(&details_); }

void OtherCalls::ask() noexcept {
  context_.add_live();
  metadata_.clear();
  grpc_call_details_destroy(&details_);
  grpc_call_details_init(&details_);
  const grpc_call_error error = grpc_server_request_call(
      server_, &call_, &details_, metadata_.array(), queue_, queue_, asked_.tag());
  if (error != GRPC_CALL_OK) {
    log_error("gRPC takes no more calls: ", grpc_call_error_to_string(error));
    context_.drop_live();
  }
}

void OtherCalls::asked(bool ok) {
  if (ok) {
    begin(CallHandle(call_));
    ask();
  }
  context_.drop_live();
}

void OtherCalls::begin(CallHandle call) {
  const std::string_view path = to_view(details_.method);
  const Method* method = find_method(path);
  const bool stream = path == kStreamPath;
  const bool watch = path == kHealthWatchPath;
  const bool reflection = std::ranges::find(kReflectionPaths, path) != std::end(kReflectionPaths);
  if (!method && !stream && !watch && !reflection) {
    return UnaryCall::refuse(context_, std::move(call), path, grpc_status(ErrorCode::unsupported),
                             concat("unknown method ", quote(path)));
  }
  const Access access = method ? method->access : watch ? Access::open : Access::client;
  if (const auto refused = refusal(context_.options, access, metadata_)) {
    return UnaryCall::refuse(context_, std::move(call), path, refused->status, refused->text);
  }
  if (method) return UnaryCall::start(context_, std::move(call), *method);
  if (watch) return WatchCall::start(context_, watchers_, std::move(call));
  if (reflection) return ReflectionCall::start(context_, std::move(call));
  StreamCall::start(context_, std::move(call), std::string(metadata_.find("traceparent")),
                    to_time_point(details_.deadline));
}

UnaryCall::UnaryCall(GrpcContext& context, CallHandle call, const Method* method,
                     std::string_view name) noexcept
    : context_(context), call_(std::move(call)), method_(method), name_(short_name(name)) {
  context_.add_live();
}

void UnaryCall::start(GrpcContext& context, CallHandle call, const Method& method) {
  auto* self = new UnaryCall(context, std::move(call), &method, method.path);
  Batch().receive_message(&self->raw_message_).start(self->call_.get(), self->received_);
}

void UnaryCall::refuse(GrpcContext& context, CallHandle call, std::string_view method, int status,
                       std::string_view text) {
  (new UnaryCall(context, std::move(call), nullptr, method))->fail(status, text);
}

void UnaryCall::received(bool) {
  BufferHandle buffer(std::exchange(raw_message_, nullptr));
  request_bytes_ = ReceivedMessage::size(buffer);
  const auto message = ReceivedMessage::open(std::move(buffer), context_.options.max_request_bytes);
  if (!message) return fail(grpc_status(message.error().code), message.error().message);
  std::string request;
  for (const std::string_view piece : message->pieces()) request += piece;
  if (!method_->slow) return run(std::move(request));
  context_.workers.run([this, text = std::move(request)]() mutable { run(std::move(text)); });
}

void UnaryCall::run(const std::string& request) noexcept {
  const auto answer = caught([&] { return method_->run(context_.service, request); });
  if (!answer) return fail(grpc_status(answer.error().code), answer.error().message);
  answer_bytes_ = answer->size();
  Message message;
  message.push_back({*answer, nullptr, 0, {}});
  const BufferHandle buffer = to_buffer(std::move(message));
  Batch()
      .send_initial_metadata(context_.options.compress)
      .send_message(buffer.get())
      .send_status(kStatusOk, nullptr)
      .receive_close(&cancelled_)
      .start(call_.get(), sent_);
}

void UnaryCall::fail(int status, std::string_view text) noexcept {
  status_ = status;
  text_ = text;
  const grpc_slice details = grpc_slice_from_copied_buffer(text.data(), text.size());
  Batch()
      .send_initial_metadata()
      .send_status(status, &details)
      .receive_close(&cancelled_)
      .start(call_.get(), sent_);
  grpc_slice_unref(details);
}

void UnaryCall::sent(bool ok) {
  if (context_.options.on_call) {
    char* peer = grpc_call_get_peer(call_.get());
    context_.options.on_call({.method = name_,
                              .peer = peer,
                              .status = ok || status_ != kStatusOk ? status_ : kStatusCancelled,
                              .message = text_,
                              .request_bytes = request_bytes_,
                              .answer_bytes = answer_bytes_,
                              .received = begun_,
                              .answered = Clock::now()});
    gpr_free(peer);
  }
  GrpcContext& context = context_;
  delete this;
  context.drop_live();
}

}  // namespace millrace::server
