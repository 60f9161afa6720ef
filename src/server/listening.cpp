#include "server/listening.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/text.h"

namespace millrace::server {
namespace {

constexpr int kBacklog = 4096;

struct AddressesDeleter {
  void operator()(addrinfo* addresses) const noexcept { freeaddrinfo(addresses); }
};

Error system_error(std::string_view what) {
  return {ErrorCode::unavailable, concat(what, ": ", std::strerror(errno))};
}

/// "[::1]" as the system wants it.
std::string without_brackets(const std::string& host) {
  const bool brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  return brackets ? host.substr(1, host.size() - 2) : host;
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(number_, other.number_);
  return *this;
}

Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

Result<Descriptor> listen_on(const std::string& host, int port) {
  const std::string where = concat("cannot listen on ", host, ":", port);
  addrinfo wanted{};
  wanted.ai_family = AF_UNSPEC;
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string number = concat(port);
  const int failed = getaddrinfo(without_brackets(host).c_str(), number.c_str(), &wanted, &found);
  const std::unique_ptr<addrinfo, AddressesDeleter> addresses(found);
  if (failed != 0) {
    return Error{ErrorCode::invalid_argument, concat(where, ": ", gai_strerror(failed))};
  }
  Descriptor socket(
      ::socket(found->ai_family, found->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return system_error(where);
  const int on = 1;
  setsockopt(socket.number(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(socket.number(), found->ai_addr, found->ai_addrlen) != 0) {
    Error error = system_error(where);
    if (errno == EADDRNOTAVAIL) error.code = ErrorCode::invalid_argument;
    return error;
  }
  if (listen(socket.number(), kBacklog) != 0) return system_error(where);
  return socket;
}

Result<int> port_of(const Descriptor& socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  int listens = 0;
  socklen_t flag_size = sizeof listens;
  const bool there =
      getsockname(socket.number(), reinterpret_cast<sockaddr*>(&address), &size) == 0 &&
      getsockopt(socket.number(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &flag_size) == 0;
  if (there && listens != 0 && address.ss_family == AF_INET) {
    return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  }
  if (there && listens != 0 && address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  }
  return Error{ErrorCode::invalid_argument,
               concat("descriptor ", socket.number(), ": expected a TCP socket that listens")};
}

std::string address_of(const Descriptor& socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  std::array<char, NI_MAXHOST> text{};
  const bool known =
      getsockname(socket.number(), reinterpret_cast<sockaddr*>(&address), &size) == 0 &&
      getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, text.data(), text.size(),
                  nullptr, 0, NI_NUMERICHOST) == 0;
  return known ? text.data() : "";
}

}  // namespace millrace::server
