// How far a stream has come, as a count that threads can wait for.
#pragma once

#include <atomic>
#include <cstdint>

namespace millrace {

/// Counts finished tasks. One thread advances it, any number wait. Advancing is one store and one
/// load unless somebody waits for the count reached.
class Progress {
 public:
  /// Everything before this call is visible to whoever sees `done`. Counts never go back.
  void advance(std::uint64_t done) noexcept;
  [[nodiscard]] std::uint64_t done() const noexcept {
    return done_.load(std::memory_order_acquire);
  }
  [[nodiscard]] bool reached(std::uint64_t count) const noexcept { return done() >= count; }
  /// Blocks until `count` is reached.
  void await(std::uint64_t count) noexcept;

 private:
  std::atomic<std::uint64_t> done_{0};
  // The lowest count that a waiter asked for; all ones when there is none.
  std::atomic<std::uint64_t> wanted_{~std::uint64_t{0}};
  std::atomic<std::uint32_t> wakes_{0};  // futex word: changes whenever waiters are woken
};

}  // namespace millrace
