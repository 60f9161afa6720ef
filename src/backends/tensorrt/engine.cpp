#include "backends/tensorrt/engine.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "backends/tensorrt/convert.h"
#include "backends/tensorrt/library.h"
#include "backends/tensorrt/plugins.h"
#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "device/cuda/cuda_error.h"

// Values of a profile are read by the function that all libraries of this major version have.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace millrace::tensorrt {
namespace {

// TensorRT wants every tensor's first byte there.
constexpr std::size_t kAlignment = 256;

std::string gpu_text(DeviceRef device) {
  const DeviceInfo& info = device->info();
  return concat(info.name, " (compute capability ", info.compute_major, ".", info.compute_minor,
                ")");
}

}  // namespace

Error LoadedEngine::error(ErrorCode code, std::string_view what) {
  const std::string words = logger_.take_errors();
  const std::string model = concat("model \"", name_, "\" on ", device_->id(), ": ");
  if (const std::optional<Error> refusal = allocator_.take_refusal()) {
    return {refusal->code, concat(model, refusal->message)};
  }
  const std::string says = words.empty() ? "" : concat("; TensorRT says: ", words);
  if (says_out_of_memory(words)) {
    return {ErrorCode::out_of_memory, concat(model, "needed more memory than is free, ",
                                             format_bytes(device_->memory().free_bytes), says)};
  }
  return {code, concat(model, what, says)};
}

Result<std::shared_ptr<LoadedEngine>> LoadedEngine::load(const ModelSpec& spec,
                                                         const Options& options,
                                                         std::string_view plan,
                                                         const std::string& file, DeviceRef device,
                                                         MemoryLedger& ledger) {
  MILLRACE_ASSIGN(const Library* library, open_library());
  MILLRACE_TRY(check_cuda(cudaSetDevice(device->id().index), "cudaSetDevice"));
  std::shared_ptr<LoadedEngine> loaded(new LoadedEngine(spec, options, device));
  MILLRACE_TRY(register_plugins(*library, options.build.plugins));
  // Admitted by the file's size, which is little more than the weights; corrected below.
  MILLRACE_ASSIGN(loaded->reservation_,
                  ledger.reserve(concat("model \"", spec.name, "\""), plan.size()));
  loaded->runtime_ = library->new_runtime(loaded->logger_);
  if (!loaded->runtime_) return loaded->error(ErrorCode::internal, "TensorRT does not start");
  loaded->runtime_->setGpuAllocator(&loaded->allocator_);
  if (options.host_code) loaded->runtime_->setEngineHostCodeAllowed(true);
  loaded->engine_.reset(loaded->runtime_->deserializeCudaEngine(plan.data(), plan.size()));
  if (!loaded->engine_) {
    return loaded->error(
        ErrorCode::invalid_argument,
        concat(file.empty() ? std::string("the engine") : quote(file),
               " cannot be used here: it is damaged, or was built for another GPU or by "
               "another TensorRT. This is TensorRT ",
               library->text, " on ", gpu_text(device),
               "; build it again from its ONNX file with \"millrace build\". One that was built "
               "version-compatible needs the option host_code=on"));
  }
  MILLRACE_TRY(loaded->check_weights());
  MILLRACE_TRY(loaded->describe(spec));
  MILLRACE_TRY(loaded->measure());
  loaded->info_.metadata.emplace_back("tensorrt", library->text);
  if (!file.empty()) loaded->info_.metadata.emplace_back("engine_file", file);
  const std::size_t used = loaded->used_bytes();
  if (used > plan.size()) {
    MILLRACE_TRY(loaded->reservation_.grow(used - plan.size()));
  } else {
    loaded->reservation_.shrink(plan.size() - used);
  }
  loaded->footprint_.weights_bytes = used;
  return loaded;
}

