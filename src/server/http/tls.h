// TLS on a socket that does not block.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>

#include <millrace/error.h>

#include "server/http/options.h"

struct ssl_ctx_st;
struct ssl_st;

namespace millrace::server {

/// What came of reading or writing.
struct Moved {
  enum class Status : std::uint8_t {
    some,        // `bytes`, at least one
    want_read,   // nothing: again when the socket can be read
    want_write,  // nothing: again when the socket can be written
    closed,      // the peer sends no more
    failed,
  };
  Status status = Status::failed;
  std::size_t bytes = 0;
};

/// Reads into, or writes from, several places in turn.
[[nodiscard]] Moved receive_plain(int socket, std::span<iovec> into) noexcept;
[[nodiscard]] Moved send_plain(int socket, std::span<iovec> from) noexcept;

/// A certificate with its key and who may connect. Safe to use from any thread.
class TlsContext {
 public:
  /// Errors: not_found, invalid_argument (not PEM, key and certificate that do not match, a
  /// certificate that has expired).
  [[nodiscard]] static Result<std::shared_ptr<TlsContext>> open(const TlsFiles& files);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

 private:
  friend class TlsSession;
  explicit TlsContext(ssl_ctx_st* context) noexcept : context_(context) {}
  ssl_ctx_st* context_;
};

/// One connection's TLS, by one thread at a time.
class TlsSession {
 public:
  /// Null when there is no memory.
  [[nodiscard]] static std::unique_ptr<TlsSession> make(const TlsContext& context, int socket);
  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  /// `some` when it is done.
  [[nodiscard]] Moved handshake() noexcept;
  [[nodiscard]] Moved receive(std::span<iovec> into) noexcept;
  /// What was not taken must be given again, from the same byte on.
  [[nodiscard]] Moved send(std::span<iovec> from) noexcept;
  /// Whether there is something to receive that the socket will not tell of.
  [[nodiscard]] bool pending() const noexcept;
  /// Says goodbye, if that can be done at once.
  void shut_down() noexcept;

 private:
  explicit TlsSession(ssl_st* ssl) noexcept : ssl_(ssl) {}
  [[nodiscard]] Moved outcome(int result) noexcept;
  ssl_st* ssl_;
};

}  // namespace millrace::server
