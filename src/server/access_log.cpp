#include "server/access_log.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>

#include <fcntl.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/text.h"

namespace millrace::server {
namespace {

using Json = nlohmann::ordered_json;

double microseconds(Duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

/// ISO 8601 in UTC, with microseconds.
std::string time_now() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto fraction =
      std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count() %
      1'000'000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char text[40];
  const std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(text + length, sizeof text - length, ".%06dZ", static_cast<int>(fraction));
  return text;
}

std::string line_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace

Result<std::unique_ptr<AccessLog>> AccessLog::open(const std::string& path) {
  if (path == "-") return std::unique_ptr<AccessLog>(new AccessLog(STDOUT_FILENO, false));
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor < 0) {
    return Error{ErrorCode::unavailable,
                 concat("access log ", quote(path), ": ", std::strerror(errno))};
  }
  return std::unique_ptr<AccessLog>(new AccessLog(descriptor, true));
}

AccessLog::~AccessLog() {
  if (owned_) close(descriptor_);
}

void AccessLog::write(const HttpAccess& access) noexcept {
  try {
    Json json = {{"time", time_now()},
                 {"protocol", "http"},
                 {"peer", access.peer},
                 {"method", access.method},
                 {"target", access.target},
                 {"status", access.status},
                 {"received_bytes", access.received_bytes},
                 {"sent_bytes", access.sent_bytes},
                 {"answer_us", microseconds(access.answered - access.arrived)},
                 {"send_us", microseconds(access.sent - access.answered)}};
    if (!access.model.empty()) json["model"] = access.model;
    if (!access.traceparent.empty()) json["traceparent"] = access.traceparent;
    write_line(line_of(json));
  } catch (...) {  // no memory for the line
  }
}

void AccessLog::write(const GrpcCallRecord& record) noexcept {
  try {
    Json json = {{"time", time_now()},
                 {"protocol", "grpc"},
                 {"peer", record.peer},
                 {"method", record.method},
                 {"status", record.status},
                 {"received_bytes", record.request_bytes},
                 {"sent_bytes", record.answer_bytes},
                 {"answer_us", microseconds(record.answered - record.received)}};
    if (!record.message.empty()) json["error"] = record.message;
    write_line(line_of(json));
  } catch (...) {  // no memory for the line
  }
}

void AccessLog::write_line(const std::string& line) noexcept {
  std::lock_guard lock(mutex_);
  std::size_t done = 0;
  while (done < line.size()) {
    const ssize_t written = ::write(descriptor_, line.data() + done, line.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      if (lost_++ == 0) log_warning("the access log takes no lines: ", std::strerror(errno));
      return;
    }
    done += static_cast<std::size_t>(written);
  }
  if (lost_ > 0) log_warning("the access log lost ", lost_, " lines");
  lost_ = 0;
}

}  // namespace millrace::server
