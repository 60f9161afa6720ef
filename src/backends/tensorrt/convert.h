// TensorRT's types and shapes as ours.
#pragma once

#include <optional>

#include <NvInferRuntime.h>

#include <millrace/data_type.h>
#include <millrace/error.h>
#include <millrace/shape.h>

namespace millrace::tensorrt {

/// Nothing for INT4 and other types that a tensor of ours cannot have.
[[nodiscard]] std::optional<DataType> data_type(nvinfer1::DataType type) noexcept;
/// -1 becomes kDynamic.
[[nodiscard]] Shape shape_of(const nvinfer1::Dims& dims);
/// Errors: invalid_argument for a rank above TensorRT's.
[[nodiscard]] Result<nvinfer1::Dims> dims_of(const Shape& shape);

}  // namespace millrace::tensorrt
