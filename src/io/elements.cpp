#include "io/elements.h"

#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

namespace millrace {
namespace {

template <class T>
T load(const TensorView& view, std::int64_t i) noexcept {
  T value;
  std::memcpy(&value,
              static_cast<const char*>(view.data) + i * static_cast<std::int64_t>(sizeof(T)),
              sizeof(T));
  return value;
}

// Sign, exponent and fraction of a small float whose exponent is not the special one.
float small_float(std::uint32_t bits, int exponent_bits, int fraction_bits) noexcept {
  const std::uint32_t fraction = bits & ((1U << fraction_bits) - 1);
  const int exponent = static_cast<int>(bits >> fraction_bits & ((1U << exponent_bits) - 1));
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const bool negative = (bits >> (exponent_bits + fraction_bits) & 1U) != 0;
  const float whole = exponent == 0 ? static_cast<float>(fraction)
                                    : static_cast<float>(fraction | 1U << fraction_bits);
  const float value = std::ldexp(whole, (exponent == 0 ? 1 : exponent) - bias - fraction_bits);
  return negative ? -value : value;
}

float special(bool negative, bool number) noexcept {
  using Limits = std::numeric_limits<float>;
  const float value = number ? Limits::infinity() : Limits::quiet_NaN();
  return negative ? -value : value;
}

// Drops the lowest `shift` bits, rounding to nearest even.
std::uint32_t round_shift(std::uint32_t bits, int shift) noexcept {
  const std::uint32_t half = 1U << (shift - 1);
  const std::uint32_t rest = bits & ((1U << shift) - 1);
  const std::uint32_t kept = bits >> shift;
  return kept + (rest > half || (rest == half && (kept & 1U) != 0) ? 1U : 0U);
}

}  // namespace

float fp16_value(std::uint16_t bits) noexcept {
  if ((bits & 0x7C00U) == 0x7C00U) return special((bits & 0x8000U) != 0, (bits & 0x3FFU) == 0);
  return small_float(bits, 5, 10);
}

float bf16_value(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

float fp8_e4m3_value(std::uint8_t bits) noexcept {
  if ((bits & 0x7FU) == 0x7FU) return special((bits & 0x80U) != 0, false);
  return small_float(bits, 4, 3);
}

float fp8_e5m2_value(std::uint8_t bits) noexcept {
  if ((bits & 0x7CU) == 0x7CU) return special((bits & 0x80U) != 0, (bits & 3U) == 0);
  return small_float(bits, 5, 2);
}

std::uint16_t fp16_bits(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7E00U);
  if (magnitude >= 0x47800000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // 2^16 and more
  if (magnitude >=
      0x38800000U) {  // normal: the exponent's bias falls by 112; a carry may reach infinity
    return static_cast<std::uint16_t>(sign | round_shift(magnitude - (112U << 23), 13));
  }
  if (magnitude < 0x33000000U)
    return static_cast<std::uint16_t>(sign);  // less than half the smallest
  const std::uint32_t fraction = (magnitude & 0x7FFFFFU) | 0x800000U;
  return static_cast<std::uint16_t>(sign |
                                    round_shift(fraction, 126 - static_cast<int>(magnitude >> 23)));
}

std::uint16_t bf16_bits(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>(bits >> 16 | 0x40U);
  return static_cast<std::uint16_t>(round_shift(bits, 16));
}

double element_value(const TensorView& view, std::int64_t i) noexcept {
  switch (view.type) {
    case DataType::boolean:
      return load<std::uint8_t>(view, i) != 0 ? 1 : 0;
    case DataType::uint8:
      return load<std::uint8_t>(view, i);
    case DataType::uint16:
      return load<std::uint16_t>(view, i);
    case DataType::uint32:
      return load<std::uint32_t>(view, i);
    case DataType::uint64:
      return static_cast<double>(load<std::uint64_t>(view, i));
    case DataType::int8:
      return load<std::int8_t>(view, i);
    case DataType::int16:
      return load<std::int16_t>(view, i);
    case DataType::int32:
      return load<std::int32_t>(view, i);
    case DataType::int64:
      return static_cast<double>(load<std::int64_t>(view, i));
    case DataType::fp16:
      return static_cast<double>(fp16_value(load<std::uint16_t>(view, i)));
    case DataType::bf16:
      return static_cast<double>(bf16_value(load<std::uint16_t>(view, i)));
    case DataType::fp32:
      return static_cast<double>(load<float>(view, i));
    case DataType::fp64:
      return load<double>(view, i);
    case DataType::fp8_e4m3:
      return static_cast<double>(fp8_e4m3_value(load<std::uint8_t>(view, i)));
    case DataType::fp8_e5m2:
      return static_cast<double>(fp8_e5m2_value(load<std::uint8_t>(view, i)));
    case DataType::bytes:
      break;
  }
  assert(false && "BYTES elements are no numbers");
  return 0;
}

std::string_view element_text(const TensorView& view, std::size_t i) noexcept {
  const char* block = static_cast<const char*>(view.data);
  return {block + view.offsets[i], static_cast<std::size_t>(view.offsets[i + 1] - view.offsets[i])};
}

bool is_floating(DataType type) noexcept {
  switch (type) {
    case DataType::fp16:
    case DataType::bf16:
    case DataType::fp32:
    case DataType::fp64:
    case DataType::fp8_e4m3:
    case DataType::fp8_e5m2:
      return true;
    default:
      return false;
  }
}

}  // namespace millrace
