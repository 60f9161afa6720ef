// gRPC's server reflection: which services there are, and their messages.
#pragma once

#include <string>
#include <string_view>

#include "server/grpc/context.h"
#include "server/grpc/events.h"

namespace millrace::server {

/// A serialized ServerReflectionRequest to its response; one that is malformed is answered so.
[[nodiscard]] std::string reflect(const std::string& request);

inline constexpr std::string_view kReflectionPaths[] = {
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",  // the same messages
};

/// A stream whose requests are answered one after another. On one queue's thread; deletes itself
/// when it is over.
class ReflectionCall {
 public:
  static void start(GrpcContext& context, CallHandle call);

 private:
  ReflectionCall(GrpcContext& context, CallHandle call) noexcept;
  void read(bool first);
  void received(bool ok);
  void sent(bool ok);
  void ended(bool ok);

  GrpcContext& context_;
  const CallHandle call_;
  EventOf<ReflectionCall, &ReflectionCall::received> received_{this};
  EventOf<ReflectionCall, &ReflectionCall::sent> sent_{this};
  EventOf<ReflectionCall, &ReflectionCall::ended> ended_{this};
  grpc_byte_buffer* raw_message_ = nullptr;
  int cancelled_ = 0;
};

}  // namespace millrace::server
