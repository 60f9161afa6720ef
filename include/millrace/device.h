// Devices, streams, events and memory: one interface for GPUs and for the host standing in as one.
//
// Owners (`Stream`, `Event`, `Buffer`) are move-only and release what they hold; refs (`StreamRef`,
// `EventRef`, `DeviceRef`) are small values that own nothing and must not outlive what they name.
// A default-made ref names nothing. There is no default stream and no current device: both are
// always named. Destructors never throw.
//
// All functions are safe to call from any thread unless they say otherwise. Those named after
// stream work (`copy`, `record`, `wait`, `run`, ...) only enqueue: they return before the work
// starts.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/error.h>

namespace millrace {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using Duration = Clock::duration;

enum class DeviceKind : std::uint8_t {
  host,  // the CPU: plain memory, or a host device when it has an index
  cuda,  // an NVIDIA GPU
};

/// Where memory lies and work runs. "host" (no index) is ordinary memory, which belongs to no
/// device in particular; "host:0" is a host device, an asynchronous device made of threads;
/// "cuda:0" a GPU, by its index among the visible ones.
struct DeviceId {
  DeviceKind kind = DeviceKind::host;
  std::int32_t index = -1;

  [[nodiscard]] static constexpr DeviceId host_memory() noexcept { return {}; }
  [[nodiscard]] static constexpr DeviceId host(std::int32_t index) noexcept {
    return {DeviceKind::host, index};
  }
  [[nodiscard]] static constexpr DeviceId cuda(std::int32_t index) noexcept {
    return {DeviceKind::cuda, index};
  }
  /// Ordinary host memory, tied to no device.
  [[nodiscard]] constexpr bool is_host_memory() const noexcept {
    return kind == DeviceKind::host && index < 0;
  }
  friend constexpr bool operator==(DeviceId, DeviceId) = default;
};

/// "host", "host:0", "cuda:1".
[[nodiscard]] std::string to_string(DeviceId id);

/// Memory of a device, in bytes. `limit` is what may be used in all: the hardware's size, or less
/// where the user set less.
struct MemoryInfo {
  std::size_t used_bytes = 0;  // by this process through this device
  std::size_t free_bytes = 0;
  std::size_t limit_bytes = 0;
};

struct DeviceInfo {
  DeviceId id;
  std::string uuid;       // "GPU-..." or, of a MIG instance, "MIG-..."; "HOST-n" for host devices
  std::string name;       // as the vendor says: "NVIDIA H200", "Intel(R) Xeon(R) ..."
  int compute_major = 0;  // compute capability; 0 for host devices
  int compute_minor = 0;
  int cores = 0;  // processors usable by this process, or streaming multiprocessors
  std::size_t memory_bytes = 0;
  std::string pci_bus_id;  // "0000:1b:00.0"; empty for host devices
  int numa_node = -1;      // that the device is attached to; -1: unknown, or of no matter
};

enum class MemoryKind : std::uint8_t {
  device,   // the device's own
  pinned,   // host memory that the device reads and writes without a staging copy
  managed,  // one address for host and device; pages move to whoever touches them
};

class Device;
class StreamImpl;
class EventImpl;
class MemorySource;

/// Wakes a thread that waits for work. One waiter, any number of wakers. A wake that comes before
/// the wait is kept, so none is lost; several may collapse into one.
class Waker {
 public:
  Waker() = default;
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;
  /// Never blocks; cheap when the waiter is not asleep.
  void wake() noexcept;
  /// Returns true once woken since the last return, false at `until`. Only by the one waiter.
  bool wait_until(TimePoint until) noexcept;
  /// Makes `wake` call `instead(context)` on the waking thread, for a waiter whose work any thread
  /// may do. Before the first wake.
  void redirect(void (*instead)(void* context) noexcept, void* context) noexcept {
    instead_ = instead;
    context_ = context;
  }

 private:
  void (*instead_)(void* context) noexcept = nullptr;
  void* context_ = nullptr;
  // 0: nothing, 1: a wake is kept, 2: the waiter sleeps. A futex word: no lock, no spurious
  // allocation.
  std::atomic<std::uint32_t> state_{0};
};

/// A non-owning name of an event.
class EventRef {
 public:
  constexpr EventRef() noexcept = default;
  explicit constexpr EventRef(EventImpl* impl) noexcept : impl_(impl) {}

