#include <millrace/dlpack.h>

#include <algorithm>
#include <array>
#include <limits>
#include <new>
#include <optional>

#include "base/text.h"
#include "base/try.h"
#include "tensor/dlpack_abi.h"
#include "tensor/layout.h"

namespace millrace {
namespace {

struct TypePair {
  DataType type;
  dlpack::ElementType element;
};

constexpr std::array<TypePair, 15> kTypes = {{
    {DataType::boolean, {dlpack::kBool, 8, 1}},
    {DataType::uint8, {dlpack::kUInt, 8, 1}},
    {DataType::uint16, {dlpack::kUInt, 16, 1}},
    {DataType::uint32, {dlpack::kUInt, 32, 1}},
    {DataType::uint64, {dlpack::kUInt, 64, 1}},
    {DataType::int8, {dlpack::kInt, 8, 1}},
    {DataType::int16, {dlpack::kInt, 16, 1}},
    {DataType::int32, {dlpack::kInt, 32, 1}},
    {DataType::int64, {dlpack::kInt, 64, 1}},
    {DataType::fp16, {dlpack::kFloat, 16, 1}},
    {DataType::bf16, {dlpack::kBfloat, 16, 1}},
    {DataType::fp32, {dlpack::kFloat, 32, 1}},
    {DataType::fp64, {dlpack::kFloat, 64, 1}},
    {DataType::fp8_e4m3, {dlpack::kFloat8E4m3fn, 8, 1}},
    {DataType::fp8_e5m2, {dlpack::kFloat8E5m2, 8, 1}},
}};

Error invalid(std::string message) {
  return {ErrorCode::invalid_argument, "DLPack tensor: " + std::move(message)};
}
Error unsupported(std::string message) {
  return {ErrorCode::unsupported, "DLPack tensor: " + std::move(message)};
}

Result<DataType> type_of(dlpack::ElementType element) {
  for (const TypePair& pair : kTypes) {
    if (pair.element == element) return pair.type;
  }
  return unsupported(concat(
      "no data type for code ", element.code, " with ", element.bits, " bits and ", element.lanes,
      " lanes; expected a whole-byte integer, float, bfloat, bool or 8-bit float "
      "(E4M3FN, E5M2) with 1 lane"));
}

Result<DeviceId> device_of(dlpack::Device device) {
  switch (device.type) {
    case dlpack::kCpu:
    case dlpack::kCudaHost:
    case dlpack::kCudaManaged:
      return DeviceId::host_memory();
    case dlpack::kCuda:
      if (device.index >= 0) return DeviceId::cuda(device.index);
      return invalid(concat("expected a GPU's index, got ", device.index));
    default:
      return unsupported(concat("device type ", device.type,
                                " is not known; expected CPU (1), CUDA (2), "
                                "CUDA host (3) or CUDA managed (13) memory"));
  }
}

Result<Dims> dims_of(const std::int64_t* values, std::int32_t rank) {
  return Dims::from({values, static_cast<std::size_t>(rank)});
}

Result<TensorView> view_of(const dlpack::Tensor& tensor, EventRef ready) {
  if (tensor.rank < 0)
    return invalid(concat("the number of dimensions is negative: ", tensor.rank));
  if (tensor.rank > 0 && !tensor.shape) return invalid("it has dimensions, but the shape is null");

  TensorView view;
  view.ready = ready;
  MILLRACE_ASSIGN(view.type, type_of(tensor.type));
  MILLRACE_ASSIGN(view.device, device_of(tensor.device));
  if (tensor.rank > 0) {
    MILLRACE_ASSIGN(view.shape, dims_of(tensor.shape, tensor.rank));
    if (tensor.strides) {
      MILLRACE_ASSIGN(view.strides, dims_of(tensor.strides, tensor.rank));
    }
  }
  // Both: a repeated dimension (stride 0) may be small in memory and too large to be copied out.
  MILLRACE_TRY(byte_count(view.type, view.shape));
  MILLRACE_ASSIGN(const std::int64_t elements, extent(view.shape, view.strides));
  if (view.contiguous()) view.strides = {};

  std::int64_t end = 0;
  if (tensor.byte_offset > std::numeric_limits<std::int64_t>::max() ||
      !multiply(elements, static_cast<std::int64_t>(size_of(view.type)), end) ||
      __builtin_add_overflow(end, static_cast<std::int64_t>(tensor.byte_offset), &end) ||
      static_cast<std::uint64_t>(end) > std::numeric_limits<std::uintptr_t>::max() -
                                            reinterpret_cast<std::uintptr_t>(tensor.data)) {
    return invalid(concat("shape ", view.shape, " of ", view.type, " behind a byte offset of ",
                          tensor.byte_offset, " does not fit in the address space"));
  }
  if (!tensor.data) {
    if (elements == 0) return view;
    return invalid(
        concat("expected ", end, " bytes for shape ", view.shape, ", got a null pointer"));
  }
  view.data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  return view;
}

// Calls the deleter of what was imported, once.
template <class Standard>
class Import final : public Lease::Counted {
 public:
  Import(Standard* managed, void (*deleter)(Standard*)) noexcept
      : managed_(managed), deleter_(deleter) {}
  void dispose() noexcept override {
    if (deleter_) deleter_(managed_);
    delete this;
  }

