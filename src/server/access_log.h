// One line of JSON for each request.
#pragma once

#include <cstdio>
#include <memory>
#include <mutex>
#include <string>

#include "server/grpc/server.h"
#include "server/http/options.h"

namespace millrace::server {

/// Thread-safe. A line is written whole, with one call, so that lines of several processes do not
/// mix. A file that takes no more (a full disk) loses lines, never requests; that is logged once,
/// and how many were lost when it takes lines again.
class AccessLog {
 public:
  /// Appends to the file; "-" is standard output. Errors: unavailable.
  [[nodiscard]] static Result<std::unique_ptr<AccessLog>> open(const std::string& path);
  ~AccessLog();
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  void write(const HttpAccess& access) noexcept;
  void write(const GrpcCallRecord& record) noexcept;

 private:
  AccessLog(int descriptor, bool owned) noexcept : descriptor_(descriptor), owned_(owned) {}
  void write_line(const std::string& line) noexcept;

  const int descriptor_;
  const bool owned_;
  std::mutex mutex_;
  std::uint64_t lost_ = 0;  // guarded by mutex_
};

}  // namespace millrace::server
