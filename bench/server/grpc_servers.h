// Servers that do next to nothing, one for each way that gRPC offers to write one.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace millrace::bench {

/// Listens on a port of the loopback until it is destroyed. It answers ModelInfer with an output of
/// 16 x FP32, whatever was asked.
class GrpcServer {
 public:
  virtual ~GrpcServer() = default;
  [[nodiscard]] virtual int port() const = 0;
};

struct GrpcServerKind {
  std::string_view name;
  std::string_view what;
  std::function<std::unique_ptr<GrpcServer>()> start;
};
std::span<const GrpcServerKind> grpc_server_kinds();

}  // namespace millrace::bench
