#include "server/turnstile.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/text.h"

namespace millrace::server {
namespace {

constexpr std::size_t kMostConnections = 256;
constexpr std::size_t kMostHead = std::size_t{16} << 10;
/// For a request's head, and for its sender to read the answer.
constexpr Duration kPatience = std::chrono::seconds(2);

std::string response(std::string_view status, std::string_view type, std::string_view more,
                     std::string_view body) {
  return concat("HTTP/1.1 ", status, "\r\nContent-Type: ", type, "\r\n", more,
                "Content-Length: ", body.size(), "\r\nConnection: close\r\n\r\n", body);
}

/// "/v2/health/live" of "GET /v2/health/live?a=b HTTP/1.1".
std::string_view path_of(std::string_view head) noexcept {
  const std::string_view line = head.substr(0, head.find('\r'));
  const std::size_t begin = line.find(' ');
  if (begin == std::string_view::npos) return {};
  const std::string_view rest = line.substr(begin + 1);
  return rest.substr(0, rest.find_first_of(" ?"));
}

std::string metrics(const Absence& absence) {
  return concat(
      "# HELP millrace_worker_restarts_total Times that the worker was started again\n"
      "# TYPE millrace_worker_restarts_total counter\n"
      "millrace_worker_restarts_total ",
      absence.restarts,
      "\n# HELP millrace_ready 1: the server takes requests\n"
      "# TYPE millrace_ready gauge\nmillrace_ready 0\n");
}

}  // namespace

std::string absent_answer(std::string_view head, const Absence& absence) {
  constexpr std::string_view kJson = "application/json";
  const std::string_view path = path_of(head);
  if (path == "/v2/health/live" || path == "/v2/health/live/") {
    return response("200 OK", kJson, "", R"({"live":true})");
  }
  if (path == "/metrics") {
    return response("200 OK", "text/plain; version=0.0.4", "", metrics(absence));
  }
  const std::string retry = concat("Retry-After: ", absence.retry_after_s, "\r\n");
  const bool ready = path == "/v2/health/ready" || path == "/v2/health/ready/";
  return response(
      "503 Service Unavailable", kJson, retry,
      ready ? std::string(R"({"ready":false})") : concat(R"({"error":")", absence.reason, R"("})"));
}

Turnstile::~Turnstile() {
  for (const Connection& connection : connections_) close(connection.socket);
}

void Turnstile::accept(int listener, bool plain_http) {
  constexpr int kAtATime = 64;
  for (int i = 0; i < kAtATime; ++i) {
    const int socket = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (socket < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      return;
    }
    if (!plain_http || connections_.size() >= kMostConnections) {
      close(socket);
      continue;
    }
    connections_.push_back({socket, Clock::now() + kPatience, {}});
  }
}

void Turnstile::add_to(std::vector<pollfd>& polled) const {
  for (const Connection& connection : connections_) {
    polled.push_back({connection.socket, POLLIN, 0});
  }
}

void Turnstile::go_on(const Absence& absence, TimePoint now) {
  for (auto it = connections_.begin(); it != connections_.end();) {
    if (now >= it->until || go_on(*it, absence)) {
      close(it->socket);
      it = connections_.erase(it);
    } else {
      ++it;
    }
  }
}

bool Turnstile::go_on(Connection& connection, const Absence& absence) {
  constexpr int kReadsAtATime = 16;
  std::array<char, 4096> buffer;
  for (int i = 0; i < kReadsAtATime; ++i) {
    const ssize_t bytes = recv(connection.socket, buffer.data(), buffer.size(), 0);
    if (bytes < 0) return errno != EAGAIN && errno != EINTR;
    if (bytes == 0) return true;
    if (connection.answered) continue;  // what follows is read, so that the answer is not lost
    connection.head.append(buffer.data(), static_cast<std::size_t>(bytes));
    const bool whole = connection.head.find("\r\n\r\n") != std::string::npos;
    if (!whole && connection.head.size() < kMostHead) continue;
    const std::string answer = absent_answer(connection.head, absence);
    // It fits into the socket's empty buffer.
    (void)send(connection.socket, answer.data(), answer.size(), MSG_NOSIGNAL);
    (void)shutdown(connection.socket, SHUT_WR);
    connection.answered = true;
    connection.head.clear();
  }
  return false;
}

}  // namespace millrace::server
