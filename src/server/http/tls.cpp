#include "server/http/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "base/text.h"
#include "base/try.h"

namespace millrace::server {
namespace {

Moved moved(ssize_t bytes, Moved::Status wait) noexcept {
  if (bytes > 0) return {Moved::Status::some, static_cast<std::size_t>(bytes)};
  if (bytes == 0) return {Moved::Status::closed};
  return {errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? wait : Moved::Status::failed};
}

// OpenSSL's own socket BIO writes without MSG_NOSIGNAL.
int socket_of(BIO* bio) noexcept {
  return static_cast<int>(reinterpret_cast<std::intptr_t>(BIO_get_data(bio)));
}
int send_bytes(BIO* bio, const char* data, int bytes) {
  BIO_clear_retry_flags(bio);
  const ssize_t sent =
      ::send(socket_of(bio), data, static_cast<std::size_t>(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(bio);
  return static_cast<int>(sent);
}
int receive_bytes(BIO* bio, char* data, int bytes) {
  BIO_clear_retry_flags(bio);
  const ssize_t got = ::recv(socket_of(bio), data, static_cast<std::size_t>(bytes), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_read(bio);
  return static_cast<int>(got);
}
long control_socket(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

const BIO_METHOD* socket_method() noexcept {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");
    if (made) {
      BIO_meth_set_write(made, send_bytes);
      BIO_meth_set_read(made, receive_bytes);
      BIO_meth_set_ctrl(made, control_socket);
    }
    return made;
  }();
  return method;
}

std::string last_error() {
  char text[256] = "unknown error";
  if (const unsigned long code = ERR_get_error(); code != 0) {
    ERR_error_string_n(code, text, sizeof text);
  }
  ERR_clear_error();
  return text;
}

Error bad(const std::string& file, std::string_view what) {
  return {ErrorCode::invalid_argument, concat(quote(file), ": ", what, ": ", last_error())};
}

Result<void> check_dates(SSL_CTX* context, const std::string& file) {
  const X509* certificate = SSL_CTX_get0_certificate(context);
  if (certificate && X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0) {
    return Error{ErrorCode::invalid_argument,
                 concat(quote(file), ": this certificate has expired")};
  }
  return {};
}

Result<void> load(SSL_CTX* context, const TlsFiles& files) {
  if (SSL_CTX_use_certificate_chain_file(context, files.certificate.c_str()) != 1) {
    return bad(files.certificate, "expected a certificate in PEM");
  }
  MILLRACE_TRY(check_dates(context, files.certificate));
  if (SSL_CTX_use_PrivateKey_file(context, files.key.c_str(), SSL_FILETYPE_PEM) != 1) {
    return bad(files.key, concat("expected the key of ", quote(files.certificate), " in PEM"));
  }
  if (files.client_authorities.empty()) return {};
  if (SSL_CTX_load_verify_locations(context, files.client_authorities.c_str(), nullptr) != 1) {
    return bad(files.client_authorities, "expected certificates of authorities in PEM");
  }
  SSL_CTX_set_client_CA_list(context, SSL_load_client_CA_file(files.client_authorities.c_str()));
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return {};
}

int only_http11(SSL*, const unsigned char** out, unsigned char* out_bytes,
                const unsigned char* offered, unsigned offered_bytes, void*) {
  static constexpr unsigned char kOurs[] = "\x08http/1.1";
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_bytes, kOurs, sizeof kOurs - 1, offered, offered_bytes) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_NOACK;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

Moved receive_plain(int socket, std::span<iovec> into) noexcept {
  if (into.size() == 1) {
    return moved(::recv(socket, into[0].iov_base, into[0].iov_len, MSG_DONTWAIT),
                 Moved::Status::want_read);
  }
  msghdr message{};
  message.msg_iov = into.data();
  message.msg_iovlen = into.size();
  return moved(::recvmsg(socket, &message, MSG_DONTWAIT), Moved::Status::want_read);
}

Moved send_plain(int socket, std::span<iovec> from) noexcept {
  if (from.size() == 1) {
    return moved(::send(socket, from[0].iov_base, from[0].iov_len, MSG_NOSIGNAL | MSG_DONTWAIT),
                 Moved::Status::want_write);
  }
  msghdr message{};
  message.msg_iov = from.data();
  message.msg_iovlen = from.size();
  return moved(::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT), Moved::Status::want_write);
}

Result<std::shared_ptr<TlsContext>> TlsContext::open(const TlsFiles& files) {
  SSL_CTX* context = SSL_CTX_new(TLS_server_method());
  if (!context) return Error{ErrorCode::out_of_memory, concat("TLS: ", last_error())};
  std::shared_ptr<TlsContext> made(new TlsContext(context));
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                   SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);
  static constexpr unsigned char kSessions[] = "millrace";
  SSL_CTX_set_session_id_context(context, kSessions, sizeof kSessions - 1);
  SSL_CTX_set_alpn_select_cb(context, only_http11, nullptr);
  MILLRACE_TRY(load(context, files));
  return made;
}

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

std::unique_ptr<TlsSession> TlsSession::make(const TlsContext& context, int socket) {
  const BIO_METHOD* method = socket_method();
  BIO* bio = method ? BIO_new(method) : nullptr;
  SSL* ssl = bio ? SSL_new(context.context_) : nullptr;
  if (!ssl) {
    BIO_free(bio);
    return nullptr;
  }
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the descriptor is all that there is to keep
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<std::intptr_t>(socket)));
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl, bio, bio);
  SSL_set_accept_state(ssl);
  return std::unique_ptr<TlsSession>(new TlsSession(ssl));
}

