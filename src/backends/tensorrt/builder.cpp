#include "backends/tensorrt/builder.h"

#include <NvInfer.h>
#include <NvOnnxParser.h>
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "backends/onnx_file.h"
#include "backends/tensorrt/convert.h"
#include "backends/tensorrt/library.h"
#include "backends/tensorrt/logger.h"
#include "backends/tensorrt/plugins.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "device/cuda/cuda_error.h"

// Flags that newer headers deprecate are what the older libraries of the same major version know.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace millrace::tensorrt {
namespace {

/// Hands TensorRT's phases on, and its answer back.
class Monitor final : public nvinfer1::IProgressMonitor {
 public:
  explicit Monitor(const BuildOptions& options) : options_(options) {}

  void phaseStart(const char* phase, const char* parent, std::int32_t steps) noexcept override {
    BuildProgress progress{phase, parent ? parent : "", 0, steps, false};
    {
      const std::lock_guard lock(mutex_);
      phases_[progress.phase] = progress;
    }
    tell(progress);
  }
  bool stepComplete(const char* phase, std::int32_t step) noexcept override {
    BuildProgress progress;
    {
      const std::lock_guard lock(mutex_);
      progress = phases_[phase];
      progress.step = step + 1;
      phases_[phase] = progress;
    }
    tell(progress);
    return !cancelled();
  }
  void phaseFinish(const char* phase) noexcept override {
    BuildProgress progress;
    {
      const std::lock_guard lock(mutex_);
      progress = phases_[phase];
      phases_.erase(phase);
    }
    progress.finished = true;
    tell(progress);
  }
  [[nodiscard]] bool cancelled() const noexcept {
    return options_.cancel && options_.cancel->load(std::memory_order_relaxed);
  }

 private:
  void tell(const BuildProgress& progress) noexcept {
    if (!options_.progress) return;
    try {
      options_.progress(progress);
    } catch (const std::exception& error) {
      log_error("a build's progress function threw: ", error.what());
    }
  }

  const BuildOptions& options_;
  std::mutex mutex_;
  std::map<std::string, BuildProgress> phases_;  // guarded by mutex_
};

/// Gives TensorRT 10 the ranges that an earlier calibration found, and no inputs to calibrate with.
class KnownRanges final : public nvinfer1::IInt8EntropyCalibrator2 {
 public:
  explicit KnownRanges(std::string cache) : cache_(std::move(cache)) {}

  std::int32_t getBatchSize() const noexcept override { return 1; }
  bool getBatch(void*[], const char*[], std::int32_t) noexcept override { return false; }
  const void* readCalibrationCache(std::size_t& length) noexcept override {
    length = cache_.size();
    return cache_.data();
  }
  void writeCalibrationCache(const void*, std::size_t) noexcept override {}

 private:
  const std::string cache_;
};

class Build {
 public:
  Build(const BuildOptions& options, const std::string& name, const std::string& content)
      : options_(options),
        precision_(resolved_precision(options.precision, content)),
        name_(name),
        content_(content),
        logger_(name),
        monitor_(options) {}

  Result<Built> run();

 private:
  [[nodiscard]] Error error(ErrorCode code, std::string_view what);
  [[nodiscard]] Error parse_error(const nvonnxparser::IParser& parser);
  Result<void> configure();
  Result<void> set_precision();
  Result<void> add_profiles();
  Result<void> add_profile(std::size_t index);
  Result<void> add_values(nvinfer1::IOptimizationProfile& profile, const nvinfer1::ITensor& input,
                          std::size_t index);
  Result<ShapeRange> range_for(const nvinfer1::ITensor& input, std::size_t index) const;
  Result<void> open_timing_cache();
  void save_timing_cache() const;
  Result<std::string> inspect(const nvinfer1::IHostMemory& plan);

