// Memory for data that outlives its batch: handed out by the lease, used again and again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include <millrace/device.h>
#include <millrace/error.h>
#include <millrace/lease.h>

namespace millrace {

/// Memory that goes back to its pool when the last copy of `lease` is gone. Aligned to 256 bytes;
/// uninitialized.
struct Block {
  void* data = nullptr;
  std::size_t bytes = 0;  // as asked for
  Lease lease;
};

struct BlockPoolStatistics {
  std::size_t held_bytes = 0;   // of the device: leased and idle, rounded up to size classes
  std::size_t idle_bytes = 0;   // of these, ready to be handed out
  std::uint64_t taken = 0;      // blocks ever handed out
  std::uint64_t allocated = 0;  // of these, not from the idle ones
};

/// Keeps returned blocks for the next taker, by size: powers of two and the sizes half way between
/// them (so that at most a third of a new block is unused), from 256 bytes. Where none of its size
/// is idle, one of up to four times the size is taken before a new one is made. In the steady state
/// a block costs one short lock and no allocation.
///
/// Idle blocks never exceed `max_idle_bytes`: beyond that, those of the size longest unused are
/// freed.
///
/// Thread-safe. Leases may be dropped after the pool is gone, even after the device is, and their
/// memory is then freed at once.
class BlockPool {
 public:
  static constexpr std::size_t kDefaultMaxIdleBytes = std::size_t{1} << 30;

  BlockPool(Device& device, MemoryKind kind, std::size_t max_idle_bytes = kDefaultMaxIdleBytes);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool();

  /// Zero bytes give a block without memory or lease. When the device refuses, idle blocks are
  /// freed and it is asked again. Errors: out_of_memory, as `Device::allocate`.
  [[nodiscard]] Result<Block> take(std::size_t bytes);
  /// Frees all idle blocks and returns their bytes.
  std::size_t trim();
  [[nodiscard]] BlockPoolStatistics statistics() const;

  /// The size of the block that is taken for `bytes`; 0 when there is none so large.
  [[nodiscard]] static std::size_t rounded_bytes(std::size_t bytes) noexcept;

 private:
  class State;
  std::shared_ptr<State> state_;
};

}  // namespace millrace
