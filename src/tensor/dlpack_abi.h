// The binary interface of DLPack 1.x, under names of our own so that it can stand beside dlpack.h.
#pragma once

#include <cstddef>
#include <cstdint>

struct DLManagedTensor;
struct DLManagedTensorVersioned;

namespace millrace::dlpack {

inline constexpr std::uint32_t kMajorVersion = 1;
inline constexpr std::uint32_t kMinorVersion = 1;

struct Version {
  std::uint32_t major;
  std::uint32_t minor;
};

enum DeviceType : std::int32_t {
  kCpu = 1,
  kCuda = 2,
  kCudaHost = 3,      // pinned host memory
  kCudaManaged = 13,  // unified memory
};

struct Device {
  std::int32_t type;  // a DeviceType, or another that we do not know
  std::int32_t index;
};

enum TypeCode : std::uint8_t {
  kInt = 0,
  kUInt = 1,
  kFloat = 2,
  kBfloat = 4,
  kBool = 6,
  kFloat8E4m3fn = 10,
  kFloat8E5m2 = 12,
};

struct ElementType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;

  friend constexpr bool operator==(const ElementType&, const ElementType&) = default;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t rank;
  ElementType type;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null (before 1.2): C-contiguous
  std::uint64_t byte_offset;
};

/// What `DLManagedTensor` is.
struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor* self);  // may be null
};

inline constexpr std::uint64_t kReadOnly = 1 << 0;
inline constexpr std::uint64_t kCopied = 1 << 1;

/// What `DLManagedTensorVersioned` is. All before `tensor` is the same in every major version.
struct ManagedVersioned {
  Version version;
  void* context;
  void (*deleter)(DLManagedTensorVersioned* self);  // may be null
  std::uint64_t flags;
  Tensor tensor;
};

static_assert(sizeof(void*) == 8, "the layout is that of 64-bit machines");
static_assert(sizeof(Version) == 8 && sizeof(Device) == 8 && sizeof(ElementType) == 4);
static_assert(offsetof(Tensor, data) == 0 && offsetof(Tensor, device) == 8);
static_assert(offsetof(Tensor, rank) == 16 && offsetof(Tensor, type) == 20);
static_assert(offsetof(Tensor, shape) == 24 && offsetof(Tensor, strides) == 32);
static_assert(offsetof(Tensor, byte_offset) == 40 && sizeof(Tensor) == 48);
static_assert(offsetof(Managed, context) == 48 && offsetof(Managed, deleter) == 56);
static_assert(sizeof(Managed) == 64);
static_assert(offsetof(ManagedVersioned, context) == 8 &&
              offsetof(ManagedVersioned, deleter) == 16);
static_assert(offsetof(ManagedVersioned, flags) == 24 && offsetof(ManagedVersioned, tensor) == 32);
static_assert(sizeof(ManagedVersioned) == 80);

}  // namespace millrace::dlpack
