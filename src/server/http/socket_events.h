// What happens on the sockets of one thread.
#pragma once

#include <cstdint>
#include <functional>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include <millrace/error.h>

namespace millrace::server {

/// Tells of sockets that can be read or written, once for each change of that: who reads or writes
/// until the socket says "not now" needs no system call to wait again, which Asio would make for
/// each request. It waits as part of an io_context, and but for the constructor is of its thread.
class SocketEvents {
 public:
  /// EPOLLIN, EPOLLOUT and so on, of the socket that was added with `who`.
  using Handler = std::function<void(void* who, std::uint32_t events)>;

  explicit SocketEvents(boost::asio::io_context& context) : epoll_(context) {}

  /// Calls `handle` for what happens from now on, and `after` behind each stretch of that. What
  /// they throw goes to the log. Errors: unavailable, when the system has no descriptor to give.
  [[nodiscard]] Result<void> start(Handler handle, std::function<void()> after);
  /// `who` must stay until the socket is removed and the stretch of events is over. False: the
  /// system refuses.
  [[nodiscard]] bool add(int socket, void* who) noexcept;
  /// Before it is closed: a copy of it in another process would keep it here.
  void remove(int socket) noexcept;
  /// Waits no more, so that the context can end.
  void stop() noexcept;
  /// Handles what is there, without waiting. Answers whether there was something.
  bool poll();

 private:
  void wait();

  boost::asio::posix::stream_descriptor epoll_;
  Handler handle_;
  std::function<void()> after_;
  bool stopped_ = false;
};

}  // namespace millrace::server
