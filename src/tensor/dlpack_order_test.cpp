// The standard structures may come before our header as well.
typedef struct DLManagedTensor {
  int standard;
} DLManagedTensor;
typedef struct DLManagedTensorVersioned {
  int standard;
} DLManagedTensorVersioned;

#include <millrace/dlpack.h>

#include <type_traits>

static_assert(
    std::is_same_v<decltype(millrace::to_dlpack({}).value()), DLManagedTensorVersioned*&&>);
