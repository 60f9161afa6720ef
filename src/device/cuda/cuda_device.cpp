#include "device/cuda/cuda_device.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "base/try.h"
#include "device/cuda/cuda_error.h"
#include "device/cuda/current_device.h"
#include "device/cuda/gather.h"
#include "device/impl.h"
#include "device/numa.h"
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
    MILLRACE_TRY(make_current(device_));
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
  /// `clock`: null for untimed events.
  CudaEvent(std::shared_ptr<EventHandle> handle, EventTiming timing, EventClock* clock)
      : handle_(std::move(handle)), timing_(timing), clock_(clock) {}

  DeviceId device() const noexcept override { return DeviceId::cuda(handle_->device); }
  Result<bool> query() const override {
    MILLRACE_TRY(make_current(handle_->device));
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
    return clock_->time_of(*handle_);
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
  EventClock* const clock_;
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
  Result<void> gather(std::span<const CopyPiece> pieces) override {
    MILLRACE_TRY(enter());
    return gather_pieces(pieces, GatherMethod::automatic, stream_);
  }
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
    // Driver and runtime number what they share alike; faults of the device are among it.
    if (status != CUDA_ERROR_INVALID_VALUE) {
      return check_cuda(static_cast<cudaError_t>(status), "cuStreamWriteValue64");
    }
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
  [[nodiscard]] Result<void> enter() const { return make_current(device_); }

  const int device_;
  const cudaStream_t stream_;
  const WriteValue write_value_;
  bool abandoned_ = false;
};

/// Sits on events and wakes others, since a stream cannot.
class Waiter {
 public:
  Waiter(int device, const NumaPlace& place)
      : thread_("mr-waiter-" + std::to_string(device), [this, device, place] {
          move_this_thread(place);
          loop(device);
        }) {}
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

/// The memory of one GPU and pinned memory that it reaches. Shared by what may outlive the device.
class CudaMemory final : public MemorySource {
 public:
  static Result<std::shared_ptr<CudaMemory>> make(std::int32_t index, NumaPlace place);
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;
  ~CudaMemory() override {
    log_cuda(cudaSetDevice(index_), "cudaSetDevice");
    if (stream_) {
      log_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
      log_cuda(cudaStreamDestroy(stream_), "cudaStreamDestroy");
    }
    if (pool_) log_cuda(cudaMemPoolDestroy(pool_), "cudaMemPoolDestroy");
  }

  Result<void*> allocate(std::size_t bytes, MemoryKind kind) override;
  void free(void* data, std::size_t bytes, MemoryKind kind) noexcept override;
  bool host_addressable(MemoryKind kind) const noexcept override {
    return kind != MemoryKind::device;
  }
  [[nodiscard]] MemoryInfo info() const;
  /// Lets GPU `peer` read and write all that comes from here.
  Result<void> open_to(std::int32_t peer);
  /// Orders allocations and frees.
  [[nodiscard]] cudaStream_t stream() const noexcept { return stream_; }

 private:
  CudaMemory(std::int32_t index, NumaPlace place) : index_(index), place_(std::move(place)) {}

  const std::int32_t index_;
  const NumaPlace place_;  // of pinned memory
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  std::atomic<std::size_t> used_bytes_{0};
};

class CudaDevice final : public Device {
 public:
  static Result<std::unique_ptr<Device>> open(std::int32_t index);
  ~CudaDevice() override {
    waiter_.reset();
    log_cuda(cudaSetDevice(info_.id.index), "cudaSetDevice");
    clock_.reset();
  }

  const DeviceInfo& info() const noexcept override { return info_; }
  MemoryInfo memory() const override { return memory_->info(); }
  std::shared_ptr<MemorySource> memory_source() override { return memory_; }
  Result<Stream> new_stream(const StreamOptions& options) override;
  Result<Event> new_event(EventTiming timing) override;
  Result<Buffer> allocate(std::size_t bytes, MemoryKind kind) override;
  Result<void> wake_after(EventRef event, Waker& waker) override;
  bool separate_memory() const noexcept override { return true; }
  bool pinned(const void* data, std::size_t bytes) const noexcept override;
  bool owns(const void* data, std::size_t bytes) const noexcept override;
  bool reaches(DeviceId other) const noexcept override {
    return other == info_.id || std::find(peers_.begin(), peers_.end(), other) != peers_.end();
  }
  Result<Stream> borrow_stream(void* native_handle) override {
    auto stream = std::make_unique<CudaStream>(
        info_.id.index, static_cast<cudaStream_t>(native_handle), write_value_);
    stream->abandon();  // somebody else ends it
    return Stream(std::move(stream));
  }
  /// Gives this device direct access to the memory of `peer`, if the hardware can.
  Result<void> connect(CudaDevice& peer);
  void place_this_thread() const noexcept override {
    if (!move_this_thread(place_)) {
      log_info(info_.id,
               ": a thread stays where it is, the system refuses to move it to processors ",
               cpu_list_text(place_.cpus));
    }
  }

