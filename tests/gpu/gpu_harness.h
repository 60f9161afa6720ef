// What the GPU suites of whole models share: whether there is anything to check with, plans built
// once, engines, and requests with their answers.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <millrace/build.h>
#include <millrace/engine.h>
#include <millrace/log.h>

namespace millrace::gpu {

inline const std::string kModels = MILLRACE_SOURCE_DIR "/tests/models/";

template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(result).value();
}
inline void must(const Result<void>& result) {
  if (!result) throw std::runtime_error(result.error().message);
}

/// Why nothing can be checked here; empty: there is a GPU and TensorRT.
inline std::string nothing_to_check() {
  const BackendInfo backend = backend_infos().front();
  return backend.usable ? "" : "NOT CHECKED: " + backend.reason;
}

#define MILLRACE_NEEDS_TENSORRT()                                                  \
  do {                                                                             \
    if (const std::string why = ::millrace::gpu::nothing_to_check(); !why.empty()) \
      GTEST_SKIP() << why;                                                         \
  } while (false)

/// A folder of this process, removed when it ends.
inline const std::filesystem::path& scratch() {
  struct Folder {
    std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("millrace-plans-" + std::to_string(getpid()));
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() {
      std::error_code error;
      std::filesystem::remove_all(path, error);
    }
  };
  static const Folder folder;
  return folder.path;
}

/// Fast to build, and FP32 unless said otherwise.
inline BuildOptions build_options() {
  BuildOptions options;
  options.precision = Precision::fp32;
  options.optimization_level = 1;
  options.max_batch = 8;
  return options;
}

/// Builds a plan of tests/models/NAME.onnx as `file`.plan in the scratch folder.
inline Result<std::string> try_build(const std::string& name, BuildOptions options,
                                     const std::string& file) {
  options.model = kModels + name + ".onnx";
  const std::string path = (scratch() / (file + ".plan")).string();
  const Result<BuildReport> report = build_engine(options, path);
  if (!report) return report.error();
  return path;
}

/// The same; a plan that this process has built already is taken again. An error ends the test.
inline std::string plan_of(const std::string& name, const BuildOptions& options = build_options(),
                           const std::string& variant = "") {
  static std::map<std::string, std::string> built;
  std::string& path = built[name + variant];
  if (path.empty()) path = must(try_build(name, options, name + variant));
  return path;
}

inline Engine engine_on_gpu() {
  EngineOptions options;
  options.devices.devices = {"cuda:0"};
  return must(Engine::create(options));
}

inline ModelConfig config_of(const std::string& name, const std::string& path,
                             std::map<std::string, std::string> options = {}) {
  ModelConfig config;
  config.name = name;
  config.path = path;
  config.devices = {DeviceId::cuda(0)};
  config.options = std::move(options);
  return config;
}

inline std::vector<float> random_values(std::size_t count, unsigned seed, float low = -4,
                                        float high = 4) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> value(low, high);
  std::vector<float> values(count);
  for (float& v : values) v = value(random);
  return values;
}

template <class T>
std::vector<T> values_of(const TensorView& view) {
  const auto count = static_cast<std::size_t>(must(element_count(view.shape)));
  const T* data = view.as<T>();
  return {data, data + count};
}

inline void expect_near(const std::vector<float>& found, const std::vector<float>& expected,
                        float tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], expected[i], tolerance * std::max(1.0F, std::abs(expected[i])))
        << "element " << i;
  }
}

inline Request request_of(const std::string& input, const TensorView& view) {
  Request request;
  request.inputs.push_back({input, view, {}});
  return request;
}

/// Gathers log messages while it lives.
class Log {
 public:
  Log() {
    log_to([this](LogLevel, std::string_view message) {
      const std::lock_guard lock(mutex_);
      text_ += message;
      text_ += '\n';
    });
  }
  ~Log() { log_to({}); }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;
  [[nodiscard]] std::string text() const {
    const std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

}  // namespace millrace::gpu