  [[nodiscard]] DeviceId device() const noexcept;
  /// Whether everything before the latest `record` has finished; true when never recorded. Errors:
  /// gpu_fault when the device failed. Does not wait.
  [[nodiscard]] Result<bool> query() const;
  /// Blocks the calling thread until then. Not for a driver thread. Errors: gpu_fault.
  Result<void> synchronize() const;
  /// Timed events only, once complete: when the device reached it, on the host's clock. Errors:
  /// invalid_argument for an untimed event, unavailable when not complete.
  [[nodiscard]] Result<TimePoint> time() const;

  [[nodiscard]] EventImpl* impl() const noexcept { return impl_; }
  explicit operator bool() const noexcept { return impl_ != nullptr; }
  friend constexpr bool operator==(EventRef, EventRef) = default;

 private:
  EventImpl* impl_ = nullptr;
};

enum class EventTiming : std::uint8_t { untimed, timed };

/// A point in a stream. Recording again moves it; waits already enqueued keep the point they saw.
class Event {
 public:
  Event() noexcept;
  explicit Event(std::unique_ptr<EventImpl> impl) noexcept;
  Event(Event&&) noexcept;
  Event& operator=(Event&&) noexcept;
  /// May be destroyed while recorded or waited for: the streams concerned go on unharmed.
  ~Event();

  [[nodiscard]] EventRef ref() const noexcept { return EventRef(impl_.get()); }
  operator EventRef() const noexcept { return ref(); }
  explicit operator bool() const noexcept { return impl_ != nullptr; }

 private:
  std::unique_ptr<EventImpl> impl_;
};

/// One piece of a gathered copy: `rows` rows of `bytes` bytes. At the source each begins
/// `source_pitch` bytes after the one before (not looked at for one row), at the target they follow
/// each other closely. Both ends are read and written by the device itself: its own memory, pinned
/// or managed memory, or that of a device which it reaches.
struct CopyPiece {
  void* target = nullptr;
  const void* source = nullptr;
  std::size_t bytes = 0;
  std::size_t rows = 1;
  std::size_t source_pitch = 0;
};

/// A non-owning name of a stream: an ordered queue of work on a device. A ref that names none
/// answers invalid_argument, as do null addresses (but for zero bytes, which are no work).
class StreamRef {
 public:
  constexpr StreamRef() noexcept = default;
  explicit constexpr StreamRef(StreamImpl* impl) noexcept : impl_(impl) {}

  [[nodiscard]] DeviceId device() const noexcept;
  /// Enqueues a copy between any two addresses that the device can reach. Host memory should be
  /// pinned where a GPU is concerned (pageable works, slower). Both ends must stay valid until it
  /// is done.
  Result<void> copy(void* target, const void* source, std::size_t bytes) const;
  /// Enqueues several copies as one piece of work. `pieces` itself may go when this returns.
  Result<void> gather(std::span<const CopyPiece> pieces) const;
  Result<void> fill(void* target, std::uint8_t value, std::size_t bytes) const;
  /// Enqueues a host function, called on a thread of the device in stream order. It must not throw
  /// (an exception is caught and logged) nor, on a GPU, call the device's API.
  Result<void> run(std::function<void()> task) const;
  /// Enqueues: `event` (of this device) is reached when all earlier work is done.
  Result<void> record(EventRef event) const;
  /// Enqueues: later work starts when `event` (of any device) is reached. A never-recorded event or
  /// a null ref does not wait.
  Result<void> wait(EventRef event) const;
  /// Enqueues: `word` (in pinned memory of the device; a host device takes any) becomes `value`,
  /// and then, where the device can do so by itself, `waker` (may be null) is woken. See
  /// `Device::wake_after`. Both must outlive the stream's work: seeing the word does not mean that
  /// the waker is no longer touched.
  Result<void> signal(std::atomic<std::uint64_t>& word, std::uint64_t value, Waker* waker) const;
  /// Whether all work is done. Errors: gpu_fault.
  [[nodiscard]] Result<bool> query() const;
  /// Blocks the calling thread until all work enqueued so far is done. Not for a driver thread.
  Result<void> synchronize() const;
  /// The backend's own handle: a `cudaStream_t` for a GPU, null for a host device.
  [[nodiscard]] void* native_handle() const noexcept;

