// Every method but inference: one message in, one out.
#pragma once

#include <string>
#include <string_view>

#include <millrace/error.h>

#include "server/grpc/context.h"
#include "server/service.h"

namespace millrace::server {

struct Method {
  std::string_view path;  // "/inference.GRPCInferenceService/ServerLive"
  Access access = Access::client;
  /// It may take long, or wait.
  bool slow = false;
  /// Serialized messages. Errors are the client's to see.
  Result<std::string> (*run)(Service& service, const std::string& request) = nullptr;
};

/// Null for a path that is not one of them.
[[nodiscard]] const Method* find_method(std::string_view path);

inline constexpr std::string_view kInferPath = "/inference.GRPCInferenceService/ModelInfer";
inline constexpr std::string_view kStreamPath = "/inference.GRPCInferenceService/ModelStreamInfer";
inline constexpr std::string_view kHealthCheckPath = "/grpc.health.v1.Health/Check";
inline constexpr std::string_view kHealthWatchPath = "/grpc.health.v1.Health/Watch";

}  // namespace millrace::server
