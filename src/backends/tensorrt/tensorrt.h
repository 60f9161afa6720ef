// Runs models on GPUs with TensorRT, opened at run time.
#pragma once

#include "backends/backend.h"

namespace millrace::tensorrt {

/// Takes TensorRT engines (.plan, .engine), and ONNX files, for which an engine is found in the
/// cache or built for the very GPU. Options: see options.h.
[[nodiscard]] Backend backend() noexcept;

}  // namespace millrace::tensorrt
