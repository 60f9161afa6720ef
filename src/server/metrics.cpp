#include "server/metrics.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <vector>

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/text.h"
#include "server/metrics_page.h"

namespace millrace::server {
namespace {

constexpr std::uint64_t kNanosecondsPerMicrosecond = 1000;

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

struct Version {
  Labels labels;
  std::shared_ptr<const ServedModel> served;
  ModelStatistics statistics;
};

std::uint64_t total(const Histogram& histogram) {
  return static_cast<std::uint64_t>(histogram.mean() * static_cast<double>(histogram.count()));
}

/// The counters that dashboards for this protocol's best-known server read; times in microseconds.
void write_well_known(MetricsPage& page, const std::vector<Version>& versions) {
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
  // Batches that were timed stand for all; the sum may come out lower than before, but is not shown
  // so, since a counter that falls is taken for one that began again.
  const auto estimated = [&](std::string_view name, std::string_view help, Phase phase,
                             std::size_t place) {
    page.family(name, "counter", help);
    for (const Version& version : versions) {
      const S& s = version.statistics;
      const auto estimate =
          static_cast<std::uint64_t>(s.phase(phase).mean() * static_cast<double>(s.succeeded));
      std::atomic<std::uint64_t>& shown = version.served->traffic->shown[place];
      std::uint64_t before = shown.load(std::memory_order_relaxed);
      while (before < estimate && !shown.compare_exchange_weak(before, estimate)) {
      }
      page.sample(version.labels, std::max(before, estimate) / kNanosecondsPerMicrosecond);
    }
  };
  estimated("nv_inference_compute_input_duration_us",
            "Time of copying inputs to the device, as of the batches that were timed",
            Phase::copy_in, 0);
  estimated("nv_inference_compute_infer_duration_us",
            "Time of computing, as of the batches that were timed", Phase::compute, 1);
  estimated("nv_inference_compute_output_duration_us",
            "Time of copying outputs from the device, as of the batches that were timed",
            Phase::copy_out, 2);
  page.family("nv_inference_pending_request_count", "gauge", "Requests in the queue");
  for (const Version& version : versions) {
    page.sample(version.labels, version.statistics.queued_requests);
  }
}

void write_models(MetricsPage& page, const std::vector<Version>& versions) {
  page.family("millrace_phase_seconds", "histogram",
              "Time of requests by phase; phases on the device are those of batches that were "
              "timed");
  for (const Version& version : versions) {
    for (std::size_t i = 0; i < kPhases; ++i) {
      page.times(with(version.labels, "phase", std::string(to_string(static_cast<Phase>(i)))),
                 version.statistics.phases[i]);
    }
    page.times(with(version.labels, "phase", "send"), version.served->traffic->send.snapshot());
  }
  page.family("millrace_batch_items", "histogram", "Items in a batch");
  for (const Version& version : versions) {
    page.numbers(version.labels, version.statistics.batch_items);
  }
  page.family("millrace_rejections_total", "counter", "Requests that did not run, by reason");
  for (const Version& version : versions) {
    const ModelStatistics& s = version.statistics;
    const std::uint64_t invalid = version.served->traffic->invalid.load(std::memory_order_relaxed);
    for (const auto& [reason, value] : {std::pair("queue_full", s.rejected),
                                        {"deadline_exceeded", s.expired},
                                        {"cancelled", s.cancelled},
                                        {"invalid", invalid}}) {
      page.sample(with(version.labels, "reason", reason), value);
    }
  }
  const auto gauge = [&](std::string_view name, std::string_view help,
                         std::uint64_t ModelStatistics::*value) {
    page.family(name, "gauge", help);
    for (const Version& version : versions) {
      page.sample(version.labels, version.statistics.*value);
    }
  };
  gauge("millrace_queue_requests", "Requests in the queue", &ModelStatistics::queued_requests);
  gauge("millrace_queue_bytes", "Bytes of inputs in the queue", &ModelStatistics::queued_bytes);
  gauge("millrace_batches_running", "Batches that lanes have", &ModelStatistics::running_batches);
  gauge("millrace_lanes_busy", "Lanes that have a batch", &ModelStatistics::busy_lanes);
}

/// Where the work is done.
void write_lanes(MetricsPage& page, const std::vector<Version>& versions) {
  page.family("millrace_lanes", "gauge", "Lanes that a model has on a device");
  for (const Version& version : versions) {
    for (const auto& placement : version.served->model.info().placements) {
      page.sample(with(version.labels, "device", to_string(placement.device)), placement.lanes);
    }
  }
  const auto counter = [&](std::string_view name, std::string_view help, auto value) {
    page.family(name, "counter", help);
    for (const Version& version : versions) {
      for (const DeviceStatistics& device : version.statistics.devices) {
        page.sample(with(version.labels, "device", to_string(device.device)), value(device));
      }
    }
  };
  counter("millrace_device_items_total", "Items that a device computed",
          [](const DeviceStatistics& s) { return s.items; });
  counter("millrace_device_batches_total", "Batches that a device computed",
          [](const DeviceStatistics& s) { return s.batches; });
  counter("millrace_device_busy_seconds_total", "Time that a device's lanes spent on batches",
          [](const DeviceStatistics& s) { return seconds(s.device_time); });
}

void write_devices(MetricsPage& page, const std::vector<DeviceReport>& reports) {
  page.family("millrace_device_memory_bytes", "gauge",
              "Memory of a device: all of it, what nobody uses, and what this process holds");
  const auto labels = [](const DeviceReport& report) {
    return Labels{{"device", to_string(report.info.id)}, {"uuid", report.info.uuid}};
  };
  for (const DeviceReport& report : reports) {
    std::size_t held = 0;
    for (const MemoryHolder& holder : report.held) held += holder.bytes;
    for (const auto& [state, value] : {std::pair("total", report.memory.limit_bytes),
                                       {"free", report.memory.free_bytes},
                                       {"held", held}}) {
      page.sample(with(labels(report), "state", state), value);
    }
  }
  page.family("millrace_device_failed", "gauge", "1: the device failed for good");
  for (const DeviceReport& report : reports) page.sample(labels(report), report.fault ? 1 : 0);
}

/// As dashboards for GPUs read them.
void write_gpus(MetricsPage& page, const std::vector<DeviceReport>& reports,
                GpuUsageSampler& sampler) {
  const auto is_gpu = [](const DeviceReport& r) { return r.info.id.kind == DeviceKind::cuda; };
  std::vector<GpuUsage> usage;
  if (std::ranges::any_of(reports, is_gpu)) usage = sampler.latest();
  const auto memory = [&](std::string_view name, std::string_view help, auto value) {
    page.family(name, "gauge", help);
    for (const DeviceReport& report : reports) {
      if (is_gpu(report)) page.sample({{"gpu_uuid", report.info.uuid}}, value(report.memory));
    }
  };
  memory("nv_gpu_memory_total_bytes", "Memory of a GPU",
         [](const MemoryInfo& info) { return info.limit_bytes; });
  memory("nv_gpu_memory_used_bytes", "Memory of a GPU that is in use, by whomever",
         [](const MemoryInfo& info) { return info.limit_bytes - info.free_bytes; });
  const auto used = [&](std::string_view name, std::string_view type, std::string_view help,
                        std::optional<double> GpuUsage::*field) {
    page.family(name, type, help);
    for (const DeviceReport& report : reports) {
      if (!is_gpu(report)) continue;
      for (const GpuUsage& gpu : usage) {
        if (!equal_ignoring_case(gpu.uuid, report.info.uuid) || !(gpu.*field)) continue;
        page.sample({{"gpu_uuid", report.info.uuid}}, *(gpu.*field));
      }
    }
  };
  used("nv_gpu_utilization", "gauge", "Part of the time in which a kernel ran, by whomever",
       &GpuUsage::utilization);
  used("millrace_gpu_memory_utilization", "gauge",
       "Part of the time in which a GPU's memory was read or written",
       &GpuUsage::memory_utilization);
  used("nv_gpu_power_usage", "gauge", "Power that a GPU draws, in watts", &GpuUsage::power_watts);
  used("nv_gpu_power_limit", "gauge", "Power that a GPU may draw, in watts",
       &GpuUsage::power_limit_watts);
  used("nv_energy_consumption", "counter", "Energy that a GPU has used, in joules",
       &GpuUsage::energy_joules);
}

std::uint64_t read(const std::atomic<std::uint64_t>& counter) {
  return counter.load(std::memory_order_relaxed);
}

/// One family over both protocols.
class Protocols {
 public:
  Protocols(MetricsPage& page, const HttpServer* http, const GrpcServer* grpc)
      : page_(page), http_(http), grpc_(grpc), calls_(grpc ? grpc->counters() : GrpcCounters()) {}

