#include "mish_plugin.h"

#include <new>

#include "mish.h"

namespace millrace::plugins {

MishPlugin* MishPlugin::make(const nvinfer1::PluginFieldCollection&, nvinfer1::TensorRTPhase) {
  return new MishPlugin;
}

nvinfer1::IPluginV3* MishPlugin::clone() noexcept { return new (std::nothrow) MishPlugin(*this); }

std::int32_t MishPlugin::getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t output_count,
                                            const nvinfer1::DataType* inputs,
                                            std::int32_t input_count) const noexcept {
  if (input_count != 1 || output_count != 1) return 1;
  outputs[0] = inputs[0];
  return 0;
}

std::int32_t MishPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs,
                                         std::int32_t input_count, const nvinfer1::DimsExprs*,
                                         std::int32_t, nvinfer1::DimsExprs* outputs,
                                         std::int32_t output_count,
                                         nvinfer1::IExprBuilder&) noexcept {
  if (input_count != 1 || output_count != 1) {
    log_error("Mish: expected one input and one output");
    return 1;
  }
  outputs[0] = inputs[0];
  return 0;
}

bool MishPlugin::supportsFormatCombination(std::int32_t position,
                                           const nvinfer1::DynamicPluginTensorDesc* tensors,
                                           std::int32_t, std::int32_t) noexcept {
  return is_linear_float(tensors[position].desc) &&
         tensors[position].desc.type == tensors[0].desc.type;
}

nvinfer1::IPluginV3* MishPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  if (load_mish() != 0) {
    log_error("Mish: the kernels cannot be loaded on this device");
    return nullptr;
  }
  return clone();
}

std::int32_t MishPlugin::enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                                 const nvinfer1::PluginTensorDesc*, const void* const* inputs,
                                 void* const* outputs, void*, cudaStream_t stream) noexcept {
  const Precision precision =
      input_descs[0].type == nvinfer1::DataType::kHALF ? Precision::fp16 : Precision::fp32;
  return launch_mish(inputs[0], outputs[0], element_count(input_descs[0].dims), precision, stream);
}

}  // namespace millrace::plugins
