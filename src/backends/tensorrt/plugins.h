// Libraries of plug-ins: what is wrong with one is found before TensorRT sees it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include <millrace/error.h>

#include "backends/tensorrt/library.h"

namespace millrace::tensorrt {

/// A library that was opened, for good, and the creators of IPluginV3 that it has. They are the
/// library's.
struct PluginLibrary {
  std::string path;
  std::vector<nvinfer1::IPluginCreatorInterface*> creators;
  std::vector<std::string> names;  // of the creators: "MillraceMish 1"
};

/// Opens the library and asks it for its creators. Errors: not_found; invalid_argument for what is
/// no shared library for this machine, was made for another major version of TensorRT, or has no
/// creators of IPluginV3.
[[nodiscard]] Result<PluginLibrary> open_plugins(const std::string& path);

/// Registers the creators of the libraries with TensorRT, each library once in the process. Errors:
/// as `open_plugins`; invalid_argument where another library has a plug-in of the same name and
/// version. Thread-safe.
[[nodiscard]] Result<void> register_plugins(const Library& library,
                                            std::span<const std::string> paths);

}  // namespace millrace::tensorrt
