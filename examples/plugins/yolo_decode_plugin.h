// The operator YoloDecode as a TensorRT plug-in: the raw head of a YOLO detector, FP32 or FP16, to
// boxes and scores in FP32; yolo_decode.h has shapes and formulas. Attributes:
//   anchors   floats, width and height in pixels of each anchor
//   stride    float, pixels per cell
//   classes   int
//   scale_xy  float, 1 if missing
#pragma once

#include <array>
#include <vector>

#include "plugin_base.h"
#include "yolo_decode.h"

namespace millrace::plugins {

class YoloDecodePlugin final : public PluginBase {
 public:
  static constexpr const char* kName = "YoloDecode";
  static constexpr std::array kAttributes{
      Attribute{"anchors", nvinfer1::PluginFieldType::kFLOAT32},
      Attribute{"stride", nvinfer1::PluginFieldType::kFLOAT32},
      Attribute{"classes", nvinfer1::PluginFieldType::kINT32},
      Attribute{"scale_xy", nvinfer1::PluginFieldType::kFLOAT32}};
  static YoloDecodePlugin* make(const nvinfer1::PluginFieldCollection& fields,
                                nvinfer1::TensorRTPhase phase);

  explicit YoloDecodePlugin(const YoloHead& head);
  YoloDecodePlugin(const YoloDecodePlugin& other) : YoloDecodePlugin(other.head_) {}
  YoloDecodePlugin& operator=(const YoloDecodePlugin&) = delete;
  nvinfer1::IPluginV3* clone() noexcept override;
  const char* getPluginName() const noexcept override { return kName; }

  std::int32_t getNbOutputs() const noexcept override { return 2; }
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t,
                               const nvinfer1::DynamicPluginTensorDesc*,
                               std::int32_t) noexcept override;
  std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t output_count,
                                  const nvinfer1::DataType*,
                                  std::int32_t input_count) const noexcept override;
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                               const nvinfer1::DimsExprs*, std::int32_t,
                               nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                               nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(std::int32_t position,
                                 const nvinfer1::DynamicPluginTensorDesc* tensors, std::int32_t,
                                 std::int32_t) noexcept override;

  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override;
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                       const nvinfer1::PluginTensorDesc*, const void* const* inputs,
                       void* const* outputs, void*, cudaStream_t stream) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  /// A * (5 + C), the channels that the input must have.
  [[nodiscard]] std::int64_t channels() const noexcept;

  YoloHead head_;  // without batch, height and width, which come with each input
  std::array<nvinfer1::PluginField, kAttributes.size()> fields_;  // point into head_
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace millrace::plugins
