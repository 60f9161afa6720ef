#include "server/metrics.h"

#include <array>
#include <memory>
#include <vector>

#include "base/text.h"

namespace millrace::server {
namespace {

constexpr double kNanosecondsPerSecond = 1e9;
constexpr std::uint64_t kNanosecondsPerMicrosecond = 1000;

/// Upper bounds of the buckets, in nanoseconds: about three a decade, from 10 us to 10 s.
constexpr std::array<std::uint64_t, 19> kTimeBounds = {
    10'000,        25'000,        50'000,        100'000,       250'000,
    500'000,       1'000'000,     2'500'000,     5'000'000,     10'000'000,
    25'000'000,    50'000'000,    100'000'000,   250'000'000,   500'000'000,
    1'000'000'000, 2'500'000'000, 5'000'000'000, 10'000'000'000};
constexpr std::array<std::uint64_t, 10> kItemBounds = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};

using Labels = std::vector<std::pair<std::string_view, std::string>>;

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
  return out;
}

std::string text_of(const Labels& labels) {
  if (labels.empty()) return {};
  std::string out = "{";
  for (const auto& [name, value] : labels) {
    if (out.size() > 1) out += ',';
    out += concat(name, "=\"", escaped(value), '"');
  }
  return out + '}';
}

/// Seconds, with as many digits as a nanosecond needs.
std::string seconds(std::uint64_t nanoseconds) {
  return concat(static_cast<double>(nanoseconds) / kNanosecondsPerSecond);
}

/// Families of metrics, each with its head once and its samples together.
class Page {
 public:
  void family(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    out_ += concat("# HELP ", name, ' ', help, "\n# TYPE ", name, ' ', type, '\n');
  }
  template <class Value>
  void sample(const Labels& labels, const Value& value) {
    out_ += concat(name_, text_of(labels), ' ', value, '\n');
  }
  /// `unit`: how many of the histogram's numbers make one of the metric's.
  template <std::size_t N>
  void histogram(Labels labels, const Histogram& histogram,
                 const std::array<std::uint64_t, N>& bounds, bool times) {
    std::array<std::uint64_t, N> below{};
    const std::vector<std::uint64_t>& counts = histogram.counts();
    for (std::size_t bucket = 0; bucket < counts.size(); ++bucket) {
      if (counts[bucket] == 0) continue;
      const std::uint64_t value = Histogram::value_of(bucket);
      for (std::size_t i = N; i-- > 0 && value <= bounds[i];) below[i] += counts[bucket];
    }
    labels.emplace_back("le", "");
    for (std::size_t i = 0; i < N; ++i) {
      labels.back().second = times ? seconds(bounds[i]) : std::to_string(bounds[i]);
      out_ += concat(name_, "_bucket", text_of(labels), ' ', below[i], '\n');
    }
    labels.back().second = "+Inf";
    out_ += concat(name_, "_bucket", text_of(labels), ' ', histogram.count(), '\n');
    labels.pop_back();
    const double sum = histogram.mean() * static_cast<double>(histogram.count());
    out_ += concat(name_, "_sum", text_of(labels), ' ', times ? sum / kNanosecondsPerSecond : sum,
                   '\n');
    out_ += concat(name_, "_count", text_of(labels), ' ', histogram.count(), '\n');
  }
  [[nodiscard]] std::string take() { return std::move(out_); }

 private:
  std::string name_;
  std::string out_;
};

struct Version {
  Labels labels;
  std::shared_ptr<const ServedModel> served;
  ModelStatistics statistics;
};

std::uint64_t total(const Histogram& histogram) {
  return static_cast<std::uint64_t>(histogram.mean() * static_cast<double>(histogram.count()));
}

