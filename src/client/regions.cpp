#include "client/regions.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/text.h"
#include "base/try.h"
#include "device/cuda_ipc.h"

namespace millrace::client {

Result<SharedMemory> SharedMemory::create(std::size_t bytes) {
  static std::atomic<unsigned> next{0};
  const auto failed = [bytes](std::string_view what) {
    return Error{ErrorCode::unavailable, concat("cannot share ", bytes, " bytes of memory: ", what,
                                                ": ", std::strerror(errno))};
  };
  SharedMemory memory;
  memory.key_ = concat("/millrace-client-", getpid(), "-", next.fetch_add(1));
  const int descriptor = shm_open(memory.key_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  if (descriptor < 0) {
    const std::string key = std::exchange(memory.key_, {});  // not ours
    return failed("shm_open " + key);
  }
  void* data = MAP_FAILED;
  // Taken now, so that a full /dev/shm is an error here and not a signal later.
  const int refused = posix_fallocate(descriptor, 0, static_cast<off_t>(bytes));
  if (refused == 0) data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (refused != 0) errno = refused;
  const int reason = errno;
  close(descriptor);
  errno = reason;
  if (data == MAP_FAILED) return failed(memory.key_);
  memory.data_ = static_cast<std::byte*>(data);
  memory.bytes_ = bytes;
  return memory;
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : key_(std::exchange(other.key_, {})),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(key_, other.key_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

SharedMemory::~SharedMemory() {
  if (data_) munmap(data_, bytes_);
  if (!key_.empty()) shm_unlink(key_.c_str());
}

Result<CudaMemory> CudaMemory::create(int gpu, std::size_t bytes) {
  CudaMemory memory;
  MILLRACE_ASSIGN(ImportedMemory made, new_shared_cuda_memory(gpu, bytes));
  memory.memory_ = Tensor(
      TensorView::of(DataType::uint8, made.data, {static_cast<std::int64_t>(bytes)}, made.device),
      std::move(made.lease));
  MILLRACE_ASSIGN(memory.handle_, export_memory(memory.view()));
  return memory;
}

void RegionTable::add(Region region) {
  const std::lock_guard lock(mutex_);
  const std::byte* const data = region.data;
  regions_.insert_or_assign(data, std::move(region));
}

void RegionTable::remove(std::string_view name) {
  const std::lock_guard lock(mutex_);
  std::erase_if(regions_,
                [name](const auto& entry) { return name.empty() || entry.second.name == name; });
}

std::optional<server::RegionSlice> RegionTable::find(const void* data, std::size_t bytes,
                                                     DeviceId device) const {
  const auto* const at = static_cast<const std::byte*>(data);
  const std::lock_guard lock(mutex_);
  auto found = regions_.upper_bound(at);
  if (found == regions_.begin()) return std::nullopt;
  const Region& region = (--found)->second;
  const auto offset = static_cast<std::size_t>(at - region.data);
  if (region.device != device || offset > region.bytes || bytes > region.bytes - offset) {
    return std::nullopt;
  }
  return server::RegionSlice{region.name, offset, bytes};
}

}  // namespace millrace::client
