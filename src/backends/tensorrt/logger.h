// TensorRT's messages in our log, with the name of the model.
#pragma once

#include <mutex>
#include <string>
#include <string_view>

#include <NvInferRuntime.h>

namespace millrace::tensorrt {

/// Outlives the objects that it is given to. Thread-safe.
class Logger final : public nvinfer1::ILogger {
 public:
  explicit Logger(std::string model) : model_(std::move(model)) {}
  void log(Severity severity, const char* message) noexcept override;
  /// The errors since the last call, one line each: the reason of a call that gave nothing.
  [[nodiscard]] std::string take_errors();

 private:
  const std::string model_;
  std::mutex mutex_;
  std::string errors_;  // guarded by mutex_
};

/// Whether what TensorRT says is that the GPU's memory did not suffice.
[[nodiscard]] bool says_out_of_memory(std::string_view words) noexcept;

}  // namespace millrace::tensorrt
