// Element types: those of ONNX and of the Open Inference Protocol that matter for inference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <millrace/error.h>

namespace millrace {

enum class DataType : std::uint8_t {
  boolean,
  uint8,
  uint16,
  uint32,
  uint64,
  int8,
  int16,
  int32,
  int64,
  fp16,  // IEEE 754 binary16
  bf16,  // the upper half of a binary32
  fp32,
  fp64,
  fp8_e4m3,  // OCP 8-bit float, 4 exponent bits, no infinities ("FLOAT8E4M3FN" in ONNX)
  fp8_e5m2,  // OCP 8-bit float, 5 exponent bits
  bytes,     // variable-length byte strings: an offsets array plus one byte block
};

/// Bytes an element takes; 0 for `bytes`, whose elements vary.
[[nodiscard]] std::size_t size_of(DataType type) noexcept;

/// The Open Inference Protocol's spelling: "BOOL", "INT64", "FP16", "BYTES", ... (FP8: "FP8_E4M3",
/// "FP8_E5M2").
[[nodiscard]] std::string_view to_string(DataType type) noexcept;

/// Reads the protocol's spelling, ONNX's ("float16", "tensor(int64)") or NumPy's ("float32",
/// "<i8"); in any case. "float" is ONNX's 32-bit type. Big-endian NumPy types are refused. Errors:
/// invalid_argument, naming the types known.
[[nodiscard]] Result<DataType> parse_data_type(std::string_view text);

/// Every data type, in the order of the enumeration.
[[nodiscard]] std::span<const DataType> all_data_types() noexcept;

/// The DataType of a C++ element type; no definition for types that have none.
template <class T>
inline constexpr DataType kDataTypeOf = [] {
  static_assert(sizeof(T) == 0, "no DataType for this element type");
  return DataType::bytes;
}();
template <>
inline constexpr DataType kDataTypeOf<bool> = DataType::boolean;
template <>
inline constexpr DataType kDataTypeOf<std::uint8_t> = DataType::uint8;
template <>
inline constexpr DataType kDataTypeOf<std::uint16_t> = DataType::uint16;
template <>
inline constexpr DataType kDataTypeOf<std::uint32_t> = DataType::uint32;
template <>
inline constexpr DataType kDataTypeOf<std::uint64_t> = DataType::uint64;
template <>
inline constexpr DataType kDataTypeOf<std::int8_t> = DataType::int8;
template <>
inline constexpr DataType kDataTypeOf<std::int16_t> = DataType::int16;
template <>
inline constexpr DataType kDataTypeOf<std::int32_t> = DataType::int32;
template <>
inline constexpr DataType kDataTypeOf<std::int64_t> = DataType::int64;
template <>
inline constexpr DataType kDataTypeOf<float> = DataType::fp32;
template <>
inline constexpr DataType kDataTypeOf<double> = DataType::fp64;

}  // namespace millrace
