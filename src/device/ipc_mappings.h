// Other processes' memory, mapped once each.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include <millrace/error.h>
#include <millrace/lease.h>

#include "base/thread.h"

namespace millrace {

/// Keeps each mapping for as long as there are leases on it. Thread-safe.
class IpcMappings {
 public:
  struct Key {
    std::int32_t device = 0;
    std::array<std::byte, 64> handle{};
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  /// How memory is mapped and unmapped. Both may be slow; neither is called with a lock held that a
  /// lease takes.
  struct Calls {
    Result<void*> (*open)(const Key& key);
    void (*close)(const Key& key, void* base) noexcept;
  };
  struct Mapping {
    void* base = nullptr;
    Lease lease;
  };

  explicit IpcMappings(Calls calls) : calls_(calls) {}
  IpcMappings(const IpcMappings&) = delete;
  IpcMappings& operator=(const IpcMappings&) = delete;
  /// No lease may be left. Closes what is still to be closed.
  ~IpcMappings();

  [[nodiscard]] Result<Mapping> take(const Key& key);
  /// Those that are open, or still to be closed.
  [[nodiscard]] std::size_t count() const;

 private:
  struct Entry {
    void* base = nullptr;
    std::size_t users = 0;
  };

  void give_back(const Key& key) noexcept;
  void close_unused();

  const Calls calls_;
  std::mutex opening_;  // one at a time, so that nothing is opened twice
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Key, Entry> entries_;  // guarded by mutex_
  std::vector<Key> unused_;       // guarded by mutex_; some may be used again by now
  bool stop_ = false;             // guarded by mutex_
  Thread closer_;                 // started with the first mapping; guarded by opening_
};

}  // namespace millrace