  template <class OfHttp, class OfGrpc>
  void family(std::string_view name, std::string_view type, std::string_view help,
              const OfHttp& of_http, const OfGrpc& of_grpc) {
    page_.family(name, type, help);
    if (http_) add(Labels{{"protocol", "http"}}, of_http(*http_, http_->counters()));
    if (grpc_) add(Labels{{"protocol", "grpc"}}, of_grpc(calls_));
  }

 private:
  using Reasons = std::vector<std::pair<std::string, std::uint64_t>>;
  void add(const Labels& labels, std::uint64_t value) { page_.sample(labels, value); }
  void add(const Labels& labels, const std::pair<std::string_view, Reasons>& parts) {
    for (const auto& [name, value] : parts.second) {
      page_.sample(with(labels, parts.first, name), value);
    }
  }

  MetricsPage& page_;
  const HttpServer* http_;
  const GrpcServer* grpc_;
  const GrpcCounters calls_;
};

using Parts = std::pair<std::string_view, std::vector<std::pair<std::string, std::uint64_t>>>;

Parts http_codes(const HttpCounters& counters) {
  Parts parts{"code", {}};
  for (std::size_t i = 0; i < counters.by_status.size(); ++i) {
    if (const std::uint64_t count = read(counters.by_status[i]); count > 0) {
      parts.second.emplace_back(concat(i + HttpCounters::kFirstStatus), count);
    }
  }
  return parts;
}

Parts grpc_codes(const GrpcCounters& counters) {
  Parts parts{"code", {}};
  for (std::size_t i = 0; i < counters.by_status.size(); ++i) {
    if (counters.by_status[i] > 0) parts.second.emplace_back(concat(i), counters.by_status[i]);
  }
  return parts;
}

Parts http_refusals(const HttpCounters& counters) {
  const auto status = [&counters](std::size_t code) {
    return read(counters.by_status[code - HttpCounters::kFirstStatus]);
  };
  return {"reason",
          {{"connections", read(counters.refused)},
           {"in_flight", read(counters.over_budget)},
           {"too_large", status(413) + status(431)},
           {"too_slow", read(counters.timeouts)},
           {"token", status(401) + status(403)}}};
}

Parts grpc_refusals(const GrpcCounters& counters) {
  constexpr std::size_t kUnauthenticated = 16;
  return {"reason",
          {{"in_flight", counters.refused}, {"token", counters.by_status[kUnauthenticated]}}};
}

void write_protocols(MetricsPage& page, const HttpServer* http, const GrpcServer* grpc) {
  Protocols both(page, http, grpc);
  using H = const HttpCounters&;
  using G = const GrpcCounters&;
  both.family(
      "millrace_requests_total", "counter",
      "Requests answered over HTTP, and inferences over gRPC, by the protocol's own status",
      [](const HttpServer&, H counters) { return http_codes(counters); },
      [](G counters) { return grpc_codes(counters); });
  both.family(
      "millrace_refusals_total", "counter",
      "What a protocol turned away itself, by reason: at a limit, too slow, or without a token",
      [](const HttpServer&, H counters) { return http_refusals(counters); },
      [](G counters) { return grpc_refusals(counters); });
  both.family(
      "millrace_received_bytes_total", "counter", "Bytes of requests",
      [](const HttpServer&, H counters) { return read(counters.received_bytes); },
      [](G counters) { return counters.received_bytes; });
  both.family(
      "millrace_sent_bytes_total", "counter", "Bytes of answers",
      [](const HttpServer&, H counters) { return read(counters.sent_bytes); },
      [](G counters) { return counters.sent_bytes; });
  both.family(
      "millrace_bytes_in_flight", "gauge", "Bytes of requests that are held",
      [](const HttpServer& server, H) { return std::uint64_t{server.bytes_in_flight()}; },
      [](G counters) { return counters.bytes_in_flight; });
  page.family("millrace_grpc_calls_in_flight", "gauge", "Inferences that are not answered yet");
  if (grpc) page.sample({}, grpc->counters().calls_in_flight);
  page.family("millrace_http_connections", "gauge", "Connections that are open");
  if (http) page.sample({}, http->connections());
  page.family("millrace_http_connections_total", "counter", "Connections accepted");
  if (http) page.sample({}, read(http->counters().connections));
  page.family("millrace_http_aborted_total", "counter", "Requests whose caller went away");
  if (http) page.sample({}, read(http->counters().aborted));
}

void write_traces(MetricsPage& page, const OtlpExporter* exporter) {
  page.family("millrace_traces_total", "counter",
              "Requests that were traced: exported, refused by the collector, or dropped because "
              "too many waited");
  if (!exporter) return;
  const OtlpCounters counters = exporter->counters();
  page.sample({{"outcome", "exported"}}, counters.exported);
  page.sample({{"outcome", "refused"}}, counters.refused);
  page.sample({{"outcome", "dropped"}}, exporter->queue()->counters().dropped);
}

void write_history(MetricsPage& page, const std::optional<WorkerHistory>& history) {
  if (!history) return;
  page.family("millrace_worker_restarts_total", "counter",
              "Times that the worker was started again");
  page.sample({}, history->restarts);
  page.family("millrace_worker_down_seconds_total", "counter",
              "Time without a worker that took requests, since the first one did");
  page.sample({}, std::chrono::duration<double>(history->down).count());
}

std::size_t open_files() {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/fd"), closedir);
  std::size_t files = 0;
  while (folder && readdir(folder.get())) ++files;
  return files > 3 ? files - 3 : 0;  // ".", ".." and the folder
}

void write_process(MetricsPage& page) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto of = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  page.family("process_cpu_seconds_total", "counter", "Processor time of this process");
  page.sample({}, of(usage.ru_utime) + of(usage.ru_stime));
  std::uint64_t pages = 0;
  std::uint64_t resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  page.family("process_resident_memory_bytes", "gauge", "Memory that this process has in use");
  page.sample({}, resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)));
  page.family("process_open_fds", "gauge", "Files and sockets that are open");
  page.sample({}, open_files());
}

}  // namespace

