#include "device/host/host_memory.h"

#include <cstdlib>
#include <cstring>

#include "base/text.h"
#include "base/try.h"

namespace millrace {
namespace {

constexpr std::size_t kAlignment = 256;

#ifdef NDEBUG
constexpr bool kFillFreshMemory = false;
#else
constexpr bool kFillFreshMemory = true;
#endif

void* allocate_aligned(std::size_t bytes) noexcept {
  void* data = nullptr;
  if (bytes > SIZE_MAX / 2 || posix_memalign(&data, kAlignment, bytes) != 0) return nullptr;
  if (kFillFreshMemory) std::memset(data, 0xff, bytes);
  return data;
}

}  // namespace

bool HostMemory::charge(std::size_t bytes) noexcept {
  std::size_t used = used_bytes_.load(std::memory_order_relaxed);
  do {
    if (bytes > limit_bytes_ - used) return false;
  } while (!used_bytes_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  return true;
}

Result<void*> HostMemory::allocate(std::size_t bytes, MemoryKind kind) {
  if (fault_) MILLRACE_TRY(fault_->check());
  const bool counted = kind == MemoryKind::device;
  if (counted && !charge(bytes)) {
    const MemoryInfo now = info();
    return Error{ErrorCode::out_of_memory,
                 concat("needed ", format_bytes(bytes), ", free ", format_bytes(now.free_bytes),
                        " of limit ", format_bytes(now.limit_bytes), " on ", device_)};
  }
  void* data = allocate_aligned(bytes);
  if (!data) {
    if (counted) used_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
    return Error{ErrorCode::out_of_memory,
                 concat("needed ", format_bytes(bytes), " of host memory for ", device_,
                        ", which the system does not grant")};
  }
  std::lock_guard lock(mutex_);
  ranges_[static_cast<const std::byte*>(data)] = {bytes, kind};
  return data;
}

bool HostMemory::holds(const void* data, std::size_t bytes, MemoryKind kind) const noexcept {
  const auto* first = static_cast<const std::byte*>(data);
  std::lock_guard lock(mutex_);
  auto after = ranges_.upper_bound(first);
  if (after == ranges_.begin()) return false;
  const auto& [start, range] = *--after;
  const auto offset = static_cast<std::size_t>(first - start);
  return range.kind == kind && offset <= range.bytes && bytes <= range.bytes - offset;
}

void HostMemory::free(void* data, std::size_t bytes, MemoryKind kind) noexcept {
  {
    std::lock_guard lock(mutex_);
    ranges_.erase(static_cast<const std::byte*>(data));
  }
  std::free(data);
  if (kind == MemoryKind::device) used_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
}

MemoryInfo HostMemory::info() const noexcept {
  const std::size_t used = used_bytes_.load(std::memory_order_relaxed);
  return {.used_bytes = used, .free_bytes = limit_bytes_ - used, .limit_bytes = limit_bytes_};
}

}  // namespace millrace
