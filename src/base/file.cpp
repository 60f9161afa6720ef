#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>
#include <system_error>
#include <utility>

#include "base/text.h"
#include "base/try.h"

namespace millrace {
namespace {

constexpr std::size_t kPendingBytes = 65536;
constexpr int kAttempts = 100;

std::string reason_of(int error) { return std::generic_category().message(error); }

class Descriptor {
 public:
  explicit Descriptor(int fd) noexcept : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const noexcept { return fd_; }

 private:
  int fd_;
};

Error cannot_read(const std::string& path, int error) {
  const bool missing = error == ENOENT || error == ENOTDIR;
  return {missing ? ErrorCode::not_found : ErrorCode::unavailable,
          concat("cannot read ", quote(path), ": ", reason_of(error))};
}

Error too_large(const std::string& path, std::size_t limit_bytes) {
  return {ErrorCode::invalid_argument,
          concat("cannot read ", quote(path), ": it has more than ", format_bytes(limit_bytes))};
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return path.substr(0, std::max<std::size_t>(slash, 1));
}

}  // namespace

Result<std::string> read_file(const std::string& path, std::size_t limit_bytes) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return cannot_read(path, errno);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return cannot_read(path, errno);
  if (S_ISDIR(status.st_mode)) {
    return Error{ErrorCode::invalid_argument,
                 concat("cannot read ", quote(path), ": it is a folder, expected a file")};
  }
  // The size is a hint: files under /proc and pipes have none.
  const auto hint = static_cast<std::size_t>(std::max<off_t>(status.st_size, 0));
  if (hint > limit_bytes) return too_large(path, limit_bytes);

  std::string bytes;
  std::size_t size = 0;
  try {
    bytes.resize(hint + 1);  // one more, to meet the end without growing
    while (true) {
      if (size == bytes.size()) bytes.resize(size + std::max(size, kPendingBytes));
      const ssize_t count = ::read(file.get(), bytes.data() + size, bytes.size() - size);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return cannot_read(path, errno);
      if (count == 0) break;
      size += static_cast<std::size_t>(count);
      if (size > limit_bytes) return too_large(path, limit_bytes);
    }
    bytes.resize(size);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, concat("cannot read ", quote(path), ": no memory for ",
                                                  format_bytes(std::max(hint, size)))};
  }
  return bytes;
}

Result<AtomicFile> AtomicFile::create(const std::string& path) {
  const auto error = [&](int reason) {
    return Error{ErrorCode::unavailable,
                 concat("cannot write ", quote(path), ": ", reason_of(reason))};
  };
  std::string target = path;
  struct stat status {};
  const bool exists = ::stat(path.c_str(), &status) == 0;
  if (exists) {
    // Links stay links: the file that they lead to is replaced.
    if (char* resolved = ::realpath(path.c_str(), nullptr)) {
      target = resolved;
      std::free(resolved);
    }
    // A folder's name cannot be taken over, which is found out here.
    if (!S_ISREG(status.st_mode)) {
      const int fd = ::open(target.c_str(), O_WRONLY | O_CLOEXEC);
      if (fd < 0) return error(errno);
      return AtomicFile(path, std::move(target), {}, fd);
    }
  }
  // A name of this process that is in nobody's way; one left by an earlier process is skipped.
  static std::atomic<unsigned> counter{0};
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::string temporary = concat(target, ".", ::getpid(), ".", counter.fetch_add(1), ".tmp");
    const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) {
      if (exists) static_cast<void>(::fchmod(fd, status.st_mode & 07777));
      return AtomicFile(path, std::move(target), std::move(temporary), fd);
    }
    if (errno != EEXIST && errno != EINTR) return error(errno);
  }
  return error(EEXIST);
}

AtomicFile::AtomicFile(std::string path, std::string target, std::string temporary, int descriptor)
    : path_(std::move(path)),
      target_(std::move(target)),
      temporary_(std::move(temporary)),
      descriptor_(descriptor) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      target_(std::move(other.target_)),
      temporary_(std::move(other.temporary_)),
      pending_(std::move(other.pending_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      state_(std::move(other.state_)) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  if (this != &other) {
    discard();
    path_ = std::move(other.path_);
    target_ = std::move(other.target_);
    temporary_ = std::move(other.temporary_);
    pending_ = std::move(other.pending_);
    descriptor_ = std::exchange(other.descriptor_, -1);
    state_ = std::move(other.state_);
  }
  return *this;
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  if (descriptor_ < 0) return;
  ::close(std::exchange(descriptor_, -1));
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Error AtomicFile::fail(std::string_view action, int reason) {
  discard();
  Error error{ErrorCode::unavailable,
              concat("cannot ", action, " ", quote(path_), ": ", reason_of(reason))};
  state_ = error;
  return error;
}

Result<void> AtomicFile::write(std::string_view bytes) {
  if (!state_.ok()) return state_;
  if (descriptor_ < 0) return fail("write", EBADF);
  pending_ += bytes;
  if (pending_.size() < kPendingBytes) return {};
  return flush();
}

Result<void> AtomicFile::flush() {
  std::string_view left = pending_;
  while (!left.empty()) {
    const ssize_t count = ::write(descriptor_, left.data(), left.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail("write", errno);
    left.remove_prefix(static_cast<std::size_t>(count));
  }
  pending_.clear();
  return {};
}

Result<void> AtomicFile::commit() {
  if (!state_.ok()) return state_;
  if (descriptor_ < 0) return fail("write", EBADF);
  MILLRACE_TRY(flush());
  const bool in_place = temporary_.empty();
  if (!in_place) {
    if (::fsync(descriptor_) != 0) return fail("write", errno);
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) return fail("write", errno);
  }
  static_cast<void>(::close(std::exchange(descriptor_, -1)));
  if (in_place) return {};
  // The name too; folders that cannot be opened or synchronized (some network file systems) are no
  // error.
  const Descriptor folder(::open(folder_of(target_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) static_cast<void>(::fsync(folder.get()));
  return {};
}

Result<void> write_file(const std::string& path, std::string_view bytes) {
  MILLRACE_ASSIGN(AtomicFile file, AtomicFile::create(path));
  MILLRACE_TRY(file.write(bytes));
  return file.commit();
}

}  // namespace millrace