  [[nodiscard]] StreamImpl* impl() const noexcept { return impl_; }
  explicit operator bool() const noexcept { return impl_ != nullptr; }
  friend constexpr bool operator==(StreamRef, StreamRef) = default;

 private:
  StreamImpl* impl_ = nullptr;
};

/// Owns a stream.
class Stream {
 public:
  Stream() noexcept;
  explicit Stream(std::unique_ptr<StreamImpl> impl) noexcept;
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;
  /// Lets the work enqueued so far finish, and waits for it on a host device (whose thread ends
  /// here).
  ~Stream();

  [[nodiscard]] StreamRef ref() const noexcept { return StreamRef(impl_.get()); }
  operator StreamRef() const noexcept { return ref(); }
  explicit operator bool() const noexcept { return impl_ != nullptr; }
  /// Gives the stream up unfinished: its thread or native handle is left to the process, and
  /// nothing is waited for. For a stream whose work never ends.
  void abandon() noexcept;

 private:
  std::unique_ptr<StreamImpl> impl_;
};

struct StreamOptions {
  /// Higher runs first where the device has priorities; clamped to its range. Host: ignored.
  int priority = 0;
  /// Shown in traces and as the thread's name.
  std::string name;
};

/// Owns memory on a device. Freed on destruction, which does not wait for streams: the owner must
/// know that no work still uses it.
class Buffer {
 public:
  Buffer() noexcept = default;
  Buffer(Device* device, void* data, std::size_t bytes, MemoryKind kind) noexcept
      : device_(device), data_(data), bytes_(bytes), kind_(kind) {}
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  /// Aligned to at least 256 bytes (host devices too, so that alignment faults show everywhere).
  [[nodiscard]] void* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] MemoryKind kind() const noexcept { return kind_; }
  /// Of the memory itself: pinned memory is `DeviceId::host_memory()`.
  [[nodiscard]] DeviceId device() const noexcept;
  explicit operator bool() const noexcept { return data_ != nullptr; }
  /// Gives up ownership without freeing.
  [[nodiscard]] void* release() noexcept;

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  MemoryKind kind_ = MemoryKind::device;
};

/// A device. Made by `DeviceSet`; lives as long as that does.
class Device {
 public:
  virtual ~Device() = default;

  [[nodiscard]] virtual const DeviceInfo& info() const noexcept = 0;
  [[nodiscard]] DeviceId id() const noexcept { return info().id; }
  [[nodiscard]] virtual MemoryInfo memory() const = 0;
  [[nodiscard]] virtual Result<Stream> new_stream(const StreamOptions& options) = 0;
  [[nodiscard]] virtual Result<Event> new_event(EventTiming timing) = 0;
  /// Zero bytes give an empty buffer. Errors: out_of_memory with needed and free bytes.
  [[nodiscard]] virtual Result<Buffer> allocate(std::size_t bytes, MemoryKind kind) = 0;
  /// Makes sure that `waker` is woken soon after `event` is reached, for devices whose streams
  /// cannot wake a thread themselves; does nothing for those that can. Returns at once.
  virtual Result<void> wake_after(EventRef event, Waker& waker) = 0;
  /// Whether the device computes on memory of its own, so that host data is copied in from pinned
  /// memory and results are copied out to it. GPUs, and host devices that imitate one.
  [[nodiscard]] virtual bool separate_memory() const noexcept = 0;
  /// Whether the device's streams copy all of [data, data + bytes) from where it lies without
  /// holding up whoever enqueues that: pinned host memory that this device reaches, or managed
  /// memory, whoever allocated it.
  [[nodiscard]] virtual bool pinned(const void* data, std::size_t bytes) const noexcept = 0;
  /// Whether [data, data + bytes) is memory of this device (or managed) now, whoever allocated it.
  /// Memory that was given back to a pool may still look as if it were.
  [[nodiscard]] virtual bool owns(const void* data, std::size_t bytes) const noexcept = 0;
  /// Whether this device's own work can read and write memory of `other`: itself, and those of the
  /// same set that it has peer access to. `copy` works for all others too.
  [[nodiscard]] virtual bool reaches(DeviceId other) const noexcept = 0;
  /// A stream of another library, by its native handle (a `cudaStream_t` of this device, null being
  /// its default stream): to record an event behind a producer's work, or to make a consumer wait.
  /// The stream stays the other library's, and must outlive what is done with it here. Errors:
  /// unsupported on host devices.
  [[nodiscard]] virtual Result<Stream> borrow_stream(void* native_handle) = 0;
  /// Lets the calling thread run on processors near the device from now on, where the machine has
  /// several NUMA nodes and the process may use some of the device's. For threads that serve this
  /// device alone. Never fails: what cannot be had is in the log. Nothing for host devices.
  virtual void place_this_thread() const noexcept {}
  /// What its memory comes from; for pools whose blocks may outlive the device.
  [[nodiscard]] virtual std::shared_ptr<MemorySource> memory_source() = 0;

