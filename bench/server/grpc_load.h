// Calls ModelInfer of a gRPC server, so many at a time, with as little work as the library allows.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace millrace::bench {

struct GrpcLoad {
  std::string address;  // host:port
  std::string message;  // a serialized ModelInferRequest
  int in_flight = 1;
  std::chrono::nanoseconds duration{};
};

struct GrpcLoadResult {
  std::uint64_t answers = 0;
  std::uint64_t errors = 0;
  std::string first_error;
  std::chrono::nanoseconds elapsed{};
};

/// On the calling thread, over one connection, which is there when the time begins.
GrpcLoadResult run_grpc_load(const GrpcLoad& load);

/// A request of 16 x FP32 for the model named.
std::string grpc_request(const std::string& model);

}  // namespace millrace::bench
