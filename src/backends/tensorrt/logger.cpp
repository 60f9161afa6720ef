#include "backends/tensorrt/logger.h"

#include <utility>

#include "base/log.h"

namespace millrace::tensorrt {

void Logger::log(Severity severity, const char* message) noexcept {
  constexpr std::size_t kMostErrors = 4096;
  switch (severity) {
    case Severity::kINTERNAL_ERROR:
    case Severity::kERROR: {
      const std::lock_guard lock(mutex_);
      if (errors_.size() < kMostErrors) {
        if (!errors_.empty()) errors_ += '\n';
        errors_ += message;
      }
      log_debug("model \"", model_, "\": TensorRT: error: ", message);
      return;
    }
    case Severity::kWARNING:
      log_warning("model \"", model_, "\": TensorRT: ", message);
      return;
    case Severity::kINFO:
    case Severity::kVERBOSE:
      log_debug("model \"", model_, "\": TensorRT: ", message);
      return;
  }
}

std::string Logger::take_errors() {
  const std::lock_guard lock(mutex_);
  return std::exchange(errors_, {});
}

}  // namespace millrace::tensorrt
