#include "server/http/server.h"

#include <sys/socket.h>

#include <algorithm>
#include <exception>
#include <utility>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "engine/executor.h"
#include "server/http/connection.h"
#include "server/http/core.h"
#include "server/listening.h"

namespace millrace::server {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Tcp = asio::ip::tcp;

constexpr std::size_t kBufferBytes = std::size_t{16} << 10;
constexpr Duration kAcceptPause = std::chrono::milliseconds(50);

int default_threads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 4, 1, 4);
}

Error invalid(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

Result<void> check(const HttpOptions& options) {
  if (options.threads < 0 || options.threads > 256) {
    return invalid(concat("HTTP: expected 0 to 256 threads, got ", options.threads));
  }
  if (options.max_header_bytes < 256 || options.max_header_bytes > (std::size_t{1} << 20)) {
    return invalid(concat("HTTP: expected a limit of 256 B to 1 MiB for heads of requests, got ",
                          options.max_header_bytes));
  }
  if (options.slowest_rate == 0 || options.max_connections == 0) {
    return invalid("HTTP: expected limits above 0");
  }
  if (options.tls.certificate.empty() != options.tls.key.empty() ||
      (options.tls.certificate.empty() && !options.tls.client_authorities.empty())) {
    return invalid("TLS needs a certificate and its key");
  }
  for (const std::vector<std::string>* tokens : {&options.tokens, &options.control_tokens}) {
    for (const std::string& token : *tokens) {
      if (token.empty()) return invalid("an empty token would let everybody in");
    }
  }
  return {};
}

// Accepts connections on one socket and hands them to the threads in turn.
class Acceptor : public std::enable_shared_from_this<Acceptor> {
 public:
  Acceptor(std::shared_ptr<ServerCore> core, Connection::Kind kind)
      : core_(std::move(core)),
        kind_(kind),
        acceptor_(core_->threads[0]->context),
        pause_(core_->threads[0]->context) {}

  Result<void> open(const HttpListener& listener, const HttpOptions& options, bool exposed);
  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  // On the first thread.
  void accept();
  void close() {
    error_code ignored;
    acceptor_.close(ignored);
    pause_.cancel();
  }

 private:
  void take(Tcp::socket socket, IoThread& thread);
  void turn_away(Tcp::socket& socket) const;

  std::shared_ptr<ServerCore> core_;
  Connection::Kind kind_;
  Tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  std::uint16_t port_ = 0;
  std::size_t next_ = 0;
};

Result<void> Acceptor::open(const HttpListener& listener, const HttpOptions& options,
                            bool exposed) {
  MILLRACE_ASSIGN(Descriptor socket, listener.socket >= 0
                                         ? Descriptor(listener.socket)
                                         : listen_on(listener.host, listener.port));
  MILLRACE_ASSIGN(const int port, port_of(socket));
  const std::string address = address_of(socket);
  if (!exposed) {
    MILLRACE_TRY(check_exposure(address, options.tls, options.tokens, options.allow_open));
  }
  error_code error;
  const bool six = address.find(':') != std::string::npos;
  acceptor_.assign(six ? Tcp::v6() : Tcp::v4(), socket.number(), error);
  if (error) {
    return Error{ErrorCode::unavailable, concat("HTTP: port ", port, ": ", error.message())};
  }
  (void)socket.release();
  port_ = static_cast<std::uint16_t>(port);
  return {};
}

void Acceptor::accept() {
  IoThread& thread = *core_->threads[next_++ % core_->threads.size()];
  acceptor_.async_accept(
      thread.context, [self = shared_from_this(), &thread](error_code error, Tcp::socket socket) {
        if (!self->acceptor_.is_open()) return;
        if (!error) {
          self->take(std::move(socket), thread);
          return self->accept();
        }
        // Too many open files, say: a while later there may be room.
        log_warning("HTTP: a connection could not be accepted: ", error.message());
        self->pause_.expires_after(kAcceptPause);
        self->pause_.async_wait([self](error_code cancelled) {
          if (!cancelled) self->accept();
        });
      });
}

void Acceptor::take(Tcp::socket socket, IoThread& thread) {
  if (core_->draining.load(std::memory_order_relaxed) || !core_->enter()) {
    core_->counters.refused.fetch_add(1, std::memory_order_relaxed);
    return turn_away(socket);
  }
  error_code error;
  socket.native_non_blocking(true, error);
  if (!error) socket.set_option(Tcp::no_delay(true), error);
  std::string peer;
  if (core_->options.on_request) {
    error_code unknown;
    const Tcp::endpoint end = socket.remote_endpoint(unknown);
    if (!unknown) peer = concat(end.address().to_string(), ":", end.port());
  }
  // From here on Asio has nothing to do with it: it would wait for it, too.
  const int descriptor = error ? -1 : socket.release(error);
  if (error) {  // the peer is gone already
    core_->leave();
    return;
  }
  core_->counters.connections.fetch_add(1, std::memory_order_relaxed);
  auto connection = std::make_shared<Connection>(core_, thread, descriptor, std::move(peer), kind_);
  const auto start = [&thread, connection] {
    connection->index = thread.connections.size();
    thread.connections.push_back(connection);
    connection->start();
    if (thread.stopping) connection->stop();
  };
  if (&thread == core_->threads[0].get()) {
    start();
  } else {
    asio::post(thread.context, start);
  }
}

void Acceptor::turn_away(Tcp::socket& socket) const {
  constexpr std::string_view kBusy =
      "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
      "Content-Length: 55\r\nConnection: close\r\n\r\n"
      "{\"error\":\"too many connections; try again in a moment\"}";
  if (!core_->tls || kind_ == Connection::Kind::metrics) {
    (void)::send(socket.native_handle(), kBusy.data(), kBusy.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
}

}  // namespace

struct HttpServer::State {
  std::shared_ptr<ServerCore> core;
  std::vector<std::shared_ptr<Acceptor>> acceptors;
  std::uint16_t port = 0;
  std::uint16_t metrics_port = 0;
  std::vector<std::uint64_t> ticks;  // of each thread, when all had last ticked

  void stop_accepting() {
    asio::post(core->threads[0]->context, [mine = acceptors] {
      for (const std::shared_ptr<Acceptor>& acceptor : mine) acceptor->close();
    });
  }
};

namespace {

// How often timeouts and callers who left are looked at: often enough for the shortest.
Duration tick_interval(const HttpOptions& options) {
  Duration shortest = std::chrono::milliseconds(800);
  for (const Duration timeout :
       {options.header_timeout, options.body_timeout, options.idle_timeout}) {
    if (timeout > Duration::zero()) shortest = std::min(shortest, timeout);
  }
  return std::max<Duration>(shortest / 4, std::chrono::milliseconds(5));
}

void look_at_all(IoThread& thread) {
  const std::vector<std::shared_ptr<Connection>> all = thread.connections;  // which may change
  const TimePoint now = Clock::now();
  for (const std::shared_ptr<Connection>& connection : all) connection->look(now);
  thread.closed.clear();
}

void tick(IoThread& thread, Duration interval) {
  thread.tick.expires_after(interval);
  thread.tick.async_wait([&thread, interval](error_code error) {
    if (error || thread.stopping) return;
    thread.ticks.fetch_add(1, std::memory_order_relaxed);
    look_at_all(thread);
    tick(thread, interval);
  });
}

// Connections that were closed go when nothing that was fetched names them any more.
Result<void> watch_sockets(IoThread& thread) {
  return thread.sockets.start(
      [](void* who, std::uint32_t events) { static_cast<Connection*>(who)->happened(events); },
      [&thread] {
        thread.closed.clear();
        DeferredWakes::flush_if_old();
      });
}

// All sockets that are ready are one of the things that the context runs, so what they submit is
// one batch for the engine.
void serve_ready(asio::io_context& context) {
  for (;;) {
    if (context.poll_one() == 0) {
      DeferredWakes::rested();
      if (context.run_one() == 0) return;
    }
    DeferredWakes::flush();
  }
}

void serve(IoThread& thread) noexcept {
  while (true) {
    try {
      serve_ready(thread.context);
      thread.closed.clear();
      return;
    } catch (const std::exception& error) {
      log_error("HTTP: ", error.what());
      DeferredWakes::flush();
    }
  }
}

}  // namespace

HttpServer::HttpServer(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}

Result<std::unique_ptr<HttpServer>> HttpServer::start(Service& service, HttpOptions options) {
  MILLRACE_TRY(check(options));
  auto state = std::make_unique<State>();
  const int threads = options.threads > 0 ? options.threads : default_threads();
  const Duration interval = tick_interval(options);
  const std::size_t buffer_bytes = std::max(kBufferBytes, options.max_header_bytes);
  state->core = std::make_shared<ServerCore>(service, std::move(options));
  const std::shared_ptr<ServerCore> core = state->core;
  if (!core->options.tls.certificate.empty()) {
    MILLRACE_ASSIGN(core->tls, TlsContext::open(core->options.tls));
  }
  for (int i = 0; i < threads; ++i) {
    core->threads.push_back(std::make_unique<IoThread>());
    core->threads.back()->buffer_bytes = buffer_bytes;
    core->threads.back()->work.emplace(core->threads.back()->context.get_executor());
  }
  std::unique_ptr<HttpServer> server(new HttpServer(std::move(state)));
  for (const std::unique_ptr<IoThread>& thread : core->threads) {
    MILLRACE_TRY(watch_sockets(*thread));
  }
  MILLRACE_TRY(server->listen());
  for (std::size_t i = 0; i < core->threads.size(); ++i) {
    IoThread& thread = *core->threads[i];
    tick(thread, interval);
    MILLRACE_ASSIGN(thread.thread, Thread::start(concat("mr-http-", i), [&thread] {
                      DeferredWakes::enable();
                      serve(thread);
                    }));
  }
  return server;
}

Result<void> HttpServer::listen() {
  const std::shared_ptr<ServerCore>& core = state_->core;
  const auto add = [&](const HttpListener& listener, Connection::Kind kind,
                       std::uint16_t& port) -> Result<void> {
    auto acceptor = std::make_shared<Acceptor>(core, kind);
    MILLRACE_TRY(acceptor->open(listener, core->options, kind == Connection::Kind::metrics));
    port = acceptor->port();
    acceptor->accept();
    state_->acceptors.push_back(std::move(acceptor));
    return {};
  };
  MILLRACE_TRY(add(core->options.listener, Connection::Kind::everything, state_->port));
  if (!core->options.metrics || !core->options.metrics_listener) return {};
  return add(*core->options.metrics_listener, Connection::Kind::metrics, state_->metrics_port);
}

HttpServer::~HttpServer() {
  if (!state_) return;
  const std::shared_ptr<ServerCore>& core = state_->core;
  core->draining.store(true, std::memory_order_relaxed);
  state_->stop_accepting();
  // The first thread first: it hands connections to the others.
  for (const std::unique_ptr<IoThread>& thread : core->threads) {
    asio::post(thread->context, [&thread = *thread] {
      thread.stopping = true;
      thread.tick.cancel();
      thread.sockets.stop();
      while (!thread.connections.empty()) {
        const std::shared_ptr<Connection> last = thread.connections.back();
        last->stop();
      }
      thread.work.reset();
    });
    if (thread->thread.joinable()) {
      thread->thread.join();
    } else {
      serve(*thread);  // it never started; what is left to be done is done by this one
    }
  }
  core->slow.join();
}

std::uint16_t HttpServer::port() const noexcept { return state_->port; }
std::uint16_t HttpServer::metrics_port() const noexcept { return state_->metrics_port; }
const HttpCounters& HttpServer::counters() const noexcept { return state_->core->counters; }
std::size_t HttpServer::connections() const {
  const std::lock_guard lock(state_->core->mutex);
  return state_->core->connections;
}
std::size_t HttpServer::bytes_in_flight() const noexcept {
  return state_->core->bytes_in_flight.load(std::memory_order_relaxed);
}

bool HttpServer::responds() {
  const auto& threads = state_->core->threads;
  const auto ticks = [&](std::size_t i) {
    return threads[i]->ticks.load(std::memory_order_relaxed);
  };
  std::vector<std::uint64_t>& before = state_->ticks;
  before.resize(threads.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (ticks(i) == before[i]) return false;
  }
  for (std::size_t i = 0; i < before.size(); ++i) before[i] = ticks(i);
  return true;
}

bool HttpServer::drain(Duration limit) {
  ServerCore& core = *state_->core;
  core.draining.store(true, std::memory_order_relaxed);
  state_->stop_accepting();
  for (const std::unique_ptr<IoThread>& thread : core.threads) {
    asio::post(thread->context, [&thread = *thread] {
      // First what has come by now: it is under way.
      for (std::size_t i = 0; i <= thread.connections.size() && thread.sockets.poll(); ++i) {
      }
      look_at_all(thread);
    });
  }
  std::unique_lock lock(core.mutex);
  return core.emptied.wait_until(lock, Clock::now() + limit,
                                 [&core] { return core.connections == 0; });
}

}  // namespace millrace::server
