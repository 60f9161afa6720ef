#include "tensor/layout.h"

#include <cstddef>
#include <cstring>
#include <limits>

#include "base/text.h"
#include "base/try.h"

namespace millrace {
namespace {

// Copies dimension `d` and those inside it; returns where the next element goes.
std::byte* copy_dimension(const TensorView& view, const Strides& inner, std::size_t d,
                          const std::byte* source, std::byte* target) noexcept {
  const std::size_t size = size_of(view.type);
  // From a dimension on where the rest is dense, one copy does it all.
  if (d == view.shape.rank() || (view.strides[d] == inner[d] && d + 1 == view.shape.rank())) {
    const std::size_t count = d == view.shape.rank() ? 1 : static_cast<std::size_t>(view.shape[d]);
    std::memcpy(target, source, count * size);
    return target + count * size;
  }
  const auto step = static_cast<std::size_t>(view.strides[d]) * size;
  for (std::int64_t i = 0; i < view.shape[d]; ++i, source += step) {
    target = copy_dimension(view, inner, d + 1, source, target);
  }
  return target;
}

}  // namespace

bool multiply(std::int64_t a, std::int64_t b, std::int64_t& product) noexcept {
  return !__builtin_mul_overflow(a, b, &product);
}

Result<std::int64_t> extent(const Shape& shape, const Strides& strides) {
  MILLRACE_ASSIGN(const std::int64_t count, element_count(shape));
  if (strides.empty()) return count;
  if (strides.rank() != shape.rank()) {
    return Error{ErrorCode::invalid_argument,
                 concat("expected as many strides as dimensions, got strides ", strides,
                        " for shape ", shape)};
  }
  std::int64_t last = 0;
  for (std::size_t i = 0; i < shape.rank(); ++i) {
    if (strides[i] < 0) {
      return Error{ErrorCode::unsupported,
                   concat("negative strides are not supported: got ", strides, " for shape ", shape,
                          "; pass a contiguous copy")};
    }
    std::int64_t reach = 0;
    if (count != 0 && (!multiply(shape[i] - 1, strides[i], reach) ||
                       __builtin_add_overflow(last, reach, &last))) {
      return Error{ErrorCode::invalid_argument,
                   concat("strides ", strides, " of shape ", shape, " reach beyond 63 bits")};
    }
  }
  if (count == 0) return 0;
  if (last == std::numeric_limits<std::int64_t>::max()) {
    return Error{ErrorCode::invalid_argument,
                 concat("strides ", strides, " of shape ", shape, " reach beyond 63 bits")};
  }
  return last + 1;
}

void copy_to_contiguous(const TensorView& source, void* target) noexcept {
  const Result<std::size_t> bytes = byte_count(source.type, source.shape);
  if (!bytes.ok() || *bytes == 0) return;
  if (source.contiguous()) {
    std::memcpy(target, source.data, *bytes);
    return;
  }
  copy_dimension(source, contiguous_strides(source.shape), 0,
                 static_cast<const std::byte*>(source.data), static_cast<std::byte*>(target));
}

}  // namespace millrace
