// Memory that this process shares with a server.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <millrace/ipc.h>
#include <millrace/tensor.h>

#include "server/call.h"

namespace millrace::client {

/// A POSIX shared-memory object of this process's own: made, mapped, and gone with it.
class SharedMemory {
 public:
  /// A new object of `bytes` (at least 1), zeroed, under a name that is free. Errors: unavailable.
  [[nodiscard]] static Result<SharedMemory> create(std::size_t bytes);
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  ~SharedMemory();

  /// The name for shm_open, with its slash.
  [[nodiscard]] const std::string& key() const noexcept { return key_; }
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

 private:
  SharedMemory() noexcept = default;
  std::string key_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Memory of a GPU that other processes can be told of; freed with it.
class CudaMemory {
 public:
  /// Errors: unsupported (no CUDA in this build, or not on this machine), not_found (that GPU),
  /// out_of_memory.
  [[nodiscard]] static Result<CudaMemory> create(int gpu, std::size_t bytes);
  /// As UINT8.
  [[nodiscard]] const TensorView& view() const noexcept { return memory_.view(); }
  /// Its CUDA IPC handle.
  [[nodiscard]] std::span<const std::byte> handle() const noexcept { return handle_.memory; }

 private:
  CudaMemory() noexcept = default;
  Tensor memory_;
  IpcMemoryHandle handle_;
};

/// What is registered with a server, so that tensors which lie there can be named instead of sent.
/// Every function may be called from any thread.
class RegionTable {
 public:
  struct Region {
    std::string name;
    const std::byte* data = nullptr;
    std::size_t bytes = 0;
    DeviceId device;
  };
  void add(Region region);
  /// An empty name: all.
  void remove(std::string_view name);
  /// Where these bytes lie, if in one region whole.
  [[nodiscard]] std::optional<server::RegionSlice> find(const void* data, std::size_t bytes,
                                                        DeviceId device) const;

 private:
  mutable std::mutex mutex_;
  std::map<const std::byte*, Region> regions_;  // by where they begin; they do not overlap
};

}  // namespace millrace::client