  const BuildOptions& options_;
  const Precision precision_;
  const std::string& name_;
  const std::string& content_;
  Logger logger_;
  Monitor monitor_;
  const BuilderLibrary* library_ = nullptr;
  std::unique_ptr<nvinfer1::IBuilder> builder_;
  std::unique_ptr<nvinfer1::INetworkDefinition> network_;
  std::unique_ptr<nvinfer1::IBuilderConfig> config_;
  std::unique_ptr<nvinfer1::ITimingCache> timing_;
  std::unique_ptr<KnownRanges> ranges_;
};

Error Build::error(ErrorCode code, std::string_view what) {
  const std::string words = logger_.take_errors();
  const std::string says = words.empty() ? "" : concat("; TensorRT says: ", words);
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  if (says_out_of_memory(words) && cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess) {
    return {ErrorCode::out_of_memory,
            concat("model \"", name_, "\": building needed more memory than is free on ",
                   options_.device, ", ", format_bytes(free_bytes), " of ",
                   format_bytes(total_bytes), says)};
  }
  return {code, concat("model \"", name_, "\": ", what, says)};
}

Error Build::parse_error(const nvonnxparser::IParser& parser) {
  std::string text;
  ErrorCode code = ErrorCode::invalid_argument;
  for (int i = 0; i < parser.getNbErrors(); ++i) {
    const nvonnxparser::IParserError& found = *parser.getError(i);
    using Code = nvonnxparser::ErrorCode;
    if (found.code() == Code::kUNSUPPORTED_NODE || found.code() == Code::kUNSUPPORTED_GRAPH ||
        found.code() == Code::kUNSUPPORTED_NODE_ATTR ||
        found.code() == Code::kUNSUPPORTED_NODE_INPUT ||
        found.code() == Code::kUNSUPPORTED_NODE_DATATYPE ||
        found.code() == Code::kUNSUPPORTED_NODE_DYNAMIC ||
        found.code() == Code::kUNSUPPORTED_NODE_SHAPE) {
      code = ErrorCode::unsupported;
    }
    // The parser looks among the plug-ins for what it does not know, and names that as the fault.
    const std::string_view reason = found.desc() ? found.desc() : "no reason given";
    if (reason.find("Plugin not found") != std::string_view::npos) code = ErrorCode::unsupported;
    const std::string_view op = found.nodeOperator() ? found.nodeOperator() : "";
    const std::string_view node = found.nodeName() ? found.nodeName() : "";
    const std::string where = node.empty() ? concat("number ", found.node()) : quote(node);
    text +=
        concat("\n  ", op.empty() ? "" : concat("operator ", op, " of node ", where, ": "), reason);
  }
  (void)logger_.take_errors();
  return {code, concat("model \"", name_, "\" cannot be read as ONNX by TensorRT:", text)};
}

Result<void> Build::configure() {
  nvinfer1::IBuilderConfig& config = *config_;
  config.setBuilderOptimizationLevel(options_.optimization_level);
  config.setMaxAuxStreams(options_.aux_streams);
  config.setProgressMonitor(&monitor_);
  config.setProfilingVerbosity(nvinfer1::ProfilingVerbosity::kDETAILED);
  if (options_.workspace_bytes > 0) {
    config.setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, options_.workspace_bytes);
  }
  if (options_.version_compatible) config.setFlag(nvinfer1::BuilderFlag::kVERSION_COMPATIBLE);
  if (options_.hardware_compatible) {
    config.setHardwareCompatibilityLevel(nvinfer1::HardwareCompatibilityLevel::kAMPERE_PLUS);
  }
  MILLRACE_TRY(set_precision());
  MILLRACE_TRY(add_profiles());
  return open_timing_cache();
}

Result<void> Build::set_precision() {
  using Flag = nvinfer1::BuilderFlag;
  if (precision_ == Precision::fp32) config_->clearFlag(Flag::kTF32);
  if (precision_ == Precision::fp16) config_->setFlag(Flag::kFP16);
  if (precision_ == Precision::bf16) config_->setFlag(Flag::kBF16);
  if (precision_ == Precision::int8) config_->setFlag(Flag::kINT8);
  if (precision_ == Precision::fp8) config_->setFlag(Flag::kFP8);
  if (precision_ != Precision::int8 && precision_ != Precision::fp8) return {};
  if (!options_.calibration_cache.empty()) {
    MILLRACE_ASSIGN(std::string cache, read_file(options_.calibration_cache));
    ranges_ = std::make_unique<KnownRanges>(std::move(cache));
    config_->setInt8Calibrator(ranges_.get());
  } else if (!summarize_onnx(content_).quantized) {
    return Error{ErrorCode::invalid_argument,
                 concat("model \"", name_, "\" has no Q/DQ nodes, so that nothing is known of its ",
                        "ranges in ", to_string(precision_),
                        "; make a variant of it with \"millrace build --variant ",
                        to_string(precision_), " --calibrate FOLDER\"",
                        precision_ == Precision::int8 ? ", or give a calibration cache" : "")};
  }
  return {};
}

Result<ShapeRange> Build::range_for(const nvinfer1::ITensor& input, std::size_t index) const {
  const std::string name = input.getName();
  if (const auto given = options_.shapes.find(name); given != options_.shapes.end()) {
    if (index < given->second.size()) return given->second[index];
    return Error{ErrorCode::invalid_argument,
                 concat("model \"", name_, "\": input ", quote(name), " has ", given->second.size(),
                        " shape ranges, others have more; give every input as many")};
  }
  const Shape shape = shape_of(input.getDimensions());
  for (std::size_t d = 1; d < shape.rank(); ++d) {
    if (shape[d] != kDynamic) continue;
    return Error{
        ErrorCode::invalid_argument,
        concat("model \"", name_, "\": input ", quote(name), " is ", shape,
               ": name the sizes of its dynamic dimensions (--shape ", name, "=MIN:OPT:MAX)")};
  }
  ShapeRange range{shape, shape, shape};
  if (shape.rank() > 0 && shape[0] == kDynamic) {
    range.min[0] = options_.min_batch;
    range.opt[0] = options_.opt_batch > 0 ? options_.opt_batch : options_.max_batch;
    range.max[0] = options_.max_batch;
  }
  return range;
}