 protected:
  void free(void* data, std::size_t bytes, MemoryKind kind) noexcept override {
    memory_->free(data, bytes, kind);
  }

 private:
  CudaDevice() = default;
  Result<void> initialize(std::int32_t index);
  Result<void> warm_up();

  DeviceInfo info_;
  NumaPlace place_;
  std::shared_ptr<CudaMemory> memory_;
  int lowest_priority_ = 0;
  int highest_priority_ = 0;
  WriteValue write_value_ = nullptr;
  std::unique_ptr<EventClock> clock_;
  std::unique_ptr<Waiter> waiter_;
  std::vector<DeviceId> peers_;  // written while the set is being opened
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
  if (place < gpus.size()) {
    info_.uuid = gpus[place].uuid;
    info_.pci_bus_id = gpus[place].pci_bus_id;
    info_.numa_node = numa_node_of(info_.pci_bus_id);
  }
  place_ = place_near(info_.numa_node, process_cpus());
  log_info(info_.id, ": threads and pinned memory lie ",
           place_.node < 0 ? "anywhere: " : "near it: ", place_.why);
  info_.name = properties.name;
  info_.compute_major = properties.major;
  info_.compute_minor = properties.minor;
  info_.cores = properties.multiProcessorCount;
  info_.memory_bytes = properties.totalGlobalMem;
  MILLRACE_TRY(check_cuda(cudaDeviceGetStreamPriorityRange(&lowest_priority_, &highest_priority_),
                          "cudaDeviceGetStreamPriorityRange"));
  MILLRACE_ASSIGN(memory_, CudaMemory::make(index, place_));
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found{};
  if (cudaGetDriverEntryPointByVersion("cuStreamWriteValue64", &entry, 12000, cudaEnableDefault,
                                       &found) == cudaSuccess &&
      found == cudaDriverEntryPointSuccess) {
    write_value_ = reinterpret_cast<WriteValue>(entry);
  }
  MILLRACE_ASSIGN(clock_, EventClock::start(index, memory_->stream()));
  MILLRACE_TRY(warm_up());
  waiter_ = std::make_unique<Waiter>(index, place_);
  return {};
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
  return Event(std::make_unique<CudaEvent>(std::move(handle), timing, clock_.get()));
}

Result<Buffer> CudaDevice::allocate(std::size_t bytes, MemoryKind kind) {
  if (bytes == 0) return Buffer();
  MILLRACE_ASSIGN(void* data, memory_->allocate(bytes, kind));
  return Buffer(this, data, bytes, kind);
}

/// Whether `fits` holds for both ends of the memory. Two ends of one registered range, or of
/// neighbours: then the middle is registered too.
template <class Fits>
bool both_ends(const void* data, std::size_t bytes, Fits fits) {
  if (bytes == 0) return true;
  for (const std::size_t at : {std::size_t{0}, bytes - 1}) {
    cudaPointerAttributes attributes{};
    if (cudaPointerGetAttributes(&attributes, static_cast<const std::byte*>(data) + at) !=
        cudaSuccess) {
      cudaGetLastError();
      return false;
    }
    if (!fits(attributes)) return false;
  }
  return true;
}

bool CudaDevice::pinned(const void* data, std::size_t bytes) const noexcept {
  return both_ends(data, bytes, [](const cudaPointerAttributes& at) {
    return at.type == cudaMemoryTypeHost || at.type == cudaMemoryTypeManaged;
  });
}

bool CudaDevice::owns(const void* data, std::size_t bytes) const noexcept {
  return both_ends(data, bytes, [this](const cudaPointerAttributes& at) {
    return at.type == cudaMemoryTypeManaged ||
           (at.type == cudaMemoryTypeDevice && at.device == info_.id.index);
  });
}

Result<void> CudaDevice::connect(CudaDevice& peer) {
  int possible = 0;
  const int other = peer.info_.id.index;
  MILLRACE_TRY(check_cuda(cudaDeviceCanAccessPeer(&possible, info_.id.index, other),
                          "cudaDeviceCanAccessPeer"));
  if (possible == 0) return {};
  MILLRACE_TRY(check_cuda(cudaSetDevice(info_.id.index), "cudaSetDevice"));
  const cudaError_t enabled = cudaDeviceEnablePeerAccess(other, 0);
  if (enabled == cudaErrorPeerAccessAlreadyEnabled) {
    cudaGetLastError();
  } else {
    MILLRACE_TRY(check_cuda(enabled, "cudaDeviceEnablePeerAccess"));
  }
  MILLRACE_TRY(peer.memory_->open_to(info_.id.index));
  peers_.push_back(peer.info_.id);
  return {};
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

/// Does everything once that a stream can do. The driver loads its own kernels at their first use,
/// and waits for running work to do so: behind a busy stream that would hold up whoever enqueues.
Result<void> CudaDevice::warm_up() {
  constexpr std::size_t kBytes = std::size_t{1} << 20;
  MILLRACE_ASSIGN(const Buffer device, allocate(2 * kBytes, MemoryKind::device));
  MILLRACE_ASSIGN(const Buffer host, allocate(2 * kBytes, MemoryKind::pinned));
  MILLRACE_ASSIGN(const Stream stream, new_stream({}));
  MILLRACE_ASSIGN(const Event event, new_event(EventTiming::untimed));
  auto* a = static_cast<std::byte*>(device.data());
  auto* b = a + kBytes;
  auto* pinned = static_cast<std::byte*>(host.data());
  auto* word = new (pinned + kBytes) std::atomic<std::uint64_t>(0);
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{16}, std::size_t{4096}, kBytes}) {
    MILLRACE_TRY(stream.ref().fill(a, 0, bytes));
    const CopyPiece pieces[] = {{b, a, bytes}, {a, pinned, bytes}, {pinned, b, bytes}};
    for (const CopyPiece& piece : pieces) {
      MILLRACE_TRY(stream.ref().copy(piece.target, piece.source, piece.bytes));
    }
    for (const GatherMethod method :
         {GatherMethod::each, GatherMethod::batch, GatherMethod::kernel}) {
      MILLRACE_TRY(gather_pieces(pieces, method, stream.ref().native_handle()));
    }
  }
  const CopyPiece rows{b, a, 24, 3, 32};
  MILLRACE_TRY(stream.ref().gather({&rows, 1}));
  MILLRACE_TRY(stream.ref().record(event));
  MILLRACE_TRY(stream.ref().wait(event));
  MILLRACE_TRY(stream.ref().run([] {}));
  MILLRACE_TRY(stream.ref().signal(*word, 1, nullptr));
  return stream.ref().synchronize();
}

