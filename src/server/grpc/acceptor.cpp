#include "server/grpc/acceptor.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace::server {
namespace {

Error system_error(std::string_view what) {
  return {ErrorCode::unavailable, concat(what, ": ", std::strerror(errno))};
}

bool watch(const Descriptor& poll, int descriptor, std::uint32_t events) noexcept {
  epoll_event event{};
  event.events = events;
  event.data.fd = descriptor;
  return epoll_ctl(poll.number(), EPOLL_CTL_ADD, descriptor, &event) == 0;
}

}  // namespace

Acceptor::Acceptor(Descriptor socket, std::size_t max_connections, HandOver hand_over) noexcept
    : socket_(std::move(socket)),
      max_connections_(max_connections),
      hand_over_(std::move(hand_over)) {}

Result<std::unique_ptr<Acceptor>> Acceptor::start(Descriptor socket, std::size_t max_connections,
                                                  HandOver hand_over) {
  std::unique_ptr<Acceptor> self(
      new Acceptor(std::move(socket), max_connections, std::move(hand_over)));
  MILLRACE_TRY(self->open());
  return self;
}

Result<void> Acceptor::open() {
  poll_ = Descriptor(epoll_create1(EPOLL_CLOEXEC));
  wake_ = Descriptor(eventfd(0, EFD_CLOEXEC));
  if (!poll_ || !wake_ || !watch(poll_, socket_.number(), EPOLLIN) ||
      !watch(poll_, wake_.number(), EPOLLIN)) {
    return system_error("cannot wait for connections");
  }
  MILLRACE_ASSIGN(thread_, Thread::start("grpc-accept", [this] { run(); }));
  return {};
}

void Acceptor::stop() noexcept {
  if (thread_.joinable()) {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = write(wake_.number(), &one, sizeof one);
    thread_.join();
  }
  for (const int duplicate : duplicates_) close(duplicate);
  duplicates_.clear();
  connections_ = 0;
  socket_ = Descriptor();
}

void Acceptor::run() {
  std::array<epoll_event, 64> events;
  for (;;) {
    const int count =
        epoll_wait(poll_.number(), events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) {
      const int descriptor = events[static_cast<std::size_t>(i)].data.fd;
      if (descriptor == wake_.number()) return;
      if (descriptor == socket_.number()) {
        accept_one();
      } else {
        gone(descriptor);
      }
    }
  }
}

void Acceptor::accept_one() {
  Descriptor connection(accept4(socket_.number(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (connection) return take(std::move(connection));
  if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
  log_warning("gRPC: no connection can be taken: ", std::strerror(errno));
  constexpr useconds_t kPause = 10'000;  // the connection stays in the backlog
  usleep(kPause);
}

void Acceptor::take(Descriptor connection) {
  Descriptor duplicate(
      connections_ < max_connections_ ? fcntl(connection.number(), F_DUPFD_CLOEXEC, 0) : -1);
  if (!duplicate || !watch(poll_, duplicate.number(), EPOLLRDHUP)) {
    refused_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  const int on = 1;
  setsockopt(connection.number(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  duplicates_.insert(duplicate.release());
  connections_.fetch_add(1, std::memory_order_relaxed);
  hand_over_(connection.release());
}

void Acceptor::gone(int duplicate) noexcept {
  // Closing it would not do: the connection is still open by its other descriptor, and its events
  // would go on to be told by a number that may be another's by then.
  epoll_ctl(poll_.number(), EPOLL_CTL_DEL, duplicate, nullptr);
  duplicates_.erase(duplicate);
  close(duplicate);
  connections_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace millrace::server
