// Sockets that listen.
#pragma once

#include <string>
#include <utility>

#include <millrace/error.h>

namespace millrace::server {

/// A file descriptor that is closed with it.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) noexcept : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  [[nodiscard]] int number() const noexcept { return number_; }
  [[nodiscard]] int release() noexcept { return std::exchange(number_, -1); }
  explicit operator bool() const noexcept { return number_ >= 0; }

 private:
  int number_;
};

/// A socket that listens on an address of this machine; port 0: any that is free. Errors:
/// invalid_argument (not such an address), unavailable (in use, or not allowed).
[[nodiscard]] Result<Descriptor> listen_on(const std::string& host, int port);
/// Errors: invalid_argument where it is no socket that listens on an address with a port.
[[nodiscard]] Result<int> port_of(const Descriptor& socket);

/// The address that it is bound to, as numbers; empty where it has none.
[[nodiscard]] std::string address_of(const Descriptor& socket);

}  // namespace millrace::server