// Memory

Result<std::shared_ptr<CudaMemory>> CudaMemory::make(std::int32_t index, NumaPlace place) {
  std::shared_ptr<CudaMemory> memory(new CudaMemory(index, std::move(place)));
  MILLRACE_TRY(check_cuda(cudaSetDevice(index), "cudaSetDevice"));
  MILLRACE_TRY(check_cuda(cudaStreamCreateWithFlags(&memory->stream_, cudaStreamNonBlocking),
                          "cudaStreamCreateWithFlags"));
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = index;
  MILLRACE_TRY(check_cuda(cudaMemPoolCreate(&memory->pool_, &properties), "cudaMemPoolCreate"));
  std::uint64_t keep = UINT64_MAX;  // what is freed stays ours: giving it back can halt the device
  MILLRACE_TRY(
      check_cuda(cudaMemPoolSetAttribute(memory->pool_, cudaMemPoolAttrReleaseThreshold, &keep),
                 "cudaMemPoolSetAttribute"));
  return memory;
}

MemoryInfo CudaMemory::info() const {
  MemoryInfo memory;
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  if (cudaSetDevice(index_) == cudaSuccess) cudaMemGetInfo(&free_bytes, &total_bytes);
  std::uint64_t reserved = 0;  // by the pool, used or not
  cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved);
  memory.used_bytes = used_bytes_.load(std::memory_order_relaxed);
  memory.limit_bytes = total_bytes;
  memory.free_bytes =
      free_bytes + (reserved > memory.used_bytes ? reserved - memory.used_bytes : 0);
  return memory;
}

