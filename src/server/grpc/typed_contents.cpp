#include "server/grpc/typed_contents.h"

#include <array>
#include <cstring>
#include <limits>
#include <string_view>

#include "base/text.h"

namespace millrace::server {
namespace {

constexpr std::array<std::string_view, 9> kFields = {
    "",
    "bool_contents",
    "int_contents",
    "int64_contents",
    "uint_contents",
    "uint64_contents",
    "fp32_contents",
    "fp64_contents",
    "bytes_contents",
};

/// The number of the field in which elements of that type come; 0: there is none.
std::uint32_t field_of(DataType type) noexcept {
  switch (type) {
    case DataType::boolean:
      return 1;
    case DataType::int8:
    case DataType::int16:
    case DataType::int32:
      return 2;
    case DataType::int64:
      return 3;
    case DataType::uint8:
    case DataType::uint16:
    case DataType::uint32:
      return 4;
    case DataType::uint64:
      return 5;
    case DataType::fp32:
      return 6;
    case DataType::fp64:
      return 7;
    case DataType::bytes:
      return 8;
    default:
      return 0;
  }
}

/// Bytes of an element where it is packed; 0: it varies.
std::size_t packed_bytes(std::uint32_t field) noexcept {
  return field == 6 ? sizeof(float) : field == 7 ? sizeof(double) : 0;
}

Error wrong(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

/// How many elements the field has that `reader` stands at, which it passes.
std::int64_t count_elements(Pieces message, WireReader& reader) {
  const std::uint32_t field = reader.field();
  if (reader.type() != WireType::bytes || field == 8) {
    if (field == 8) {
      (void)reader.bytes();
    } else {
      reader.skip();
    }
    return 1;
  }
  const WireBytes packed = reader.bytes();
  if (const std::size_t each = packed_bytes(field)) {
    return packed.size % each == 0 ? static_cast<std::int64_t>(packed.size / each) : -1;
  }
  std::int64_t count = 0;
  WireReader numbers(message, packed);
  while (numbers.more()) {
    (void)numbers.number();
    ++count;
  }
  return numbers.ok() ? count : -1;
}

/// Calls `take(number)` for each of a field of variable-length numbers.
template <class Take>
void each_number(const TypedContents& typed, const Take& take) {
  WireReader reader(typed.message, typed.contents);
  while (reader.next()) {
    if (reader.type() == WireType::varint) {
      take(reader.varint());
      continue;
    }
    WireReader numbers(typed.message, reader.bytes());
    while (numbers.more()) take(numbers.number());
  }
}

template <class T>
Result<void> copy_numbers(const TypedContents& typed, void* to) {
  char* out = static_cast<char*>(to);
  bool fits = true;
  each_number(typed, [&](std::uint64_t number) {
    T value{};
    if constexpr (std::same_as<T, bool>) {
      value = number != 0;
    } else if constexpr (std::signed_integral<T>) {
      const auto wide = static_cast<std::int64_t>(number);
      value = static_cast<T>(wide);
      fits = fits && value == wide;
    } else {
      value = static_cast<T>(number);
      fits = fits && value == number;
    }
    std::memcpy(out, &value, sizeof value);
    out += sizeof value;
  });
  if (fits) return {};
  return wrong(concat("a number in ", kFields[field_of(typed.type)], " is no ", typed.type));
}

Result<void> copy_fixed(const TypedContents& typed, void* to) {
  char* out = static_cast<char*>(to);
  WireReader reader(typed.message, typed.contents);
  while (reader.next()) {
    if (reader.type() == WireType::bytes) {
      const WireBytes packed = reader.bytes();
      copy(typed.message, packed, out);
      out += packed.size;
    } else if (reader.type() == WireType::fixed32) {
      const std::uint32_t bits = reader.fixed32();
      std::memcpy(out, &bits, sizeof bits);
      out += sizeof bits;
    } else {
      const std::uint64_t bits = reader.fixed64();
      std::memcpy(out, &bits, sizeof bits);
      out += sizeof bits;
    }
  }
  return {};
}

/// Whether a field of that number may come in that form.
bool form_fits(std::uint32_t field, WireType type) noexcept {
  if (type == WireType::bytes) return true;
  if (field == 6) return type == WireType::fixed32;
  if (field == 7) return type == WireType::fixed64;
  return field != 8 && type == WireType::varint;
}

}  // namespace

Result<void> check(const TypedContents& typed) {
  const std::uint32_t expected = field_of(typed.type);
  if (expected == 0) {
    return wrong(concat(typed.type, " has no field in contents; send raw_input_contents"));
  }
  std::int64_t count = 0;
  WireReader reader(typed.message, typed.contents);
  while (reader.next()) {
    const std::uint32_t field = reader.field();
    if (field >= kFields.size()) {
      reader.skip();
      return wrong(concat("unknown field ", field, " in contents"));
    }
    if (!form_fits(field, reader.type())) return wrong("malformed contents");
    const std::int64_t found = count_elements(typed.message, reader);
    if (found < 0) return wrong("malformed contents");
    if (found > 0 && field != expected) {
      return wrong(concat("expected the elements of ", typed.type, " in ", kFields[expected],
                          ", got ", kFields[field]));
    }
    count += found;
  }
  if (!reader.ok()) return wrong("malformed contents");
  if (count != typed.count) {
    return wrong(concat("expected ", typed.count, " elements in ", kFields[expected], ", got ",
                        count, count == 0 ? " (and no raw_input_contents)" : ""));
  }
  return {};
}

Result<void> copy_elements(const TypedContents& typed, void* to) {
  switch (typed.type) {
    case DataType::boolean:
      return copy_numbers<bool>(typed, to);
    case DataType::int8:
      return copy_numbers<std::int8_t>(typed, to);
    case DataType::int16:
      return copy_numbers<std::int16_t>(typed, to);
    case DataType::int32:
      return copy_numbers<std::int32_t>(typed, to);
    case DataType::int64:
      return copy_numbers<std::int64_t>(typed, to);
    case DataType::uint8:
      return copy_numbers<std::uint8_t>(typed, to);
    case DataType::uint16:
      return copy_numbers<std::uint16_t>(typed, to);
    case DataType::uint32:
      return copy_numbers<std::uint32_t>(typed, to);
    case DataType::uint64:
      return copy_numbers<std::uint64_t>(typed, to);
    default:
      return copy_fixed(typed, to);
  }
}

std::size_t wire_bytes_size(const TypedContents& typed) {
  std::size_t size = 0;
  WireReader reader(typed.message, typed.contents);
  while (reader.next()) size += sizeof(std::uint32_t) + reader.bytes().size;
  return size;
}

std::size_t copy_wire_bytes(const TypedContents& typed, void* to) {
  char* out = static_cast<char*>(to);
  WireReader reader(typed.message, typed.contents);
  while (reader.next()) {
    const WireBytes element = reader.bytes();
    const auto size = static_cast<std::uint32_t>(element.size);
    std::memcpy(out, &size, sizeof size);
    copy(typed.message, element, out + sizeof size);
    out += sizeof size + element.size;
  }
  return static_cast<std::size_t>(out - static_cast<char*>(to));
}

}  // namespace millrace::server
