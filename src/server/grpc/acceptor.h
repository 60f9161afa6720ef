// Takes connections from a listening socket, no more than so many at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>

#include <millrace/error.h>

#include "base/thread.h"

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

/// Hands connections over. Whoever gets one closes it; the acceptor sees it by a duplicate of the
/// descriptor, which tells when either side has shut the connection down.
class Acceptor {
 public:
  /// Takes ownership of `connection`; called on the acceptor's thread.
  using HandOver = std::function<void(int connection)>;

  /// Errors: unavailable, where the system has nothing to give.
  [[nodiscard]] static Result<std::unique_ptr<Acceptor>> start(Descriptor socket,
                                                               std::size_t max_connections,
                                                               HandOver hand_over);
  ~Acceptor() { stop(); }
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  /// Closes the socket; connections that were handed over are left alone. Once, or on one thread.
  void stop() noexcept;
  /// Open now; closed at once since the start, because there were too many.
  [[nodiscard]] std::uint64_t connections() const noexcept { return connections_; }
  [[nodiscard]] std::uint64_t refused() const noexcept { return refused_; }

 private:
  Acceptor(Descriptor socket, std::size_t max_connections, HandOver hand_over) noexcept;
  Result<void> open();
  void run();
  void accept_one();
  void take(Descriptor connection);
  void gone(int duplicate) noexcept;

  Descriptor socket_;
  const std::size_t max_connections_;
  const HandOver hand_over_;
  Descriptor poll_;
  Descriptor wake_;
  std::unordered_set<int> duplicates_;
  std::atomic<std::uint64_t> connections_{0};
  std::atomic<std::uint64_t> refused_{0};
  Thread thread_;
};

}  // namespace millrace::server
