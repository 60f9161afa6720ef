// Shapes and strides of tensors.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <millrace/data_type.h>
#include <millrace/error.h>

namespace millrace {

/// The most dimensions a tensor may have: TensorRT's limit, so that a request means the same
/// everywhere.
inline constexpr std::size_t kMaxRank = 8;
/// A dimension whose size is not known before a request comes.
inline constexpr std::int64_t kDynamic = -1;

/// Up to `kMaxRank` 64-bit numbers, kept in place; a small value, free to copy.
class Dims {
 public:
  constexpr Dims() = default;
  /// More than `kMaxRank` values are a programming error; use `from` for outside data.
  constexpr Dims(std::initializer_list<std::int64_t> values) {
    assert(values.size() <= kMaxRank);
    for (std::int64_t value : values) push_back(value);
  }
  /// Errors: unsupported when there are more than `kMaxRank`.
  [[nodiscard]] static Result<Dims> from(std::span<const std::int64_t> values);

  [[nodiscard]] constexpr std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] constexpr bool empty() const noexcept { return rank_ == 0; }
  [[nodiscard]] constexpr std::int64_t operator[](std::size_t i) const noexcept {
    return values_[i];
  }
  [[nodiscard]] constexpr std::int64_t& operator[](std::size_t i) noexcept { return values_[i]; }
  [[nodiscard]] constexpr const std::int64_t* begin() const noexcept { return values_; }
  [[nodiscard]] constexpr const std::int64_t* end() const noexcept { return values_ + rank_; }
  [[nodiscard]] constexpr const std::int64_t* data() const noexcept { return values_; }
  constexpr void push_back(std::int64_t value) {
    assert(rank_ < kMaxRank);
    values_[rank_++] = value;
  }

  friend constexpr bool operator==(const Dims& a, const Dims& b) noexcept {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  std::int64_t values_[kMaxRank] = {};
  std::size_t rank_ = 0;
};

/// Sizes of each dimension, outermost first; `kDynamic` where unknown. An empty shape is a scalar.
using Shape = Dims;
/// Elements (not bytes) between neighbours along each dimension.
using Strides = Dims;

/// "[N]", "[-1,3,224,224]": dynamic dimensions print as -1.
[[nodiscard]] std::string to_string(const Shape& shape);
/// Reads "[1,3,-1]", "1,3,?" or "1x3x224"; "[]" is a scalar. Errors: invalid_argument.
[[nodiscard]] Result<Shape> parse_shape(std::string_view text);

[[nodiscard]] bool is_dynamic(const Shape& shape) noexcept;

/// The number of elements. Errors: invalid_argument for a negative or dynamic dimension or one
/// whose product does not fit in 63 bits; a shape with a size of 0 has 0 elements, whatever the
/// others.
[[nodiscard]] Result<std::int64_t> element_count(const Shape& shape);

/// The bytes that a contiguous tensor takes (for BYTES: of its offsets array). Errors: as
/// element_count.
[[nodiscard]] Result<std::size_t> byte_count(DataType type, const Shape& shape);

/// Strides of a C-contiguous (row-major) tensor of that static shape.
[[nodiscard]] Strides contiguous_strides(const Shape& shape) noexcept;

/// Whether those strides (none: contiguous) describe a C-contiguous tensor; strides of dimensions
/// of size 1 do not matter.
[[nodiscard]] bool is_contiguous(const Shape& shape, const Strides& strides) noexcept;

/// Whether `shape` (static) fits `pattern`, in which `kDynamic` matches any size.
[[nodiscard]] bool matches(const Shape& shape, const Shape& pattern) noexcept;

}  // namespace millrace
