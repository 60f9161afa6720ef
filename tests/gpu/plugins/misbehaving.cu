// A library of one TensorRT plug-in, Misbehave, that does what a plug-in must not, so that tests
// can see who notices. It copies its input, FP32 or FP16, to its output. The attribute `how` says
// what it does besides, each time that it is enqueued:
//   0  nothing
//   1  copies on the legacy default stream instead of the one it was given
//   2  cudaDeviceSynchronize
//   3  cudaMalloc and cudaFree
//   4  cudaMemcpyAsync into pageable memory
//   5  writes to an address that is not there: the context is lost
//   6  copies on the per-thread default stream instead
//   7  cudaStreamSynchronize of the stream it was given
// It behaves while TensorRT builds with it, and misbehaves in plans that were loaded.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "examples/plugins/library.h"
#include "examples/plugins/plugin_base.h"

namespace millrace::plugins {
namespace {

enum class How : std::int32_t {
  well,
  legacy_stream,
  device_synchronize,
  allocate,
  pageable_copy,
  illegal_write,
  thread_stream,
  stream_synchronize
};
constexpr auto kLast = static_cast<std::int32_t>(How::stream_synchronize);

constexpr unsigned kThreads = 256;
constexpr std::size_t kMaxBlocks = 1024;
constexpr std::size_t kPageableBytes = 4096;

__global__ void copy_kernel(const std::byte* from, std::byte* to, std::size_t bytes) {
  const std::size_t step = gridDim.x * std::size_t{kThreads};
  for (std::size_t i = blockIdx.x * std::size_t{kThreads} + threadIdx.x; i < bytes; i += step) {
    to[i] = from[i];
  }
}

__global__ void write_kernel(unsigned* word) { *word = 1; }

int copy(const void* from, void* to, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  const auto blocks =
      static_cast<unsigned>(std::min((bytes + kThreads - 1) / kThreads, kMaxBlocks));
  void* arguments[] = {&from, &to, &bytes};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&copy_kernel), dim3(blocks), dim3(kThreads),
                          arguments, 0, stream);
}

class MisbehavePlugin final : public PluginBase {
 public:
  static constexpr const char* kName = "Misbehave";
  static constexpr std::array kAttributes{Attribute{"how", nvinfer1::PluginFieldType::kINT32}};

  static MisbehavePlugin* make(const nvinfer1::PluginFieldCollection& fields,
                               nvinfer1::TensorRTPhase phase) {
    const std::int32_t how = number<std::int32_t>(fields, "how").value_or(-1);
    if (how < 0 || how > kLast) {
      log_error("Misbehave: expected how, 0 to 7");
      return nullptr;
    }
    return new MisbehavePlugin(how, phase == nvinfer1::TensorRTPhase::kRUNTIME);
  }

  MisbehavePlugin(std::int32_t how, bool loaded) : how_(how), loaded_(loaded) {}
  MisbehavePlugin(const MisbehavePlugin& other) : MisbehavePlugin(other.how_, other.loaded_) {}
  MisbehavePlugin& operator=(const MisbehavePlugin&) = delete;
  nvinfer1::IPluginV3* clone() noexcept override {
    return new (std::nothrow) MisbehavePlugin(*this);
  }
  const char* getPluginName() const noexcept override { return kName; }

  std::int32_t getNbOutputs() const noexcept override { return 1; }
  std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t,
                                  const nvinfer1::DataType* inputs,
                                  std::int32_t) const noexcept override {
    outputs[0] = inputs[0];
    return 0;
  }
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t,
                               const nvinfer1::DimsExprs*, std::int32_t,
                               nvinfer1::DimsExprs* outputs, std::int32_t,
                               nvinfer1::IExprBuilder&) noexcept override {
    outputs[0] = inputs[0];
    return 0;
  }
  bool supportsFormatCombination(std::int32_t position,
                                 const nvinfer1::DynamicPluginTensorDesc* tensors, std::int32_t,
                                 std::int32_t) noexcept override {
    return is_linear_float(tensors[position].desc) &&
           tensors[position].desc.type == tensors[0].desc.type;
  }
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    return &collection_;
  }

  /// Loads the kernels, so that a module that loads late is not among the misdeeds.
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
    for (const void* kernel : {reinterpret_cast<const void*>(&copy_kernel),
                               reinterpret_cast<const void*>(&write_kernel)}) {
      cudaFuncAttributes attributes;
      if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) return nullptr;
    }
    return clone();
  }

  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                       const nvinfer1::PluginTensorDesc*, const void* const* inputs,
                       void* const* outputs, void*, cudaStream_t stream) noexcept override {
    const std::size_t bytes = element_count(input_descs[0].dims) *
                              (input_descs[0].type == nvinfer1::DataType::kHALF ? 2 : 4);
    const How how = loaded_ ? static_cast<How>(how_) : How::well;
    if (how == How::legacy_stream) return copy(inputs[0], outputs[0], bytes, cudaStreamLegacy);
    if (how == How::thread_stream) return copy(inputs[0], outputs[0], bytes, cudaStreamPerThread);
    const int copied = copy(inputs[0], outputs[0], bytes, stream);
    return copied != cudaSuccess ? copied : misbehave(how, inputs[0], bytes, stream);
  }

 private:
  /// What comes after the copy.
  int misbehave(How how, const void* input, std::size_t bytes, cudaStream_t stream) {
    switch (how) {
      case How::device_synchronize:
        return cudaDeviceSynchronize();
      case How::stream_synchronize:
        return cudaStreamSynchronize(stream);
      case How::allocate: {
        void* block = nullptr;
        const int status = cudaMalloc(&block, kPageableBytes);
        return status != cudaSuccess ? status : cudaFree(block);
      }
      case How::pageable_copy:
        return cudaMemcpyAsync(pageable_.data(), input, std::min(bytes, pageable_.size()),
                               cudaMemcpyDeviceToHost, stream);
      case How::illegal_write: {
        auto* nowhere = reinterpret_cast<unsigned*>(std::uintptr_t{16});
        void* arguments[] = {&nowhere};
        return cudaLaunchKernel(reinterpret_cast<const void*>(&write_kernel), dim3(1), dim3(1),
                                arguments, 0, stream);
      }
      default:
        return cudaSuccess;
    }
  }

  std::int32_t how_;
  bool loaded_;  // from a plan, as opposed to being built into one
  std::vector<std::byte> pageable_ = std::vector<std::byte>(kPageableBytes);
  nvinfer1::PluginField field_{"how", &how_, nvinfer1::PluginFieldType::kINT32, 1};
  nvinfer1::PluginFieldCollection collection_{1, &field_};
};

}  // namespace
}  // namespace millrace::plugins

nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static millrace::plugins::Creator<millrace::plugins::MisbehavePlugin> misbehave;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&misbehave};
  count = 1;
  return creators;
}
