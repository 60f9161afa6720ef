// Takes connections from a listening socket, no more than so many at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_set>

#include <millrace/error.h>

#include "base/thread.h"
#include "server/listening.h"

namespace millrace::server {

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
