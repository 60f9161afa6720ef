#include "server/worker_link.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <limits>

#include "base/text.h"
#include "base/try.h"

namespace millrace::server {
namespace {

Error not_a_start(std::string_view text) {
  return {ErrorCode::invalid_argument,
          concat("--worker is for the supervisor's use; expected descriptors as in "
                 "\"http=4,grpc=5,link=6\", got ",
                 quote(text))};
}

}  // namespace

std::string to_string(const WorkerStart& start) {
  return concat("http=", start.http, ",metrics=", start.metrics, ",grpc=", start.grpc,
                ",link=", start.link, ",restarts=", start.history.restarts,
                ",down_ns=", std::chrono::nanoseconds(start.history.down).count(), ",since_ns=",
                start.unserved_since ? start.unserved_since->time_since_epoch().count() : -1);
}

Result<WorkerStart> parse_worker_start(std::string_view text) {
  WorkerStart start;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view one = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), one.size() + 1));
    const std::size_t equals = one.find('=');
    if (equals == std::string_view::npos) return not_a_start(text);
    const std::string_view name = one.substr(0, equals);
    const Result<std::int64_t> value = parse_integer(one.substr(equals + 1), "--worker", -1,
                                                     std::numeric_limits<std::int64_t>::max());
    if (!value.ok()) return not_a_start(text);
    const auto number = static_cast<int>(*value);
    if (name == "http") {
      start.http = number;
    } else if (name == "metrics") {
      start.metrics = number;
    } else if (name == "grpc") {
      start.grpc = number;
    } else if (name == "link") {
      start.link = number;
    } else if (name == "restarts" && *value >= 0) {
      start.history.restarts = static_cast<std::uint64_t>(*value);
    } else if (name == "down_ns" && *value >= 0) {
      start.history.down = std::chrono::nanoseconds(*value);
    } else if (name == "since_ns") {
      if (*value >= 0) start.unserved_since = TimePoint(std::chrono::nanoseconds(*value));
    } else {
      return not_a_start(text);
    }
  }
  if (start.link < 0) return not_a_start(text);
  return start;
}

WorkerLink::WorkerLink(const WorkerStart& start) noexcept : start_(start), socket_(start.link) {
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (const int descriptor : {start.http, start.metrics, start.grpc, start.link}) {
    if (descriptor >= 0) (void)fcntl(descriptor, F_SETFD, FD_CLOEXEC);
  }
}
WorkerLink::~WorkerLink() { close(socket_); }

WorkerHistory WorkerLink::take_over() noexcept {
  char answer = 0;
  if (send(socket_, &kTakesOver, 1, MSG_NOSIGNAL) == 1) {
    while (recv(socket_, &answer, 1, 0) < 0 && errno == EINTR) {
    }
  }
  WorkerHistory history = start_.history;
  if (start_.unserved_since) history.down += Clock::now() - *start_.unserved_since;
  return history;
}

void WorkerLink::beat() noexcept { (void)send(socket_, &kBeat, 1, MSG_NOSIGNAL | MSG_DONTWAIT); }

void WorkerLink::fail(std::string_view message) noexcept {
  message = message.substr(0, kMostLastWords);
  iovec parts[2] = {{const_cast<char*>(&kFails), 1},
                    {const_cast<char*>(message.data()), message.size()}};
  msghdr all{};
  all.msg_iov = parts;
  all.msg_iovlen = 2;
  (void)sendmsg(socket_, &all, MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool WorkerLink::supervisor_gone() noexcept {
  char byte = 0;
  return recv(socket_, &byte, 1, MSG_DONTWAIT) == 0;
}

}  // namespace millrace::server
