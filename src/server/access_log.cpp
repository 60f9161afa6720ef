#include "server/access_log.h"

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "server/json_writer.h"

namespace millrace::server {
namespace {

constexpr Duration kLook = std::chrono::seconds(1);  // whether the file was moved

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

/// One JSON object and the end of its line.
class Line {
 public:
  Line(std::string_view protocol, std::string_view peer) {
    out_.open("", '{');
    out_.text("time", time_now());
    out_.text("protocol", protocol);
    if (!peer.empty()) out_.text("peer", peer);
  }
  JsonWriter* operator->() noexcept { return &out_; }
  void microseconds(std::string_view key, Duration duration) {
    out_.number(key, std::chrono::duration<double, std::micro>(duration).count());
  }
  [[nodiscard]] std::string end() {
    out_.close('}');
    return out_.take() + '\n';
  }

 private:
  JsonWriter out_;
};

int open_for_appending(const std::string& path) noexcept {
  return ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

}  // namespace

Result<std::unique_ptr<AccessLog>> AccessLog::open(const std::string& path) {
  if (path == "-") return std::unique_ptr<AccessLog>(new AccessLog(STDOUT_FILENO, {}));
  const int descriptor = open_for_appending(path);
  if (descriptor < 0) {
    return Error{ErrorCode::unavailable,
                 concat("access log ", quote(path), ": ", std::strerror(errno))};
  }
  return std::unique_ptr<AccessLog>(new AccessLog(descriptor, path));
}

AccessLog::~AccessLog() {
  if (!path_.empty()) close(descriptor_);
}

void AccessLog::write(const HttpAccess& access) noexcept {
  try {
    Line line("http", access.peer);
    line->text("method", access.method);
    line->text("target", access.target);
    if (!access.model.empty()) line->text("model", access.model);
    line->number("status", std::int64_t{access.status});
    line->number("received_bytes", static_cast<std::int64_t>(access.received_bytes));
    line->number("sent_bytes", static_cast<std::int64_t>(access.sent_bytes));
    line.microseconds("answer_us", access.answered - access.arrived);
    line.microseconds("send_us", access.sent - access.answered);
    if (!access.traceparent.empty()) line->text("traceparent", access.traceparent);
    write_line(line.end());
  } catch (...) {  // no memory for the line
  }
}

void AccessLog::write(const GrpcCallRecord& record) noexcept {
  try {
    Line line("grpc", record.peer);
    line->text("method", record.method);
    if (!record.model.empty()) line->text("model", record.model);
    line->number("status", std::int64_t{record.status});
    line->number("received_bytes", static_cast<std::int64_t>(record.request_bytes));
    line->number("sent_bytes", static_cast<std::int64_t>(record.answer_bytes));
    const bool sent = record.ready != TimePoint();
    line.microseconds("answer_us", (sent ? record.ready : record.answered) - record.received);
    if (sent) line.microseconds("send_us", record.answered - record.ready);
    if (!record.message.empty()) line->text("error", record.message);
    if (!record.traceparent.empty()) line->text("traceparent", record.traceparent);
    write_line(line.end());
  } catch (...) {  // no memory for the line
  }
}

void AccessLog::reopen() noexcept {
  const std::lock_guard lock(mutex_);
  open_anew();
}

void AccessLog::open_anew() noexcept {
  if (path_.empty()) return;
  const int opened = open_for_appending(path_);
  if (opened < 0) {
    log_warning("the access log cannot be opened anew: ", std::strerror(errno));
    return;
  }
  close(descriptor_);
  descriptor_ = opened;
  torn_ = false;
}

void AccessLog::look_whether_moved() noexcept {
  const TimePoint now = Clock::now();
  if (path_.empty() || now - looked_ < kLook) return;
  looked_ = now;
  struct stat here {};
  struct stat there {};
  if (fstat(descriptor_, &here) != 0) return;
  const bool same = stat(path_.c_str(), &there) == 0 && here.st_dev == there.st_dev &&
                    here.st_ino == there.st_ino;
  if (!same) open_anew();
}

void AccessLog::write_line(std::string line) noexcept {
  const std::lock_guard lock(mutex_);
  look_whether_moved();
  if (torn_) line.insert(line.begin(), '\n');
  std::size_t done = 0;
  while (done < line.size()) {
    const ssize_t written = ::write(descriptor_, line.data() + done, line.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      torn_ = torn_ || done > 0;
      if (lost_++ == 0) log_warning("the access log takes no lines: ", std::strerror(errno));
      return;
    }
    done += static_cast<std::size_t>(written);
  }
  torn_ = false;
  if (lost_ > 0) log_warning("the access log lost ", lost_, " lines");
  lost_ = 0;
}

}  // namespace millrace::server
