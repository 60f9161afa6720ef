#include "backends/tensorrt/options.h"

#include <algorithm>
#include <cstdlib>

#include "base/text.h"
#include "base/try.h"

namespace millrace::tensorrt {
namespace {

constexpr std::int64_t kMostBatch = 1 << 20;

Result<bool> parse_switch(std::string_view name, std::string_view text) {
  if (text == "on" || text == "1") return true;
  if (text == "off" || text == "0") return false;
  return Error{ErrorCode::invalid_argument,
               concat("option \"", name, "\": expected on or off, got ", quote(text))};
}

Result<Graphs> parse_graphs(std::string_view text) {
  if (text == "auto") return Graphs::automatic;
  if (text == "on" || text == "1") return Graphs::on;
  if (text == "off" || text == "0") return Graphs::off;
  return Error{ErrorCode::invalid_argument,
               concat("option \"graphs\": expected auto, on or off, got ", quote(text))};
}

// "32", "1..32" or "1..8..32": the least, the best, the most.
Result<void> parse_batch(std::string_view text, BuildOptions& build) {
  std::vector<std::int64_t> numbers;
  std::string_view rest = text;
  for (;;) {
    const std::size_t dots = rest.find("..");
    MILLRACE_ASSIGN(const std::int64_t number,
                    parse_integer(rest.substr(0, dots), "option \"batch\"", 1, kMostBatch));
    numbers.push_back(number);
    if (dots == std::string_view::npos) break;
    rest.remove_prefix(dots + 2);
  }
  if (numbers.size() > 3 || !std::is_sorted(numbers.begin(), numbers.end())) {
    return Error{ErrorCode::invalid_argument,
                 concat("option \"batch\": expected MAX, MIN..MAX or MIN..BEST..MAX in ascending "
                        "order, got ",
                        quote(text))};
  }
  build.max_batch = numbers.back();
  if (numbers.size() > 1) build.min_batch = numbers.front();
  if (numbers.size() > 2) build.opt_batch = numbers[1];
  return {};
}

Result<void> set_option(Options& options, const std::string& name, const std::string& text) {
  BuildOptions& build = options.build;
  const std::string what = concat("option \"", name, "\"");
  if (name == "precision") {
    MILLRACE_ASSIGN(build.precision, parse_precision(text));
  } else if (name == "calibration_cache") {
    build.calibration_cache = text;
  } else if (name == "batch") {
    MILLRACE_TRY(parse_batch(text, build));
  } else if (name == "batch_axis") {
    if (text != "auto" && text != "off") {
      return Error{ErrorCode::invalid_argument,
                   concat(what, ": expected auto or off, got ", quote(text))};
    }
    options.batch_axis = text == "auto";
  } else if (name == "optimization_level") {
    MILLRACE_ASSIGN(const std::int64_t level, parse_integer(text, what, 0, 5));
    build.optimization_level = static_cast<int>(level);
  } else if (name == "workspace_mib") {
    MILLRACE_ASSIGN(const std::int64_t mib, parse_integer(text, what, 1, 1 << 24));
    build.workspace_bytes = static_cast<std::size_t>(mib) << 20;
  } else if (name == "aux_streams") {
    MILLRACE_ASSIGN(const std::int64_t streams, parse_integer(text, what, 0, 16));
    build.aux_streams = static_cast<int>(streams);
  } else if (name == "timing_cache") {
    build.timing_cache = text;
  } else if (name == "graphs") {
    MILLRACE_ASSIGN(options.graphs, parse_graphs(text));
  } else if (name == "share_activations") {
    MILLRACE_ASSIGN(options.share_activations, parse_switch(name, text));
  } else if (name == "host_code") {
    MILLRACE_ASSIGN(options.host_code, parse_switch(name, text));
  } else if (name == "cache") {
    options.cache = text == "off" ? "" : text;
  } else if (name == "refit" || name == "weight_streaming") {
    return Error{ErrorCode::unsupported,
                 concat(what, ": Millrace does not support ",
                        name == "refit" ? "refitting an engine with other weights"
                                        : "streaming weights from host memory",
                        "; leave the option out")};
  } else {
    return Error{ErrorCode::invalid_argument,
                 concat("the tensorrt backend has no option ", quote(name),
                        "; it has precision, calibration_cache, batch, batch_axis, "
                        "optimization_level, workspace_mib, aux_streams, timing_cache, graphs, "
                        "share_activations, "
                        "host_code, cache")};
  }
  return {};
}

}  // namespace

std::string default_cache_folder() {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value ? value : "";
  };
  if (std::string folder = variable("MILLRACE_CACHE"); !folder.empty()) return folder;
  if (const std::string folder = variable("XDG_CACHE_HOME"); !folder.empty()) {
    return folder + "/millrace/engines";
  }
  if (const std::string home = variable("HOME"); !home.empty()) {
    return home + "/.cache/millrace/engines";
  }
  return {};
}

Result<Options> parse_options(const std::map<std::string, std::string>& options) {
  Options parsed;
  parsed.cache = default_cache_folder();
  for (const auto& [name, text] : options) MILLRACE_TRY(set_option(parsed, name, text));
  return parsed;
}

}  // namespace millrace::tensorrt
