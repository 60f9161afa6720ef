// A mapping of a file that somebody else may make shorter at any time.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

#include <millrace/error.h>

namespace millrace::server {

/// Part of a POSIX shared-memory object, mapped for reading and writing.
///
/// Touching a page that the file has no more would end the process by SIGBUS. While a mapping
/// lives, a handler of that signal puts memory of our own under such a page instead, and the
/// mapping counts as `torn` from then on: what was read there is zeros, what was written nobody
/// sees. The handler passes every other SIGBUS on to the one that was there before.
class SharedMapping {
 public:
  /// `key` is the name given to shm_open; `offset` need not be a multiple of the page size. Errors:
  /// invalid_argument: no such object, not readable and writable for us, or shorter than that;
  /// out_of_memory: there are too many mappings (kMost), or the system maps no more.
  [[nodiscard]] static Result<std::unique_ptr<SharedMapping>> open(const std::string& key,
                                                                   std::size_t offset,
                                                                   std::size_t bytes);
  ~SharedMapping();
  SharedMapping(const SharedMapping&) = delete;
  SharedMapping& operator=(const SharedMapping&) = delete;

  static constexpr std::size_t kMost = 4096;

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  /// Its whole pages, as they are pinned.
  [[nodiscard]] std::byte* pages() const noexcept { return pages_; }
  [[nodiscard]] std::size_t page_bytes() const noexcept { return page_bytes_; }
  /// A page was touched that the file has no more.
  [[nodiscard]] bool torn() const noexcept;

 private:
  SharedMapping() noexcept = default;
  Result<void> watch();

  std::byte* pages_ = nullptr;
  std::size_t page_bytes_ = 0;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t entry_ = kMost;  // in the handler's table
};

}  // namespace millrace::server