/// Of an input whose values are a shape: the range is of the values.
Result<void> Build::add_values(nvinfer1::IOptimizationProfile& profile,
                               const nvinfer1::ITensor& input, std::size_t index) {
  const std::string name = input.getName();
  const Shape shape = shape_of(input.getDimensions());
  const std::size_t count = shape.rank() == 0 ? 1 : static_cast<std::size_t>(shape[0]);
  if (shape.rank() > 1 || (shape.rank() == 1 && shape[0] == kDynamic)) {
    return Error{ErrorCode::unsupported, concat("model \"", name_, "\": the values of input ",
                                                quote(name), " decide on shapes, and there are ",
                                                shape, " of them; expected a fixed number")};
  }
  if (!options_.shapes.contains(name)) {
    return Error{ErrorCode::invalid_argument,
                 concat("model \"", name_, "\": the values of input ", quote(name),
                        " decide on shapes: name the least, best and largest ones (--shape ", name,
                        "=MIN:BEST:MAX)")};
  }
  MILLRACE_ASSIGN(const ShapeRange range, range_for(input, index));
  using Selector = nvinfer1::OptProfileSelector;
  for (const auto& [selector, values] : {std::pair{Selector::kMIN, &range.min},
                                         {Selector::kOPT, &range.opt},
                                         {Selector::kMAX, &range.max}}) {
    const std::vector<std::int32_t> numbers(values->begin(), values->end());
    if (numbers.size() == count && profile.setShapeValues(name.c_str(), selector, numbers.data(),
                                                          static_cast<std::int32_t>(count))) {
      continue;
    }
    return error(ErrorCode::invalid_argument, concat("input ", quote(name), " has ", count,
                                                     " values, which cannot be ", *values));
  }
  return {};
}

Result<void> Build::add_profile(std::size_t index) {
  nvinfer1::IOptimizationProfile& profile = *builder_->createOptimizationProfile();
  for (int i = 0; i < network_->getNbInputs(); ++i) {
    const nvinfer1::ITensor& input = *network_->getInput(i);
    if (input.isShapeTensor()) {
      MILLRACE_TRY(add_values(profile, input, index));
      continue;
    }
    MILLRACE_ASSIGN(const ShapeRange range, range_for(input, index));
    MILLRACE_ASSIGN(const nvinfer1::Dims min, dims_of(range.min));
    MILLRACE_ASSIGN(const nvinfer1::Dims opt, dims_of(range.opt));
    MILLRACE_ASSIGN(const nvinfer1::Dims max, dims_of(range.max));
    using Selector = nvinfer1::OptProfileSelector;
    if (!profile.setDimensions(input.getName(), Selector::kMIN, min) ||
        !profile.setDimensions(input.getName(), Selector::kOPT, opt) ||
        !profile.setDimensions(input.getName(), Selector::kMAX, max)) {
      return error(ErrorCode::invalid_argument,
                   concat("input ", quote(input.getName()), " cannot have the shapes ", range.min,
                          " to ", range.max, ", best ", range.opt));
    }
  }
  if (config_->addOptimizationProfile(&profile) >= 0) return {};
  return error(ErrorCode::invalid_argument, "the shapes asked for do not fit the model");
}

Result<void> Build::add_profiles() {
  std::size_t profiles = 1;
  for (const auto& [input, ranges] : options_.shapes) {
    bool known = false;
    for (int i = 0; i < network_->getNbInputs(); ++i) {
      known = known || input == network_->getInput(i)->getName();
    }
    if (!known) {
      return Error{ErrorCode::invalid_argument,
                   concat("model \"", name_, "\" has no input ", quote(input))};
    }
    profiles = std::max(profiles, ranges.size());
  }
  for (std::size_t i = 0; i < profiles; ++i) MILLRACE_TRY(add_profile(i));
  return {};
}

