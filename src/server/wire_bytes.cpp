#include "server/wire_bytes.h"

#include <cstring>
#include <vector>

#include "base/text.h"
#include "base/try.h"

namespace millrace::server {
namespace {

constexpr std::size_t kLengthBytes = 4;

std::uint32_t read_length(const std::byte* at) noexcept {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    value |= static_cast<std::uint32_t>(at[i]) << (8 * i);
  }
  return value;
}

std::size_t elements_of(const TensorView& view) noexcept {
  const Result<std::int64_t> count = element_count(view.shape);
  return count ? static_cast<std::size_t>(*count) : 0;
}

}  // namespace

Result<Tensor> read_wire_bytes(std::span<const std::byte> wire, const Shape& shape,
                               std::string_view what) {
  MILLRACE_ASSIGN(const std::int64_t count, element_count(shape));
  // Each takes its length at least: a shape cannot make us reserve more than came.
  if (static_cast<std::uint64_t>(count) > wire.size() / kLengthBytes) {
    return Error{
        ErrorCode::invalid_argument,
        concat(what, ": expected ", count, " elements of BYTES, each behind its length of ",
               kLengthBytes, " bytes, got ", wire.size(), " bytes")};
  }
  std::vector<std::string_view> elements;
  elements.reserve(static_cast<std::size_t>(count));
  std::size_t at = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::size_t left = wire.size() - at;
    const std::size_t length = left < kLengthBytes ? 0 : read_length(wire.data() + at);
    if (left < kLengthBytes || length > left - kLengthBytes) {
      return Error{ErrorCode::invalid_argument,
                   concat(what, ": element ", i, " of ", count, " does not fit: it starts at byte ",
                          at, " of ", wire.size(), " and claims ", length, " bytes")};
    }
    elements.emplace_back(reinterpret_cast<const char*>(wire.data() + at + kLengthBytes), length);
    at += kLengthBytes + length;
  }
  if (at != wire.size()) {
    return Error{
        ErrorCode::invalid_argument,
        concat(what, ": ", count, " elements of BYTES end at byte ", at, " of ", wire.size())};
  }
  return Tensor::of_strings(elements, shape);
}

std::size_t wire_bytes_size(const TensorView& view) noexcept {
  const std::size_t count = elements_of(view);
  return count == 0 ? 0 : count * kLengthBytes + view.offsets[count] - view.offsets[0];
}

void write_wire_bytes(const TensorView& view, std::byte* wire) noexcept {
  const std::size_t count = elements_of(view);
  const auto* block = static_cast<const std::byte*>(view.data);
  for (std::size_t i = 0; i < count; ++i) {
    const auto length = static_cast<std::uint32_t>(view.offsets[i + 1] - view.offsets[i]);
    for (std::size_t k = 0; k < kLengthBytes; ++k) {
      wire[k] = static_cast<std::byte>(length >> (8 * k) & 0xff);
    }
    if (length > 0) std::memcpy(wire + kLengthBytes, block + view.offsets[i], length);
    wire += kLengthBytes + length;
  }
}

}  // namespace millrace::server