/// What an engine needs besides its plan, and does not get here.
Result<void> LoadedEngine::check_weights() {
  if (engine_->getStreamableWeightsSize() > 0) {
    return Error{ErrorCode::unsupported,
                 concat("model \"", name_, "\": the engine streams its weights ",
                        "(BuilderFlag::kWEIGHT_STREAMING), which is not supported yet; build it "
                        "without, so that they lie on the GPU")};
  }
  if (engine_->isRefittable()) {
    return Error{ErrorCode::unsupported,
                 concat("model \"", name_, "\": the engine was built to be refitted ",
                        "(BuilderFlag::kREFIT or kSTRIP_PLAN), so that it may lack weights; "
                        "refitting is not supported yet: build it without")};
  }
  return {};
}

Result<void> LoadedEngine::describe(const ModelSpec& spec) {
  for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
    MILLRACE_TRY(describe_tensor(engine_->getIOTensorName(i)));
  }
  MILLRACE_TRY(read_profiles());
  MILLRACE_TRY(describe_batch(spec));
  info_.default_lanes = 4;
  info_.lanes_share_weights = true;
  info_.alignment = kAlignment;
  info_.metadata.emplace_back("profiles", std::to_string(profiles_.size()));
  info_.metadata.emplace_back("layers", std::to_string(engine_->getNbLayers()));
  constexpr const char* kGraphs[] = {"auto", "on", "off"};
  info_.metadata.emplace_back("graphs", kGraphs[static_cast<std::size_t>(options_.graphs)]);
  info_.metadata.emplace_back("share_activations", options_.share_activations ? "on" : "off");
  return {};
}

/// The first dimension counts items when it is dynamic in every tensor, unless it is said not to.
bool LoadedEngine::batched() const {
  const auto dynamic_first = [](const TensorInfo& info) {
    return !info.on_host && info.shape.rank() > 0 && info.shape[0] == kDynamic;
  };
  return options_.batch_axis && !info_.inputs.empty() &&
         std::all_of(info_.inputs.begin(), info_.inputs.end(), dynamic_first) &&
         std::all_of(info_.outputs.begin(), info_.outputs.end(), dynamic_first);
}

Result<void> LoadedEngine::describe_batch(const ModelSpec& spec) {
  info_.max_items = 1;
  if (batched()) {
    info_.max_items = 0;
    std::int64_t least = INT64_MAX;
    for (const Profile& profile : profiles_) {
      std::int64_t most = INT64_MAX;
      for (std::size_t i = 0; i < inputs_.size(); ++i) {
        most = std::min(most, profile.max[i][0]);
        least = std::min(least, profile.min[i][0]);
      }
      info_.max_items = std::max(info_.max_items, most);
    }
    if (least > 1) {
      return Error{
          ErrorCode::unsupported,
          concat("model \"", name_, "\": the engine takes no less than ", least,
                 " items; build it with a minimum batch of 1 (--batch 1..", info_.max_items, ")")};
    }
    for (auto* infos : {&info_.inputs, &info_.outputs}) {
      for (TensorInfo& info : *infos) info.batch_axis = 0;
    }
  }
  if (spec.max_items > 0 && batched() && spec.max_items > info_.max_items) {
    return Error{ErrorCode::invalid_argument,
                 concat("model \"", name_, "\": batches of ", spec.max_items,
                        " are asked for, but the engine takes at most ", info_.max_items,
                        "; build it with --batch 1..", spec.max_items)};
  }
  return {};
}

Result<void> LoadedEngine::describe_tensor(const char* tensor) {
  const bool input = engine_->getTensorIOMode(tensor) == nvinfer1::TensorIOMode::kINPUT;
  const auto refuse = [&](const auto&... why) {
    return Error{ErrorCode::unsupported,
                 concat("model \"", name_, "\": ", input ? "input" : "output", " ", quote(tensor),
                        " ", why...)};
  };
  const std::optional<DataType> type = data_type(engine_->getTensorDataType(tensor));
  if (!type) return refuse("has a type that no tensor here can have");
  const bool on_host = engine_->getTensorLocation(tensor) == nvinfer1::TensorLocation::kHOST;
  if (on_host && !input) {
    return refuse("is a shape that the host computes, which is not supported yet; cast it to a ",
                  "type that is none of INT32 and INT64, or leave it out");
  }
  if (on_host && *type != DataType::int32 && *type != DataType::int64) {
    return refuse("is read by the host and of the type ", to_string(*type),
                  "; expected INT32 or INT64");
  }
  for (int profile = 0; profile < engine_->getNbOptimizationProfiles(); ++profile) {
    if (engine_->getTensorFormat(tensor, profile) == nvinfer1::TensorFormat::kLINEAR) continue;
    return refuse("has the vectorized format ", engine_->getTensorFormatDesc(tensor, profile),
                  "; build the engine with linear inputs and outputs");
  }
  TensorInfo info;
  info.name = tensor;
  info.type = *type;
  info.shape = shape_of(engine_->getTensorShape(tensor));
  info.on_host = on_host;
  (input ? info_.inputs : info_.outputs).push_back(info);
  (input ? inputs_ : outputs_).push_back({info.name, *type, false, on_host});
  return {};
}

