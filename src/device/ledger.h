// A device's account of memory: who holds how much, and who is refused.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include <millrace/device.h>
#include <millrace/engine.h>
#include <millrace/error.h>

namespace millrace {

class MemoryLedger;

/// Bytes granted by a ledger, given back on destruction. Outlives its ledger safely. One thread at
/// a time.
class Reservation {
 public:
  /// Holds nothing.
  Reservation() noexcept = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();

  /// Errors: out_of_memory, worded as for `MemoryLedger::reserve`; invalid_argument when it holds
  /// nothing of any ledger.
  Result<void> grow(std::size_t bytes);
  /// Gives back `bytes`, at most all.
  void shrink(std::size_t bytes) noexcept;
  [[nodiscard]] std::size_t bytes() const noexcept;
  /// Whether it came from a ledger, even with 0 bytes.
  explicit operator bool() const noexcept { return account_ != nullptr; }

 private:
  friend class MemoryLedger;
  struct Entry {
    std::string holder;
    std::size_t bytes = 0;  // under the account's mutex
  };
  struct Account;

  Reservation(std::shared_ptr<Account> account, std::list<Entry>::iterator entry) noexcept;
  void release() noexcept;

  std::shared_ptr<Account> account_;
  std::list<Entry>::iterator entry_;
};

/// Grants memory of one device by name before it is allocated, up to a limit. It counts what is
/// reserved, not what is allocated. Thread-safe.
class MemoryLedger {
 public:
  /// Up to the device's limit, or what is there now where that is less.
  explicit MemoryLedger(const Device& device);
  MemoryLedger(DeviceId device, std::size_t limit_bytes);

  /// `holder` is shown to users: `model "digits"`. Zero bytes are granted always.
  /// Errors: out_of_memory: "needed 600 MiB, free 400 MiB of 1 GiB on host:0; held: model "a" 500
  /// MiB, ...".
  [[nodiscard]] Result<Reservation> reserve(std::string holder, std::size_t bytes);

  [[nodiscard]] DeviceId device() const noexcept;
  [[nodiscard]] std::size_t limit_bytes() const noexcept;
  [[nodiscard]] std::size_t reserved_bytes() const;
  [[nodiscard]] std::size_t free_bytes() const;
  /// One row per name that holds anything, the largest first.
  [[nodiscard]] std::vector<MemoryHolder> held() const;

 private:
  std::shared_ptr<Reservation::Account> account_;
};

}  // namespace millrace