 protected:
  friend class Buffer;
  virtual void free(void* data, std::size_t bytes, MemoryKind kind) noexcept = 0;
};

/// A non-owning name of a device.
using DeviceRef = Device*;

struct HostDeviceOptions {
  /// Memory of kind `device` that allocations may take in all; 0: what the machine has. Pinned
  /// memory is the host's and does not count, as with a GPU.
  std::size_t memory_limit_bytes = 0;
  /// Imitates a slower device: sleeping or computing reference models take this many times longer.
  /// Above 0.
  double slowness = 1.0;
  /// Imitates a GPU's memory: see `Device::separate_memory`.
  bool separate_memory = false;
};

struct DeviceSetOptions {
  /// Names as `--devices` takes them: "0", "2" (GPUs by index), "GPU-uuid" or "MIG-uuid" (or an
  /// unambiguous prefix of one), "cuda:0", "host", "host:0". Empty: all visible GPUs, or one host
  /// device when there is none.
  ///
  /// CUDA shows a process either whole GPUs or a MIG instance, so MIG instances go with no other
  /// GPUs. They are chosen by setting CUDA_VISIBLE_DEVICES: before anything in the process has used
  /// CUDA, and while no other thread reads the environment.
  std::vector<std::string> devices;
  /// Settings of host:0, host:1, ...; those without take the defaults.
  std::vector<HostDeviceOptions> host;
};

/// The devices that a program uses, in the order named. Owns them.
///
/// `CUDA_VISIBLE_DEVICES` is honoured as CUDA does: indices and UUIDs count among what it leaves
/// visible.
class DeviceSet {
 public:
  /// Errors: not_found for a device that is not there, listing those that are; invalid_argument for
  /// a name that cannot be read, or named twice.
  [[nodiscard]] static Result<DeviceSet> open(const DeviceSetOptions& options = {});
  DeviceSet() noexcept;
  DeviceSet(DeviceSet&&) noexcept;
  DeviceSet& operator=(DeviceSet&&) noexcept;
  ~DeviceSet();

  [[nodiscard]] std::span<const DeviceRef> devices() const noexcept { return refs_; }
  /// Null when there is none of that id in the set.
  [[nodiscard]] DeviceRef find(DeviceId id) const noexcept;

 private:
  std::vector<std::unique_ptr<Device>> owned_;
  std::vector<DeviceRef> refs_;
};

/// Reads "0", "cuda:1", "host", "host:2" (not UUIDs, which need a look at the machine).
/// "host" reads as host:0. Errors: invalid_argument.
[[nodiscard]] Result<DeviceId> parse_device_id(std::string_view text);

/// Unless the environment says otherwise: makes CUDA load kernels when they are first used
/// (CUDA_MODULE_LOADING=LAZY, its default since 12.2), and gives up to 32 streams of a device a
/// hardware queue of their own (CUDA_DEVICE_MAX_CONNECTIONS=32; its default is 8, beyond which
/// lanes wait for one another). Sets environment variables: at the start of `main`, before other
/// threads and before CUDA is used. The program does.
void set_cuda_defaults() noexcept;

/// What the CUDA driver says without initializing more than it must.
struct CudaStatus {
  int visible_gpus = 0;
  std::string driver_version;   // empty without a driver
  std::string runtime_version;  // empty when built without CUDA
  /// Why there are no GPUs; empty when there are. "no driver: libcuda.so.1 was not found", ...
  std::string reason;
};
[[nodiscard]] CudaStatus cuda_status();

}  // namespace millrace