Result<void> LoadedEngine::read_profiles() {
  for (int i = 0; i < engine_->getNbOptimizationProfiles(); ++i) {
    Profile profile;
    for (std::size_t k = 0; k < inputs_.size(); ++k) {
      const Binding& input = inputs_[k];
      const auto shape = [&](nvinfer1::OptProfileSelector selector) {
        if (input.on_host) return info_.inputs[k].shape;
        return shape_of(engine_->getProfileShape(input.name.c_str(), i, selector));
      };
      using Selector = nvinfer1::OptProfileSelector;
      profile.min.push_back(shape(Selector::kMIN));
      profile.opt.push_back(shape(Selector::kOPT));
      profile.max.push_back(shape(Selector::kMAX));
      profile.least.push_back(profile_values(k, i, Selector::kMIN));
      profile.best.push_back(profile_values(k, i, Selector::kOPT));
      profile.most.push_back(profile_values(k, i, Selector::kMAX));
    }
    profiles_.push_back(std::move(profile));
  }
  return {};
}

/// Of an input that the host reads; else none.
std::vector<std::int64_t> LoadedEngine::profile_values(
    std::size_t input, int profile, nvinfer1::OptProfileSelector selector) const {
  if (!inputs_[input].on_host) return {};
  const std::int32_t* values =
      engine_->getProfileTensorValues(inputs_[input].name.c_str(), profile, selector);
  const Result<std::int64_t> count = element_count(info_.inputs[input].shape);
  if (!values || !count) return {};
  return {values, values + *count};
}

/// Shapes and values as the first profile likes them best. `values` holds what the host reads.
Result<void> LoadedEngine::set_best(nvinfer1::IExecutionContext& context,
                                    std::vector<std::vector<std::byte>>& values) {
  const Profile& profile = profiles_.front();
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    const char* const name = inputs_[i].name.c_str();
    bool set = true;
    if (inputs_[i].on_host) {
      values.push_back(bytes_of(profile.best[i], inputs_[i].type));
      set = context.setTensorAddress(name, values.back().data());
    } else {
      MILLRACE_ASSIGN(const nvinfer1::Dims dims, dims_of(profile.opt[i]));
      set = context.setInputShape(name, dims);
    }
    if (!set) return error(ErrorCode::internal, "the engine refuses its own best shapes");
  }
  if (!host_inputs() || context.inferShapes(0, nullptr) == 0) return {};
  return error(ErrorCode::internal, "the engine's own best values leave shapes unknown");
}

// What a context takes is only known by making one.
Result<void> LoadedEngine::measure() {
  activation_bytes_ =
      static_cast<std::size_t>(std::max<std::int64_t>(engine_->getDeviceMemorySizeV2(), 0));
  MILLRACE_ASSIGN(Stream stream, device_->new_stream({}));
  auto* native = static_cast<cudaStream_t>(stream.ref().native_handle());
  const std::size_t before = used_bytes();
  MILLRACE_ASSIGN(auto context, new_context(0, native));
  std::vector<std::vector<std::byte>> values;
  MILLRACE_TRY(set_best(*context, values));
  for (Binding& output : outputs_) {
    const Shape shape = shape_of(context->getTensorShape(output.name.c_str()));
    output.data_dependent =
        std::any_of(shape.begin(), shape.end(), [](std::int64_t size) { return size == kDynamic; });
  }
  MILLRACE_TRY(stream.ref().synchronize());
  const std::size_t context_bytes = used_bytes() - before;
  footprint_.lane_bytes = context_bytes * profiles_.size();
  footprint_.prepared_bytes = context_bytes;
  (options_.share_activations ? footprint_.shared_bytes : footprint_.lane_bytes) +=
      activation_bytes_;
  return {};
}

