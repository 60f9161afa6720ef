#include <millrace/shape.h>

#include "base/text.h"
#include "base/try.h"
#include "tensor/layout.h"

namespace millrace {
namespace {

Error bad_shape(std::string_view text, std::string_view why) {
  return {ErrorCode::invalid_argument,
          concat("shape: expected dimensions such as [1,3,-1], 1,3,? or 1x3x224, got ", quote(text),
                 ": ", why)};
}

Result<std::int64_t> parse_dimension(std::string_view text, std::string_view whole) {
  if (text == "?" || text == "-1") return kDynamic;
  const auto size = parse_integer(text, "dimension", 0);
  if (!size.ok()) return bad_shape(whole, concat(quote(text), " is not a dimension"));
  return *size;
}

}  // namespace

Result<Dims> Dims::from(std::span<const std::int64_t> values) {
  if (values.size() > kMaxRank) {
    return Error{ErrorCode::unsupported, concat("tensors of at most ", kMaxRank,
                                                " dimensions are supported, got ", values.size())};
  }
  Dims dims;
  for (const std::int64_t value : values) dims.push_back(value);
  return dims;
}

std::string to_string(const Shape& shape) { return concat("[", join(shape, ","), "]"); }

Result<Shape> parse_shape(std::string_view text) {
  std::string_view rest = trimmed(text);
  if (rest.empty()) return bad_shape(text, "nothing is there; a scalar is []");
  if (rest.front() == '[') {
    if (rest.size() < 2 || rest.back() != ']') return bad_shape(text, "the bracket is not closed");
    rest = trimmed(rest.substr(1, rest.size() - 2));
    if (rest.empty()) return Shape{};
  }
  const char separator = rest.find(',') == std::string_view::npos ? 'x' : ',';
  Shape shape;
  while (true) {
    const std::size_t end = rest.find(separator);
    if (shape.rank() == kMaxRank) {
      return bad_shape(text, concat("more than ", kMaxRank, " dimensions"));
    }
    MILLRACE_ASSIGN(const std::int64_t size, parse_dimension(trimmed(rest.substr(0, end)), text));
    shape.push_back(size);
    if (end == std::string_view::npos) return shape;
    rest.remove_prefix(end + 1);
  }
}

bool is_dynamic(const Shape& shape) noexcept {
  return std::find(shape.begin(), shape.end(), kDynamic) != shape.end();
}

Result<std::int64_t> element_count(const Shape& shape) {
  bool empty = false;
  for (const std::int64_t size : shape) {
    if (size < 0) {
      return Error{ErrorCode::invalid_argument,
                   concat("shape ", shape, ": expected sizes of zero or more, got ", size,
                          size == kDynamic ? " (a size not known yet)" : "")};
    }
    empty = empty || size == 0;
  }
  std::int64_t count = empty ? 0 : 1;
  for (const std::int64_t size : shape) {
    if (!empty && !multiply(count, size, count)) {
      return Error{ErrorCode::invalid_argument,
                   concat("shape ", shape, ": the number of elements does not fit in 63 bits")};
    }
  }
  return count;
}

Result<std::size_t> byte_count(DataType type, const Shape& shape) {
  MILLRACE_ASSIGN(std::int64_t count, element_count(shape));
  std::int64_t bytes = 0;
  const bool strings = type == DataType::bytes;
  if (__builtin_add_overflow(count, strings ? 1 : 0, &count) ||
      !multiply(count, strings ? 8 : static_cast<std::int64_t>(size_of(type)), bytes)) {
    return Error{
        ErrorCode::invalid_argument,
        concat("shape ", shape, " of ", type, ": the size in bytes does not fit in 63 bits")};
  }
  return static_cast<std::size_t>(bytes);
}

Strides contiguous_strides(const Shape& shape) noexcept {
  Strides strides = shape;
  std::int64_t stride = 1;
  for (std::size_t i = shape.rank(); i-- > 0;) {
    strides[i] = stride;
    // A shape without elements may have sizes whose product overflows; its strides are never used.
    if (!multiply(stride, std::max<std::int64_t>(shape[i], 1), stride)) stride = 1;
  }
  return strides;
}

bool is_contiguous(const Shape& shape, const Strides& strides) noexcept {
  if (strides.empty()) return true;
  if (strides.rank() != shape.rank()) return false;
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return true;
  const Strides dense = contiguous_strides(shape);
  for (std::size_t i = 0; i < shape.rank(); ++i) {
    if (shape[i] != 1 && strides[i] != dense[i]) return false;
  }
  return true;
}

bool matches(const Shape& shape, const Shape& pattern) noexcept {
  return std::equal(
      shape.begin(), shape.end(), pattern.begin(), pattern.end(),
      [](std::int64_t size, std::int64_t wanted) { return wanted == kDynamic || size == wanted; });
}

}  // namespace millrace
