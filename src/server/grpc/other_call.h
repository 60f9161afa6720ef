// A call of any method but ModelInfer: who it is for, and those with one message in and one out.
#pragma once

#include <memory>
#include <string>

#include "server/grpc/context.h"
#include "server/grpc/events.h"
#include "server/grpc/methods.h"
#include "server/grpc/watch_call.h"

namespace millrace::server {

/// Waits for calls of methods that are not registered with gRPC, and hands each to an object that
/// deletes itself when the call is over. On one queue's thread.
class OtherCalls {
 public:
  OtherCalls(GrpcContext& context, Watchers& watchers, grpc_server* server,
             grpc_completion_queue* queue) noexcept;
  ~OtherCalls();
  OtherCalls(const OtherCalls&) = delete;
  OtherCalls& operator=(const OtherCalls&) = delete;
  /// Waits for the next.
  void ask() noexcept;

 private:
  void asked(bool ok);
  void begin(CallHandle call);

  GrpcContext& context_;
  Watchers& watchers_;
  grpc_server* server_;
  grpc_completion_queue* queue_;
  EventOf<OtherCalls, &OtherCalls::asked> asked_{this};
  grpc_call* call_ = nullptr;
  grpc_call_details details_{};
  Metadata metadata_;
};

/// A call that is answered with one message or an error, and deletes itself after.
class UnaryCall {
 public:
  static void start(GrpcContext& context, CallHandle call, const Method& method);
  /// Answers with a status, whatever came.
  static void refuse(GrpcContext& context, CallHandle call, std::string_view method, int status,
                     std::string_view text);

 private:
  UnaryCall(GrpcContext& context, CallHandle call, const Method* method,
            std::string_view name) noexcept;
  void received(bool ok);
  void sent(bool ok);
  void run(const std::string& request) noexcept;
  void fail(int status, std::string_view text) noexcept;

  GrpcContext& context_;
  CallHandle call_;
  const Method* method_;
  std::string name_;
  EventOf<UnaryCall, &UnaryCall::received> received_{this};
  EventOf<UnaryCall, &UnaryCall::sent> sent_{this};
  grpc_byte_buffer* raw_message_ = nullptr;
  int cancelled_ = 0;
  int status_ = kStatusOk;
  std::string text_;
  std::size_t request_bytes_ = 0;
  std::size_t answer_bytes_ = 0;
  TimePoint begun_ = Clock::now();
};

}  // namespace millrace::server
