#include "device/cuda/cuda_device.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <condition_variable>
#include <mutex>
#include <vector>

#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "base/try.h"
#include "device/cuda/cuda_error.h"
#include "device/impl.h"
#include "device/select_devices.h"

namespace millrace {
namespace {

using WriteValue = CUresult (*)(CUstream, CUdeviceptr, cuuint64_t, unsigned int);

/// A native event, kept by whoever may still ask for it.
struct EventHandle {
  int device = 0;
  cudaEvent_t event = nullptr;

  ~EventHandle() { log_cuda(cudaEventDestroy(event), "cudaEventDestroy"); }
  [[nodiscard]] Result<void> synchronize() const {
    MILLRACE_TRY(check_cuda(cudaSetDevice(device), "cudaSetDevice"));
    return check_cuda(cudaEventSynchronize(event), "cudaEventSynchronize");
  }
};

Result<std::shared_ptr<EventHandle>> new_handle(int device, EventTiming timing) {
  MILLRACE_TRY(check_cuda(cudaSetDevice(device), "cudaSetDevice"));
  auto handle = std::make_shared<EventHandle>();
  handle->device = device;
  // Waiters sleep instead of spinning.
  const unsigned flags =
      cudaEventBlockingSync | (timing == EventTiming::untimed ? cudaEventDisableTiming : 0u);
  MILLRACE_TRY(
      check_cuda(cudaEventCreateWithFlags(&handle->event, flags), "cudaEventCreateWithFlags"));
  return handle;
}

/// Turns timed events into times on the host's clock.
///
/// CUDA tells only the time between two events, as a float of milliseconds: exact to half a
/// microsecond up to 4 seconds. So the event compared with is renewed, each by its distance from
/// the one before; nothing waits.
class EventClock {
 public:
  static Result<std::unique_ptr<EventClock>> start(int device, cudaStream_t stream) {
    auto clock = std::unique_ptr<EventClock>(new EventClock(device, stream));
    // The event is reached between two looks at the host's clock: of several tries the closest pair
    // counts.
    Duration width = Duration::max();
    for (int attempt = 0; attempt < 8; ++attempt) {
      MILLRACE_ASSIGN(std::shared_ptr<EventHandle> event, new_handle(device, EventTiming::timed));
      const TimePoint before = Clock::now();
      MILLRACE_TRY(check_cuda(cudaEventRecord(event->event, stream), "cudaEventRecord"));
      while (cudaEventQuery(event->event) == cudaErrorNotReady) cudaGetLastError();
      const TimePoint after = Clock::now();
      MILLRACE_TRY(event->synchronize());
      if (after - before >= width) continue;
      width = after - before;
      clock->base_time_ = before + width / 2;
      clock->base_ = std::move(event);
    }
    return clock;
  }

  Result<TimePoint> time_of(const EventHandle& event) {
    std::lock_guard lock(mutex_);
    MILLRACE_TRY(check_cuda(cudaSetDevice(device_), "cudaSetDevice"));
    MILLRACE_TRY(renew());
    MILLRACE_ASSIGN(const Duration since, between(*base_, event));
    return base_time_ + since;
  }

 private:
  static constexpr Duration kRenewAfter = std::chrono::seconds(2);

  EventClock(int device, cudaStream_t stream) : device_(device), stream_(stream) {}

  static Result<Duration> between(const EventHandle& from, const EventHandle& to) {
    float milliseconds = 0;
    MILLRACE_TRY(check_cuda(cudaEventElapsedTime(&milliseconds, from.event, to.event),
                            "cudaEventElapsedTime"));
    return std::chrono::duration_cast<Duration>(
        std::chrono::duration<double, std::milli>(milliseconds));
  }

  Result<void> renew() {
    if (!next_ && Clock::now() - base_time_ > kRenewAfter) {
      MILLRACE_ASSIGN(next_, new_handle(device_, EventTiming::timed));
      MILLRACE_TRY(check_cuda(cudaEventRecord(next_->event, stream_), "cudaEventRecord"));
    }
    if (next_ && cudaEventQuery(next_->event) == cudaSuccess) {
      MILLRACE_ASSIGN(const Duration since, between(*base_, *next_));
      base_time_ += since;
      base_ = std::move(next_);
      next_.reset();
    }
    return {};
  }

