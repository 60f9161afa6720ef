#include "yolo_decode_plugin.h"

#include <algorithm>
#include <new>
#include <optional>

namespace millrace::plugins {

YoloDecodePlugin* YoloDecodePlugin::make(const nvinfer1::PluginFieldCollection& fields,
                                         nvinfer1::TensorRTPhase) {
  const std::optional<std::vector<float>> anchors = numbers<float>(fields, "anchors");
  const std::optional<float> stride = number<float>(fields, "stride");
  const std::optional<std::int32_t> classes = number<std::int32_t>(fields, "classes");
  if (!anchors || anchors->empty() || anchors->size() % 2 != 0 ||
      anchors->size() > std::size(YoloHead{}.anchor)) {
    log_error("YoloDecode: expected anchors, a width and a height for each of 1 to 16");
    return nullptr;
  }
  if (!stride || *stride <= 0 || !classes || *classes < 1) {
    log_error("YoloDecode: expected stride, above 0, and classes, at least 1");
    return nullptr;
  }
  YoloHead head;
  head.anchors = static_cast<std::int32_t>(anchors->size() / 2);
  head.classes = *classes;
  head.stride = *stride;
  head.scale_xy = number<float>(fields, "scale_xy").value_or(1.0F);
  std::copy(anchors->begin(), anchors->end(), head.anchor);
  return new YoloDecodePlugin(head);
}

YoloDecodePlugin::YoloDecodePlugin(const YoloHead& head)
    : head_(head),
      fields_{
          nvinfer1::PluginField{"anchors", head_.anchor, nvinfer1::PluginFieldType::kFLOAT32,
                                2 * head_.anchors},
          nvinfer1::PluginField{"stride", &head_.stride, nvinfer1::PluginFieldType::kFLOAT32, 1},
          nvinfer1::PluginField{"classes", &head_.classes, nvinfer1::PluginFieldType::kINT32, 1},
          nvinfer1::PluginField{"scale_xy", &head_.scale_xy, nvinfer1::PluginFieldType::kFLOAT32,
                                1}},
      collection_{static_cast<std::int32_t>(fields_.size()), fields_.data()} {}

nvinfer1::IPluginV3* YoloDecodePlugin::clone() noexcept {
  return new (std::nothrow) YoloDecodePlugin(*this);
}

std::int64_t YoloDecodePlugin::channels() const noexcept {
  return std::int64_t{head_.anchors} * (5 + head_.classes);
}

std::int32_t YoloDecodePlugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs,
                                               std::int32_t,
                                               const nvinfer1::DynamicPluginTensorDesc*,
                                               std::int32_t) noexcept {
  const nvinfer1::Dims& dims = inputs[0].desc.dims;
  if (dims.nbDims == 4 && (dims.d[1] == channels() || dims.d[1] == -1)) return 0;
  log_error("YoloDecode: expected an input [N, A * (5 + classes), H, W] with A anchors");
  return 1;
}

std::int32_t YoloDecodePlugin::getOutputDataTypes(nvinfer1::DataType* outputs,
                                                  std::int32_t output_count,
                                                  const nvinfer1::DataType*,
                                                  std::int32_t input_count) const noexcept {
  if (input_count != 1 || output_count != 2) return 1;
  outputs[0] = outputs[1] = nvinfer1::DataType::kFLOAT;
  return 0;
}

std::int32_t YoloDecodePlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs,
                                               std::int32_t input_count, const nvinfer1::DimsExprs*,
                                               std::int32_t, nvinfer1::DimsExprs* outputs,
                                               std::int32_t output_count,
                                               nvinfer1::IExprBuilder& builder) noexcept {
  if (input_count != 1 || output_count != 2 || inputs[0].nbDims != 4) {
    log_error("YoloDecode: expected one input [N, A * (5 + classes), H, W] and two outputs");
    return 1;
  }
  constexpr auto kTimes = nvinfer1::DimensionOperation::kPROD;
  const nvinfer1::IDimensionExpr* cells =
      builder.operation(kTimes, *inputs[0].d[2], *inputs[0].d[3]);
  const nvinfer1::IDimensionExpr* anchors = builder.constant(head_.anchors);
  if (cells == nullptr || anchors == nullptr) return 1;
  const nvinfer1::IDimensionExpr* count = builder.operation(kTimes, *anchors, *cells);
  for (nvinfer1::DimsExprs* output : {&outputs[0], &outputs[1]}) {
    output->nbDims = 3;
    output->d[0] = inputs[0].d[0];
    output->d[1] = count;
  }
  outputs[0].d[2] = builder.constant(4);
  outputs[1].d[2] = builder.constant(head_.classes);
  return 0;
}

bool YoloDecodePlugin::supportsFormatCombination(std::int32_t position,
                                                 const nvinfer1::DynamicPluginTensorDesc* tensors,
                                                 std::int32_t, std::int32_t) noexcept {
  const nvinfer1::PluginTensorDesc& tensor = tensors[position].desc;
  return is_linear_float(tensor) && (position == 0 || tensor.type == nvinfer1::DataType::kFLOAT);
}

nvinfer1::IPluginV3* YoloDecodePlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  if (load_yolo_decode() != 0) {
    log_error("YoloDecode: the kernels cannot be loaded on this device");
    return nullptr;
  }
  return clone();
}

std::int32_t YoloDecodePlugin::enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                                       const nvinfer1::PluginTensorDesc*, const void* const* inputs,
                                       void* const* outputs, void*, cudaStream_t stream) noexcept {
  const nvinfer1::Dims& dims = input_descs[0].dims;
  if (dims.nbDims != 4 || dims.d[1] != channels()) return 1;
  YoloHead head = head_;
  head.batch = dims.d[0];
  head.height = dims.d[2];
  head.width = dims.d[3];
  const Precision precision =
      input_descs[0].type == nvinfer1::DataType::kHALF ? Precision::fp16 : Precision::fp32;
  return launch_yolo_decode(inputs[0], static_cast<float*>(outputs[0]),
                            static_cast<float*>(outputs[1]), head, precision, stream);
}

const nvinfer1::PluginFieldCollection* YoloDecodePlugin::getFieldsToSerialize() noexcept {
  return &collection_;
}

}  // namespace millrace::plugins
