// Where a server is: http://HOST[:PORT], https://, grpc://, grpcs://.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <millrace/error.h>

namespace millrace::client {

struct Url {
  bool grpc = false;
  bool secure = false;
  std::string host;  // without the brackets of an IPv6 address
  std::uint16_t port = 0;

  /// "HOST:PORT", an IPv6 address in brackets.
  [[nodiscard]] std::string address() const;
};

/// Without a port: 8000 for http and 8001 for grpc. A path other than "/" is refused. Errors:
/// invalid_argument.
[[nodiscard]] Result<Url> parse_url(std::string_view text);

}  // namespace millrace::client
