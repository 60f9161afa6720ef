#include <millrace/data_type.h>

#include <array>
#include <string>

#include "base/text.h"

namespace millrace {
namespace {

constexpr std::array<DataType, 16> kAll = {
    DataType::boolean, DataType::uint8,    DataType::uint16,   DataType::uint32,
    DataType::uint64,  DataType::int8,     DataType::int16,    DataType::int32,
    DataType::int64,   DataType::fp16,     DataType::bf16,     DataType::fp32,
    DataType::fp64,    DataType::fp8_e4m3, DataType::fp8_e5m2, DataType::bytes};

struct Spelling {
  std::string_view text;
  DataType type;
};

// Besides the protocol's own spellings, those of ONNX, of NumPy (by name, and by its codes without
// the mark of the byte order) and of ml_dtypes.
constexpr Spelling kSpellings[] = {
    {"boolean", DataType::boolean},
    {"b1", DataType::boolean},
    {"u1", DataType::uint8},
    {"u2", DataType::uint16},
    {"u4", DataType::uint32},
    {"u8", DataType::uint64},
    {"i1", DataType::int8},
    {"i2", DataType::int16},
    {"i4", DataType::int32},
    {"i8", DataType::int64},
    {"float16", DataType::fp16},
    {"f2", DataType::fp16},
    {"bfloat16", DataType::bf16},
    {"float", DataType::fp32},
    {"float32", DataType::fp32},
    {"f4", DataType::fp32},
    {"double", DataType::fp64},
    {"float64", DataType::fp64},
    {"f8", DataType::fp64},
    {"float8e4m3fn", DataType::fp8_e4m3},
    {"float8_e4m3fn", DataType::fp8_e4m3},
    {"fp8_e4m3fn", DataType::fp8_e4m3},
    {"float8e5m2", DataType::fp8_e5m2},
    {"float8_e5m2", DataType::fp8_e5m2},
    {"string", DataType::bytes},
};

// What stands between "tensor(" and ")", or behind a mark of the byte order that is this machine's.
std::string_view core_of(std::string_view text) noexcept {
  constexpr std::string_view kTensor = "tensor(";
  text = trimmed(text);
  if (text.size() > kTensor.size() && text.back() == ')' &&
      equal_ignoring_case(text.substr(0, kTensor.size()), kTensor)) {
    return text.substr(kTensor.size(), text.size() - kTensor.size() - 1);
  }
  if (text.size() == 3 && (text[0] == '<' || text[0] == '|' || text[0] == '='))
    text.remove_prefix(1);
  return text;
}

}  // namespace

std::size_t size_of(DataType type) noexcept {
  switch (type) {
    case DataType::boolean:
    case DataType::uint8:
    case DataType::int8:
    case DataType::fp8_e4m3:
    case DataType::fp8_e5m2:
      return 1;
    case DataType::uint16:
    case DataType::int16:
    case DataType::fp16:
    case DataType::bf16:
      return 2;
    case DataType::uint32:
    case DataType::int32:
    case DataType::fp32:
      return 4;
    case DataType::uint64:
    case DataType::int64:
    case DataType::fp64:
      return 8;
    case DataType::bytes:
      return 0;
  }
  return 0;
}

std::string_view to_string(DataType type) noexcept {
  switch (type) {
    case DataType::boolean:
      return "BOOL";
    case DataType::uint8:
      return "UINT8";
    case DataType::uint16:
      return "UINT16";
    case DataType::uint32:
      return "UINT32";
    case DataType::uint64:
      return "UINT64";
    case DataType::int8:
      return "INT8";
    case DataType::int16:
      return "INT16";
    case DataType::int32:
      return "INT32";
    case DataType::int64:
      return "INT64";
    case DataType::fp16:
      return "FP16";
    case DataType::bf16:
      return "BF16";
    case DataType::fp32:
      return "FP32";
    case DataType::fp64:
      return "FP64";
    case DataType::fp8_e4m3:
      return "FP8_E4M3";
    case DataType::fp8_e5m2:
      return "FP8_E5M2";
    case DataType::bytes:
      return "BYTES";
  }
  return "UNKNOWN";
}

Result<DataType> parse_data_type(std::string_view text) {
  const std::string_view core = core_of(text);
  for (const DataType type : kAll) {
    if (equal_ignoring_case(core, to_string(type))) return type;
  }
  for (const Spelling& spelling : kSpellings) {
    if (equal_ignoring_case(core, spelling.text)) return spelling.type;
  }
  return Error{ErrorCode::invalid_argument,
               concat("data type: expected one of ", join(kAll, ", "),
                      " (or their ONNX or little-endian NumPy names), got ", quote(text))};
}

std::span<const DataType> all_data_types() noexcept { return kAll; }

}  // namespace millrace
