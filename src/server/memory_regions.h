// Memory that clients share with the server: of the system (POSIX shared memory) and of CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/device.h>
#include <millrace/tensor.h>

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

/// The regions of one kind, by name. Every function may be called from any thread.
class MemoryRegions {
 public:
  explicit MemoryRegions(Engine& engine);
  ~MemoryRegions();

  /// Maps `bytes` from `offset` of the shared-memory object `key`. Errors: invalid_argument (no
  /// such object, it is shorter than that, a name in use for something else).
  Result<void> register_system(const std::string& name, const std::string& key, std::size_t offset,
                               std::size_t bytes);
  /// Opens a CUDA IPC handle, `handle` being its 64 bytes as they are. Errors: invalid_argument,
  /// unavailable.
  Result<void> register_cuda(const std::string& name, std::span<const std::byte> handle, int gpu,
                             std::size_t bytes);
  /// The region's memory goes when the last request that uses it is over; the name is free at once.
  /// An unknown name is fine. An empty one means all.
  Result<void> unregister(std::string_view name);
  /// All, or the one of that name. Errors: not_found.
  [[nodiscard]] Result<std::vector<RegionInfo>> status(std::string_view name) const;

  /// The memory of a slice, with a lease on the region; `data` and `device` of the view are set,
  /// its type is UINT8. Errors: not_found, invalid_argument (past the end).
  [[nodiscard]] Result<Tensor> find(const RegionSlice& slice) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace millrace::server
