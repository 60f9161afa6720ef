// What the server counts, in the text format of Prometheus.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include <millrace/statistics.h>

#include "server/grpc/server.h"
#include "server/http/server.h"
#include "server/service.h"

namespace millrace::server {

/// Thread-safe. Building the text looks at every model's statistics; it stops none of the work.
class Metrics {
 public:
  explicit Metrics(Service& service) noexcept : service_(service) {}

  /// Before the server takes requests.
  void count(const HttpCounters& counters) noexcept { http_ = &counters; }
  void count(std::function<GrpcCounters()> counters) { grpc_ = std::move(counters); }
  /// How long an answer of that model took to be handed to the network, the last phase of a
  /// request.
  void sent(std::string_view model, Duration took);

  [[nodiscard]] std::string text() const;

 private:
  Service& service_;
  const HttpCounters* http_ = nullptr;
  std::function<GrpcCounters()> grpc_;
  mutable std::mutex mutex_;
  std::map<std::string, Histogram, std::less<>> sent_;  // by model; guarded by mutex_
};

}  // namespace millrace::server
