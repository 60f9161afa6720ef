// Telling a service manager how far a process is: the datagrams of systemd's notification protocol,
// without its library.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <millrace/device.h>

namespace millrace::server {

/// Sends to the socket that NOTIFY_SOCKET names; does nothing where there is none. One thread at a
/// time.
class Notifier {
 public:
  /// Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
  Notifier();
  ~Notifier();
  Notifier(const Notifier&) = delete;
  Notifier& operator=(const Notifier&) = delete;

  /// "READY=1", "STOPPING=1", "STATUS=..."; several are separated by new lines. What cannot be sent
  /// is dropped.
  void send(std::string_view state) const noexcept;
  /// Shows that the process is alive, as often as is asked for. Call it at least every
  /// `watchdog_interval`.
  void beat(TimePoint now) noexcept;
  /// How often at least; nullopt: nobody watches.
  [[nodiscard]] std::optional<Duration> watchdog_interval() const noexcept { return interval_; }

 private:
  std::string address_;  // as the system takes it: an abstract one begins with a zero
  int socket_ = -1;
  std::optional<Duration> interval_;
  TimePoint next_beat_{};
};

/// Takes the variables away, so that a process to be started says nothing in this one's name.
void forget_notification_variables() noexcept;

}  // namespace millrace::server
