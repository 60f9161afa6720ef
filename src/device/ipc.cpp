#include <millrace/ipc.h>

#include "base/text.h"
#include "base/try.h"
#include "device/cuda_ipc.h"

namespace millrace {

Result<IpcMemoryHandle> export_memory(const TensorView& view) {
  MILLRACE_TRY(validate(view, "memory to export"));
  if (view.device.kind != DeviceKind::cuda) {
    return Error{ErrorCode::unsupported,
                 concat("export_memory: expected memory of a GPU, got memory on ", view.device,
                        "; other processes reach host memory by shared memory of the system")};
  }
  if (!view.contiguous()) {
    return Error{ErrorCode::invalid_argument,
                 concat("export_memory: expected contiguous memory, got strides ", view.strides,
                        " for shape ", view.shape)};
  }
  MILLRACE_ASSIGN(const std::size_t bytes, view.bytes());
  if (bytes == 0) {
    return Error{ErrorCode::invalid_argument,
                 concat("export_memory: there is nothing in shape ", view.shape)};
  }
  return export_cuda_memory(view.device.index, view.data, bytes);
}

Result<Tensor> import_memory(const IpcMemoryHandle& handle, DataType type, const Shape& shape) {
  if (type == DataType::bytes) {
    return Error{ErrorCode::unsupported, "import_memory: BYTES tensors lie in host memory only"};
  }
  MILLRACE_ASSIGN(const std::size_t bytes, byte_count(type, shape));
  if (bytes > handle.bytes) {
    return Error{ErrorCode::invalid_argument,
                 concat("import_memory: shape ", shape, " of ", type, " takes ", bytes,
                        " bytes, the handle names ", handle.bytes)};
  }
  MILLRACE_ASSIGN(ImportedMemory memory, import_cuda_memory(handle));
  return Tensor(TensorView::of(type, memory.data, shape, memory.device), std::move(memory.lease));
}

Result<Event> new_shared_event(DeviceId device) {
  if (device.kind != DeviceKind::cuda) {
    return Error{ErrorCode::unsupported, concat("new_shared_event: expected a GPU, got ", device)};
  }
  return new_shared_cuda_event(device.index);
}

Result<IpcEventHandle> export_event(EventRef event) {
  if (!event) {
    return Error{ErrorCode::invalid_argument,
                 "export_event: expected an event, got a ref that names none"};
  }
  if (event.device().kind != DeviceKind::cuda) {
    return Error{ErrorCode::unsupported,
                 concat("export_event: expected an event of a GPU, got one of ", event.device())};
  }
  return export_cuda_event(event);
}

Result<Event> import_event(const IpcEventHandle& handle) { return import_cuda_event(handle); }

}  // namespace millrace
