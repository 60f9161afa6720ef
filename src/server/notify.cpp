#include "server/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "base/text.h"

namespace millrace::server {
namespace {

std::string_view variable(const char* name) noexcept {
  const char* const value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

std::optional<Duration> watchdog_interval_of_environment() {
  const auto whole = [](const char* name) {
    const Result<std::int64_t> value =
        parse_integer(variable(name), name, 0, std::numeric_limits<std::int64_t>::max() / 1000);
    return value.ok() ? *value : 0;
  };
  const std::int64_t microseconds = whole("WATCHDOG_USEC");
  const std::int64_t process = whole("WATCHDOG_PID");
  if (microseconds == 0 || (process != 0 && process != getpid())) return std::nullopt;
  return std::chrono::microseconds(microseconds) / 2;
}

}  // namespace

Notifier::Notifier() : address_(variable("NOTIFY_SOCKET")) {
  if (address_.empty() || address_.size() >= sizeof(sockaddr_un::sun_path)) return;
  if (address_.front() == '@') address_.front() = '\0';
  socket_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  interval_ = watchdog_interval_of_environment();
}

Notifier::~Notifier() {
  if (socket_ >= 0) close(socket_);
}

void Notifier::send(std::string_view state) const noexcept {
  if (socket_ < 0) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, address_.data(), address_.size());
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
  (void)sendto(socket_, state.data(), state.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
               reinterpret_cast<const sockaddr*>(&address), bytes);
}

void Notifier::beat(TimePoint now) noexcept {
  if (!interval_ || now < next_beat_) return;
  next_beat_ = now + *interval_ / 2;
  send("WATCHDOG=1");
}

void forget_notification_variables() noexcept {
  for (const char* const name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) {
    (void)unsetenv(name);
  }
}

}  // namespace millrace::server