Result<void> CudaMemory::open_to(std::int32_t peer) {
  cudaMemAccessDesc access{};
  access.location.type = cudaMemLocationTypeDevice;
  access.location.id = peer;
  access.flags = cudaMemAccessFlagsProtReadWrite;
  return check_cuda(cudaMemPoolSetAccess(pool_, &access, 1), "cudaMemPoolSetAccess");
}

Result<void*> CudaMemory::allocate(std::size_t bytes, MemoryKind kind) {
  MILLRACE_TRY(check_cuda(cudaSetDevice(index_), "cudaSetDevice"));
  void* data = nullptr;
  if (kind == MemoryKind::pinned) {
    const NumaMemoryGuard near(place_);
    MILLRACE_TRY(check_cuda(
        cudaHostAlloc(&data, bytes, cudaHostAllocPortable | cudaHostAllocMapped), "cudaHostAlloc"));
    return data;
  }
  const auto too_little = [&](const MemoryInfo& now) {
    return Error{ErrorCode::out_of_memory,
                 concat("needed ", format_bytes(bytes), ", free ", format_bytes(now.free_bytes),
                        " of ", format_bytes(now.limit_bytes), " on ", DeviceId::cuda(index_))};
  };
  if (kind == MemoryKind::managed) {
    // More than fits would be moved to and fro page by page for as long as it is used.
    if (const MemoryInfo now = info(); bytes > now.free_bytes) return too_little(now);
    MILLRACE_TRY(
        check_cuda(cudaMallocManaged(&data, bytes, cudaMemAttachGlobal), "cudaMallocManaged"));
    return data;
  }
  const cudaError_t status = cudaMallocFromPoolAsync(&data, bytes, pool_, stream_);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return too_little(info());
  }
  MILLRACE_TRY(check_cuda(status, "cudaMallocFromPoolAsync"));
  // From here on any stream may use it.
  MILLRACE_TRY(check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"));
  used_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  return data;
}

void CudaMemory::free(void* data, std::size_t bytes, MemoryKind kind) noexcept {
  log_cuda(cudaSetDevice(index_), "cudaSetDevice");
  if (kind == MemoryKind::pinned) {
    log_cuda(cudaFreeHost(data), "cudaFreeHost");
    return;
  }
  if (kind == MemoryKind::managed) {
    log_cuda(cudaFree(data), "cudaFree");
    return;
  }
  log_cuda(cudaFreeAsync(data, stream_), "cudaFreeAsync");
  used_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
}

}  // namespace

Result<std::unique_ptr<Device>> open_cuda_device(std::int32_t index) {
  return CudaDevice::open(index);
}

Result<void> connect_cuda_devices(std::span<const DeviceRef> devices) {
  for (const DeviceRef device : devices) {
    for (const DeviceRef peer : devices) {
      if (device == peer || device->id().kind != DeviceKind::cuda ||
          peer->id().kind != DeviceKind::cuda) {
        continue;
      }
      MILLRACE_TRY(static_cast<CudaDevice&>(*device).connect(static_cast<CudaDevice&>(*peer)));
    }
  }
  return {};
}

Result<Event> new_shareable_cuda_event(std::int32_t index) {
  MILLRACE_TRY(check_cuda(cudaSetDevice(index), "cudaSetDevice"));
  cudaEvent_t event = nullptr;
  MILLRACE_TRY(check_cuda(
      cudaEventCreateWithFlags(
          &event, cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess),
      "cudaEventCreateWithFlags"));
  return adopt_cuda_event(index, event);
}

Event adopt_cuda_event(std::int32_t index, void* native_handle) {
  auto handle = std::make_shared<EventHandle>();
  handle->device = index;
  handle->event = static_cast<cudaEvent_t>(native_handle);
  auto event = std::make_unique<CudaEvent>(std::move(handle), EventTiming::untimed, nullptr);
  event->recorded();  // for all that is known here
  return Event(std::move(event));
}

void* native_cuda_event(EventRef event) noexcept {
  return static_cast<const CudaEvent*>(event.impl())->native();
}

}  // namespace millrace
