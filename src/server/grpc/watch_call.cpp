#include "server/grpc/watch_call.h"

#include <utility>
#include <vector>

#include "server/grpc/health.h"
#include "server/grpc/infer_call.h"
#include "server/status.h"

namespace millrace::server {

void Watchers::look() {
  const std::vector<WatchCall*> calls(calls_.begin(), calls_.end());
  for (WatchCall* call : calls) {
    if (context_.stopping) {
      call->end(grpc_status(ErrorCode::unavailable), kStopping);
    } else {
      call->look();
    }
  }
}

WatchCall::WatchCall(GrpcContext& context, Watchers& watchers, CallHandle call)
    : context_(context), watchers_(watchers), call_(std::move(call)) {
  context_.add_live();
  watchers_.calls_.insert(this);
}

void WatchCall::start(GrpcContext& context, Watchers& watchers, CallHandle call) {
  auto* self = new WatchCall(context, watchers, std::move(call));
  Batch().receive_close(&self->cancelled_).start(self->call_.get(), self->closed_);
  Batch()
      .send_initial_metadata()
      .receive_message(&self->raw_message_)
      .start(self->call_.get(), self->received_);
}

void WatchCall::received(bool) {
  BufferHandle buffer(std::exchange(raw_message_, nullptr));
  auto message = ReceivedMessage::open(std::move(buffer), context_.options.max_request_bytes);
  if (message) {
    request_ = message->text();
    asked_ = true;
    look();
  } else {
    end(grpc_status(message.error().code), "expected a HealthCheckRequest");
  }
  release();
}

void WatchCall::look() {
  if (!asked_ || sending_ || over_) return;
  const std::string status = watched_health(context_.service, request_);
  if (status == told_) return;
  told_ = status;
  sending_ = true;
  ++awaited_;
  Message message(1);
  message.front().bytes = status;
  const BufferHandle buffer = to_buffer(std::move(message));
  Batch().send_message(buffer.get()).start(call_.get(), sent_);
}

void WatchCall::end(int status, const char* text) noexcept {
  if (sending_ || std::exchange(over_, true)) return;
  sending_ = true;
  ++awaited_;
  const grpc_slice details = grpc_slice_from_static_string(text);
  Batch().send_status(status, &details).start(call_.get(), sent_);
}

void WatchCall::sent(bool ok) {
  sending_ = false;
  if (ok) look();
  release();
}

void WatchCall::closed(bool) {
  over_ = true;
  release();
}

void WatchCall::release() noexcept {
  if (--awaited_ > 0) return;
  GrpcContext& context = context_;
  watchers_.calls_.erase(this);
  delete this;
  context.drop_live();
}

}  // namespace millrace::server
