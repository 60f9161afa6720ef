// The operator Mish as a TensorRT plug-in: one input, FP32 or FP16, of any shape, and an output
// like it. No attributes.
#pragma once

#include <array>

#include "plugin_base.h"

namespace millrace::plugins {

class MishPlugin final : public PluginBase {
 public:
  static constexpr const char* kName = "MillraceMish";
  static constexpr std::array<Attribute, 0> kAttributes{};
  static MishPlugin* make(const nvinfer1::PluginFieldCollection& fields,
                          nvinfer1::TensorRTPhase phase);

  nvinfer1::IPluginV3* clone() noexcept override;
  const char* getPluginName() const noexcept override { return kName; }

  std::int32_t getNbOutputs() const noexcept override { return 1; }
  std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t output_count,
                                  const nvinfer1::DataType* inputs,
                                  std::int32_t input_count) const noexcept override;
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                               const nvinfer1::DimsExprs*, std::int32_t,
                               nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                               nvinfer1::IExprBuilder&) noexcept override;
  bool supportsFormatCombination(std::int32_t position,
                                 const nvinfer1::DynamicPluginTensorDesc* tensors, std::int32_t,
                                 std::int32_t) noexcept override;

  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override;
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                       const nvinfer1::PluginTensorDesc*, const void* const* inputs,
                       void* const* outputs, void*, cudaStream_t stream) noexcept override;
};

}  // namespace millrace::plugins
