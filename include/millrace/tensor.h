// Tensors: typed, shaped memory on a device.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include <millrace/data_type.h>
#include <millrace/device.h>
#include <millrace/lease.h>
#include <millrace/shape.h>

namespace millrace {

/// Names a tensor's memory without owning it. A small value.
///
/// BYTES tensors have two parts: `offsets`, `element_count(shape) + 1` ascending numbers, and
/// `data`, the block of bytes in which element i is [offsets[i], offsets[i+1]). Both lie in host
/// memory.
struct TensorView {
  DataType type = DataType::fp32;
  Shape shape;
  /// In elements; empty: C-contiguous.
  Strides strides;
  void* data = nullptr;
  const std::uint64_t* offsets = nullptr;
  DeviceId device;
  /// Reached when the data may be read (an input) or written (an output). Null: now.
  EventRef ready;

  /// Views host memory; the element type follows from the pointer.
  template <class T>
  [[nodiscard]] static TensorView of(const T* data, const Shape& shape) noexcept {
    return of(kDataTypeOf<T>, data, shape);
  }
  [[nodiscard]] static TensorView of(DataType type, const void* data, const Shape& shape,
                                     DeviceId device = {}) noexcept {
    TensorView view;
    view.type = type;
    view.shape = shape;
    view.data = const_cast<void*>(data);
    view.device = device;
    return view;
  }

  [[nodiscard]] bool contiguous() const noexcept { return is_contiguous(shape, strides); }
  /// Bytes of a contiguous tensor of this type and shape; for BYTES, of the byte block (reads
  /// `offsets`). Errors: as `byte_count`.
  [[nodiscard]] Result<std::size_t> bytes() const;
  template <class T>
  [[nodiscard]] T* as() const noexcept {
    assert(type == kDataTypeOf<std::remove_const_t<T>>);
    return static_cast<T*>(data);
  }
};

/// Checks what can be checked without the memory itself: rank, sizes, overflow, pointers present,
/// strides of the right rank and not negative, ascending BYTES offsets (all of them are read).
/// Messages begin with `name`, as in: input "images": expected ... . Errors: invalid_argument,
/// unsupported.
[[nodiscard]] Result<void> validate(const TensorView& view, std::string_view name);

/// Part of a tensor along its first dimension: `count` rows from `first`. Contiguous tensors only;
/// BYTES slices share the block and point into the offsets.
[[nodiscard]] TensorView slice(const TensorView& view, std::int64_t first,
                               std::int64_t count) noexcept;

/// A view together with a lease on its memory.
class Tensor {
 public:
  Tensor() noexcept = default;
  Tensor(TensorView view, Lease lease) noexcept : view_(view), lease_(std::move(lease)) {}

  /// New contiguous host memory of that type and static shape, uninitialized, 64-byte aligned. Not
  /// for BYTES: see `of_strings`. Errors: invalid_argument, out_of_memory.
  [[nodiscard]] static Result<Tensor> allocate(DataType type, const Shape& shape);
  /// A BYTES tensor that owns a copy of `values`; their number must be that of the shape's
  /// elements.
  [[nodiscard]] static Result<Tensor> of_strings(std::span<const std::string_view> values,
                                                 const Shape& shape);

  [[nodiscard]] const TensorView& view() const noexcept { return view_; }
  [[nodiscard]] TensorView& view() noexcept { return view_; }
  [[nodiscard]] const Lease& lease() const noexcept { return lease_; }
  [[nodiscard]] DataType type() const noexcept { return view_.type; }
  [[nodiscard]] const Shape& shape() const noexcept { return view_.shape; }
  template <class T>
  [[nodiscard]] T* as() const noexcept {
    return view_.as<T>();
  }
  /// Element i of a BYTES tensor.
  [[nodiscard]] std::string_view string_at(std::int64_t i) const noexcept;
  /// Whether there is memory: not so for default-made tensors, nor for empty ones from elsewhere.
  explicit operator bool() const noexcept { return view_.data != nullptr; }

 private:
  TensorView view_;
  Lease lease_;
};

}  // namespace millrace
