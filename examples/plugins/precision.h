// How the elements of a plug-in's tensors are stored.
#pragma once

#include <cstdint>

namespace millrace::plugins {

/// fp16 is IEEE binary16.
enum class Precision : std::uint8_t { fp32, fp16 };

}  // namespace millrace::plugins
