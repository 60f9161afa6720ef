// TensorRT's device memory through ours.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <optional>

#include <NvInferRuntime.h>

#include <millrace/device.h>

namespace millrace::tensorrt {

/// Gives TensorRT memory of a device's pool, so that it is counted and never halts the device.
/// Outlives the objects that it is given to. Thread-safe.
class Allocator final : public nvinfer1::IGpuAllocator {
 public:
  explicit Allocator(DeviceRef device) : device_(device) {}

  /// Now, and the most there was.
  [[nodiscard]] std::size_t used_bytes() const noexcept {
    return used_bytes_.load(std::memory_order_relaxed);
  }

  void* allocate(std::uint64_t size, std::uint64_t alignment,
                 nvinfer1::AllocatorFlags flags) noexcept override;
  bool deallocate(void* memory) noexcept override;
  /// The latest refusal since the last call: why TensorRT gave nothing.
  [[nodiscard]] std::optional<Error> take_refusal();

 private:
  const DeviceRef device_;
  std::atomic<std::size_t> used_bytes_{0};
  std::mutex mutex_;
  std::map<void*, Buffer> buffers_;  // guarded by mutex_
  std::optional<Error> refusal_;     // guarded by mutex_
};

}  // namespace millrace::tensorrt
