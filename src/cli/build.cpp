// millrace build: an ONNX file made into an engine for one GPU.
#include <millrace/build.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <mutex>

#include "cli/bench_measure.h"
#include "cli/print.h"
#include "cli/verbs.h"
#include "io/output_file.h"

namespace millrace::cli {
namespace {

struct Options {
  BuildOptions build;
  std::string output;
  std::string batch;
  std::string device = "cuda:0";
  std::vector<std::string> shapes;
  std::uint64_t workspace_mib = 0;
  std::string layers;
  bool json = false;
};

std::int64_t number(std::string_view text, const std::string& what) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1) {
    throw UsageError(what + ": expected a whole number of 1 or more, got " + in_quotes(text));
  }
  return value;
}

std::vector<std::string_view> split(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + separator.size());
  }
}

// "32", "1..32", "1..8..32"
void read_batch(const std::string& text, BuildOptions& build) {
  if (text.empty()) return;
  const std::vector<std::string_view> parts = split(text, "..");
  if (parts.size() > 3) throw UsageError("--batch: expected MAX, MIN..MAX or MIN..BEST..MAX");
  build.max_batch = number(parts.back(), "--batch");
  if (parts.size() > 1) build.min_batch = number(parts.front(), "--batch");
  if (parts.size() > 2) build.opt_batch = number(parts[1], "--batch");
  const std::int64_t best = build.opt_batch > 0 ? build.opt_batch : build.max_batch;
  if (build.min_batch > best || best > build.max_batch) {
    throw UsageError("--batch: expected ascending sizes, got " + in_quotes(text));
  }
}

Shape read_shape(std::string_view text) {
  Shape shape;
  for (const std::string_view part : split(text, "x")) shape.push_back(number(part, "--shape"));
  return shape;
}

// "input=1x3x224x224:8x3x224x224:32x3x224x224"; several for several profiles.
void read_shapes(const std::vector<std::string>& texts, BuildOptions& build) {
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    const auto parts =
        split(std::string_view(text).substr(std::min(equals, text.size() - 1) + 1), ":");
    if (equals == std::string::npos || (parts.size() != 1 && parts.size() != 3)) {
      throw UsageError(
          "--shape: expected INPUT=MIN:BEST:MAX or INPUT=SHAPE, each as 1x3x224x224, got " +
          in_quotes(text));
    }
    const ShapeRange range = {read_shape(parts[0]), read_shape(parts[parts.size() / 2]),
                              read_shape(parts.back())};
    build.shapes[text.substr(0, equals)].push_back(range);
  }
}

// The outermost phase as a line on standard error. Phases come from several threads.
class BuildLine {
 public:
  void update(const BuildProgress& progress) {
    const std::lock_guard lock(mutex_);
    if (!progress.parent.empty() || progress.steps == 0) return;
    if (progress.phase != phase_) {
      line_ = std::make_unique<Progress>(progress.phase, static_cast<std::uint64_t>(progress.steps),
                                         "steps");
      phase_ = progress.phase;
    }
    if (progress.finished) {
      line_.reset();
      phase_.clear();
    } else if (line_) {
      line_->update(static_cast<std::uint64_t>(progress.step));
    }
  }

 private:
  std::mutex mutex_;
  std::string phase_;               // guarded by mutex_
  std::unique_ptr<Progress> line_;  // guarded by mutex_
};

Result<int> run(Options options) {
  BuildOptions& build = options.build;
  read_batch(options.batch, build);
  read_shapes(options.shapes, build);
  build.workspace_bytes = static_cast<std::size_t>(options.workspace_mib) << 20;
  const Result<DeviceId> device = parse_device_id(options.device);
  if (!device.ok()) return device.error();
  build.device = *device;
  if (options.output.empty()) {
    options.output = std::filesystem::path(build.model).replace_extension(".plan").string();
  }
  const InterruptGuard guard;
  std::atomic<bool> cancel{false};
  BuildLine line;
  build.cancel = &cancel;
  build.progress = [&](const BuildProgress& progress) {
    if (interrupted()) cancel.store(true);
    line.update(progress);
  };
  const Result<BuildReport> report = build_engine(build, options.output);
  if (!report.ok()) return report.error();
  if (!options.layers.empty()) {
    Result<void> written = write_text(options.layers, report->layers);
    if (!written.ok()) return std::move(written).error();
  }
  if (options.json) {
    print_json({{"file", report->path},
                {"bytes", report->bytes},
                {"seconds", std::chrono::duration<double>(report->took).count()},
                {"precision", std::string(to_string(build.precision))},
                {"builder", report->builder},
                {"device", report->device}});
  } else {
    print("Built " + in_quotes(report->path) + ", " + format_bytes(report->bytes) + ", in " +
          format_time(report->took) + " with " + report->builder + " for " + report->device +
          ".\n");
  }
  return kFine;
}

}  // namespace

void add_build(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("build", "Makes a TensorRT engine of an ONNX file");
  BuildOptions& build = options->build;
  verb->add_option("MODEL", build.model, "An ONNX file")->required();
  verb->add_option("--output,-o", options->output, "The engine (default: MODEL with .plan)")
      ->type_name("FILE");
  verb->add_option_function<std::string>(
          "--precision",
          [options](const std::string& name) { options->build.precision = *parse_precision(name); },
          "fp32, tf32, fp16, bf16, or typed: exactly the model's own types (default: tf32)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"fp32", "tf32", "fp16", "bf16", "typed"}));
  verb->add_option("--batch", options->batch,
                   "Items in a batch: MAX, MIN..MAX or MIN..BEST..MAX (default: 1..32)")
      ->type_name("RANGE");
  verb->add_option("--shape", options->shapes,
                   "Of an input with other dynamic dimensions: INPUT=MIN:BEST:MAX; several times "
                   "for several profiles")
      ->type_name("RANGE")
      ->take_all();
  verb->add_option("--optimization-level", build.optimization_level,
                   "0 (quick to build) to 5 (fast to run) (default: 3)")
      ->check(CLI::Range(0, 5))
      ->type_name("N");
  verb->add_option("--workspace", options->workspace_mib, "Most scratch memory, in MiB")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 24))
      ->type_name("MIB");
  verb->add_option("--aux-streams", build.aux_streams,
                   "Streams that one run may use besides its own (default: 0)")
      ->check(CLI::Range(0, 16))
      ->type_name("N");
  verb->add_option("--timing-cache", build.timing_cache, "Read and written: quickens builds")
      ->type_name("FILE");
  verb->add_option("--plugin", build.plugins,
                   "A shared library of plug-ins; may come several times")
      ->type_name("FILE")
      ->take_all();
  verb->add_flag("--version-compatible", build.version_compatible,
                 "Runs with later TensorRT versions of the same major");
  verb->add_flag("--hardware-compatible", build.hardware_compatible,
                 "Runs on all GPUs from Ampere on");
  verb->add_option("--layers", options->layers, "Write what the engine is made of, as JSON")
      ->type_name("FILE");
  verb->add_option("--device", options->device, "The GPU to build for (default: cuda:0)")
      ->type_name("NAME");
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([options, &context] { context.action = [options] { return run(*options); }; });
}

}  // namespace millrace::cli
