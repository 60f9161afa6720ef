// Memory and events of a GPU that belong to another process.
//
// One process exports, sends the handle (plain bytes) to another in whatever way it likes, and
// keeps what it exported until the other says that it is done with it. The other imports, and uses
// the tensor as an input or the target of an output where it lies. Both processes need the GPU
// visible, under any index: handles name it by its UUID.
//
// Available on CUDA, on machines that allow it: containers that do not share their process space
// mostly refuse. In a build without CUDA all of this answers `unsupported`.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <millrace/device.h>
#include <millrace/tensor.h>

namespace millrace {

/// The UUID of a GPU as text, ended by zeros: "GPU-8932f937-...".
using IpcDeviceName = std::array<char, 48>;

/// Names memory of a GPU to another process of the machine. Plain bytes, to be sent as they are.
struct IpcMemoryHandle {
  std::array<std::byte, 64> memory{};  // of the whole allocation, the driver's own
  std::uint64_t offset_bytes = 0;      // in it
  std::uint64_t bytes = 0;
  IpcDeviceName device{};
};

/// Names an event of a GPU to another process of the machine.
struct IpcEventHandle {
  std::array<std::byte, 64> event{};
  IpcDeviceName device{};
};

/// A handle for the memory of `view`, which must be contiguous, on a GPU, and part of an allocation
/// of `cudaMalloc` (as PyTorch's allocator makes; CUDA cannot share memory from stream-ordered
/// pools, as that of `Engine::new_tensor` is). The memory must live for as long as another process
/// uses it; `view.ready` is not part of it, see `export_event`. Errors: invalid_argument,
/// unsupported (other memory, the machine refuses, no CUDA).
[[nodiscard]] Result<IpcMemoryHandle> export_memory(const TensorView& view);

/// The memory of a handle as a tensor of that type and static shape, at most the handle's bytes.
/// An allocation is mapped once however often it is imported, and unmapped, by a thread of its own,
/// soon after the last lease on it has gone: keep a tensor for as long as more from the same peer
/// is to come. When the process that owns the memory dies, it stays readable here until then; what
/// is in it is whatever was written before. Errors: invalid_argument, not_found (the GPU is not
/// visible here), unavailable (the owner is gone, or is this very process), unsupported.
[[nodiscard]] Result<Tensor> import_memory(const IpcMemoryHandle& handle, DataType type,
                                           const Shape& shape);

/// An untimed event of a GPU that `export_event` takes. Errors: unsupported, not_found.
[[nodiscard]] Result<Event> new_shared_event(DeviceId device);
/// A handle for an event made by `new_shared_event`, for other processes to wait for, or to record.
/// Errors: invalid_argument, unsupported.
[[nodiscard]] Result<IpcEventHandle> export_event(EventRef event);
/// The event of a handle: waiting for it waits for what the owner had recorded by then. An input
/// whose ready event is never reached because its owner died is a run that does not end: see
/// `ModelConfig::hang_timeout`. Errors: as `import_memory`.
[[nodiscard]] Result<Event> import_event(const IpcEventHandle& handle);

}  // namespace millrace
