// ONNX files made into engines.
#pragma once

#include <string>

#include <millrace/build.h>

namespace millrace::tensorrt {

struct Built {
  std::string plan;                            // the serialized engine
  std::string layers;                          // JSON
  Precision precision = Precision::automatic;  // what it was built in
  Duration took{};
};

/// Builds on the GPU that `options.device` names. `name` stands in messages; `content` is the ONNX
/// file's. Errors: as `build_engine`.
[[nodiscard]] Result<Built> build(const BuildOptions& options, const std::string& name,
                                  const std::string& content);

/// What `automatic` means for a model with this content.
[[nodiscard]] Precision resolved_precision(Precision asked, std::string_view content);

/// What distinguishes one set of options from another, in words: part of a cache's key.
[[nodiscard]] std::string describe(const BuildOptions& options);

}  // namespace millrace::tensorrt
