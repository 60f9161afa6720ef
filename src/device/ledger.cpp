#include "device/ledger.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "base/text.h"
#include "base/try.h"

namespace millrace {

struct Reservation::Account {
  Account(DeviceId id, std::size_t limit) : device(id), limit_bytes(limit) {}

  const DeviceId device;
  const std::size_t limit_bytes;
  mutable std::mutex mutex;
  std::size_t reserved_bytes = 0;  // under mutex
  std::list<Entry> entries;        // under mutex

  // These are called with the mutex held.
  Result<void> charge(std::size_t bytes);
  std::vector<MemoryHolder> held() const;
};

namespace {

constexpr std::size_t kHoldersNamed = 8;

std::string holders_text(const std::vector<MemoryHolder>& held) {
  if (held.empty()) return "nothing is held";
  std::string text = "held: ";
  std::size_t rest = 0;
  for (std::size_t i = 0; i < held.size(); ++i) {
    if (i >= kHoldersNamed) {
      rest += held[i].bytes;
      continue;
    }
    text += concat(i > 0 ? ", " : "", held[i].holder, " ", format_bytes(held[i].bytes));
  }
  if (rest > 0) {
    text += concat(", ", held.size() - kHoldersNamed, " others ", format_bytes(rest));
  }
  return text;
}

}  // namespace

Result<void> Reservation::Account::charge(std::size_t bytes) {
  const std::size_t free_bytes = limit_bytes - reserved_bytes;
  if (bytes > free_bytes) {
    return Error{ErrorCode::out_of_memory,
                 concat("needed ", format_bytes(bytes), ", free ", format_bytes(free_bytes), " of ",
                        format_bytes(limit_bytes), " on ", device, "; ", holders_text(held()))};
  }
  reserved_bytes += bytes;
  return {};
}

std::vector<MemoryHolder> Reservation::Account::held() const {
  std::vector<MemoryHolder> rows;
  for (const Entry& entry : entries) {
    if (entry.bytes == 0) continue;
    const auto row = std::ranges::find(rows, entry.holder, &MemoryHolder::holder);
    if (row == rows.end()) {
      rows.push_back({entry.holder, entry.bytes});
    } else {
      row->bytes += entry.bytes;
    }
  }
  std::ranges::stable_sort(rows, std::ranges::greater(), &MemoryHolder::bytes);
  return rows;
}

// Reservation

Reservation::Reservation(std::shared_ptr<Account> account,
                         std::list<Entry>::iterator entry) noexcept
    : account_(std::move(account)), entry_(entry) {}

Reservation::Reservation(Reservation&& other) noexcept
    : account_(std::move(other.account_)), entry_(other.entry_) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  Reservation taken(std::move(other));
  std::swap(account_, taken.account_);
  std::swap(entry_, taken.entry_);
  return *this;
}

Reservation::~Reservation() { release(); }

void Reservation::release() noexcept {
  if (!account_) return;
  {
    std::lock_guard lock(account_->mutex);
    account_->reserved_bytes -= entry_->bytes;
    account_->entries.erase(entry_);
  }
  account_.reset();
}

Result<void> Reservation::grow(std::size_t bytes) {
  if (!account_) {
    return Error{ErrorCode::invalid_argument, "a reservation of no ledger cannot grow"};
  }
  std::lock_guard lock(account_->mutex);
  MILLRACE_TRY(account_->charge(bytes));
  entry_->bytes += bytes;
  return {};
}

void Reservation::shrink(std::size_t bytes) noexcept {
  if (!account_) return;
  std::lock_guard lock(account_->mutex);
  bytes = std::min(bytes, entry_->bytes);
  entry_->bytes -= bytes;
  account_->reserved_bytes -= bytes;
}

std::size_t Reservation::bytes() const noexcept {
  if (!account_) return 0;
  std::lock_guard lock(account_->mutex);
  return entry_->bytes;
}

// MemoryLedger

MemoryLedger::MemoryLedger(const Device& device) {
  const MemoryInfo memory = device.memory();
  account_ = std::make_shared<Reservation::Account>(
      device.id(), std::min(memory.limit_bytes, memory.used_bytes + memory.free_bytes));
}

MemoryLedger::MemoryLedger(DeviceId device, std::size_t limit_bytes)
    : account_(std::make_shared<Reservation::Account>(device, limit_bytes)) {}

Result<Reservation> MemoryLedger::reserve(std::string holder, std::size_t bytes) {
  std::lock_guard lock(account_->mutex);
  MILLRACE_TRY(account_->charge(bytes));
  account_->entries.push_back({std::move(holder), bytes});
  return Reservation(account_, std::prev(account_->entries.end()));
}

DeviceId MemoryLedger::device() const noexcept { return account_->device; }

std::size_t MemoryLedger::limit_bytes() const noexcept { return account_->limit_bytes; }

std::size_t MemoryLedger::reserved_bytes() const {
  std::lock_guard lock(account_->mutex);
  return account_->reserved_bytes;
}

std::size_t MemoryLedger::free_bytes() const { return limit_bytes() - reserved_bytes(); }

std::vector<MemoryHolder> MemoryLedger::held() const {
  std::lock_guard lock(account_->mutex);
  return account_->held();
}

}  // namespace millrace
