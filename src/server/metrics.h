// What the server counts, in the text format of Prometheus.
#pragma once

#include <mutex>
#include <optional>
#include <string>

#include "device/nvml/gpu_usage.h"
#include "server/grpc/server.h"
#include "server/http/server.h"
#include "server/otlp_exporter.h"
#include "server/service.h"

namespace millrace::server {

/// What a process that starts servers again knows of those before this one.
struct WorkerHistory {
  std::uint64_t restarts = 0;
  /// How long nobody took requests, since the first of them did.
  Duration down{};
};

/// Thread-safe. Building the text looks at every model's statistics; it stops none of the work.
class Metrics {
 public:
  explicit Metrics(Service& service) noexcept : service_(service) {}

  /// What else is counted; nullptr before it goes away.
  void count(const HttpServer* server);
  void count(const GrpcServer* server);
  void count(const OtlpExporter* exporter);
  void count(const WorkerHistory& history);

  [[nodiscard]] std::string text();

 private:
  Service& service_;
  GpuUsageSampler gpus_;
  std::mutex mutex_;
  // Guarded by mutex_.
  const HttpServer* http_ = nullptr;
  const GrpcServer* grpc_ = nullptr;
  const OtlpExporter* traces_ = nullptr;
  std::optional<WorkerHistory> history_;
};

}  // namespace millrace::server
