#include "cli/bench_startup.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>

#include <millrace/gpu_report.h>
#include <millrace/version.h>

#include "cli/bench_inputs.h"
#include "cli/bench_measure.h"
#include "cli/child_arguments.h"
#include "direct/machine.h"

namespace millrace::cli {
namespace {

constexpr const char* kVariable = "CUDA_MODULE_LOADING";
constexpr const char* kProgram = "/proc/self/exe";

std::int64_t nanoseconds_of(TimePoint time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

// -------------------------------------------------------------------------------------------------
// children

struct Child {
  std::string output;
  int status = 0;  // as waitpid has it
};

Error system_error(const char* what, int reason) {
  return {ErrorCode::unavailable, std::string("--startup: ") + what + ": " + std::strerror(reason)};
}

std::string read_all(int file) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t count = read(file, buffer, sizeof buffer);
    if (count > 0) text.append(buffer, static_cast<std::size_t>(count));
    if (count == 0 || (count < 0 && errno != EINTR)) return text;
  }
}

// Runs the program to its end. Its messages go where ours do.
Result<Child> run_program(std::vector<std::string> arguments,
                          std::vector<std::string> environment) {
  arguments.insert(arguments.begin(), "millrace");
  int ends[2] = {-1, -1};
  if (pipe2(ends, O_CLOEXEC) != 0) return system_error("no pipe", errno);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  pid_t process = 0;
  const int spawned = posix_spawn(&process, kProgram, &actions, nullptr,
                                  pointers_to(arguments).data(), pointers_to(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  Child child;
  if (spawned == 0) {
    child.output = read_all(ends[0]);
    while (waitpid(process, &child.status, 0) < 0 && errno == EINTR) {
    }
  }
  close(ends[0]);
  if (spawned != 0) return system_error("cannot start this program anew", spawned);
  return child;
}

// -------------------------------------------------------------------------------------------------
// GPU memory

std::optional<std::uint64_t> free_bytes_of(const GpuReport& report, const std::string& uuid) {
  const auto free_of = [](const GpuAnswer<GpuMemory>& memory) {
    return memory.value ? std::optional(memory.value->free_bytes) : std::nullopt;
  };
  for (const GpuDetails& gpu : report.gpus) {
    if (gpu.uuid == uuid) return free_of(gpu.memory);
    for (const MigInstance& instance : gpu.instances) {
      if (instance.uuid == uuid) return free_of(instance.memory);
    }
  }
  return std::nullopt;
}

struct GpuUse {
  std::uint64_t bytes = 0;
  bool told = false;
};

// By how much less is free than before, over all the GPUs that the child used.
GpuUse growth(const GpuReport& before, const Json& gpus) {
  GpuUse use;
  for (const Json& gpu : gpus) {
    const auto free_before = free_bytes_of(before, gpu["uuid"].get<std::string>());
    if (!free_before || gpu["free_bytes"].is_null()) return {};
    const auto free_after = gpu["free_bytes"].get<std::uint64_t>();
    use.bytes += *free_before > free_after ? *free_before - free_after : 0;
    use.told = true;
  }
  return use;
}

// -------------------------------------------------------------------------------------------------
// figures

struct Figure {
  const char* name;  // in JSON
  const char* title;
  double (*value)(const StartupSample&);
  std::string (*text)(double);
};

std::string seconds_text(double seconds) {
  return format_time(std::chrono::nanoseconds(std::llround(seconds * 1e9)));
}
std::string bytes_text(double bytes) {
  return format_bytes(static_cast<std::uint64_t>(std::llround(bytes)));
}

constexpr Figure kFigures[] = {
    {"ready_s", "ready", [](const StartupSample& s) { return s.ready_s; }, seconds_text},
    {"first_inference_s", "first inference",
     [](const StartupSample& s) { return s.first_inference_s; }, seconds_text},
    {"gpu_bytes", "GPU memory",
     [](const StartupSample& s) {
       return s.gpu_bytes ? static_cast<double>(*s.gpu_bytes)
                          : std::numeric_limits<double>::quiet_NaN();
     },
     bytes_text},
    {"host_bytes", "host memory",
     [](const StartupSample& s) { return static_cast<double>(s.host_bytes); }, bytes_text},
};

std::optional<Spread> spread(const std::vector<StartupSample>& samples, const Figure& figure) {
  std::vector<double> values;
  values.reserve(samples.size());
  for (const StartupSample& sample : samples) values.push_back(figure.value(sample));
  if (values.empty() || std::ranges::any_of(values, [](double v) { return std::isnan(v); }))
    return std::nullopt;
  return spread_of(values);
}

// EAGER / LAZY, run by run. Nothing where a value is missing or 0.
std::optional<Spread> ratio(const StartupResult& result, const Figure& figure) {
  std::vector<double> values;
  for (std::size_t i = 0; i < std::min(result.lazy.size(), result.eager.size()); ++i)
    values.push_back(figure.value(result.eager[i]) / figure.value(result.lazy[i]));
  if (values.empty() || !std::ranges::all_of(values, [](double v) { return std::isfinite(v); }))
    return std::nullopt;
  return spread_of(values);
}

Json spread_json(const std::optional<Spread>& found) {
  if (!found) return {};
  return {{"median", found->median},
          {"low", found->low},
          {"high", found->high},
          {"min", found->min},
          {"max", found->max}};
}

Json loading_json(const char* loading, const std::vector<StartupSample>& runs) {
  Json json = {{"loading", loading}};
  for (const Figure& figure : kFigures) json[figure.name] = spread_json(spread(runs, figure));
  json["samples"] = Json::array();
  for (const StartupSample& run : runs) {
    Json sample = Json::object();
    for (const Figure& figure : kFigures) {
      const double value = figure.value(run);
      sample[figure.name] = std::isnan(value) ? Json() : Json(value);
    }
    json["samples"].push_back(std::move(sample));
  }
  return json;
}

std::string remark_of(const StartupResult& result) {
  if (!result.on_gpu()) {
    return "The model runs on host devices: CUDA_MODULE_LOADING changes nothing there.";
  }
  return result.gpu_memory;
}

// -------------------------------------------------------------------------------------------------
// runs

struct Run {
  Json said;
  StartupSample sample;
  std::string gpu_memory;
};

Result<Run> run_child(const std::vector<std::string>& arguments, const char* loading) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry; ++entry) environment.emplace_back(*entry);
  const GpuReport before = gpu_report(false);
  const TimePoint start = Clock::now();
  Result<Child> child = run_program(arguments, with_loading(std::move(environment), loading));
  if (!child.ok()) return std::move(child).error();
  if (interrupted()) return Error{ErrorCode::cancelled, "interrupted before all runs were over"};
  if (!WIFEXITED(child->status) || WEXITSTATUS(child->status) != 0) {
    return Error{ErrorCode::unavailable,
                 std::string("--startup: the run with ") + kVariable + "=" + loading +
                     (WIFSIGNALED(child->status)
                          ? " was ended by signal " + std::to_string(WTERMSIG(child->status))
                          : std::string(" failed")) +
                     "; its message is above"};
  }
  Run run;
  run.said = Json::parse(child->output, nullptr, false);
  if (run.said.is_discarded() || !run.said.contains("first_ns"))
    return Error{ErrorCode::internal, "--startup: the run printed something else than figures"};
  const auto since_start = [&](const char* name) {
    return static_cast<double>(run.said[name].get<std::int64_t>() - nanoseconds_of(start)) * 1e-9;
  };
  run.sample.ready_s = since_start("ready_ns");
  run.sample.first_inference_s = since_start("first_ns");
  run.sample.host_bytes = run.said["host_bytes"].get<std::uint64_t>();
  if (run.said["gpus"].empty()) return run;
  if (const GpuUse use = growth(before, run.said["gpus"]); use.told) {
    run.sample.gpu_bytes = use.bytes;
    run.gpu_memory = "GPU memory: by how much less was free than before the process, by NVML.";
  } else {
    run.sample.gpu_bytes = 0;
    for (const Json& gpu : run.said["gpus"])
      *run.sample.gpu_bytes += gpu["used_by_all_bytes"].get<std::uint64_t>();
    run.gpu_memory = "GPU memory: in use by all processes together, since NVML tells nothing.";
  }
  return run;
}

}  // namespace

