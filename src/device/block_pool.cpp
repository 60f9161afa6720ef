#include "device/block_pool.h"

#include <algorithm>
#include <array>
#include <bit>
#include <mutex>
#include <utility>

#include "base/text.h"
#include "base/try.h"
#include "device/impl.h"

#if defined(__SANITIZE_ADDRESS__)
#define MILLRACE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MILLRACE_ASAN 1
#endif
#endif
#ifdef MILLRACE_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace millrace {
namespace {

// Class 2k is 256 << k bytes, class 2k + 1 half as much again.
constexpr std::size_t kSmallestBits = 8;
constexpr std::size_t kLargestBits = 46;
constexpr std::size_t kClasses = 2 * (kLargestBits - kSmallestBits) + 1;

constexpr std::size_t class_bytes(std::size_t index) {
  const std::size_t unit = std::size_t{1} << (kSmallestBits - 1);
  return (index % 2 == 0 ? 2 * unit : 3 * unit) << (index / 2);
}

// The smallest class of at least `bytes` > 0; kClasses when there is none.
constexpr std::size_t class_of(std::size_t bytes) {
  const auto bits = static_cast<std::size_t>(std::bit_width(bytes - 1));  // 2^bits >= bytes
  if (bits <= kSmallestBits) return 0;
  if (bits > kLargestBits) return kClasses;
  const std::size_t index = 2 * (bits - kSmallestBits);
  return bytes <= class_bytes(index - 1) ? index - 1 : index;
}

// How many classes larger an idle block may be that is taken instead of a new one: 4 are 4 times
// the size. Requests of ever other sizes would else make a block of each size for as many of them
// as there ever are at once.
constexpr std::size_t kClassesLarger = 4;

// Tells AddressSanitizer which part of a block may be used: the first `bytes` of `all`.
void allow([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes,
           [[maybe_unused]] std::size_t all) noexcept {
#ifdef MILLRACE_ASAN
  ASAN_UNPOISON_MEMORY_REGION(data, bytes);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(data) + bytes, all - bytes);
#endif
}

}  // namespace

class BlockPool::State : public std::enable_shared_from_this<State> {
 public:
  State(Device& device, MemoryKind kind, std::size_t max_idle_bytes)
      : source_(device.memory_source()),
        kind_(kind),
        host_addressable_(source_->host_addressable(kind)),
        max_idle_bytes_(max_idle_bytes) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { trim(); }

  Result<Block> take(std::size_t bytes);
  std::size_t trim() noexcept;
  void close() noexcept;
  BlockPoolStatistics statistics() const;

 private:
  // The record of one piece of memory, kept with it for its whole life.
  struct Record final : Lease::Counted {
    Record(void* memory, std::size_t size_class) : data(memory), index(size_class) {}
    void dispose() noexcept override {
      const auto state = std::move(pool);  // the last lease may be what kept the pool's state
      state->give_back(*this);
    }
    using Lease::Counted::renew;

    void* const data;
    const std::size_t index;      // of the size class
    std::shared_ptr<State> pool;  // while leased
    Record* next = nullptr;       // while idle, or on the way to be freed
  };
  struct SizeClass {
    Record* idle = nullptr;
    std::uint64_t last_used = 0;
  };

  Record* take_idle(std::size_t index);
  Result<Record*> allocate(std::size_t index);
  void give_back(Record& record) noexcept;
  // With the mutex held: takes out an idle block of the class longest unused, and chains it to
  // `chain`.
  void evict(Record*& chain) noexcept;
  std::size_t free_all(Record* chain) noexcept;
  void allow_use(const Record& record, std::size_t bytes) const noexcept {
    if (host_addressable_) allow(record.data, bytes, class_bytes(record.index));
  }

  const std::shared_ptr<MemorySource> source_;
  const MemoryKind kind_;
  const bool host_addressable_;
  const std::size_t max_idle_bytes_;

  mutable std::mutex mutex_;
  std::array<SizeClass, kClasses> classes_;  // under mutex_, and all below
  BlockPoolStatistics statistics_;
  std::uint64_t uses_ = 0;
  bool closed_ = false;
};

