#include "server/shared_mapping.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "base/try.h"

namespace millrace::server {
namespace {

/// What the handler may look at: never freed, each entry claimed by `begin`.
struct Watched {
  std::atomic<std::uintptr_t> begin{0};  // 0: free; 1: being set up
  std::atomic<std::uintptr_t> end{0};
  std::atomic<bool> torn{false};
};
std::array<Watched, SharedMapping::kMost> watched;
struct sigaction handler_before;
std::uintptr_t page_bytes = 0;  // set before the handler

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const int before = errno;
  const auto at = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (Watched& entry : watched) {
    const std::uintptr_t begin = entry.begin.load(std::memory_order_acquire);
    if (begin <= 1 || at < begin || at >= entry.end.load(std::memory_order_acquire)) continue;
    void* const start = static_cast<std::byte*>(info->si_addr) - at % page_bytes;
    if (mmap(start, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
             0) == MAP_FAILED) {
      break;
    }
    entry.torn.store(true, std::memory_order_release);
    errno = before;
    return;  // the instruction runs again
  }
  if ((handler_before.sa_flags & SA_SIGINFO) != 0 && handler_before.sa_sigaction) {
    handler_before.sa_sigaction(signal, info, context);
  } else if (handler_before.sa_handler != SIG_DFL && handler_before.sa_handler != SIG_IGN) {
    handler_before.sa_handler(signal);
  } else {
    ::signal(SIGBUS, SIG_DFL);  // it comes again, and ends the process
  }
  errno = before;
}

void install_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    page_bytes = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &handler_before);
  });
}

Error system_error(const std::string& key, const char* what) {
  return {ErrorCode::invalid_argument,
          concat("shared memory ", quote(key), ": ", what, ": ", std::strerror(errno))};
}

/// Closes when it goes.
class File {
 public:
  explicit File(int descriptor) noexcept : descriptor_(descriptor) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace

Result<std::unique_ptr<SharedMapping>> SharedMapping::open(const std::string& key,
                                                           std::size_t offset, std::size_t bytes) {
  if (key.find('\0') != std::string::npos || key.empty()) {
    return Error{ErrorCode::invalid_argument, "shared memory: expected the name of an object"};
  }
  // The name is shm_open's: nothing outside of its folder is reached by one with further slashes.
  const File file(shm_open(key.c_str(), O_RDWR | O_CLOEXEC, 0));
  if (file.descriptor() < 0) return system_error(key, "it cannot be opened");
  struct stat status {};
  if (fstat(file.descriptor(), &status) != 0) return system_error(key, "its size is not known");
  const auto size = static_cast<std::size_t>(status.st_size);
  if (bytes == 0 || offset > size || bytes > size - offset) {
    return Error{ErrorCode::invalid_argument,
                 concat("shared memory ", quote(key), ": expected at least 1 byte within its ",
                        size, ", got ", bytes, " from ", offset)};
  }
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t begin = offset / page * page;
  std::unique_ptr<SharedMapping> mapping(new SharedMapping);
  mapping->page_bytes_ = (offset - begin + bytes + page - 1) / page * page;
  void* const pages = mmap(nullptr, mapping->page_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED,
                           file.descriptor(), static_cast<off_t>(begin));
  if (pages == MAP_FAILED) return system_error(key, "it cannot be mapped");
  mapping->pages_ = static_cast<std::byte*>(pages);
  mapping->data_ = mapping->pages_ + (offset - begin);
  mapping->bytes_ = bytes;
  MILLRACE_TRY(mapping->watch());
  return mapping;
}

Result<void> SharedMapping::watch() {
  install_handler();
  for (std::size_t i = 0; i < kMost; ++i) {
    std::uintptr_t free = 0;
    if (!watched[i].begin.compare_exchange_strong(free, 1, std::memory_order_acq_rel)) continue;
    watched[i].torn.store(false, std::memory_order_relaxed);
    const auto begin = reinterpret_cast<std::uintptr_t>(pages_);
    watched[i].end.store(begin + page_bytes_, std::memory_order_release);
    watched[i].begin.store(begin, std::memory_order_release);
    entry_ = i;
    return {};
  }
  return Error{ErrorCode::out_of_memory,
               concat("there are ", kMost,
                      " shared-memory regions, as many as may be; unregister "
                      "some")};
}

SharedMapping::~SharedMapping() {
  if (entry_ < kMost) watched[entry_].begin.store(1, std::memory_order_release);
  if (pages_) munmap(pages_, page_bytes_);
  if (entry_ < kMost) watched[entry_].begin.store(0, std::memory_order_release);
}

bool SharedMapping::torn() const noexcept {
  return entry_ < kMost && watched[entry_].torn.load(std::memory_order_acquire);
}

}  // namespace millrace::server
