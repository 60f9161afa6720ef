// For tests: a client that sends what it is told, byte by byte if need be, and reads responses.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/text.h"

namespace millrace::server::testing {

struct TestResponse {
  int status = 0;                             // 0: the connection ended instead
  std::map<std::string, std::string> fields;  // names in lower case
  std::string body;

  [[nodiscard]] std::string field(const std::string& name) const {
    const auto found = fields.find(name);
    return found == fields.end() ? "" : found->second;
  }
  /// The JSON, and the binary data behind it.
  [[nodiscard]] std::string json() const {
    const std::string length = field("inference-header-content-length");
    return length.empty() ? body : body.substr(0, std::stoul(length));
  }
  [[nodiscard]] std::string binary() const { return body.substr(json().size()); }
};

/// A connection to 127.0.0.1. Whatever hangs fails after a minute.
class TestClient {
 public:
  explicit TestClient(std::uint16_t port) {
    socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ =
        ::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    const timeval minute{60, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof minute);
    ::setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &minute, sizeof minute);
  }
  TestClient(const TestClient&) = delete;
  ~TestClient() { close(); }

  [[nodiscard]] bool connected() const noexcept { return connected_; }
  [[nodiscard]] int socket() const noexcept { return socket_; }
  void close() {
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }
  /// No more will be sent; responses still come.
  void end() { ::shutdown(socket_, SHUT_WR); }

  /// False: the other side does not take it any more.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  /// The next response; `head_only` where it has no body by the request's method.
  TestResponse receive(bool head_only = false) {
    TestResponse response;
    std::size_t end = 0;
    while ((end = pending_.find("\r\n\r\n")) == std::string::npos) {
      if (!more()) return {};
    }
    parse_head(pending_.substr(0, end + 2), response);
    pending_.erase(0, end + 4);
    const std::string length = response.field("content-length");
    const std::size_t bytes = length.empty() || head_only ? 0 : std::stoul(length);
    while (pending_.size() < bytes) {
      if (!more()) return {};
    }
    response.body = pending_.substr(0, bytes);
    pending_.erase(0, bytes);
    return response;
  }

  TestResponse request(std::string_view method, std::string_view target, std::string_view body = "",
                       const std::vector<std::string>& fields = {}) {
    send(text(method, target, body, fields));
    return receive(method == "HEAD");
  }
  TestResponse get(std::string_view target) { return request("GET", target); }
  TestResponse post(std::string_view target, std::string_view body,
                    const std::vector<std::string>& fields = {}) {
    return request("POST", target, body, fields);
  }

  /// A whole request.
  static std::string text(std::string_view method, std::string_view target,
                          std::string_view body = "", const std::vector<std::string>& fields = {}) {
    std::string out = concat(method, " ", target, " HTTP/1.1\r\nHost: test\r\n");
    if (!body.empty() || method == "POST") out += concat("Content-Length: ", body.size(), "\r\n");
    for (const std::string& field : fields) out += field + "\r\n";
    return out + "\r\n" + std::string(body);
  }

  /// Whether the server has closed the connection; waits for that.
  bool ended() {
    while (more()) {
    }
    return ended_ && pending_.empty();
  }
  /// Whether something has come, or comes within so long.
  bool readable(int milliseconds) {
    pollfd what{socket_, POLLIN, 0};
    return !pending_.empty() || ::poll(&what, 1, milliseconds) > 0;
  }

 private:
  bool more() {
    char bytes[65536];
    const ssize_t got = ::recv(socket_, bytes, sizeof bytes, 0);
    if (got <= 0) {
      ended_ = got == 0 || errno == ECONNRESET;
      return false;
    }
    pending_.append(bytes, static_cast<std::size_t>(got));
    return true;
  }
  static void parse_head(std::string_view head, TestResponse& response) {
    EXPECT_EQ(head.substr(0, 9), "HTTP/1.1 ") << head;
    response.status = std::atoi(std::string(head.substr(9, 3)).c_str());
    head.remove_prefix(head.find("\r\n") + 2);
    while (!head.empty()) {
      const std::string_view line = head.substr(0, head.find("\r\n"));
      head.remove_prefix(line.size() + 2);
      const std::size_t colon = line.find(": ");
      ASSERT_NE(colon, std::string_view::npos) << line;
      std::string name(line.substr(0, colon));
      for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      EXPECT_TRUE(response.fields.emplace(name, line.substr(colon + 2)).second) << name;
    }
  }

  int socket_ = -1;
  bool connected_ = false;
  bool ended_ = false;
  std::string pending_;
};

}  // namespace millrace::server::testing
