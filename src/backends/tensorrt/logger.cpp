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

bool says_out_of_memory(std::string_view words) noexcept {
  for (const std::string_view known : {"out of memory", "OutOfMemory", "could not be allocated"}) {
    if (words.find(known) != std::string_view::npos) return true;
  }
  return false;
}

}  // namespace millrace::tensorrt
