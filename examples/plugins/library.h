// The two functions that TensorRT's plug-in registry looks for in a library; nothing else of it is
// seen from outside.
#pragma once

#include <cstdint>

#include <NvInfer.h>

// NOLINTBEGIN(readability-identifier-naming): TensorRT looks for these names
extern "C" {

/// TensorRT hands over where the log of a calling engine or builder is found. It stays TensorRT's.
[[gnu::visibility("default")]] void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

/// The creators of the plug-ins of the library and, in `count`, their number. They stay the
/// library's.
[[gnu::visibility("default")]] nvinfer1::IPluginCreatorInterface* const* getCreators(
    std::int32_t& count);

}  // extern "C"
// NOLINTEND(readability-identifier-naming)
