// What protects a port, and whether that is enough for where it listens.
#pragma once

#include <string>
#include <vector>

#include <millrace/error.h>

namespace millrace::server {

/// Files in PEM.
struct TlsFiles {
  std::string certificate;  // with its chain; empty: no TLS
  std::string key;
  /// Not empty: clients must show a certificate that one of these signed (mutual TLS).
  std::string client_authorities;
};

/// Whether a socket may listen on `address`, as numbers: with TLS or a token, or where `allow_open`
/// says so, on any; else on loopback alone. Errors: invalid_argument.
[[nodiscard]] Result<void> check_exposure(const std::string& address, const TlsFiles& tls,
                                          const std::vector<std::string>& tokens, bool allow_open);

}  // namespace millrace::server