bool StartupResult::on_gpu() const {
  return std::ranges::any_of(devices,
                             [](const std::string& name) { return name.starts_with("cuda:"); });
}

std::vector<std::string> probe_arguments(std::vector<std::string> arguments) {
  const auto verb = std::ranges::find(arguments, "bench");
  arguments.insert(verb == arguments.end() ? verb : verb + 1, "--startup-probe");
  return arguments;
}

std::vector<std::string> with_loading(std::vector<std::string> environment,
                                      const std::string& loading) {
  const std::string start = std::string(kVariable) + "=";
  std::erase_if(environment, [&](const std::string& entry) { return entry.starts_with(start); });
  environment.push_back(start + loading);
  return environment;
}

Result<StartupResult> measure_startup(const StartupOptions& options,
                                      const std::vector<std::string>& arguments) {
  const std::vector<std::string> child = probe_arguments(arguments);
  StartupResult result;
  result.model = options.model.model;
  Progress progress("starting", 2 * static_cast<std::uint64_t>(options.runs) + 1, "processes");
  std::uint64_t done = 0;
  const auto run = [&](const char* loading) {
    Result<Run> found = run_child(child, loading);
    progress.update(++done);
    return found;
  };
  const Result<Run> first = run("LAZY");
  if (!first.ok()) return first.error();
  result.backend = first->said["backend"].get<std::string>();
  result.devices = first->said["devices"].get<std::vector<std::string>>();
  for (int i = 0; i < options.runs; ++i) {
    for (const bool lazy : {i % 2 == 0, i % 2 != 0}) {  // each kind first in every other pair
      Result<Run> found = run(lazy ? "LAZY" : "EAGER");
      if (!found.ok()) return std::move(found).error();
      (lazy ? result.lazy : result.eager).push_back(found->sample);
      result.gpu_memory = found->gpu_memory;
    }
  }
  return result;
}