Result<void> Build::open_timing_cache() {
  if (options_.timing_cache.empty()) return {};
  std::string known;
  if (Result<std::string> file = read_file(options_.timing_cache)) {
    known = std::move(*file);
  } else if (file.error().code != ErrorCode::not_found) {
    return std::move(file).error();
  }
  timing_.reset(config_->createTimingCache(known.data(), known.size()));
  if (!timing_ || !config_->setTimingCache(*timing_, false)) {
    log_warning("timing cache ", quote(options_.timing_cache),
                " is of another GPU or TensorRT; starting a new one: ", logger_.take_errors());
    timing_.reset(config_->createTimingCache(nullptr, 0));
    if (timing_) (void)config_->setTimingCache(*timing_, false);
  }
  return {};
}

void Build::save_timing_cache() const {
  if (!timing_) return;
  const std::unique_ptr<nvinfer1::IHostMemory> bytes(timing_->serialize());
  if (!bytes) return;
  const Result<void> written =
      write_file(options_.timing_cache, {static_cast<const char*>(bytes->data()), bytes->size()});
  if (!written) log_warning(written.error().message);
}

Result<std::string> Build::inspect(const nvinfer1::IHostMemory& plan) {
  const std::unique_ptr<nvinfer1::IRuntime> runtime = library_->runtime->new_runtime(logger_);
  if (!runtime) return error(ErrorCode::internal, "TensorRT does not start");
  if (options_.version_compatible) runtime->setEngineHostCodeAllowed(true);
  const std::unique_ptr<nvinfer1::ICudaEngine> engine(
      runtime->deserializeCudaEngine(plan.data(), plan.size()));
  if (!engine) return error(ErrorCode::internal, "the engine just built cannot be used");
  const std::unique_ptr<nvinfer1::IEngineInspector> inspector(engine->createEngineInspector());
  if (!inspector) return std::string();
  const char* text = inspector->getEngineInformation(nvinfer1::LayerInformationFormat::kJSON);
  return std::string(text ? text : "");
}

Result<Built> Build::run() {
  MILLRACE_ASSIGN(library_, open_builder_library());
  const TimePoint start = Clock::now();
  MILLRACE_TRY(check_cuda(cudaSetDevice(options_.device.index), "cudaSetDevice"));
  MILLRACE_TRY(register_plugins(*library_->runtime, options_.plugins));
  builder_ = library_->new_builder(logger_);
  if (!builder_) {
    return error(ErrorCode::unavailable, "TensorRT's builder does not start on this GPU");
  }
  const bool typed = precision_ == Precision::typed;
  const auto flag = nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED;
  network_.reset(builder_->createNetworkV2(typed ? 1U << static_cast<unsigned>(flag) : 0U));
  config_.reset(builder_->createBuilderConfig());
  if (!network_ || !config_) return error(ErrorCode::internal, "TensorRT makes no network");
  {
    const std::unique_ptr<nvonnxparser::IParser> parser = library_->new_parser(*network_, logger_);
    if (!parser) return error(ErrorCode::internal, "TensorRT makes no ONNX parser");
    if (!parser->parse(content_.data(), content_.size(), options_.model.c_str())) {
      return parse_error(*parser);
    }
    MILLRACE_TRY(configure());
    std::unique_ptr<nvinfer1::IHostMemory> plan(
        builder_->buildSerializedNetwork(*network_, *config_));
    if (monitor_.cancelled()) {
      return Error{ErrorCode::cancelled, concat("building \"", name_, "\" was cancelled")};
    }
    if (!plan) return error(ErrorCode::internal, "TensorRT cannot build an engine");
    save_timing_cache();
    Built built;
    MILLRACE_ASSIGN(built.layers, inspect(*plan));
    built.plan.assign(static_cast<const char*>(plan->data()), plan->size());
    built.took = Clock::now() - start;
    built.precision = precision_;
    return built;
  }
}

}  // namespace

Result<Built> build(const BuildOptions& options, const std::string& name,
                    const std::string& content) {
  return Build(options, name, content).run();
}

Precision resolved_precision(Precision asked, std::string_view content) {
  if (asked != Precision::automatic) return asked;
  const OnnxSummary summary = summarize_onnx(content);
  return summary.quantized || !summary.variant.empty() ? Precision::typed : Precision::tf32;
}

std::string describe(const BuildOptions& options) {
  std::string text =
      concat("precision=", to_string(options.precision), " batch=", options.min_batch, "..",
             options.opt_batch > 0 ? options.opt_batch : options.max_batch, "..", options.max_batch,
             " level=", options.optimization_level, " workspace=", options.workspace_bytes,
             " aux=", options.aux_streams, options.version_compatible ? " version_compatible" : "",
             options.hardware_compatible ? " hardware_compatible" : "");
  for (const auto& [input, ranges] : options.shapes) {
    for (const ShapeRange& range : ranges) {
      text += concat(" ", input, "=", range.min, ":", range.opt, ":", range.max);
    }
  }
  return text;
}

}  // namespace millrace::tensorrt
