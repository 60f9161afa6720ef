#include "server/http/socket_events.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <utility>

#include "base/log.h"
#include "base/text.h"

namespace millrace::server {
namespace {

using boost::system::error_code;

/// Few enough for what they submit to wait for each other: some 100 us of work.
constexpr std::size_t kAtATime = 32;
/// Then whatever else the context has gets its turn.
constexpr int kStretches = 8;

}  // namespace

Result<void> SocketEvents::start(Handler handle, std::function<void()> after) {
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0) {
    return Error{ErrorCode::unavailable,
                 concat("no descriptor to wait for sockets: ", std::strerror(errno))};
  }
  error_code error;
  epoll_.assign(epoll, error);
  if (error) {
    ::close(epoll);
    return Error{ErrorCode::unavailable, concat("cannot wait for sockets: ", error.message())};
  }
  handle_ = std::move(handle);
  after_ = std::move(after);
  wait();
  return {};
}

bool SocketEvents::add(int socket, void* who) noexcept {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = who;
  return ::epoll_ctl(epoll_.native_handle(), EPOLL_CTL_ADD, socket, &event) == 0;
}

void SocketEvents::remove(int socket) noexcept {
  ::epoll_ctl(epoll_.native_handle(), EPOLL_CTL_DEL, socket, nullptr);
}

void SocketEvents::stop() noexcept {
  stopped_ = true;  // what is over already is not cancelled any more
  error_code ignored;
  epoll_.cancel(ignored);
}

void SocketEvents::wait() {
  epoll_.async_wait(boost::asio::posix::stream_descriptor::wait_read, [this](error_code error) {
    if (error || stopped_) return;
    for (int i = 0; i < kStretches && poll(); ++i) {
    }
    wait();
  });
}

bool SocketEvents::poll() {
  std::array<epoll_event, kAtATime> events;
  const int count = ::epoll_wait(epoll_.native_handle(), events.data(), kAtATime, 0);
  for (int i = 0; i < count; ++i) {
    // One that throws must not keep the others from being told: they are told only once.
    try {
      handle_(events[static_cast<std::size_t>(i)].data.ptr,
              events[static_cast<std::size_t>(i)].events);
    } catch (const std::exception& error) {
      log_error("HTTP: ", error.what());
    }
  }
  if (count > 0) after_();
  return count > 0;
}

}  // namespace millrace::server