Result<Block> BlockPool::State::take(std::size_t bytes) {
  if (bytes == 0) return Block();
  const std::size_t index = class_of(bytes);
  if (index == kClasses) {
    return Error{ErrorCode::out_of_memory,
                 concat("needed a block of ", format_bytes(bytes), "; the largest there is has ",
                        format_bytes(class_bytes(kClasses - 1)))};
  }
  Record* record = take_idle(index);
  if (!record) {
    MILLRACE_ASSIGN(record, allocate(index));
  }
  record->pool = shared_from_this();
  allow_use(*record, bytes);
  return Block{record->data, bytes, Lease::adopt(record)};
}

BlockPool::State::Record* BlockPool::State::take_idle(std::size_t index) {
  std::lock_guard lock(mutex_);
  classes_[index].last_used = ++uses_;
  const std::size_t end = std::min(index + kClassesLarger + 1, kClasses);
  while (index < end && !classes_[index].idle) ++index;
  if (index == end) return nullptr;
  Record* record = classes_[index].idle;
  classes_[index].idle = std::exchange(record->next, nullptr);
  record->renew();
  statistics_.idle_bytes -= class_bytes(index);
  ++statistics_.taken;
  return record;
}

Result<BlockPool::State::Record*> BlockPool::State::allocate(std::size_t index) {
  auto data = source_->allocate(class_bytes(index), kind_);
  if (!data && trim() > 0) data = source_->allocate(class_bytes(index), kind_);
  if (!data) return std::move(data.error());
  auto* record = new Record(*data, index);
  std::lock_guard lock(mutex_);
  statistics_.held_bytes += class_bytes(index);
  ++statistics_.taken;
  ++statistics_.allocated;
  return record;
}

void BlockPool::State::give_back(Record& record) noexcept {
  const std::size_t bytes = class_bytes(record.index);
  allow_use(record, 0);
  Record* surplus = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (closed_ || bytes > max_idle_bytes_) {
      surplus = &record;
      statistics_.held_bytes -= bytes;
    } else {
      SizeClass& size_class = classes_[record.index];
      size_class.last_used = ++uses_;
      while (statistics_.idle_bytes > max_idle_bytes_ - bytes) evict(surplus);
      record.next = std::exchange(size_class.idle, &record);
      statistics_.idle_bytes += bytes;
    }
  }
  free_all(surplus);
}

void BlockPool::State::evict(Record*& chain) noexcept {
  SizeClass* oldest = nullptr;
  for (SizeClass& size_class : classes_) {
    if (size_class.idle && (!oldest || size_class.last_used < oldest->last_used)) {
      oldest = &size_class;
    }
  }
  Record* record = oldest->idle;
  oldest->idle = std::exchange(record->next, chain);
  chain = record;
  statistics_.idle_bytes -= class_bytes(record->index);
  statistics_.held_bytes -= class_bytes(record->index);
}

std::size_t BlockPool::State::trim() noexcept {
  Record* chain = nullptr;
  {
    std::lock_guard lock(mutex_);
    while (statistics_.idle_bytes > 0) evict(chain);
  }
  return free_all(chain);
}

std::size_t BlockPool::State::free_all(Record* chain) noexcept {
  std::size_t freed = 0;
  while (chain) {
    Record* record = std::exchange(chain, chain->next);
    const std::size_t bytes = class_bytes(record->index);
    allow_use(*record, bytes);
    source_->free(record->data, bytes, kind_);
    delete record;
    freed += bytes;
  }
  return freed;
}

void BlockPool::State::close() noexcept {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  trim();
}

BlockPoolStatistics BlockPool::State::statistics() const {
  std::lock_guard lock(mutex_);
  return statistics_;
}

// BlockPool

BlockPool::BlockPool(Device& device, MemoryKind kind, std::size_t max_idle_bytes)
    : state_(std::make_shared<State>(device, kind, max_idle_bytes)) {}

BlockPool::~BlockPool() { state_->close(); }

Result<Block> BlockPool::take(std::size_t bytes) { return state_->take(bytes); }

std::size_t BlockPool::trim() { return state_->trim(); }

BlockPoolStatistics BlockPool::statistics() const { return state_->statistics(); }

std::size_t BlockPool::rounded_bytes(std::size_t bytes) noexcept {
  if (bytes == 0) return 0;
  const std::size_t index = class_of(bytes);
  return index == kClasses ? 0 : class_bytes(index);
}

}  // namespace millrace