 private:
  Standard* managed_;
  void (*deleter_)(Standard*);
};

template <class Standard>
Result<Tensor> import(Standard* managed, const dlpack::Tensor& tensor, void (*deleter)(Standard*),
                      EventRef ready) {
  Result<TensorView> view = view_of(tensor, ready);
  if (!view.ok()) {
    std::string& message = view.error().message;
    if (!message.starts_with("DLPack")) message = "DLPack tensor: " + message;
    return std::move(view).error();
  }
  auto* counted = new (std::nothrow) Import<Standard>(managed, deleter);
  if (!counted)
    return Error{ErrorCode::out_of_memory, "no host memory to take over a DLPack tensor"};
  return Tensor(*view, Lease::adopt(counted));
}

// What the consumer of an exported tensor holds: `Managed` is one of our two structures, `Standard`
// the name it has elsewhere.
template <class Managed, class Standard>
struct Export {
  Managed managed{};
  Shape shape;
  Strides strides;
  Lease lease;

  static void destroy(Standard* self) {
    delete static_cast<Export*>(reinterpret_cast<Managed*>(self)->context);
  }
  Standard* standard() noexcept { return reinterpret_cast<Standard*>(&managed); }
};

template <class Managed, class Standard>
Result<Export<Managed, Standard>*> export_tensor(const Tensor& tensor) {
  const TensorView& view = tensor.view();
  const auto* pair = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const TypePair& known) { return known.type == view.type; });
  if (pair == kTypes.end()) {
    return Error{ErrorCode::unsupported, concat("DLPack has no type for ", view.type)};
  }
  MILLRACE_TRY(validate(view, "tensor for DLPack"));

  auto* out = new (std::nothrow) Export<Managed, Standard>;
  if (!out) return Error{ErrorCode::out_of_memory, "no host memory to export a DLPack tensor"};
  out->shape = view.shape;
  out->strides = view.strides.empty() ? contiguous_strides(view.shape) : view.strides;
  out->lease = tensor.lease();

  Managed& managed = out->managed;
  managed.context = out;
  managed.deleter = &Export<Managed, Standard>::destroy;
  const bool empty = element_count(view.shape).value() == 0;
  managed.tensor.data = empty ? nullptr : view.data;
  managed.tensor.device = view.device.kind == DeviceKind::cuda
                              ? dlpack::Device{dlpack::kCuda, view.device.index}
                              : dlpack::Device{dlpack::kCpu, 0};
  managed.tensor.rank = static_cast<std::int32_t>(out->shape.rank());
  managed.tensor.type = pair->element;
  managed.tensor.shape = out->shape.empty() ? nullptr : &out->shape[0];
  managed.tensor.strides = out->strides.empty() ? nullptr : &out->strides[0];
  return out;
}

}  // namespace

Result<Tensor> from_dlpack(DLManagedTensorVersioned* managed, EventRef ready) {
  if (!managed) return invalid("got a null pointer");
  const auto* versioned = reinterpret_cast<const dlpack::ManagedVersioned*>(managed);
  if (versioned->version.major != dlpack::kMajorVersion) {
    return unsupported(concat("expected version ", dlpack::kMajorVersion, ".x, got ",
                              versioned->version.major, ".", versioned->version.minor));
  }
  return import(managed, versioned->tensor, versioned->deleter, ready);
}

Result<Tensor> from_dlpack(DLManagedTensor* managed, EventRef ready) {
  if (!managed) return invalid("got a null pointer");
  const auto* old = reinterpret_cast<const dlpack::Managed*>(managed);
  return import(managed, old->tensor, old->deleter, ready);
}

Result<DLManagedTensorVersioned*> to_dlpack(const Tensor& tensor, bool read_only) {
  using Exported = Export<dlpack::ManagedVersioned, DLManagedTensorVersioned>;
  MILLRACE_ASSIGN(Exported * out,
                  (export_tensor<dlpack::ManagedVersioned, DLManagedTensorVersioned>(tensor)));
  out->managed.version = {dlpack::kMajorVersion, dlpack::kMinorVersion};
  out->managed.flags = read_only ? dlpack::kReadOnly : 0;
  return out->standard();
}

Result<DLManagedTensor*> to_dlpack_unversioned(const Tensor& tensor) {
  using Exported = Export<dlpack::Managed, DLManagedTensor>;
  MILLRACE_ASSIGN(Exported * out, (export_tensor<dlpack::Managed, DLManagedTensor>(tensor)));
  return out->standard();
}

}  // namespace millrace
