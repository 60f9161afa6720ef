// Files: read whole, and written whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include <millrace/error.h>

namespace millrace {

/// The bytes of a regular file (or of what else can be read to its end). Errors: not_found;
/// unavailable when it cannot be read; invalid_argument for a folder or when there are more than
/// `limit_bytes`.
[[nodiscard]] Result<std::string> read_file(
    const std::string& path, std::size_t limit_bytes = std::numeric_limits<std::size_t>::max());

/// Writes a file under a temporary name beside its final one, which it takes when committed. Until
/// then what was there stays; without a commit, or after an error, the temporary is removed. What
/// is there and is no regular file (a terminal, a pipe, /dev/null) is written as it is.
///
/// All errors are `unavailable` (disk full included) and name the path and the system's reason;
/// after the first, writing on answers with the same error. One thread at a time.
class AtomicFile {
 public:
  [[nodiscard]] static Result<AtomicFile> create(const std::string& path);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  ~AtomicFile();

  Result<void> write(std::string_view bytes);
  Result<void> write(const void* data, std::size_t bytes) {
    return write({static_cast<const char*>(data), bytes});
  }
  /// Makes the file and its name durable. Nothing can be written after it.
  [[nodiscard]] Result<void> commit();

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  AtomicFile(std::string path, std::string target, std::string temporary, int descriptor);

  Result<void> flush();
  // Removes the temporary and remembers the error.
  Error fail(std::string_view action, int reason);
  void discard() noexcept;

  std::string path_;       // as named by the caller
  std::string target_;     // where its links lead to
  std::string temporary_;  // empty: written in place
  std::string pending_;
  int descriptor_ = -1;
  Result<void> state_;
};

/// The same in one call.
[[nodiscard]] Result<void> write_file(const std::string& path, std::string_view bytes);

}  // namespace millrace
