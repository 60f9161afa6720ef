// The digits model on GPUs and on the host, for tests that compare the two.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <millrace/engine.h>

namespace millrace::digits {

inline constexpr std::int64_t kPixels = 64;
inline constexpr std::int64_t kClasses = 10;
inline const char* const kPath = MILLRACE_SOURCE_DIR "/examples/digits/digits.onnx";

template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(result).value();
}
inline void must(const Result<void>& result) {
  if (!result) throw std::runtime_error(result.error().message);
}

inline std::string text_of(const Result<Response>& result) {
  return result.ok() ? "success" : result.error().message;
}

/// Some images and what the model makes of them, as the host computes it.
struct Sample {
  std::int64_t items = 1;
  std::vector<float> images;
  std::vector<float> expected;

  [[nodiscard]] Shape shape() const { return {items, 1, 8, 8}; }
  [[nodiscard]] std::size_t bytes() const { return images.size() * sizeof(float); }
  [[nodiscard]] Request request() const {
    Request request;
    request.inputs.push_back({"images", TensorView::of(images.data(), shape()), {}});
    return request;
  }
  /// Whether `found` (in host memory) is right.
  [[nodiscard]] bool matches(const Result<Response>& response) const {
    if (!response.ok() || response->outputs.size() != 1) return false;
    const auto* values = response->outputs[0].view.as<float>();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (!(std::abs(values[i] - expected[i]) <= 2e-4F)) return false;
    }
    return true;
  }
};

/// Engines for each GPU are built once: for all processes that MILLRACE_GPU_TEST_CACHE names a
/// folder to, else for this one, into a folder that goes with it.
class Cache {
 public:
  Cache()
      : shared_(std::getenv("MILLRACE_GPU_TEST_CACHE")),
        folder_(shared_ ? std::filesystem::path(shared_)
                        : std::filesystem::temp_directory_path() /
                              ("millrace-digits-" + std::to_string(getpid()))) {}
  ~Cache() {
    if (shared_) return;
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;
  [[nodiscard]] std::string path() const { return folder_.string(); }

 private:
  const char* const shared_;
  const std::filesystem::path folder_;
};

inline ModelConfig config(const std::string& name, const std::string& cache,
                          std::vector<DeviceId> devices) {
  ModelConfig config;
  config.name = name;
  config.path = kPath;
  config.batching.max_items = 8;
  if (devices.front().kind == DeviceKind::cuda) {
    config.options = {{"cache", cache}, {"optimization_level", "0"}, {"precision", "fp32"}};
  }
  config.devices = std::move(devices);
  return config;
}

/// Computes the expected answers with `cpu`, the model on a host device.
inline Sample sample(const Model& cpu, std::int64_t items, unsigned seed) {
  Sample sample;
  sample.items = items;
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> pixel(0.0F, 16.0F);
  sample.images.resize(static_cast<std::size_t>(items * kPixels));
  for (float& value : sample.images) value = pixel(random);
  const Response response = must(cpu.infer(sample.request()));
  const auto* values = response.outputs[0].view.as<float>();
  sample.expected.assign(values, values + items * kClasses);
  return sample;
}

inline DeviceRef device(const Engine& engine, DeviceId id) {
  for (const DeviceRef each : engine.devices()) {
    if (each->id() == id) return each;
  }
  throw std::runtime_error("no device " + to_string(id));
}

/// The images in memory of a device of the engine's.
inline Tensor on_device(const Engine& engine, const Sample& sample, DeviceId id) {
  Tensor tensor = must(engine.new_tensor(DataType::fp32, sample.shape(), id));
  const Stream stream = must(device(engine, id)->new_stream({}));
  must(stream.ref().copy(tensor.view().data, sample.images.data(), sample.bytes()));
  must(stream.ref().synchronize());
  return tensor;
}

inline Request request_of(const Tensor& tensor, EventRef ready = {}) {
  Request request;
  request.inputs.push_back({"images", tensor.view(), tensor.lease()});
  request.inputs[0].view.ready = ready;
  return request;
}

/// Empty where TensorRT can be used.
inline std::string why_no_tensorrt() {
  for (const BackendInfo& backend : backend_infos()) {
    if (backend.name == "tensorrt") {
      return backend.usable ? "" : "NOT CHECKED: " + backend.reason;
    }
  }
  return "NOT CHECKED: built without TensorRT";
}

}  // namespace millrace::digits
