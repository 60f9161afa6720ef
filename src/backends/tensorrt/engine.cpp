#include "backends/tensorrt/engine.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "backends/tensorrt/convert.h"
#include "backends/tensorrt/library.h"
#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "device/cuda/cuda_error.h"

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
  return {code, concat("model \"", name_, "\" on ", device_->id(), ": ", what,
                       words.empty() ? "" : "; TensorRT says: ", words)};
}

Result<std::shared_ptr<LoadedEngine>> LoadedEngine::load(const ModelSpec& spec,
                                                         const Options& options,
                                                         std::string_view plan,
                                                         const std::string& file, DeviceRef device,
                                                         MemoryLedger& ledger) {
  MILLRACE_ASSIGN(const Library* library, open_library());
  MILLRACE_TRY(check_cuda(cudaSetDevice(device->id().index), "cudaSetDevice"));
  std::shared_ptr<LoadedEngine> loaded(new LoadedEngine(spec, options, device));
  for (const std::string& plugin : options.plugins) {
    if (library->plugins->loadLibrary(plugin.c_str())) continue;
    return loaded->error(ErrorCode::invalid_argument,
                         concat("plug-in library ", quote(plugin), " cannot be loaded"));
  }
  // Admitted by the file's size, which is little more than the weights; corrected below.
  MILLRACE_ASSIGN(loaded->reservation_,
                  ledger.reserve(concat("model \"", spec.name, "\""), plan.size()));
  loaded->runtime_ = library->new_runtime(loaded->logger_);
  if (!loaded->runtime_) return loaded->error(ErrorCode::internal, "TensorRT does not start");
  loaded->runtime_->setGpuAllocator(&loaded->allocator_);
  loaded->engine_.reset(loaded->runtime_->deserializeCudaEngine(plan.data(), plan.size()));
  if (!loaded->engine_) {
    return loaded->error(
        ErrorCode::invalid_argument,
        concat(file.empty() ? std::string("the engine") : quote(file),
               " cannot be used here: it is damaged, or was built for another GPU or by "
               "another TensorRT. This is TensorRT ",
               library->text, " on ", gpu_text(device),
               "; build it again from its ONNX file with \"millrace build\""));
  }
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

Result<void> LoadedEngine::describe(const ModelSpec& spec) {
  for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
    MILLRACE_TRY(describe_tensor(engine_->getIOTensorName(i)));
  }
  MILLRACE_TRY(read_profiles());
  // The first dimension counts items when it is dynamic in every input.
  const auto dynamic_first = [](const TensorInfo& info) {
    return info.shape.rank() > 0 && info.shape[0] == kDynamic;
  };
  const bool batched =
      !info_.inputs.empty() && std::all_of(info_.inputs.begin(), info_.inputs.end(), dynamic_first);
  info_.max_items = 1;
  if (batched) {
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
      for (TensorInfo& info : *infos) {
        if (dynamic_first(info)) info.batch_axis = 0;
      }
    }
  }
  if (spec.max_items > 0 && batched && spec.max_items > info_.max_items) {
    return Error{ErrorCode::invalid_argument,
                 concat("model \"", name_, "\": batches of ", spec.max_items,
                        " are asked for, but the engine takes at most ", info_.max_items,
                        "; build it with --batch 1..", spec.max_items)};
  }
  info_.default_lanes = 4;
  info_.lanes_share_weights = true;
  info_.alignment = kAlignment;
  info_.metadata.emplace_back("profiles", std::to_string(profiles_.size()));
  info_.metadata.emplace_back("layers", std::to_string(engine_->getNbLayers()));
  info_.metadata.emplace_back("graphs", graphs_ ? "on" : "off");
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
  if (engine_->getTensorLocation(tensor) == nvinfer1::TensorLocation::kHOST) {
    return refuse("is a shape tensor, read by the host; this is not supported yet");
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
  (input ? info_.inputs : info_.outputs).push_back(info);
  (input ? inputs_ : outputs_).push_back({info.name, *type, false});
  return {};
}

Result<void> LoadedEngine::read_profiles() {
  for (int i = 0; i < engine_->getNbOptimizationProfiles(); ++i) {
    Profile profile;
    for (const Binding& input : inputs_) {
      const auto shape = [&](nvinfer1::OptProfileSelector selector) {
        return shape_of(engine_->getProfileShape(input.name.c_str(), i, selector));
      };
      profile.min.push_back(shape(nvinfer1::OptProfileSelector::kMIN));
      profile.opt.push_back(shape(nvinfer1::OptProfileSelector::kOPT));
      profile.max.push_back(shape(nvinfer1::OptProfileSelector::kMAX));
    }
    profiles_.push_back(std::move(profile));
  }
  return {};
}

// What a context takes is only known by making one.
Result<void> LoadedEngine::measure() {
  activation_bytes_ =
      static_cast<std::size_t>(std::max<std::int64_t>(engine_->getDeviceMemorySizeV2(), 0));
  MILLRACE_ASSIGN(Stream stream, device_->new_stream({}));
  auto* native = static_cast<cudaStream_t>(stream.ref().native_handle());
  const std::size_t before = used_bytes();
  MILLRACE_ASSIGN(auto context, new_context(0, native));
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    MILLRACE_ASSIGN(const nvinfer1::Dims dims, dims_of(profiles_[0].opt[i]));
    if (!context->setInputShape(inputs_[i].name.c_str(), dims)) {
      return error(ErrorCode::internal, "the engine refuses its own best shapes");
    }
  }
  for (Binding& output : outputs_) {
    const Shape shape = shape_of(context->getTensorShape(output.name.c_str()));
    output.data_dependent =
        std::any_of(shape.begin(), shape.end(), [](std::int64_t size) { return size == kDynamic; });
  }
  MILLRACE_TRY(stream.ref().synchronize());
  footprint_.lane_bytes = activation_bytes_ + (used_bytes() - before);
  footprint_.prepared_bytes = used_bytes() - before;
  return {};
}

bool LoadedEngine::data_dependent() const noexcept {
  return std::any_of(outputs_.begin(), outputs_.end(),
                     [](const Binding& output) { return output.data_dependent; });
}

int LoadedEngine::profile_for(std::span<const TensorView> inputs) const noexcept {
  int best = -1;
  std::int64_t best_distance = INT64_MAX;
  for (std::size_t p = 0; p < profiles_.size(); ++p) {
    const Profile& profile = profiles_[p];
    bool fits = true;
    std::int64_t distance = 0;
    for (std::size_t i = 0; i < inputs.size() && fits; ++i) {
      const Shape& shape = inputs[i].shape;
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
