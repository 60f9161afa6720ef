// What every plug-in of a TensorRT library shares, so that a plug-in states its shapes and its
// work.
#pragma once

#include <NvInfer.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

namespace millrace::plugins {

/// A plug-in of version "1" in the empty namespace, with all three capabilities of IPluginV3. What
/// derives from it is copyable: TensorRT clones a plug-in for each network, engine and context.
class PluginBase : public nvinfer1::IPluginV3,
                   public nvinfer1::IPluginV3OneCore,
                   public nvinfer1::IPluginV3OneBuild,
                   public nvinfer1::IPluginV3OneRuntime {
 public:
  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept final {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  const char* getPluginVersion() const noexcept final { return "1"; }
  const char* getPluginNamespace() const noexcept final { return ""; }

  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc*, std::int32_t,
                               const nvinfer1::DynamicPluginTensorDesc*,
                               std::int32_t) noexcept override {
    return 0;
  }
  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc*, std::int32_t,
                             const nvinfer1::PluginTensorDesc*, std::int32_t) noexcept override {
    return 0;
  }
  /// The clone that an execution context will run. The place to load kernels: `enqueue` must not.
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
    return clone();
  }
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    return &kNoFields;
  }

 protected:
  PluginBase() = default;
  PluginBase(const PluginBase&) = default;

 private:
  static constexpr nvinfer1::PluginFieldCollection kNoFields{0, nullptr};
};

/// An attribute of an operator.
struct Attribute {
  const char* name;
  nvinfer1::PluginFieldType type;
};

/// Makes plug-ins of one kind. `Plugin` has `kName`, `kAttributes` (an array) and `make`, which
/// returns a plug-in that the caller owns, or null when the attributes are wrong.
template <class Plugin>
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  Creator() {
    for (const Attribute& attribute : Plugin::kAttributes) {
      fields_.emplace_back(attribute.name, nullptr, attribute.type, 1);
    }
    collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
  }
  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    try {
      return Plugin::make(*fields, phase);
    } catch (...) {
      return nullptr;
    }
  }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return Plugin::kName; }
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override { return ""; }

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

/// The numbers of the attribute `name`, or nothing when it is missing or holds anything else.
template <class T>
std::optional<std::vector<T>> numbers(const nvinfer1::PluginFieldCollection& fields,
                                      const char* name) {
  for (std::int32_t i = 0; i < fields.nbFields; ++i) {
    const nvinfer1::PluginField& field = fields.fields[i];
    if (std::strcmp(field.name, name) != 0) continue;
    const auto read = [&]<class Stored>(const Stored* data) {
      std::vector<T> values(static_cast<std::size_t>(field.length));
      std::transform(data, data + field.length, values.begin(),
                     [](Stored value) { return static_cast<T>(value); });
      return values;
    };
    switch (field.type) {
      case nvinfer1::PluginFieldType::kINT32:
        return read(static_cast<const std::int32_t*>(field.data));
      case nvinfer1::PluginFieldType::kINT64:
        return read(static_cast<const std::int64_t*>(field.data));
      case nvinfer1::PluginFieldType::kFLOAT32:
        return read(static_cast<const float*>(field.data));
      default:
        return std::nullopt;
    }
  }
  return std::nullopt;
}

/// The attribute `name`, or nothing when it is missing or is not one number.
template <class T>
std::optional<T> number(const nvinfer1::PluginFieldCollection& fields, const char* name) {
  const std::optional<std::vector<T>> values = numbers<T>(fields, name);
  if (!values || values->size() != 1) return std::nullopt;
  return values->front();
}

/// Writes an error to the log of the TensorRT that loaded the library, once there is one.
void log_error(const char* message) noexcept;

/// Whether elements lie in the usual order and are FP32 or FP16.
inline bool is_linear_float(const nvinfer1::PluginTensorDesc& tensor) noexcept {
  return tensor.format == nvinfer1::TensorFormat::kLINEAR &&
         (tensor.type == nvinfer1::DataType::kFLOAT || tensor.type == nvinfer1::DataType::kHALF);
}

/// The number of elements of a tensor whose dimensions are all known.
inline std::size_t element_count(const nvinfer1::Dims& dims) noexcept {
  std::size_t count = 1;
  for (std::int32_t i = 0; i < dims.nbDims; ++i) count *= static_cast<std::size_t>(dims.d[i]);
  return count;
}

}  // namespace millrace::plugins
