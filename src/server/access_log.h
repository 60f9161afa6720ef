// One line of JSON for each request.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include <millrace/device.h>

#include "server/grpc/server.h"
#include "server/http/options.h"

namespace millrace::server {

/// Thread-safe. A line is written whole, with one call, so that lines of several processes do not
/// mix. A file that takes no more (a full disk) loses lines, never requests; that is logged once,
/// and how many were lost when it takes lines again. A file that was moved away is followed by a
/// new one under the old name within a second, so that logs can be rotated.
class AccessLog {
 public:
  /// Appends to the file; "-" is standard output. Errors: unavailable.
  [[nodiscard]] static Result<std::unique_ptr<AccessLog>> open(const std::string& path);
  ~AccessLog();
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  void write(const HttpAccess& access) noexcept;
  void write(const GrpcCallRecord& record) noexcept;
  /// Opens the path anew, now. What cannot be opened is logged; the old file goes on.
  void reopen() noexcept;

 private:
  AccessLog(int descriptor, std::string path) noexcept
      : path_(std::move(path)), descriptor_(descriptor) {}
  void write_line(std::string line) noexcept;
  // With the mutex held.
  void look_whether_moved() noexcept;
  void open_anew() noexcept;

  const std::string path_;  // empty: standard output
  std::mutex mutex_;
  // Guarded by mutex_.
  int descriptor_;
  std::uint64_t lost_ = 0;
  bool torn_ = false;  // the last line is not whole
  TimePoint looked_;
};

}  // namespace millrace::server
