#include "cli/verify.h"

#include <algorithm>
#include <filesystem>
#include <span>

#include <millrace/engine.h>

#include "cli/bench_inputs.h"
#include "cli/bench_measure.h"
#include "cli/run_inputs.h"
#include "cli/variant.h"

namespace millrace::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kRandomItems = 32;
constexpr std::uint64_t kSeed = 1;

Result<std::vector<std::string>> arrays_of(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const fs::path extension = at->path().extension();
    if (extension == ".npy" || extension == ".npz") files.push_back(at->path().string());
  }
  if (error) {
    return Error{ErrorCode::not_found,
                 "cannot read the folder " + in_quotes(folder) + ": " + error.message()};
  }
  if (files.empty()) {
    return Error{ErrorCode::invalid_argument, "the folder " + in_quotes(folder) +
                                                  " holds no inputs: expected .npy or .npz files"};
  }
  std::sort(files.begin(), files.end());
  return files;
}

class Verification {
 public:
  explicit Verification(const VerifyOptions& options)
      : options_(options), reference_plan_(options.subject, ".plan") {}

  Result<VerifyReport> run();

 private:
  Result<void> open();
  Result<void> open_reference(bool host);
  Result<Model> load(const std::string& name, const std::string& path, const std::string& backend,
                     DeviceId device, std::map<std::string, std::string> options);
  Result<void> compare(std::span<const NamedTensor> inputs);
  Result<void> compare_files();
  Result<void> compare_random();

  const VerifyOptions& options_;
  ScratchFile reference_plan_;
  std::unique_ptr<Engine> engine_;
  Model reference_, subject_;
  std::int64_t most_items_ = 1;  // in a request
  VerifyReport report_;
};

Result<Model> Verification::load(const std::string& name, const std::string& path,
                                 const std::string& backend, DeviceId device,
                                 std::map<std::string, std::string> options) {
  ModelConfig config;
  config.name = name;
  config.path = path;
  config.backend = backend;
  config.devices = {device};
  config.lanes = config.slots = 1;
  config.options = std::move(options);
  if (backend == "tensorrt") config.plugins = options_.build.plugins;
  return engine_->load(std::move(config));
}

Result<void> Verification::open_reference(bool host) {
  const std::string& model = options_.build.model;
  Error why;
  if (host) {
    // As written: what is fused for speed may round otherwise, or not at all.
    Result<Model> loaded = load("reference", model, "onnxruntime", DeviceId::host(0),
                                {{"graph_optimization", "basic"}});
    report_.reference = "ONNX Runtime in FP32 on the host";
    if (loaded.ok()) {
      reference_ = std::move(*loaded);
      return {};
    }
    why = std::move(loaded).error();
    if (options_.device.kind == DeviceKind::host) return why;
    warn("the reference cannot run on the host, and is built for the GPU: " + why.message);
  }
  BuildOptions build = options_.build;
  build.precision = Precision::fp32;
  build.calibration_cache.clear();
  Result<BuildReport> built = build_engine(build, reference_plan_.path());
  if (!built.ok()) return std::move(built).error();
  Result<Model> loaded =
      load("reference", reference_plan_.path(), "tensorrt", options_.device, options_.options);
  if (!loaded.ok()) return std::move(loaded).error();
  reference_ = std::move(*loaded);
  report_.reference = "an FP32 engine of TensorRT";
  return {};
}

Result<void> Verification::open() {
  EngineOptions engine;
  engine.devices.devices = {"host:0"};
  if (options_.device.kind != DeviceKind::host) {
    engine.devices.devices.push_back(to_string(options_.device));
  }
  Result<Engine> created = Engine::create(std::move(engine));
  if (!created.ok()) return std::move(created).error();
  engine_ = std::make_unique<Engine>(std::move(*created));
  const bool gpu = options_.device.kind != DeviceKind::host;
  Result<Model> subject = load("subject", options_.subject, gpu ? "tensorrt" : "onnxruntime",
                               options_.device, options_.options);
  if (!subject.ok()) return std::move(subject).error();
  subject_ = std::move(*subject);
  Result<void> opened = open_reference(true);
  if (!opened.ok()) return opened;
  most_items_ = std::min(reference_.info().max_items, subject_.info().max_items);
  for (const TensorInfo& output : reference_.info().outputs) {
    report_.outputs.emplace_back(output.name);
  }
  return {};
}

Result<void> Verification::compare(std::span<const NamedTensor> inputs) {
  if (interrupted()) return Error{ErrorCode::cancelled, "verifying was cancelled"};
  Request first, second;
  for (const NamedTensor& input : inputs) {
    first.inputs.push_back(input);
    second.inputs.push_back(input);
  }
  Future subject = subject_.submit(std::move(second));
  const Result<Response> expected = reference_.infer(std::move(first));
  const Result<Response> found = subject.get();
  for (const Result<Response>* response : {&expected, &found}) {
    if (response->ok()) continue;
    Error error = response->error();
    error.message =
        (response == &expected ? "the reference: " : "what was built: ") + error.message;
    return error;
  }
  for (std::size_t i = 0; i < expected->outputs.size(); ++i) {
    const NamedTensor& reference = expected->outputs[i];
    for (const NamedTensor& answer : found->outputs) {
      if (answer.name == reference.name) report_.outputs[i].add(reference.view, answer.view);
    }
  }
  return {};
}

