// millrace build: an ONNX file made into an engine for one GPU, or into a variant of less
// precision.
#include <millrace/build.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <mutex>

#include "cli/bench_measure.h"
#include "cli/print.h"
#include "cli/variant.h"
#include "cli/verbs.h"
#include "cli/verify.h"
#include "io/output_file.h"

namespace millrace::cli {
namespace {

struct Options {
  BuildOptions build;
  VariantOptions variant;
  bool int8 = false;
  std::string output;
  std::string batch;
  std::string device = "cuda:0";
  std::vector<std::string> shapes, min, opt, max;
  std::uint64_t workspace_mib = 0;
  bool refit = false, weight_streaming = false;
  bool verify = false;
  std::string verify_folder;
  double verify_threshold = 0;
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

Shape read_shape(std::string_view text, const std::string& what) {
  Shape shape;
  for (const std::string_view part : split(text, "x")) shape.push_back(number(part, what));
  return shape;
}

// "INPUT" and what follows "=".
std::pair<std::string, std::string_view> at_equals(std::string_view text, const std::string& what,
                                                   const char* expected) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos) {
    throw UsageError(what + ": expected " + expected + ", got " + in_quotes(text));
  }
  return {std::string(text.substr(0, equals)), text.substr(equals + 1)};
}

// "input=1x3x224x224:8x3x224x224:32x3x224x224"; several for several profiles.
void read_shapes(const std::vector<std::string>& texts, BuildOptions& build) {
  const char* const expected = "INPUT=MIN:BEST:MAX or INPUT=SHAPE, each as 1x3x224x224";
  for (const std::string& text : texts) {
    const auto [input, range] = at_equals(text, "--shape", expected);
    const std::vector<std::string_view> parts = split(range, ":");
    if (parts.size() != 1 && parts.size() != 3) {
      throw UsageError(std::string("--shape: expected ") + expected + ", got " + in_quotes(text));
    }
    build.shapes[input].push_back({read_shape(parts[0], "--shape"),
                                   read_shape(parts[parts.size() / 2], "--shape"),
                                   read_shape(parts.back(), "--shape")});
  }
}

// The same by --min, --opt and --max: the first of an input belong together, and so on.
void read_bounds(const Options& options, BuildOptions& build) {
  using Shapes = std::map<std::string, std::vector<Shape>>;
  const auto read = [](const std::vector<std::string>& texts, const std::string& what) {
    Shapes shapes;
    for (const std::string& text : texts) {
      const auto [input, shape] = at_equals(text, what, "INPUT=SHAPE, as images=1x3x224x224");
      shapes[input].push_back(read_shape(shape, what));
    }
    return shapes;
  };
  Shapes min = read(options.min, "--min"), opt = read(options.opt, "--opt");
  const Shapes max = read(options.max, "--max");
  for (const auto* const some : {&min, &opt}) {
    for (const auto& [input, shapes] : *some) {
      if (max.contains(input)) continue;
      throw UsageError("--min and --opt need --max: there is none of " + in_quotes(input));
    }
  }
  for (const auto& [input, shapes] : max) {
    const std::vector<Shape>& least = min[input];
    const std::vector<Shape>& best = opt[input].empty() ? shapes : opt[input];
    if (least.size() != shapes.size() || best.size() != shapes.size()) {
      throw UsageError("--min, --opt and --max of " + in_quotes(input) +
                       ": expected one of each for every profile");
    }
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      build.shapes[input].push_back({least[i], best[i], shapes[i]});
    }
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
  void clear() {
    const std::lock_guard lock(mutex_);
    line_.reset();
    phase_.clear();
  }

 private:
  std::mutex mutex_;
  std::string phase_;               // guarded by mutex_
  std::unique_ptr<Progress> line_;  // guarded by mutex_
};

// What belongs together, and what does not.
void check_usage(Options& options) {
  VariantOptions& variant = options.variant;
  if (options.int8) {
    if (!variant.variant.empty() && variant.variant != "int8") {
      throw UsageError("--int8 is --variant int8, and --variant " + variant.variant + " was given");
    }
    variant.variant = "int8";
  }
  const bool quantized = variant.variant == "int8" || variant.variant == "fp8";
  if (quantized && variant.calibrate.empty()) {
    throw UsageError("--variant " + variant.variant +
                     " needs --calibrate FOLDER, a folder of real inputs");
  }
  if (!quantized && (!variant.calibrate.empty() || !variant.calibration.empty())) {
    throw UsageError("--calibrate and --calibration go with --variant int8 or fp8");
  }
  if (variant.variant.empty() && !variant.keep.empty()) {
    throw UsageError("--keep goes with --variant");
  }
  if (!variant.variant.empty() && options.build.precision != Precision::automatic) {
    throw UsageError("--precision does not go with --variant, which has its types in the file");
  }
  if (variant.variant.empty() && std::filesystem::path(options.output).extension() == ".onnx") {
    throw UsageError("--output: an ONNX file is what --variant makes; got " +
                     in_quotes(options.output));
  }
  if (!options.build.calibration_cache.empty() && options.build.precision != Precision::int8) {
    throw UsageError("--calibration-cache goes with --precision int8");
  }
  if (options.verify_threshold > 0 && !options.verify) {
    throw UsageError("--verify-threshold goes with --verify");
  }
}

std::string default_output(const Options& options) {
  std::filesystem::path path = options.build.model;
  const std::string& variant = options.variant.variant;
  return path.replace_extension(variant.empty() ? ".plan" : "." + variant + ".onnx").string();
}

// What a build made, to be told at its end.
struct Made {
  Json json;
  std::string text;
  std::string precision;  // of which limits are usual
};

Result<Made> make_variant_file(Options& options, const std::string& file, BuildLine& line) {
  options.variant.model = options.build.model;
  options.variant.output = file;
  const TimePoint start = Clock::now();
  const Result<VariantReport> report =
      make_variant(options.variant, [&](const BuildProgress& progress) { line.update(progress); });
  if (!report.ok()) return report.error();
  const Duration took = Clock::now() - start;
  const std::string& variant = options.variant.variant;
  Made made;
  made.precision = variant;
  made.json = {{"file", options.output},
               {"bytes", report->bytes},
               {"seconds", std::chrono::duration<double>(took).count()},
               {"variant", variant},
               {"casts", report->casts},
               {"quantized", report->quantized}};
  made.text = "Wrote " + in_quotes(options.output) + ", " + format_bytes(report->bytes) + ", in " +
              format_time(took) + ": variant " + variant + ", " +
              (report->quantized > 0 ? std::to_string(report->quantized) + " tensors through Q/DQ"
                                     : std::to_string(report->casts) + " casts") +
              ".\n";
  return made;
}

Result<Made> make_engine(const BuildOptions& build, const Options& options) {
  const Result<BuildReport> report = build_engine(build, options.output);
  if (!report.ok()) return report.error();
  if (!options.layers.empty()) {
    Result<void> written = write_text(options.layers, report->layers);
    if (!written.ok()) return std::move(written).error();
  }
  Made made;
  made.precision = std::string(to_string(report->precision));
  made.json = {{"file", report->path},
               {"bytes", report->bytes},
               {"seconds", std::chrono::duration<double>(report->took).count()},
               {"precision", made.precision},
               {"builder", report->builder},
               {"device", report->device}};
  made.text = "Built " + in_quotes(report->path) + ", " + format_bytes(report->bytes) + ", in " +
              format_time(report->took) + " with " + report->builder + " for " + report->device +
              ".\n";
  if (!options.variant.variant.empty()) {
    made.precision = options.variant.variant;
    made.json["variant"] = made.precision;
  }
  return made;
}

// Adds what was found to `made`. `subject` is what runs in place of an ONNX variant.
Result<std::string> verify_made(const Options& options, const std::string& subject, Made& made) {
  VerifyOptions verification;
  verification.build = options.build;
  verification.build.progress = {};
  verification.subject = subject;
  const bool engine = subject == options.output && !options.output.ends_with(".onnx");
  verification.device = engine ? options.build.device : DeviceId::host(0);
  if (engine && options.build.version_compatible) verification.options["host_code"] = "on";
  // ONNX Runtime would make operators of FP8 nodes that it does not have.
  if (!engine && made.precision == "fp8") verification.options["graph_optimization"] = "basic";
  verification.inputs =
      options.verify_folder.empty() ? options.variant.calibrate : options.verify_folder;
  verification.limits = usual_limits(made.precision);
  if (options.verify_threshold > 0) {
    verification.limits.relative_error = options.verify_threshold;
  }
  const Result<VerifyReport> report = verify(verification);
  if (!report.ok()) return report.error();
  made.json["verify"] = report->json();
  made.text += report->text();
  return report->problem;
}

Result<int> run(Options options) {
  BuildOptions& build = options.build;
  check_usage(options);
  read_batch(options.batch, build);
  read_shapes(options.shapes, build);
  read_bounds(options, build);
  if (options.refit || options.weight_streaming) {
    return Error{
        ErrorCode::unsupported,
        std::string(options.refit ? "--refit: engines that are refitted with other weights"
                                  : "--weight-streaming: engines that stream their weights "
                                    "from host memory") +
            " are not supported by Millrace"};
  }
  build.workspace_bytes = static_cast<std::size_t>(options.workspace_mib) << 20;
  const Result<DeviceId> device = parse_device_id(options.device);
  if (!device.ok()) return device.error();
  build.device = *device;
  if (options.output.empty()) options.output = default_output(options);
  const bool makes_engine = !options.output.ends_with(".onnx");
  const bool makes_variant = !options.variant.variant.empty();
  if (makes_engine && makes_variant) {  // calibrating takes long: first whether there is a GPU
    DeviceSetOptions devices;
    devices.devices = {to_string(build.device)};
    const Result<DeviceSet> found = DeviceSet::open(devices);
    if (!found.ok()) return found.error();
  }
  const InterruptGuard guard;
  std::atomic<bool> cancel{false};
  BuildLine line;
  build.cancel = &cancel;
  build.progress = [&](const BuildProgress& progress) {
    if (interrupted()) cancel.store(true);
    line.update(progress);
  };

  ScratchFile variant(options.output, ".onnx"), twin(options.output, ".twin.onnx");
  Result<Made> made = Made{};
  if (makes_variant) {
    const bool wants_twin = options.verify && !makes_engine && options.variant.variant == "bf16";
    if (wants_twin) options.variant.twin = twin.path();
    made = make_variant_file(options, variant.path(), line);
    if (!made.ok()) return std::move(made).error();
  }
  if (makes_engine) {
    BuildOptions of_variant = build;
    if (makes_variant) of_variant.model = variant.path();
    made = make_engine(of_variant, options);
    if (!made.ok()) return std::move(made).error();
  } else {
    Result<void> named = variant.take_place_of(options.output);
    if (!named.ok()) return std::move(named).error();
  }
  line.clear();
  Result<std::string> problem = std::string();
  if (options.verify) {
    problem =
        verify_made(options, options.variant.twin.empty() ? options.output : twin.path(), *made);
  }
  if (options.json) {
    print_json(made->json);
  } else {
    print(made->text);
  }
  if (!problem.ok()) return std::move(problem).error();
  if (problem->empty()) return kFine;
  return Error{ErrorCode::unavailable, in_quotes(options.output) + " is not good: " + *problem};
}

void add_variant_options(CLI::App& verb, Options& options) {
  VariantOptions& variant = options.variant;
  verb.add_option(
          "--variant", variant.variant,
          "Write the model in another precision: fp16, bf16, int8, fp8; an engine is made of "
          "that where --output is no .onnx file")
      ->type_name("NAME")
      ->check(CLI::IsMember({"fp16", "bf16", "int8", "fp8"}));
  verb.add_flag("--int8", options.int8, "The same as --variant int8");
  verb.add_option("--calibrate", variant.calibrate,
                  "Real inputs, for int8 and fp8: .npy or .npz files, each a sample or batch")
      ->type_name("FOLDER");
  verb.add_option("--calibration", variant.calibration,
                  "How ranges follow from them: minmax, entropy, percentile (default: minmax)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"minmax", "entropy", "percentile"}));
  verb.add_option("--keep", variant.keep,
                  "An operator or node of the variant that stays as it is; may come several times")
      ->type_name("NAME")
      ->take_all();
  verb.add_option(
          "--verify", options.verify_folder,
          "Compare the answers with those of the model in FP32, on the inputs in a folder or "
          "on those of --calibrate, else on random ones; exit code 1 where they are not good")
      ->type_name("[FOLDER]")
      ->expected(0, 1);
  verb.add_option("--verify-threshold", options.verify_threshold,
                  "The largest relative error allowed (default: what is usual for the precision)")
      ->check(CLI::PositiveNumber)
      ->type_name("X");
}

}  // namespace

void add_build(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      app.add_subcommand("build", "Makes a TensorRT engine of an ONNX file, or a variant of it");
  BuildOptions& build = options->build;
  verb->add_option("MODEL", build.model, "An ONNX file")->required();
  verb->add_option(
          "--output,-o", options->output,
          "The engine, or a variant's .onnx (default: MODEL with .plan, with .VARIANT.onnx)")
      ->type_name("FILE");
  verb->add_option_function<std::string>(
          "--precision",
          [options](const std::string& name) { options->build.precision = *parse_precision(name); },
          "fp32, tf32, fp16, bf16, int8, fp8, typed (exactly the model's own types) or auto: typed "
          "for variants and models with Q/DQ nodes, else tf32 (default: auto)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"auto", "fp32", "tf32", "fp16", "bf16", "int8", "fp8", "typed"}));
  verb->add_option("--calibration-cache", build.calibration_cache,
                   "Ranges that a calibrator of TensorRT wrote, for --precision int8")
      ->type_name("FILE");
  add_variant_options(*verb, *options);
  verb->add_option("--batch", options->batch,
                   "Items in a batch: MAX, MIN..MAX or MIN..BEST..MAX (default: 1..32)")
      ->type_name("RANGE");
  verb->add_option("--shape", options->shapes,
                   "Of an input with other dynamic dimensions: INPUT=MIN:BEST:MAX; several times "
                   "for several profiles")
      ->type_name("RANGE")
      ->take_all();
  for (const auto& [name, shapes, what] :
       {std::tuple{"--min", &options->min, "least"}, std::tuple{"--opt", &options->opt, "best"},
        std::tuple{"--max", &options->max, "largest"}}) {
    verb->add_option(name, *shapes,
                     std::string("The same, one by one: the ") + what + " shape, as INPUT=SHAPE")
        ->type_name("SHAPE")
        ->take_all();
  }
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
  verb->add_flag("--refit", options->refit, "Not supported: engines that take other weights");
  verb->add_flag("--weight-streaming", options->weight_streaming,
                 "Not supported: engines whose weights stay in host memory");
  verb->add_option("--layers", options->layers, "Write what the engine is made of, as JSON")
      ->type_name("FILE");
  verb->add_option("--device", options->device, "The GPU to build for (default: cuda:0)")
      ->type_name("NAME");
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([options, verb, &context] {
    options->verify = verb->count("--verify") > 0;
    context.action = [options] { return run(*options); };
  });
}

}  // namespace millrace::cli