/// The counters that dashboards for this protocol's best-known server read; times in microseconds.
void write_well_known(Page& page, const std::vector<Version>& versions) {
  const auto counter = [&](std::string_view name, std::string_view help, auto value) {
    page.family(name, "counter", help);
    for (const Version& version : versions) page.sample(version.labels, value(version.statistics));
  };
  using S = ModelStatistics;
  counter("nv_inference_request_success", "Requests that succeeded",
          [](const S& s) { return s.succeeded; });
  page.family("nv_inference_request_failure", "counter", "Requests that failed, by reason");
  for (const Version& version : versions) {
    const S& s = version.statistics;
    const auto reason = [&](std::string_view name, std::uint64_t value) {
      Labels labels = version.labels;
      labels.emplace_back("reason", std::string(name));
      page.sample(labels, value);
    };
    reason("BACKEND", s.failed);
    reason("REJECTED", s.rejected + s.expired);
    reason("CANCELED", s.cancelled);
  }
  counter("nv_inference_count", "Items of requests that succeeded",
          [](const S& s) { return s.items; });
  counter("nv_inference_exec_count", "Batches", [](const S& s) { return s.batches; });
  const auto microseconds = [&](std::string_view name, std::string_view help, Phase phase) {
    counter(name, help,
            [phase](const S& s) { return total(s.phase(phase)) / kNanosecondsPerMicrosecond; });
  };
  microseconds("nv_inference_request_duration_us", "Time from submission to answer", Phase::total);
  microseconds("nv_inference_queue_duration_us", "Time in the queue", Phase::queue);
  microseconds("nv_inference_compute_input_duration_us",
               "Time of copying inputs to the device, of the batches that were timed",
               Phase::copy_in);
  microseconds("nv_inference_compute_infer_duration_us",
               "Time of computing, of the batches that were timed", Phase::compute);
  microseconds("nv_inference_compute_output_duration_us",
               "Time of copying outputs from the device, of the batches that were timed",
               Phase::copy_out);
  page.family("nv_inference_pending_request_count", "gauge", "Requests in the queue");
  for (const Version& version : versions) {
    page.sample(version.labels, version.statistics.queued_requests);
  }
}

void write_models(Page& page, const std::vector<Version>& versions) {
  page.family(
      "millrace_phase_seconds", "histogram",
      "Time of requests by phase; phases on the device are those of batches that were timed");
  for (const Version& version : versions) {
    for (std::size_t i = 0; i < kPhases; ++i) {
      Labels labels = version.labels;
      labels.emplace_back("phase", std::string(to_string(static_cast<Phase>(i))));
      page.histogram(std::move(labels), version.statistics.phases[i], kTimeBounds, true);
    }
  }
  page.family("millrace_batch_items", "histogram", "Items in a batch");
  for (const Version& version : versions) {
    page.histogram(version.labels, version.statistics.batch_items, kItemBounds, false);
  }
  page.family("millrace_rejections_total", "counter", "Requests that did not run, by reason");
  for (const Version& version : versions) {
    const ModelStatistics& s = version.statistics;
    for (const auto& [reason, value] : {std::pair("queue_full", s.rejected),
                                        {"deadline_exceeded", s.expired},
                                        {"cancelled", s.cancelled}}) {
      Labels labels = version.labels;
      labels.emplace_back("reason", reason);
      page.sample(labels, value);
    }
  }
  const auto gauge = [&](std::string_view name, std::string_view help, auto value) {
    page.family(name, "gauge", help);
    for (const Version& version : versions) page.sample(version.labels, value(version));
  };
  gauge("millrace_queue_requests", "Requests in the queue",
        [](const Version& v) { return v.statistics.queued_requests; });
  gauge("millrace_queue_bytes", "Bytes of inputs in the queue",
        [](const Version& v) { return v.statistics.queued_bytes; });
  gauge("millrace_batches_running",
        "Batches on the devices: lanes that are busy, while each has "
        "one slot in use",
        [](const Version& v) { return v.statistics.running_batches; });
  gauge("millrace_lanes", "Lanes over all devices", [](const Version& v) {
    std::size_t lanes = 0;
    for (const auto& placement : v.served->model.info().placements) {
      lanes += static_cast<std::size_t>(placement.lanes);
    }
    return lanes;
  });
}