void Metrics::count(const HttpServer* server) {
  const std::lock_guard lock(mutex_);
  http_ = server;
}
void Metrics::count(const GrpcServer* server) {
  const std::lock_guard lock(mutex_);
  grpc_ = server;
}
void Metrics::count(const OtlpExporter* exporter) {
  const std::lock_guard lock(mutex_);
  traces_ = exporter;
}

void Metrics::count(const WorkerHistory& history) {
  const std::lock_guard lock(mutex_);
  history_ = history;
}

std::string Metrics::text() {
  std::vector<Version> versions;
  for (auto& served : service_.repository().served({})) {
    ModelStatistics statistics = served->model.statistics();
    versions.push_back(
        {{{"model", served->name}, {"version", served->version}}, served, std::move(statistics)});
  }
  MetricsPage page;
  write_well_known(page, versions);
  write_models(page, versions);
  write_lanes(page, versions);
  const std::vector<DeviceReport> reports = service_.engine().device_reports();
  write_devices(page, reports);
  write_gpus(page, reports, gpus_);
  {
    const std::lock_guard lock(mutex_);
    write_protocols(page, http_, grpc_);
    write_traces(page, traces_);
    write_history(page, history_);
  }
  page.family("millrace_ready", "gauge", "1: the server takes requests");
  page.sample({}, service_.ready() ? 1 : 0);
  write_process(page);
  return page.take();
}

}  // namespace millrace::server