std::size_t LoadedEngine::taken_bytes() const {
  const MemoryInfo memory = device_->memory();
  const std::size_t known = memory.free_bytes + memory.used_bytes;
  return used_bytes() + (memory.limit_bytes > known ? memory.limit_bytes - known : 0);
}

Result<SharedBlock*> LoadedEngine::shared_activations() {
  if (options_.share_activations && !shared_activations_) {
    MILLRACE_ASSIGN(shared_activations_, SharedBlock::make(device_, activation_bytes_));
  }
  return shared_activations_.get();
}

bool LoadedEngine::host_inputs() const noexcept {
  return std::any_of(inputs_.begin(), inputs_.end(),
                     [](const Binding& input) { return input.on_host; });
}

std::vector<std::int64_t> values_of(const TensorView& tensor) {
  const Result<std::int64_t> count = element_count(tensor.shape);
  std::vector<std::int64_t> values(count ? static_cast<std::size_t>(*count) : 0);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = tensor.type == DataType::int64 ? tensor.as<std::int64_t>()[i]
                                               : tensor.as<std::int32_t>()[i];
  }
  return values;
}

std::vector<std::byte> bytes_of(const std::vector<std::int64_t>& values, DataType type) {
  std::vector<std::byte> bytes(std::max<std::size_t>(values.size(), 1) * sizeof(std::int64_t));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (type == DataType::int64) {
      std::memcpy(bytes.data() + i * sizeof(std::int64_t), &values[i], sizeof(std::int64_t));
    } else {
      const auto narrow = static_cast<std::int32_t>(values[i]);
      std::memcpy(bytes.data() + i * sizeof(narrow), &narrow, sizeof(narrow));
    }
  }
  return bytes;
}

bool LoadedEngine::data_dependent() const noexcept {
  return std::any_of(outputs_.begin(), outputs_.end(),
                     [](const Binding& output) { return output.data_dependent; });
}

/// Of a profile that does not take a value which the host reads: only without any other.
constexpr std::int64_t kFarOff = std::int64_t{1} << 48;

int LoadedEngine::profile_for(std::span<const TensorView> inputs) const noexcept {
  int best = -1;
  std::int64_t best_distance = INT64_MAX;
  for (std::size_t p = 0; p < profiles_.size(); ++p) {
    const Profile& profile = profiles_[p];
    bool fits = true;
    std::int64_t distance = 0;
    for (std::size_t i = 0; i < inputs.size() && fits; ++i) {
      const Shape& shape = inputs[i].shape;
      if (inputs_[i].on_host) {
        const std::vector<std::int64_t> values = values_of(inputs[i]);
        for (std::size_t k = 0; k < values.size() && k < profile.least[i].size(); ++k) {
          const bool taken = values[k] >= profile.least[i][k] && values[k] <= profile.most[i][k];
          if (!taken) distance += kFarOff;
        }
      }
      for (std::size_t d = 0; d < shape.rank(); ++d) {
        fits = fits && shape[d] >= profile.min[i][d] && shape[d] <= profile.max[i][d];
        distance += std::abs(shape[d] - profile.opt[i][d]);
      }
    }
    if (fits && distance < best_distance) {
      best = static_cast<int>(p);
      best_distance = distance;
    }
  }
  return best;
}

Result<std::unique_ptr<nvinfer1::IExecutionContext>> LoadedEngine::new_context(
    int profile, cudaStream_t stream) {
  std::unique_ptr<nvinfer1::IExecutionContext> context(
      engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
  if (!context) return error(ErrorCode::out_of_memory, "TensorRT makes no execution context");
  if (!context->setOptimizationProfileAsync(profile, stream)) {
    return error(ErrorCode::internal, concat("profile ", profile, " cannot be used"));
  }
  return context;
}

}  // namespace millrace::tensorrt
