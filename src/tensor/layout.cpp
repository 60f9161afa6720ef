#include "tensor/layout.h"

#include <array>
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

/// A tensor's dimensions from the inside: some make up a row without a gap, some count rows at one
/// distance, the others repeat that.
struct RowLayout {
  std::size_t row_bytes = 0;
  std::size_t rows = 1;
  std::size_t pitch_bytes = 0;
  std::size_t outer = 0;  // the first so many dimensions repeat
};

RowLayout row_layout(const TensorView& view) noexcept {
  RowLayout layout;
  layout.row_bytes = size_of(view.type);
  std::size_t d = view.shape.rank();
  const auto size = [&](std::size_t i) { return static_cast<std::size_t>(view.shape[i]); };
  const auto step = [&](std::size_t i) {
    return static_cast<std::size_t>(view.strides[i]) * size_of(view.type);
  };
  for (; d > 0 && (size(d - 1) == 1 || step(d - 1) == layout.row_bytes); --d) {
    layout.row_bytes *= size(d - 1);
  }
  for (; d > 0; --d) {
    if (size(d - 1) == 1) continue;
    if (layout.rows == 1) {
      layout.pitch_bytes = step(d - 1);
    } else if (step(d - 1) != layout.rows * layout.pitch_bytes) {
      break;
    }
    layout.rows *= size(d - 1);
  }
  layout.outer = d;
  return layout;
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

Result<std::size_t> count_pieces(const TensorView& source) {
  MILLRACE_ASSIGN(const std::int64_t elements, element_count(source.shape));
  if (elements == 0) return std::size_t{0};
  if (source.contiguous()) return std::size_t{1};
  const RowLayout layout = row_layout(source);
  if (layout.row_bytes == size_of(source.type) && source.shape[source.shape.rank() - 1] > 1) {
    return Error{ErrorCode::unsupported,
                 concat("strides ", source.strides, " of shape ", source.shape,
                        " leave gaps between the elements of a row; expected rows of adjacent "
                        "elements, at any distance from each other; make it contiguous first")};
  }
  std::size_t pieces = 1;
  for (std::size_t i = 0; i < layout.outer; ++i) {
    pieces *= static_cast<std::size_t>(source.shape[i]);
    if (pieces <= kMostPiecesOfATensor) continue;
    return Error{ErrorCode::unsupported,
                 concat("strides ", source.strides, " of shape ", source.shape, " make more than ",
                        kMostPiecesOfATensor,
                        " pieces with gaps of different sizes; make it contiguous first")};
  }
  return pieces;
}

void append_pieces(const TensorView& source, void* target, std::vector<CopyPiece>& pieces) {
  const std::int64_t elements = element_count(source.shape).value();
  if (elements == 0) return;
  if (source.contiguous()) {
    pieces.push_back(
        {target, source.data, static_cast<std::size_t>(elements) * size_of(source.type)});
    return;
  }
  const RowLayout layout = row_layout(source);
  std::array<std::int64_t, kMaxRank> index{};
  auto* to = static_cast<std::byte*>(target);
  for (;;) {
    std::int64_t offset = 0;
    for (std::size_t d = 0; d < layout.outer; ++d) offset += index[d] * source.strides[d];
    const auto* from = static_cast<const std::byte*>(source.data) +
                       offset * static_cast<std::int64_t>(size_of(source.type));
    pieces.push_back({to, from, layout.row_bytes, layout.rows, layout.pitch_bytes});
    to += layout.row_bytes * layout.rows;
    std::size_t d = layout.outer;
    while (d > 0 && ++index[d - 1] == source.shape[d - 1]) index[--d] = 0;
    if (d == 0) return;
  }
}

}  // namespace millrace
