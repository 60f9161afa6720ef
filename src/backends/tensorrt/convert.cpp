#include "backends/tensorrt/convert.h"

#include "base/text.h"

namespace millrace::tensorrt {

std::optional<DataType> data_type(nvinfer1::DataType type) noexcept {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return DataType::fp32;
    case nvinfer1::DataType::kHALF:
      return DataType::fp16;
    case nvinfer1::DataType::kBF16:
      return DataType::bf16;
    case nvinfer1::DataType::kINT8:
      return DataType::int8;
    case nvinfer1::DataType::kUINT8:
      return DataType::uint8;
    case nvinfer1::DataType::kINT32:
      return DataType::int32;
    case nvinfer1::DataType::kINT64:
      return DataType::int64;
    case nvinfer1::DataType::kBOOL:
      return DataType::boolean;
    case nvinfer1::DataType::kFP8:
      return DataType::fp8_e4m3;
    default:
      return std::nullopt;
  }
}

Shape shape_of(const nvinfer1::Dims& dims) {
  Shape shape;
  for (int i = 0; i < dims.nbDims; ++i) {
    shape.push_back(dims.d[i] < 0 ? kDynamic : static_cast<std::int64_t>(dims.d[i]));
  }
  return shape;
}

Result<nvinfer1::Dims> dims_of(const Shape& shape) {
  nvinfer1::Dims dims{};
  if (shape.rank() > static_cast<std::size_t>(nvinfer1::Dims::MAX_DIMS)) {
    return Error{
        ErrorCode::invalid_argument,
        concat("TensorRT takes at most ", nvinfer1::Dims::MAX_DIMS, " dimensions, got ", shape)};
  }
  dims.nbDims = static_cast<int>(shape.rank());
  for (std::size_t i = 0; i < shape.rank(); ++i) dims.d[i] = shape[i];
  return dims;
}

}  // namespace millrace::tensorrt
