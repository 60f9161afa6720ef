// Small ONNX models on GPUs through TensorRT, for tests of how data gets to them and away again.
#pragma once

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <millrace/engine.h>

namespace millrace::testing {

template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(result).value();
}
inline void must(const Result<void>& result) {
  if (!result) throw std::runtime_error(result.error().message);
}

/// An engine on some GPUs, and a folder for what is built. Models come from tests/models.
class GpuEngine {
 public:
  explicit GpuEngine(int gpus) {
    folder_ = std::filesystem::temp_directory_path() /
              ("millrace-data-" + std::to_string(getpid()) + "-" + std::to_string(gpus));
    std::filesystem::create_directories(folder_);
    EngineOptions options;
    for (int i = 0; i < gpus; ++i) {
      options.devices.devices.push_back(to_string(DeviceId::cuda(i)));
    }
    engine_ = std::make_unique<Engine>(must(Engine::create(options)));
  }
  GpuEngine(const GpuEngine&) = delete;
  GpuEngine& operator=(const GpuEngine&) = delete;
  ~GpuEngine() {
    engine_.reset();
    std::error_code error;
    std::filesystem::remove_all(folder_, error);
  }

  [[nodiscard]] Engine& engine() noexcept { return *engine_; }
  [[nodiscard]] Device& gpu(int index = 0) noexcept {
    return *engine_->devices()[static_cast<std::size_t>(index)];
  }
  /// "average": [N,3,112,112] -> [N,3,1,1]; "identity_fp32": [N,4] -> [N,4]. `graphs`: "on" or
  /// "off".
  [[nodiscard]] Model load(const std::string& model, const std::string& graphs = "on",
                           std::vector<DeviceId> devices = {DeviceId::cuda(0)}) {
    ModelConfig config;
    config.name = model + "-" + graphs + "-" + std::to_string(loaded_++);
    config.path = std::string(MILLRACE_SOURCE_DIR) + "/tests/models/" + model + ".onnx";
    config.backend = "tensorrt";
    config.devices = std::move(devices);
    config.batching.max_items = 16;
    config.options = {{"graphs", graphs},
                      {"cache", (folder_ / "cache").string()},
                      {"optimization_level", "0"},
                      {"precision", "fp32"}};
    return must(engine_->load(config));
  }

 private:
  std::filesystem::path folder_;
  std::unique_ptr<Engine> engine_;
  int loaded_ = 0;
};

/// Why there can be no such engine; empty when there can.
inline std::string why_no_tensorrt() {
  for (const BackendInfo& backend : backend_infos()) {
    if (backend.name == "tensorrt") return backend.usable ? "" : backend.reason;
  }
  return "built without TensorRT";
}

}  // namespace millrace::testing
