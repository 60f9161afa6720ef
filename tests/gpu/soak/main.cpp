// gpu_soak: minutes of load with random sizes, cancels, deadlines and reloads.
//
//   gpu_soak [--minutes M] [--devices LIST] [--callers N] [--option NAME=VALUE] [MODEL [MODEL]]
//
// The first model stays loaded, the second (default: the same file) is loaded and unloaded again
// and again. Default: the digits model on all GPUs. Exit code 0 when no error came and every bar
// was met.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/text.h"
#include "tests/soak/soak.h"

namespace millrace::soak {
namespace {

constexpr double kMiB = 1048576;
// What is allocated once, some time, and not returned to the system.
constexpr double kMostHostGrowthMiB = 16;
constexpr double kMostDeviceGrowthMiB = 4;
constexpr double kMostDelayMs = 50;

bool bar(const char* what, double value, double most, const char* unit) {
  const bool met = value <= most;
  std::printf("  %s  %s: %.2f %s (at most %.2f)\n", met ? "met    " : "NOT MET", what, value, unit,
              most);
  return met;
}

double milliseconds(Duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

bool print(const Report& report) {
  const auto number = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf(
      "soak: %llu right answers, %llu cancelled, %llu expired, %llu refused by a model that "
      "went, %llu loads, %llu errors\n",
      number(report.right), number(report.cancelled), number(report.expired),
      number(report.refused), number(report.loads), number(report.wrong));
  if (report.wrong > 0) std::printf("  the first error: %s\n", report.first_wrong.c_str());
  std::printf(
      "  one request at a time: %.3f ms usually, %.3f ms at most, %.3f ms while a model "
      "loads\n",
      milliseconds(report.usual), milliseconds(report.longest),
      milliseconds(report.longest_during_a_load));
  bool met = report.wrong == 0 && report.right > 0 && report.loads > 0;
  met &= bar("delay by a load", milliseconds(report.longest_during_a_load - report.usual),
             kMostDelayMs, "ms");
  met &= bar("host memory grown", static_cast<double>(report.host_growth_bytes) / kMiB,
             kMostHostGrowthMiB, "MiB");
  for (const Report::Growth& growth : report.device_growth) {
    met &= bar(concat("memory grown on ", growth.device).c_str(),
               static_cast<double>(growth.bytes) / kMiB, kMostDeviceGrowthMiB, "MiB");
  }
  return met;
}

int usage(const char* why) {
  std::fprintf(stderr,
               "gpu_soak: %s; usage: gpu_soak [--minutes M] [--devices LIST] [--callers N] "
               "[--option NAME=VALUE] [MODEL [MODEL]]\n",
               why);
  return 2;
}

int main_of(int argc, char** argv) {
  Options options;
  double minutes = 9;
  std::vector<std::string> models;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (!argument.starts_with("--")) {
      models.push_back(argument);
      continue;
    }
    if (i + 1 == argc) return usage("the last argument needs a value");
    const std::string value = argv[++i];
    const std::size_t equals = value.find('=');
    if (argument == "--minutes") {
      minutes = std::atof(value.c_str());
    } else if (argument == "--callers") {
      options.callers = std::atoi(value.c_str());
    } else if (argument == "--devices") {
      for (std::size_t at = 0; at <= value.size();) {
        const std::size_t comma = std::min(value.find(',', at), value.size());
        options.engine.devices.devices.push_back(value.substr(at, comma - at));
        at = comma + 1;
      }
    } else if (argument == "--option" && equals != std::string::npos) {
      options.stays.options[value.substr(0, equals)] = value.substr(equals + 1);
    } else {
      return usage(concat("what is ", argument, " ", value, "?").c_str());
    }
  }
  if (!(minutes > 0) || options.callers < 1 || models.size() > 2) return usage("wrong arguments");
  if (models.empty()) models.push_back(MILLRACE_SOURCE_DIR "/examples/digits/digits.onnx");
  options.stays.path = models.front();
  options.stays.batching.max_items = options.most_items;
  options.comes = options.stays;
  options.comes.path = models.back();
  options.stays.name = "stays";
  options.comes.name = "comes";
  options.time = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(60 * minutes));
  options.warm_up = std::min<Duration>(std::chrono::minutes(1), options.time / 4);
  const Result<Report> report = run(options);
  if (!report.ok()) {
    std::fprintf(stderr, "gpu_soak: %s\n", report.error().message.c_str());
    return 1;
  }
  return print(*report) ? 0 : 1;
}

}  // namespace
}  // namespace millrace::soak

int main(int argc, char** argv) { return millrace::soak::main_of(argc, argv); }