Result<void> Verification::compare_files() {
  Result<std::vector<std::string>> files = arrays_of(options_.inputs);
  if (!files.ok()) return std::move(files).error();
  const ModelInfo& info = reference_.info();
  Progress progress("verifying", files->size(), "files");
  for (std::size_t i = 0; i < files->size(); ++i) {
    const std::string& file = (*files)[i];
    if (info.inputs.size() > 1 && file.ends_with(".npy")) {
      return Error{ErrorCode::invalid_argument,
                   in_quotes(file) + ": the model has " + std::to_string(info.inputs.size()) +
                       " inputs; give .npz files with an array for each"};
    }
    InputArguments arguments;
    arguments.inputs = {info.inputs.size() == 1 ? info.inputs[0].name + "=" + file : file};
    Result<Inputs> inputs = open_inputs(arguments, info, {});
    if (!inputs.ok()) return std::move(inputs).error();
    inputs->items_per_request = std::min(inputs->items_per_request, most_items_);
    for (std::int64_t k = 0; k < inputs->requests(); ++k) {
      Result<Request> request = inputs->request(k);
      if (!request.ok()) return std::move(request).error();
      Result<void> compared = compare({request->inputs.begin(), request->inputs.end()});
      if (!compared.ok()) return compared;
    }
    report_.items += inputs->items;
    progress.update(i + 1);
  }
  report_.inputs = "real inputs of " + in_quotes(options_.inputs);
  return {};
}

Result<void> Verification::compare_random() {
  Result<BenchInputs> inputs = BenchInputs::open(reference_.info(), {}, {}, kSeed);
  if (!inputs.ok()) {
    if (inputs.error().code != ErrorCode::unsupported) return std::move(inputs).error();
    return Error{ErrorCode::unsupported,
                 "the model leaves more than the number of items open, so that no random inputs "
                 "can be made for it; give real ones with --verify=FOLDER"};
  }
  const std::int64_t items = std::min(most_items_, kRandomItems);
  Progress progress("verifying", static_cast<std::uint64_t>(kRandomItems), "items");
  for (std::size_t k = 0; report_.items < kRandomItems; ++k) {
    Result<std::vector<NamedTensor>> made = inputs->make(k, items);
    if (!made.ok()) return std::move(made).error();
    Result<void> compared = compare(*made);
    if (!compared.ok()) return compared;
    report_.items += items;
    progress.update(static_cast<std::uint64_t>(report_.items));
  }
  report_.inputs = "random inputs";
  report_.limits.agreement = 0;
  return {};
}

Result<VerifyReport> Verification::run() {
  report_.limits = options_.limits;
  Result<void> done = open();
  if (done.ok()) done = options_.inputs.empty() ? compare_random() : compare_files();
  if (!done.ok()) return std::move(done).error();
  for (const OutputComparison& output : report_.outputs) {
    if (!report_.problem.empty()) break;
    const std::string problem = output.elements() == 0 && output.shape_problem().empty()
                                    ? "nothing was compared"
                                    : problem_of(output, report_.limits);
    if (!problem.empty()) report_.problem = "output " + in_quotes(output.name()) + ": " + problem;
  }
  return std::move(report_);
}

}  // namespace

Result<VerifyReport> verify(const VerifyOptions& options) { return Verification(options).run(); }

std::string VerifyReport::text() const {
  Table table({"output", "max error", "mean error", "relative", "cosine", "agreement", ""},
              {1, 2, 3, 4, 5});
  for (const OutputComparison& output : outputs) {
    const bool good = problem_of(output, limits).empty();
    table.add({printable(output.name()), format_value(output.max_error()),
               format_value(output.mean_error()), format_value(output.relative_error()),
               format_fixed(output.cosine(), 6),
               output.counts_agreement() ? format_percent(output.agreement()) : "-",
               good ? inked(Ink::green, "good") : inked(Ink::red, "not good")});
  }
  return "Against " + reference + ", over " + format_count(static_cast<std::uint64_t>(items)) +
         (items == 1 ? " item" : " items") + " of " + inputs + ":\n" + table.text();
}

Json VerifyReport::json() const {
  Json list = Json::array();
  for (const OutputComparison& output : outputs) {
    Json entry = {{"name", output.name()},
                  {"elements", output.elements()},
                  {"max_error", output.max_error()},
                  {"mean_error", output.mean_error()},
                  {"relative_error", output.relative_error()},
                  {"cosine", output.cosine()},
                  {"not_finite", output.not_finite()},
                  {"good", problem_of(output, limits).empty()}};
    if (output.counts_agreement()) entry["agreement"] = output.agreement();
    list.push_back(std::move(entry));
  }
  return {{"good", problem.empty()},
          {"reference", reference},
          {"inputs", inputs},
          {"items", items},
          {"largest_relative_error", limits.relative_error},
          {"least_agreement", limits.agreement},
          {"outputs", list}};
}

}  // namespace millrace::cli