  const int device_;
  const cudaStream_t stream_;
  std::mutex mutex_;
  std::shared_ptr<EventHandle> base_, next_;
  TimePoint base_time_;
};

class CudaPoint final : public StreamPoint {
 public:
  explicit CudaPoint(std::shared_ptr<EventHandle> handle) : handle_(std::move(handle)) {}
  Result<void> synchronize() const override { return handle_->synchronize(); }

 private:
  std::shared_ptr<EventHandle> handle_;
};

class CudaEvent final : public EventImpl {
 public:
  CudaEvent(std::shared_ptr<EventHandle> handle, EventTiming timing, EventClock& clock)
      : handle_(std::move(handle)), timing_(timing), clock_(clock) {}

  DeviceId device() const noexcept override { return DeviceId::cuda(handle_->device); }
  Result<bool> query() const override {
    MILLRACE_TRY(check_cuda(cudaSetDevice(handle_->device), "cudaSetDevice"));
    const cudaError_t status = cudaEventQuery(handle_->event);
    if (status == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    MILLRACE_TRY(check_cuda(status, "cudaEventQuery"));
    return true;
  }
  Result<void> synchronize() const override { return handle_->synchronize(); }
  Result<TimePoint> time() const override {
    if (timing_ != EventTiming::timed) {
      return Error{ErrorCode::invalid_argument, "event time: the event was made without timing"};
    }
    if (!recorded_.load(std::memory_order_acquire)) {
      return Error{ErrorCode::unavailable, "event time: the event was never recorded"};
    }
    MILLRACE_ASSIGN(const bool reached, query());
    if (!reached) return Error{ErrorCode::unavailable, "event time: the event is not reached yet"};
    return clock_.time_of(*handle_);
  }
  Result<std::shared_ptr<const StreamPoint>> point() const override {
    if (!recorded_.load(std::memory_order_acquire)) return std::shared_ptr<const StreamPoint>();
    return std::shared_ptr<const StreamPoint>(std::make_shared<CudaPoint>(handle_));
  }

  [[nodiscard]] cudaEvent_t native() const noexcept { return handle_->event; }
  void recorded() noexcept { recorded_.store(true, std::memory_order_release); }

 private:
  const std::shared_ptr<EventHandle> handle_;
  const EventTiming timing_;
  EventClock& clock_;
  std::atomic<bool> recorded_{false};
};

/// What a host function of a stream is given; frees itself.
struct HostTask {
  std::function<void()> task;

  static void CUDART_CB call(void* self) noexcept {
    const std::unique_ptr<HostTask> owned(static_cast<HostTask*>(self));
    try {
      owned->task();
    } catch (const std::exception& error) {
      log_error("a task on a CUDA stream threw an exception, which is ignored: ", error.what());
    } catch (...) {
      log_error("a task on a CUDA stream threw something that is no std::exception; it is ignored");
    }
  }
};

class CudaStream final : public StreamImpl {
 public:
  CudaStream(int device, cudaStream_t stream, WriteValue write_value)
      : device_(device), stream_(stream), write_value_(write_value) {}
  ~CudaStream() override {
    if (abandoned_) return;
    log_cuda(cudaSetDevice(device_), "cudaSetDevice");
    log_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    log_cuda(cudaStreamDestroy(stream_), "cudaStreamDestroy");
  }