Result<void> probe_startup(const StartupOptions& options) {
  Result<OpenModel> open = open_model(options.model);
  if (!open.ok()) return std::move(open).error();
  const std::int64_t ready = nanoseconds_of(Clock::now());
  Result<BenchInputs> inputs =
      BenchInputs::open(open->model.info(), options.input, open->file.preprocess, options.seed);
  if (!inputs.ok()) return std::move(inputs).error();
  Result<std::vector<NamedTensor>> tensors = inputs->make(0, 1);
  if (!tensors.ok()) return std::move(tensors).error();
  Request request;
  for (NamedTensor& tensor : *tensors) request.inputs.push_back(std::move(tensor));
  Result<Response> response = open->model.submit(std::move(request)).get();
  if (!response.ok()) return std::move(response).error();
  const std::int64_t first = nanoseconds_of(Clock::now());
  Json said = {{"backend", open->model.info().backend},
               {"devices", Json::array()},
               {"ready_ns", ready},
               {"first_ns", first},
               {"host_bytes", resident_bytes()},
               {"gpus", Json::array()}};
  const GpuReport report = gpu_report(false);
  for (const ModelInfo::Placement& placement : open->model.info().placements) {
    said["devices"].push_back(to_string(placement.device));
    for (const DeviceRef device : open->engine.devices()) {
      if (device->id() != placement.device || device->id().kind != DeviceKind::cuda) continue;
      const MemoryInfo memory = device->memory();
      const auto free_bytes = free_bytes_of(report, device->info().uuid);
      said["gpus"].push_back({{"uuid", device->info().uuid},
                              {"free_bytes", free_bytes ? Json(*free_bytes) : Json()},
                              {"used_by_all_bytes", memory.limit_bytes - memory.free_bytes}});
    }
  }
  print_json(said);
  return {};
}

std::string startup_text(const StartupResult& result) {
  std::string devices;
  for (const std::string& device : result.devices) devices += (devices.empty() ? "" : " ") + device;
  std::string out = inked(Ink::bold, "Startup of " + printable(result.model) + " with " +
                                         result.backend + " on " + devices) +
                    "\n";
  std::vector<std::string> header{kVariable};
  for (const Figure& figure : kFigures) header.emplace_back(figure.title);
  Table table(header, {1, 2, 3, 4});
  const auto add = [&](const std::string& name, const auto& cell) {
    std::vector<std::string> row{name};
    for (const Figure& figure : kFigures) row.push_back(cell(figure));
    table.add(std::move(row));
  };
  const auto add_runs = [&](const char* name, const std::vector<StartupSample>& runs) {
    add(name, [&](const Figure& figure) {
      const std::optional<Spread> found = spread(runs, figure);
      return found ? figure.text(found->median) : "-";
    });
    add("  range", [&](const Figure& figure) {
      const std::optional<Spread> found = spread(runs, figure);
      return found ? figure.text(found->min) + " to " + figure.text(found->max) : "-";
    });
  };
  add_runs("LAZY", result.lazy);
  add_runs("EAGER", result.eager);
  add("EAGER / LAZY", [&](const Figure& figure) {
    const std::optional<Spread> found = ratio(result, figure);
    return found ? format_fixed(found->median, 3) : "-";
  });
  out += table.text() + "  Medians of " + std::to_string(result.lazy.size()) +
         " fresh processes each, in turn; times from the start of the process.\n";
  if (const std::string remark = remark_of(result); !remark.empty()) out += "  " + remark + "\n";
  return out;
}

Json startup_json(const StartupResult& result) {
  Json ratios = Json::object();
  for (const Figure& figure : kFigures) ratios[figure.name] = spread_json(ratio(result, figure));
  Json versions = Json::object();
  for (const ComponentVersion& component : component_versions())
    versions[component.component] = component.version;
  return {{"model", result.model},
          {"backend", result.backend},
          {"devices", result.devices},
          {"scenario", "startup"},
          {"runs", result.lazy.size()},
          {"loading", {loading_json("LAZY", result.lazy), loading_json("EAGER", result.eager)}},
          {"eager_to_lazy", ratios},
          {"remark", remark_of(result)},
          {"machine", {{"cores", direct::usable_cores()}, {"versions", versions}}}};
}

}  // namespace millrace::cli
