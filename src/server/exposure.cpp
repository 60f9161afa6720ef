#include "server/exposure.h"

#include <boost/asio/ip/address.hpp>

#include "base/text.h"

namespace millrace::server {

Result<void> check_exposure(const std::string& address, const TlsFiles& tls,
                            const std::vector<std::string>& tokens, bool allow_open) {
  if (allow_open || !tls.certificate.empty() || !tokens.empty()) return {};
  boost::system::error_code error;
  const auto parsed = boost::asio::ip::make_address(address, error);
  if (!error && parsed.is_loopback()) return {};
  return Error{ErrorCode::invalid_argument,
               concat("refused to listen on ", address,
                      " with neither TLS nor a token: whoever reaches it could use it. Give one "
                      "of them, listen on 127.0.0.1, or allow it explicitly (--allow-open)")};
}

}  // namespace millrace::server