void write_devices(Page& page, const std::vector<DeviceReport>& reports) {
  page.family("millrace_device_memory_bytes", "gauge",
              "Memory of a device: all of it, what is in use, and what this process holds");
  for (const DeviceReport& report : reports) {
    std::size_t held = 0;
    for (const MemoryHolder& holder : report.held) held += holder.bytes;
    for (const auto& [state, value] : {std::pair("total", report.memory.limit_bytes),
                                       {"free", report.memory.free_bytes},
                                       {"held", held}}) {
      page.sample(
          {{"device", to_string(report.info.id)}, {"uuid", report.info.uuid}, {"state", state}},
          value);
    }
  }
  page.family("millrace_device_failed", "gauge", "1: the device failed for good");
  for (const DeviceReport& report : reports) {
    page.sample({{"device", to_string(report.info.id)}, {"uuid", report.info.uuid}},
                report.fault ? 1 : 0);
  }
  const auto gpu = [&](std::string_view name, std::string_view help, auto value) {
    page.family(name, "gauge", help);
    for (const DeviceReport& report : reports) {
      if (report.info.id.kind != DeviceKind::cuda) continue;
      page.sample({{"gpu_uuid", report.info.uuid}}, value(report.memory));
    }
  };
  gpu("nv_gpu_memory_total_bytes", "Memory of a GPU",
      [](const MemoryInfo& memory) { return memory.limit_bytes; });
  gpu("nv_gpu_memory_used_bytes", "Memory of a GPU that is in use, by whomever",
      [](const MemoryInfo& memory) { return memory.limit_bytes - memory.free_bytes; });
}

void write_protocols(Page& page, const HttpCounters* http,
                     const std::function<GrpcCounters()>& grpc) {
  const GrpcCounters calls = grpc ? grpc() : GrpcCounters();
  const auto both = [&](std::string_view name, std::string_view type, std::string_view help,
                        std::uint64_t by_http, std::uint64_t by_grpc) {
    page.family(name, type, help);
    if (http) page.sample({{"protocol", "http"}}, by_http);
    if (grpc) page.sample({{"protocol", "grpc"}}, by_grpc);
  };
  const auto of = [http](const std::atomic<std::uint64_t> HttpCounters::*field) {
    return http ? (http->*field).load(std::memory_order_relaxed) : 0;
  };
  both("millrace_requests_total", "counter",
       "Requests answered over HTTP; inferences received over gRPC", of(&HttpCounters::requests),
       calls.calls);
  both("millrace_request_errors_total", "counter", "Of these, answered with an error",
       of(&HttpCounters::errors), calls.failed);
  both("millrace_refusals_total", "counter",
       "Connections (HTTP) and calls (gRPC) beyond a limit of the server",
       of(&HttpCounters::refused), calls.refused);
  both("millrace_received_bytes_total", "counter", "Bytes received",
       of(&HttpCounters::received_bytes), calls.received_bytes);
  both("millrace_sent_bytes_total", "counter", "Bytes sent", of(&HttpCounters::sent_bytes),
       calls.sent_bytes);
  if (!http) return;
  page.family("millrace_http_connections_total", "counter", "Connections accepted");
  page.sample({}, of(&HttpCounters::connections));
  page.family("millrace_http_timeouts_total", "counter", "Connections that were too slow");
  page.sample({}, of(&HttpCounters::timeouts));
  page.family("millrace_http_aborted_total", "counter", "Requests whose caller went away");
  page.sample({}, of(&HttpCounters::aborted));
}

}  // namespace

void Metrics::sent(std::string_view model, Duration took) {
  const auto value = static_cast<std::uint64_t>(std::max<Duration::rep>(took.count(), 0));
  std::lock_guard lock(mutex_);
  auto at = sent_.find(model);
  if (at == sent_.end()) at = sent_.emplace(std::string(model), Histogram()).first;
  at->second.record(value);
}

std::string Metrics::text() const {
  std::vector<Version> versions;
  for (auto& served : service_.repository().served({})) {
    ModelStatistics statistics = served->model.statistics();
    versions.push_back(
        {{{"model", served->name}, {"version", served->version}}, served, std::move(statistics)});
  }
  Page page;
  write_well_known(page, versions);
  write_models(page, versions);
  page.family("millrace_send_seconds", "histogram",
              "Time from the answer to its last byte handed to the network");
  {
    std::lock_guard lock(mutex_);
    for (const auto& [model, histogram] : sent_) {
      page.histogram({{"model", model}}, histogram, kTimeBounds, true);
    }
  }
  write_devices(page, service_.engine().device_reports());
  write_protocols(page, http_, grpc_);
  page.family("millrace_ready", "gauge", "1: the server takes requests");
  page.sample({}, service_.ready() ? 1 : 0);
  return page.take();
}

}  // namespace millrace::server
