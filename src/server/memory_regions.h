// Memory that clients share with the server: of the system (POSIX shared memory) and of CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/engine.h>

#include "server/call.h"

namespace millrace::server {

/// A region as it was registered.
struct RegionInfo {
  std::string name;
  std::string key;  // of the system: the name given to shm_open
  std::size_t offset = 0;
  std::size_t bytes = 0;
  int gpu = 0;  // of CUDA
};

/// Memory of a region, for one request. Keeps the region while it lives.
struct RegionMemory {
  void* data = nullptr;
  std::size_t bytes = 0;
  DeviceId device;  // host_memory(), or the GPU
  Lease lease;

  /// Whether the memory was whole until now: a client may have made the object under it shorter. To
  /// be asked once the request is over. Errors: invalid_argument.
  [[nodiscard]] Result<void> check() const;

 private:
  friend class MemoryRegions;
  const void* region_ = nullptr;
};

/// The regions of one kind, by name. Every function may be called from any thread.
class MemoryRegions {
 public:
  explicit MemoryRegions(Engine& engine);
  ~MemoryRegions();
  MemoryRegions(const MemoryRegions&) = delete;
  MemoryRegions& operator=(const MemoryRegions&) = delete;

  /// Maps `bytes` from `offset` of the shared-memory object `key`; where the engine has GPUs,
  /// pinned, so that they copy from and to it. Errors: invalid_argument (no such object, it is
  /// shorter than that, a region of that name is there), out_of_memory.
  Result<void> register_system(const std::string& name, const std::string& key, std::size_t offset,
                               std::size_t bytes);
  /// Opens a CUDA IPC handle, `handle` being its 64 bytes as they are, of memory on the GPU of that
  /// index among those that CUDA shows. Errors: invalid_argument, not_found (a GPU that the engine
  /// does not use), unavailable.
  Result<void> register_cuda(const std::string& name, std::span<const std::byte> handle, int gpu,
                             std::size_t bytes);
  /// The region's memory goes when the last request that uses it is over; the name is free at once.
  /// An unknown name is fine. An empty one means all.
  void unregister(std::string_view name);
  /// All, by name, or the one of that name. Errors: not_found.
  [[nodiscard]] Result<std::vector<RegionInfo>> status(std::string_view name) const;

  /// The memory of a slice. Errors: not_found, invalid_argument (past the end, or the object under
  /// it became shorter).
  [[nodiscard]] Result<RegionMemory> find(const RegionSlice& slice) const;

 private:
  friend struct RegionMemory;
  struct Region;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace millrace::server