  DeviceId device() const noexcept override { return DeviceId::cuda(device_); }
  Result<void> copy(void* target, const void* source, std::size_t bytes) override {
    MILLRACE_TRY(enter());
    return check_cuda(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream_),
                      "cudaMemcpyAsync");
  }
  Result<void> gather(std::span<const CopyPiece> pieces) override;
  Result<void> fill(void* target, std::uint8_t value, std::size_t bytes) override {
    MILLRACE_TRY(enter());
    return check_cuda(cudaMemsetAsync(target, value, bytes, stream_), "cudaMemsetAsync");
  }
  Result<void> run(std::function<void()> task) override {
    MILLRACE_TRY(enter());
    auto host_task = std::make_unique<HostTask>(std::move(task));
    MILLRACE_TRY(check_cuda(cudaLaunchHostFunc(stream_, &HostTask::call, host_task.get()),
                            "cudaLaunchHostFunc"));
    (void)host_task.release();
    return {};
  }
  Result<void> record(EventImpl& event) override {
    MILLRACE_TRY(enter());
    auto& own = static_cast<CudaEvent&>(event);
    MILLRACE_TRY(check_cuda(cudaEventRecord(own.native(), stream_), "cudaEventRecord"));
    own.recorded();
    return {};
  }
  Result<void> wait(const EventImpl& event) override {
    MILLRACE_TRY(enter());
    if (event.device().kind == DeviceKind::cuda) {
      const auto& other = static_cast<const CudaEvent&>(event);
      return check_cuda(cudaStreamWaitEvent(stream_, other.native()), "cudaStreamWaitEvent");
    }
    MILLRACE_ASSIGN(std::shared_ptr<const StreamPoint> point, event.point());
    if (!point) return {};
    return run([point = std::move(point)] { (void)point->synchronize(); });
  }
  Result<void> signal(std::atomic<std::uint64_t>& word, std::uint64_t value,
                      Waker* waker) override {
    if (!write_value_) {
      return run([&word, value, waker] {
        word.store(value, std::memory_order_release);
        if (waker) waker->wake();
      });
    }
    MILLRACE_TRY(enter());
    const auto address = reinterpret_cast<CUdeviceptr>(&word);
    const CUresult status = write_value_(stream_, address, value, CU_STREAM_WRITE_VALUE_DEFAULT);
    if (status == CUDA_SUCCESS) return {};
    return Error{ErrorCode::internal,
                 concat("cuStreamWriteValue64: error ", static_cast<int>(status),
                        "; the word must lie in pinned memory of the device")};
  }
  Result<bool> query() const override {
    MILLRACE_TRY(enter());
    const cudaError_t status = cudaStreamQuery(stream_);
    if (status == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    MILLRACE_TRY(check_cuda(status, "cudaStreamQuery"));
    return true;
  }
  Result<void> synchronize() override {
    MILLRACE_TRY(enter());
    return check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }
  void* native_handle() const noexcept override { return stream_; }
  void abandon() noexcept override { abandoned_ = true; }

 private:
  [[nodiscard]] Result<void> enter() const {
    return check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  }

  const int device_;
  const cudaStream_t stream_;
  const WriteValue write_value_;
  bool abandoned_ = false;
};

Result<void> CudaStream::gather(std::span<const CopyPiece> pieces) {
  MILLRACE_TRY(enter());
  std::vector<void*> targets;
  std::vector<const void*> sources;
  std::vector<std::size_t> sizes;
  for (const CopyPiece& piece : pieces) {
    if (piece.bytes == 0) continue;
    targets.push_back(piece.target);
    sources.push_back(piece.source);
    sizes.push_back(piece.bytes);
  }
  if (targets.empty()) return {};
  if (targets.size() == 1) return copy(targets[0], sources[0], sizes[0]);
  // One call for all of them: measured at nearly twice the rate of one call each for pieces of 150
  // kB.
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  std::size_t first = 0;
  return check_cuda(cudaMemcpyBatchAsync(targets.data(), sources.data(), sizes.data(),
                                         targets.size(), &attributes, &first, 1, stream_),
                    "cudaMemcpyBatchAsync");
}

/// Sits on events and wakes others, since a stream cannot.
class Waiter {
 public:
  explicit Waiter(int device)
      : thread_("mr-waiter-" + std::to_string(device), [this, device] { loop(device); }) {}
  ~Waiter() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
  }
  void add(std::shared_ptr<const StreamPoint> point, Waker& waker) {
    {
      std::lock_guard lock(mutex_);
      waits_.push_back({std::move(point), &waker});
    }
    wake_.notify_one();
  }

