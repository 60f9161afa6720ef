// Mish, x * tanh(softplus(x)), of every element of a tensor.
#pragma once

#include <cstddef>

#include "precision.h"

namespace millrace::plugins {

/// Enqueues Mish of `count` elements of type `precision` on `stream`, a `cudaStream_t` of the
/// current device, and returns without waiting; allocates nothing, and may be captured into a
/// graph. Both pointers are to memory of the device, stay the caller's and may be equal; fastest
/// where both are aligned to 16 bytes. FP16 is computed in FP32. Returns 0, else the `cudaError_t`
/// of the launch.
[[nodiscard]] int launch_mish(const void* input, void* output, std::size_t count,
                              Precision precision, void* stream);

/// Loads the kernels of `launch_mish` onto the current device, so that no launch has to. May halt
/// the device. Returns 0 or a `cudaError_t`.
[[nodiscard]] int load_mish();

/// What `launch_mish` computes, on the host and in FP32. The pointers may be equal.
void mish_host(const float* input, float* output, std::size_t count) noexcept;

}  // namespace millrace::plugins
