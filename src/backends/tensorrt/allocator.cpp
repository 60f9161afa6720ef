#include "backends/tensorrt/allocator.h"

#include <utility>

#include "base/log.h"

namespace millrace::tensorrt {

void* Allocator::allocate(std::uint64_t size, std::uint64_t alignment,
                          nvinfer1::AllocatorFlags) noexcept {
  if (size == 0) return nullptr;
  Result<Buffer> buffer = device_->allocate(size, MemoryKind::device);
  if (!buffer) {
    log_debug("TensorRT: ", buffer.error().message);
    const std::lock_guard lock(mutex_);
    refusal_ = std::move(buffer).error();
    return nullptr;
  }
  void* const data = buffer->data();
  if (alignment > 1 && reinterpret_cast<std::uintptr_t>(data) % alignment != 0) {
    log_error("TensorRT asks for memory aligned to ", alignment, " bytes, which is not supported");
    return nullptr;
  }
  used_bytes_.fetch_add(size, std::memory_order_relaxed);
  const std::lock_guard lock(mutex_);
  buffers_.emplace(data, std::move(*buffer));
  return data;
}

bool Allocator::deallocate(void* memory) noexcept {
  if (!memory) return true;
  Buffer buffer;  // freed without the lock
  const std::lock_guard lock(mutex_);
  const auto at = buffers_.find(memory);
  if (at == buffers_.end()) return false;
  buffer = std::move(at->second);
  buffers_.erase(at);
  used_bytes_.fetch_sub(buffer.bytes(), std::memory_order_relaxed);
  return true;
}

std::optional<Error> Allocator::take_refusal() {
  const std::lock_guard lock(mutex_);
  return std::exchange(refusal_, std::nullopt);
}

}  // namespace millrace::tensorrt
