// What the connections of a server share.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>

#include "base/thread.h"
#include "server/http/options.h"
#include "server/http/server.h"
#include "server/http/socket_events.h"
#include "server/http/tls.h"
#include "server/service.h"

namespace millrace::server {

class Connection;

/// A thread that serves connections. All but `context` and `ticks` is that thread's alone.
struct IoThread {
  /// The size of a read buffer: what a small request fits in.
  std::size_t buffer_bytes = 0;
  boost::asio::io_context context{1};
  SocketEvents sockets{context};
  boost::asio::steady_timer tick{context};
  std::optional<boost::asio::executor_work_guard<boost::asio::io_context::executor_type>> work;
  std::vector<std::shared_ptr<Connection>> connections;
  /// Kept until the events that were fetched with those of theirs are handled.
  std::vector<std::shared_ptr<Connection>> closed;
  std::vector<std::unique_ptr<char[]>> idle_buffers;
  bool stopping = false;
  std::atomic<std::uint64_t> ticks{0};  // read by others
  Thread thread;

  [[nodiscard]] std::unique_ptr<char[]> take_buffer() {
    if (idle_buffers.empty()) return std::make_unique_for_overwrite<char[]>(buffer_bytes);
    std::unique_ptr<char[]> buffer = std::move(idle_buffers.back());
    idle_buffers.pop_back();
    return buffer;
  }
  void put_buffer(std::unique_ptr<char[]> buffer) {
    constexpr std::size_t kKept = 64;
    if (buffer && idle_buffers.size() < kKept) idle_buffers.push_back(std::move(buffer));
  }
};

struct ServerCore {
  ServerCore(Service& of, HttpOptions with) : service(of), options(std::move(with)) {}

  Service& service;
  const HttpOptions options;
  std::shared_ptr<TlsContext> tls;
  HttpCounters counters;
  std::atomic<std::size_t> bytes_in_flight{0};
  std::atomic<bool> draining{false};
  /// Where slow calls run.
  boost::asio::thread_pool slow{2};
  std::vector<std::unique_ptr<IoThread>> threads;
  std::mutex mutex;
  std::condition_variable emptied;
  std::size_t connections = 0;  // guarded by mutex

  /// False: too many.
  [[nodiscard]] bool reserve(std::size_t bytes) noexcept {
    if (bytes_in_flight.fetch_add(bytes, std::memory_order_relaxed) + bytes <=
        options.max_bytes_in_flight) {
      return true;
    }
    release(bytes);
    counters.over_budget.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  void release(std::size_t bytes) noexcept {
    if (bytes > 0) bytes_in_flight.fetch_sub(bytes, std::memory_order_relaxed);
  }
  /// False: too many.
  [[nodiscard]] bool enter() {
    const std::lock_guard lock(mutex);
    if (connections == options.max_connections) return false;
    ++connections;
    return true;
  }
  void leave() {
    const std::lock_guard lock(mutex);
    if (--connections == 0) emptied.notify_all();
  }
};

}  // namespace millrace::server
