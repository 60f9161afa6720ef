// A TensorRT engine on one GPU.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <NvInferRuntime.h>

#include "backends/backend.h"
#include "backends/shared_block.h"
#include "backends/tensorrt/allocator.h"
#include "backends/tensorrt/logger.h"
#include "backends/tensorrt/options.h"
#include "device/ledger.h"

namespace millrace::tensorrt {

/// How a tensor is bound, in the order of PlanInfo.
struct Binding {
  std::string name;
  DataType type = DataType::fp32;
  /// Outputs: the size is known only after computing.
  bool data_dependent = false;
  /// Inputs: the host reads the values, which decide on shapes.
  bool on_host = false;
};

/// Per input of one optimization profile: its shapes, and the values of those on the host.
struct Profile {
  std::vector<Shape> min, opt, max;
  std::vector<std::vector<std::int64_t>> least, best, most;
};

/// The one `ICudaEngine` of a model on a device, shared by its lanes.
class LoadedEngine {
 public:
  /// `plan` is a serialized engine. the content of `file` (empty: of none). Errors:
  /// invalid_argument for one that is damaged, or of another GPU or TensorRT version; unsupported
  /// for tensors that cannot be bound; out_of_memory.
  [[nodiscard]] static Result<std::shared_ptr<LoadedEngine>> load(
      const ModelSpec& spec, const Options& options, std::string_view plan, const std::string& file,
      DeviceRef device, MemoryLedger& ledger);

  [[nodiscard]] const PlanInfo& info() const noexcept { return info_; }
  [[nodiscard]] Footprint footprint() const noexcept { return footprint_; }
  [[nodiscard]] DeviceRef device() const noexcept { return device_; }
  [[nodiscard]] const std::vector<Binding>& inputs() const noexcept { return inputs_; }
  [[nodiscard]] const std::vector<Binding>& outputs() const noexcept { return outputs_; }
  [[nodiscard]] const std::vector<Profile>& profiles() const noexcept { return profiles_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] bool graphs() const noexcept { return options_.graphs != Graphs::off; }
  [[nodiscard]] const Options& options() const noexcept { return options_; }
  /// Whether a run must wait for its end to learn how large its outputs are.
  [[nodiscard]] bool data_dependent() const noexcept;
  /// Whether inputs are read by the host, so that nothing can be prepared.
  [[nodiscard]] bool host_inputs() const noexcept;
  /// The profile that takes the shapes and is best for them; -1 when none does.
  [[nodiscard]] int profile_for(std::span<const TensorView> inputs) const noexcept;

  /// A context without activation memory, set to a profile on `stream`, which the caller
  /// synchronizes before the first run. Only the loader calls it.
  [[nodiscard]] Result<std::unique_ptr<nvinfer1::IExecutionContext>> new_context(
      int profile, cudaStream_t stream);
  /// Of the activation memory of one run.
  [[nodiscard]] std::size_t activation_bytes() const noexcept { return activation_bytes_; }
  /// The block that all lanes use in turn; null where each has its own. Made at the first call. Of
  /// the loader.
  [[nodiscard]] Result<SharedBlock*> shared_activations();
  /// Device memory that TensorRT took through us: weights and contexts.
  [[nodiscard]] std::size_t used_bytes() const noexcept { return allocator_.used_bytes(); }
  /// That, and all memory of the device that did not go through us: what the driver takes for
  /// contexts, kernels and graphs. Differences tell what something took, if nothing else goes on.
  [[nodiscard]] std::size_t taken_bytes() const;

  /// `what` failed: with TensorRT's own words.
  [[nodiscard]] Error error(ErrorCode code, std::string_view what);

 private:
  LoadedEngine(const ModelSpec& spec, const Options& options, DeviceRef device)
      : name_(spec.name),
        options_(options),
        device_(device),
        logger_(spec.name),
        allocator_(device) {}

  Result<void> check_weights();
  Result<void> describe(const ModelSpec& spec);
  [[nodiscard]] bool batched() const;
  Result<void> describe_batch(const ModelSpec& spec);
  Result<void> describe_tensor(const char* tensor);
  Result<void> read_profiles();
  [[nodiscard]] std::vector<std::int64_t> profile_values(
      std::size_t input, int profile, nvinfer1::OptProfileSelector selector) const;
  Result<void> set_best(nvinfer1::IExecutionContext& context,
                        std::vector<std::vector<std::byte>>& values);
  Result<void> measure();

  const std::string name_;
  const Options options_;
  const DeviceRef device_;
  Logger logger_;
  Allocator allocator_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  Reservation reservation_;
  PlanInfo info_;
  Footprint footprint_;
  std::vector<Binding> inputs_, outputs_;
  std::vector<Profile> profiles_;
  std::size_t activation_bytes_ = 0;
  std::unique_ptr<SharedBlock> shared_activations_;
};

/// The values of a tensor of INT32 or INT64, and back. For what the host reads.
[[nodiscard]] std::vector<std::int64_t> values_of(const TensorView& tensor);
[[nodiscard]] std::vector<std::byte> bytes_of(const std::vector<std::int64_t>& values,
                                              DataType type);

}  // namespace millrace::tensorrt
