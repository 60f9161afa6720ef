// ONNX models on the CPU, by the ONNX Runtime library, which is opened when first needed.
#pragma once

#include "backends/backend.h"

namespace millrace::onnxruntime {

[[nodiscard]] Backend backend() noexcept;

}  // namespace millrace::onnxruntime
