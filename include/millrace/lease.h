// A hold on memory that somebody else owns.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

namespace millrace {

/// Keeps memory from being reused or freed for as long as a copy of the lease lives. Copying costs
/// one atomic addition and never allocates. The last copy to go releases the memory, on the thread
/// that drops it; copies may be used from several threads at once, one copy may not.
class Lease {
 public:
  /// What a lease holds. A subclass starts with one count, which `Lease::adopt` takes over.
  class Counted {
   public:
    /// Called once, when the last lease is gone; usually deletes or recycles the object. Must not
    /// throw.
    virtual void dispose() noexcept = 0;

   protected:
    virtual ~Counted() = default;
    /// For objects that are recycled: ready for the next `adopt`.
    void renew() noexcept { count_.store(1, std::memory_order_relaxed); }

   private:
    friend class Lease;
    std::atomic<std::int64_t> count_{1};
  };

  /// Holds nothing.
  Lease() noexcept = default;
  /// Takes over the count that `counted` was made with.
  [[nodiscard]] static Lease adopt(Counted* counted) noexcept {
    Lease lease;
    lease.counted_ = counted;
    return lease;
  }
  /// Calls `release` when the last copy goes. Exceptions from it are caught and logged. Allocates.
  [[nodiscard]] static Lease on_release(std::function<void()> release);
  /// Shares ownership with `owner`. Allocates.
  [[nodiscard]] static Lease share(std::shared_ptr<const void> owner);

  Lease(const Lease& other) noexcept : counted_(other.counted_) {
    if (counted_) counted_->count_.fetch_add(1, std::memory_order_relaxed);
  }
  Lease(Lease&& other) noexcept : counted_(std::exchange(other.counted_, nullptr)) {}
  Lease& operator=(Lease other) noexcept {
    std::swap(counted_, other.counted_);
    return *this;
  }
  ~Lease() { reset(); }

  void reset() noexcept {
    Counted* counted = std::exchange(counted_, nullptr);
    if (counted && counted->count_.fetch_sub(1, std::memory_order_acq_rel) == 1) counted->dispose();
  }
  /// Gives its count up without dropping it: somebody else adopts it.
  [[nodiscard]] Counted* release() noexcept { return std::exchange(counted_, nullptr); }
  explicit operator bool() const noexcept { return counted_ != nullptr; }

 private:
  Counted* counted_ = nullptr;
};

}  // namespace millrace