TlsSession::~TlsSession() { SSL_free(ssl_); }

Moved TlsSession::outcome(int result) noexcept {
  if (result > 0) return {Moved::Status::some, static_cast<std::size_t>(result)};
  const int error = SSL_get_error(ssl_, result);
  ERR_clear_error();
  switch (error) {
    case SSL_ERROR_WANT_READ:
      return {Moved::Status::want_read};
    case SSL_ERROR_WANT_WRITE:
      return {Moved::Status::want_write};
    case SSL_ERROR_ZERO_RETURN:
      return {Moved::Status::closed};
    default:
      return {Moved::Status::failed};
  }
}

Moved TlsSession::handshake() noexcept {
  ERR_clear_error();
  return outcome(SSL_do_handshake(ssl_));
}

Moved TlsSession::receive(std::span<iovec> into) noexcept {
  ERR_clear_error();
  std::size_t total = 0;
  for (const iovec& place : into) {
    std::size_t filled = 0;
    while (filled < place.iov_len) {
      std::size_t bytes = 0;
      const int result = SSL_read_ex(ssl_, static_cast<char*>(place.iov_base) + filled,
                                     place.iov_len - filled, &bytes);
      if (result != 1) return total > 0 ? Moved{Moved::Status::some, total} : outcome(result);
      filled += bytes;
      total += bytes;
    }
  }
  return {Moved::Status::some, total};
}

Moved TlsSession::send(std::span<iovec> from) noexcept {
  ERR_clear_error();
  char joined[16384];  // one record
  std::size_t total = 0;
  while (!from.empty()) {
    const void* data = from[0].iov_base;
    std::size_t bytes = from[0].iov_len;
    std::size_t taken = 1;
    if (from.size() > 1 && bytes + from[1].iov_len <= sizeof joined) {
      bytes = 0;
      for (taken = 0; taken < from.size() && bytes + from[taken].iov_len <= sizeof joined;
           ++taken) {
        std::memcpy(joined + bytes, from[taken].iov_base, from[taken].iov_len);
        bytes += from[taken].iov_len;
      }
      data = joined;
    }
    std::size_t sent = 0;
    const int result = SSL_write_ex(ssl_, data, bytes, &sent);
    if (result != 1) return total > 0 ? Moved{Moved::Status::some, total} : outcome(result);
    total += sent;
    if (sent < bytes) return {Moved::Status::some, total};
    from = from.subspan(taken);
  }
  return {Moved::Status::some, total};
}

bool TlsSession::pending() const noexcept { return SSL_has_pending(ssl_) == 1; }

void TlsSession::shut_down() noexcept {
  ERR_clear_error();
  SSL_shutdown(ssl_);
  ERR_clear_error();
}

}  // namespace millrace::server
