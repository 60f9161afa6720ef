// DLPack structures made of arbitrary bytes: import says yes or no without touching the data,
// releases once, and what it accepts goes out and comes back the same.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include <millrace/dlpack.h>

#include "tensor/dlpack_abi.h"
#include "tensor/layout.h"

namespace {

using namespace millrace;

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}
#define CHECK_HOLDS(condition) check((condition), #condition)

class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  // Zeros behind the end.
  template <class T>
  T next() {
    T value{};
    const std::size_t count = sizeof(T) < size_ ? sizeof(T) : size_;
    if (count > 0) std::memcpy(&value, data_, count);
    data_ += count;
    size_ -= count;
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

enum Switch : std::uint8_t { kOld = 1, kNullShape = 2, kNullStrides = 4, kNullDeleter = 8 };

bool same(const TensorView& a, const TensorView& b) {
  return a.type == b.type && a.shape == b.shape && a.strides == b.strides && a.device == b.device;
}

void check_import(Result<Tensor> imported, const int& deleted, bool has_deleter) {
  if (!imported.ok()) {
    CHECK_HOLDS(!imported.error().message.empty());
    CHECK_HOLDS(imported.error().code == ErrorCode::invalid_argument ||
                imported.error().code == ErrorCode::unsupported);
    CHECK_HOLDS(deleted == 0);
    return;
  }
  Tensor tensor = std::move(imported).value();
  const TensorView view = tensor.view();
  CHECK_HOLDS(validate(view, "imported").ok());
  const std::int64_t elements = extent(view.shape, view.strides).value();
  const auto bytes = static_cast<std::size_t>(elements) * size_of(view.type);
  CHECK_HOLDS(reinterpret_cast<std::uintptr_t>(view.data) + bytes >=
              reinterpret_cast<std::uintptr_t>(view.data));
  {
    const Tensor back = from_dlpack(to_dlpack(tensor, true).value()).value();
    CHECK_HOLDS(same(back.view(), view));
    CHECK_HOLDS(elements == 0 || back.view().data == view.data);
  }
  CHECK_HOLDS(deleted == 0);
  tensor = {};
  CHECK_HOLDS(deleted == (has_deleter ? 1 : 0));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const auto switches = bytes.next<std::uint8_t>();
  dlpack::ManagedVersioned versioned{};
  versioned.version.major = bytes.next<std::uint8_t>();
  versioned.version.minor = bytes.next<std::uint8_t>();
  versioned.flags = bytes.next<std::uint8_t>();

  dlpack::Tensor& tensor = versioned.tensor;
  tensor.device.type = bytes.next<std::int32_t>();
  tensor.device.index = bytes.next<std::int32_t>();
  tensor.rank = bytes.next<std::int32_t>();
  tensor.type = bytes.next<dlpack::ElementType>();
  tensor.byte_offset = bytes.next<std::uint64_t>();
  tensor.data = bytes.next<void*>();
  // Exactly as long as the number of dimensions promises, as far as that is believable.
  const std::size_t promised =
      tensor.rank > 0 && tensor.rank < 64 ? static_cast<std::size_t>(tensor.rank) : 0;
  const std::unique_ptr<std::int64_t[]> shape(new std::int64_t[promised]);
  const std::unique_ptr<std::int64_t[]> strides(new std::int64_t[promised]);
  for (std::size_t i = 0; i < promised; ++i) {
    shape[i] = bytes.next<std::int64_t>();
    strides[i] = bytes.next<std::int64_t>();
  }
  tensor.shape = switches & kNullShape ? nullptr : shape.get();
  tensor.strides = switches & kNullStrides ? nullptr : strides.get();

  int deleted = 0;
  const bool has_deleter = (switches & kNullDeleter) == 0;
  versioned.context = &deleted;
  if (switches & kOld) {
    dlpack::Managed old{tensor, &deleted, nullptr};
    if (has_deleter) {
      old.deleter = [](DLManagedTensor* self) {
        ++*static_cast<int*>(reinterpret_cast<dlpack::Managed*>(self)->context);
      };
    }
    check_import(from_dlpack(reinterpret_cast<DLManagedTensor*>(&old)), deleted, has_deleter);
  } else {
    if (has_deleter) {
      versioned.deleter = [](DLManagedTensorVersioned* self) {
        ++*static_cast<int*>(reinterpret_cast<dlpack::ManagedVersioned*>(self)->context);
      };
    }
    check_import(from_dlpack(reinterpret_cast<DLManagedTensorVersioned*>(&versioned)), deleted,
                 has_deleter);
  }
  return 0;
}
