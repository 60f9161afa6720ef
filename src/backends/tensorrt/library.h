// Finds and opens TensorRT's libraries.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <millrace/error.h>

namespace millrace::tensorrt {

/// The version of the headers that this is compiled with; a library of the same major version runs.
inline constexpr int kMajor = NV_TENSORRT_MAJOR;

/// What runs engines.
struct Library {
  int version = 0;   // 100600 is 10.6.0
  std::string text;  // "10.6.0"
  std::string path;  // as found
  nvinfer1::IPluginRegistry* plugins = nullptr;

  [[nodiscard]] std::unique_ptr<nvinfer1::IRuntime> new_runtime(nvinfer1::ILogger& logger) const;

  void* (*create_runtime)(void* logger, int version) = nullptr;
  void* (*create_builder)(void* logger, int version) = nullptr;
};

/// What builds engines from ONNX files as well.
struct BuilderLibrary {
  const Library* runtime = nullptr;
  int parser_version = 0;
  void* (*create_parser)(void* network, void* logger, int version) = nullptr;

  /// Slow: seconds, and over a gigabyte of host memory. Null when TensorRT refuses, which it logs.
  [[nodiscard]] std::unique_ptr<nvinfer1::IBuilder> new_builder(nvinfer1::ILogger& logger) const;
  [[nodiscard]] std::unique_ptr<nvonnxparser::IParser> new_parser(
      nvinfer1::INetworkDefinition& network, nvinfer1::ILogger& logger) const;
};

/// Opens libnvinfer at the first call and keeps it for good; after a failure the next call tries
/// again. Errors: unavailable, naming every file looked for, what is wrong with it and how to get
/// one. Thread-safe.
[[nodiscard]] Result<const Library*> open_library();
/// The same for the ONNX parser and for the builder's resources beside it.
[[nodiscard]] Result<const BuilderLibrary*> open_builder_library();

/// The files that are tried for `name` ("libnvinfer.so.10"), in order.
[[nodiscard]] std::vector<std::string> library_candidates(std::string_view name);
/// "10.6.0" for 100600.
[[nodiscard]] std::string version_text(int version);

}  // namespace millrace::tensorrt
