#include <millrace/tensor.h>

#include <cstring>
#include <new>

#include "base/text.h"
#include "base/try.h"
#include "tensor/layout.h"

namespace millrace {
namespace {

constexpr std::size_t kAlignment = 64;
// More than a process can address: refused here, so that no allocator has to.
constexpr std::size_t kMaxHostBytes = std::size_t{1} << 47;

constexpr std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// A count and, behind it, the memory that it counts for.
class HostBlock final : public Lease::Counted {
 public:
  // Null when there is no memory.
  static HostBlock* make(std::size_t bytes) noexcept {
    void* memory = ::operator new(kHeader + bytes, std::align_val_t{kAlignment}, std::nothrow);
    return memory ? new (memory) HostBlock : nullptr;
  }
  void dispose() noexcept override {
    this->~HostBlock();
    ::operator delete(static_cast<void*>(this), std::align_val_t{kAlignment});
  }
  [[nodiscard]] std::byte* data() noexcept { return reinterpret_cast<std::byte*>(this) + kHeader; }

 private:
  static constexpr std::size_t kHeader = kAlignment;
  ~HostBlock() override = default;
};

Error no_memory(std::size_t bytes) {
  return {ErrorCode::out_of_memory, concat("no host memory for a tensor of ", format_bytes(bytes))};
}

Result<HostBlock*> new_block(std::size_t bytes) {
  if (bytes > kMaxHostBytes) return no_memory(bytes);
  HostBlock* block = HostBlock::make(bytes);
  if (!block) return no_memory(bytes);
  return block;
}

Result<void> validate_offsets(const TensorView& view) {
  MILLRACE_ASSIGN(const std::int64_t count, element_count(view.shape));
  if (view.device.kind != DeviceKind::host) {
    return Error{ErrorCode::unsupported, "BYTES tensors lie in host memory only"};
  }
  if (!view.offsets) {
    if (count == 0) return {};
    return Error{ErrorCode::invalid_argument,
                 concat("expected ", count + 1, " offsets for BYTES of shape ", view.shape,
                        ", got a null pointer")};
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (view.offsets[i + 1] < view.offsets[i]) {
      return Error{ErrorCode::invalid_argument,
                   concat("expected ascending BYTES offsets, got ", view.offsets[i],
                          " followed by ", view.offsets[i + 1], " at element ", i)};
    }
  }
  if (view.offsets[count] != view.offsets[0] && !view.data) {
    return Error{ErrorCode::invalid_argument,
                 concat("expected ", view.offsets[count], " bytes, got a null pointer")};
  }
  return {};
}

Result<void> validate_unnamed(const TensorView& view) {
  MILLRACE_TRY(byte_count(view.type, view.shape));
  if (view.type == DataType::bytes) {
    if (!view.contiguous()) {
      return Error{ErrorCode::unsupported, "BYTES tensors cannot be strided"};
    }
    return validate_offsets(view);
  }
  MILLRACE_ASSIGN(const std::int64_t elements, extent(view.shape, view.strides));
  std::int64_t bytes = 0;
  if (!multiply(elements, static_cast<std::int64_t>(size_of(view.type)), bytes)) {
    return Error{ErrorCode::invalid_argument,
                 concat("strides ", view.strides, " of shape ", view.shape, " and type ", view.type,
                        " reach beyond 63 bits")};
  }
  if (bytes != 0 && !view.data) {
    return Error{ErrorCode::invalid_argument,
                 concat("expected ", bytes, " bytes of ", view.type, " of shape ", view.shape,
                        ", got a null pointer")};
  }
  return {};
}

}  // namespace

Result<std::size_t> TensorView::bytes() const {
  if (type != DataType::bytes) return byte_count(type, shape);
  MILLRACE_ASSIGN(const std::int64_t count, element_count(shape));
  if (!offsets) return std::size_t{0};
  return static_cast<std::size_t>(offsets[count] - offsets[0]);
}

Result<void> validate(const TensorView& view, std::string_view name) {
  Result<void> result = validate_unnamed(view);
  if (!result.ok()) result.error().message = concat(name, ": ", result.error().message);
  return result;
}

TensorView slice(const TensorView& view, std::int64_t first, std::int64_t count) noexcept {
  assert(view.shape.rank() > 0 && view.contiguous());
  assert(first >= 0 && count >= 0 && count <= view.shape[0] - first);
  // Elements before the slice; unsigned, since the sizes of a shape without elements may overflow.
  auto skipped = static_cast<std::uint64_t>(first);
  for (std::size_t i = 1; i < view.shape.rank(); ++i) {
    skipped *= static_cast<std::uint64_t>(view.shape[i]);
  }
  TensorView part = view;
  part.shape[0] = count;
  if (view.type == DataType::bytes) {
    if (part.offsets) part.offsets += skipped;
  } else if (part.data) {
    part.data = static_cast<std::byte*>(part.data) + skipped * size_of(view.type);
  }
  return part;
}

Result<Tensor> Tensor::allocate(DataType type, const Shape& shape) {
  if (type == DataType::bytes) {
    return Error{ErrorCode::invalid_argument,
                 "BYTES tensors have no size of their own: make them with Tensor::of_strings"};
  }
  MILLRACE_ASSIGN(const std::size_t bytes, byte_count(type, shape));
  MILLRACE_ASSIGN(HostBlock * block, new_block(bytes));
  return Tensor(TensorView::of(type, block->data(), shape), Lease::adopt(block));
}

Result<Tensor> Tensor::of_strings(std::span<const std::string_view> values, const Shape& shape) {
  MILLRACE_ASSIGN(const std::int64_t count, element_count(shape));
  if (static_cast<std::uint64_t>(count) != values.size()) {
    return Error{ErrorCode::invalid_argument,
                 concat("expected ", count, " strings for shape ", shape, ", got ", values.size())};
  }
  std::size_t bytes = 0;
  for (const std::string_view value : values) bytes += value.size();
  const std::size_t offsets_bytes = aligned((values.size() + 1) * sizeof(std::uint64_t));
  MILLRACE_ASSIGN(HostBlock * block, new_block(offsets_bytes + bytes));

  auto* offsets = reinterpret_cast<std::uint64_t*>(block->data());
  std::byte* data = block->data() + offsets_bytes;
  std::uint64_t end = 0;
  *offsets = 0;
  for (const std::string_view value : values) {
    if (!value.empty()) std::memcpy(data + end, value.data(), value.size());
    end += value.size();
    *++offsets = end;
  }
  TensorView view = TensorView::of(DataType::bytes, data, shape);
  view.offsets = reinterpret_cast<const std::uint64_t*>(block->data());
  return Tensor(view, Lease::adopt(block));
}

std::string_view Tensor::string_at(std::int64_t i) const noexcept {
  assert(view_.type == DataType::bytes && view_.offsets);
  const std::uint64_t begin = view_.offsets[i];
  return {static_cast<const char*>(view_.data) + begin,
          static_cast<std::size_t>(view_.offsets[i + 1] - begin)};
}

}  // namespace millrace