 private:
  struct Wait {
    std::shared_ptr<const StreamPoint> point;
    Waker* waker;
  };
  void loop(int device) {
    cudaSetDevice(device);
    std::vector<Wait> waits;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || !waits_.empty(); });
        if (stop_) return;
        waits.swap(waits_);
      }
      for (const Wait& wait : waits) {
        (void)wait.point->synchronize();  // a fault shows when the woken thread queries
        wait.waker->wake();
      }
      waits.clear();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Wait> waits_;  // guarded by mutex_
  bool stop_ = false;        // guarded by mutex_
  Thread thread_;
};

class CudaDevice final : public Device {
 public:
  static Result<std::unique_ptr<Device>> open(std::int32_t index);
  ~CudaDevice() override {
    waiter_.reset();
    log_cuda(cudaSetDevice(info_.id.index), "cudaSetDevice");
    clock_.reset();
    if (memory_stream_) {
      log_cuda(cudaStreamSynchronize(memory_stream_), "cudaStreamSynchronize");
      log_cuda(cudaStreamDestroy(memory_stream_), "cudaStreamDestroy");
    }
    if (pool_) log_cuda(cudaMemPoolDestroy(pool_), "cudaMemPoolDestroy");
  }

  const DeviceInfo& info() const noexcept override { return info_; }
  MemoryInfo memory() const override;
  Result<Stream> new_stream(const StreamOptions& options) override;
  Result<Event> new_event(EventTiming timing) override;
  Result<Buffer> allocate(std::size_t bytes, MemoryKind kind) override;
  Result<void> wake_after(EventRef event, Waker& waker) override;

 protected:
  void free(void* data, std::size_t bytes, MemoryKind kind) noexcept override;

 private:
  CudaDevice() = default;
  Result<void> initialize(std::int32_t index);

  DeviceInfo info_;
  cudaStream_t memory_stream_ = nullptr;  // orders allocations and frees
  cudaMemPool_t pool_ = nullptr;
  int lowest_priority_ = 0;
  int highest_priority_ = 0;
  WriteValue write_value_ = nullptr;
  std::unique_ptr<EventClock> clock_;
  std::unique_ptr<Waiter> waiter_;
  std::atomic<std::size_t> used_bytes_{0};
};

Result<std::unique_ptr<Device>> CudaDevice::open(std::int32_t index) {
  std::unique_ptr<CudaDevice> device(new CudaDevice);
  MILLRACE_TRY(device->initialize(index));
  return std::unique_ptr<Device>(std::move(device));
}

Result<void> CudaDevice::initialize(std::int32_t index) {
  cudaDeviceProp properties{};
  MILLRACE_TRY(check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties"));
  MILLRACE_TRY(check_cuda(cudaSetDevice(index), "cudaSetDevice"));
  const std::vector<GpuIdentity> gpus = visible_gpus();
  const auto place = static_cast<std::size_t>(index);
  info_.id = DeviceId::cuda(index);
  info_.uuid = place < gpus.size() ? gpus[place].uuid : "";
  info_.name = properties.name;
  info_.compute_major = properties.major;
  info_.compute_minor = properties.minor;
  info_.cores = properties.multiProcessorCount;
  info_.memory_bytes = properties.totalGlobalMem;
  MILLRACE_TRY(check_cuda(cudaDeviceGetStreamPriorityRange(&lowest_priority_, &highest_priority_),
                          "cudaDeviceGetStreamPriorityRange"));
  MILLRACE_TRY(check_cuda(cudaStreamCreateWithFlags(&memory_stream_, cudaStreamNonBlocking),
                          "cudaStreamCreateWithFlags"));
  cudaMemPoolProps pool{};
  pool.allocType = cudaMemAllocationTypePinned;
  pool.location.type = cudaMemLocationTypeDevice;
  pool.location.id = index;
  MILLRACE_TRY(check_cuda(cudaMemPoolCreate(&pool_, &pool), "cudaMemPoolCreate"));
  std::uint64_t keep = UINT64_MAX;  // what is freed stays ours: giving it back can halt the device
  MILLRACE_TRY(check_cuda(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep),
                          "cudaMemPoolSetAttribute"));
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found{};
  if (cudaGetDriverEntryPointByVersion("cuStreamWriteValue64", &entry, 12000, cudaEnableDefault,
                                       &found) == cudaSuccess &&
      found == cudaDriverEntryPointSuccess) {
    write_value_ = reinterpret_cast<WriteValue>(entry);
  }
  MILLRACE_ASSIGN(clock_, EventClock::start(index, memory_stream_));
  waiter_ = std::make_unique<Waiter>(index);
  return {};
}

