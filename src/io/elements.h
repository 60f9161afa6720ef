// Single elements of tensors as numbers, whatever their type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <millrace/tensor.h>

namespace millrace {

/// The value of IEEE binary16 / bfloat16 / OCP 8-bit bits; exact. What is no number stays no
/// number.
[[nodiscard]] float fp16_value(std::uint16_t bits) noexcept;
[[nodiscard]] float bf16_value(std::uint16_t bits) noexcept;
[[nodiscard]] float fp8_e4m3_value(std::uint8_t bits) noexcept;
[[nodiscard]] float fp8_e5m2_value(std::uint8_t bits) noexcept;
/// Rounded to nearest, ties to even; too large becomes infinite.
[[nodiscard]] std::uint16_t fp16_bits(float value) noexcept;
[[nodiscard]] std::uint16_t bf16_bits(float value) noexcept;

/// Element i (counted in memory order) of contiguous host memory as a number; not for BYTES. 64-bit
/// integers beyond 2^53 are rounded.
[[nodiscard]] double element_value(const TensorView& view, std::int64_t i) noexcept;
/// Element i of a BYTES tensor in host memory.
[[nodiscard]] std::string_view element_text(const TensorView& view, std::size_t i) noexcept;
/// Whether results of that type are rounded: all floating-point types, of any width.
[[nodiscard]] bool is_floating(DataType type) noexcept;

}  // namespace millrace
