// Answering connections while there is nobody to serve them.
#pragma once

#include <list>
#include <string>
#include <vector>

#include <poll.h>

#include <millrace/device.h>

namespace millrace::server {

/// What to answer.
struct Absence {
  std::string reason;  // "the server is starting"
  int retry_after_s = 1;
  std::uint64_t restarts = 0;  // for /metrics
};

/// Every request of HTTP gets 503 with a JSON error and Retry-After; the health of the process and
/// its metrics are answered for real. Nothing waits: the caller polls. One thread.
class Turnstile {
 public:
  Turnstile() = default;
  ~Turnstile();
  Turnstile(const Turnstile&) = delete;
  Turnstile& operator=(const Turnstile&) = delete;

  /// Takes the connections that wait at a listening socket. Those of other protocols, and what is
  /// beyond a few hundred, are accepted and closed.
  void accept(int listener, bool plain_http);

  /// Adds what it waits for.
  void add_to(std::vector<pollfd>& polled) const;
  /// After polling: reads, answers, and closes what is over or too slow.
  void go_on(const Absence& absence, TimePoint now);
  [[nodiscard]] bool empty() const noexcept { return connections_.empty(); }

 private:
  struct Connection {
    int socket;
    TimePoint until;
    std::string head;
    bool answered = false;
  };
  /// Whether the connection is over.
  static bool go_on(Connection& connection, const Absence& absence);

  std::list<Connection> connections_;
};

/// The answer to a request with that head; used by Turnstile.
[[nodiscard]] std::string absent_answer(std::string_view head, const Absence& absence);

}  // namespace millrace::server