MemoryInfo CudaDevice::memory() const {
  MemoryInfo memory;
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  if (cudaSetDevice(info_.id.index) == cudaSuccess) cudaMemGetInfo(&free_bytes, &total_bytes);
  std::uint64_t reserved = 0;  // by the pool, used or not
  cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved);
  memory.used_bytes = used_bytes_.load(std::memory_order_relaxed);
  memory.limit_bytes = total_bytes;
  memory.free_bytes =
      free_bytes + (reserved > memory.used_bytes ? reserved - memory.used_bytes : 0);
  return memory;
}

Result<Stream> CudaDevice::new_stream(const StreamOptions& options) {
  MILLRACE_TRY(check_cuda(cudaSetDevice(info_.id.index), "cudaSetDevice"));
  // Smaller numbers are more urgent in CUDA.
  const int priority = std::clamp(-options.priority, highest_priority_, lowest_priority_);
  cudaStream_t stream = nullptr;
  MILLRACE_TRY(check_cuda(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority),
                          "cudaStreamCreateWithPriority"));
  return Stream(std::make_unique<CudaStream>(info_.id.index, stream, write_value_));
}

Result<Event> CudaDevice::new_event(EventTiming timing) {
  MILLRACE_ASSIGN(std::shared_ptr<EventHandle> handle, new_handle(info_.id.index, timing));
  return Event(std::make_unique<CudaEvent>(std::move(handle), timing, *clock_));
}

Result<Buffer> CudaDevice::allocate(std::size_t bytes, MemoryKind kind) {
  if (bytes == 0) return Buffer();
  MILLRACE_TRY(check_cuda(cudaSetDevice(info_.id.index), "cudaSetDevice"));
  void* data = nullptr;
  if (kind == MemoryKind::pinned) {
    MILLRACE_TRY(check_cuda(
        cudaHostAlloc(&data, bytes, cudaHostAllocPortable | cudaHostAllocMapped), "cudaHostAlloc"));
    return Buffer(this, data, bytes, kind);
  }
  const cudaError_t status = cudaMallocFromPoolAsync(&data, bytes, pool_, memory_stream_);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return Error{
        ErrorCode::out_of_memory,
        concat("needed ", format_bytes(bytes), ", free ", format_bytes(memory().free_bytes), " of ",
               format_bytes(info_.memory_bytes), " on ", info_.id)};
  }
  MILLRACE_TRY(check_cuda(status, "cudaMallocFromPoolAsync"));
  // From here on any stream may use it.
  MILLRACE_TRY(check_cuda(cudaStreamSynchronize(memory_stream_), "cudaStreamSynchronize"));
  used_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  return Buffer(this, data, bytes, kind);
}

void CudaDevice::free(void* data, std::size_t bytes, MemoryKind kind) noexcept {
  log_cuda(cudaSetDevice(info_.id.index), "cudaSetDevice");
  if (kind == MemoryKind::pinned) {
    log_cuda(cudaFreeHost(data), "cudaFreeHost");
    return;
  }
  log_cuda(cudaFreeAsync(data, memory_stream_), "cudaFreeAsync");
  used_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
}

Result<void> CudaDevice::wake_after(EventRef event, Waker& waker) {
  if (!event) return {};
  MILLRACE_ASSIGN(std::shared_ptr<const StreamPoint> point, event.impl()->point());
  if (!point) {
    waker.wake();
    return {};
  }
  waiter_->add(std::move(point), waker);
  return {};
}

}  // namespace

Result<std::unique_ptr<Device>> open_cuda_device(std::int32_t index) {
  return CudaDevice::open(index);
}

}  // namespace millrace
