#include "client/url.h"

#include "base/text.h"
#include "base/try.h"

namespace millrace::client {
namespace {

constexpr std::uint16_t kHttpPort = 8000;
constexpr std::uint16_t kGrpcPort = 8001;

Error wrong(std::string_view text, std::string_view why) {
  return {ErrorCode::invalid_argument,
          concat("expected http://HOST:PORT, https://, grpc:// or grpcs://, got ", quote(text),
                 why.empty() ? "" : ": ", why)};
}

}  // namespace

std::string Url::address() const {
  const bool brackets = host.find(':') != std::string::npos;
  return concat(brackets ? "[" : "", host, brackets ? "]:" : ":", port);
}

Result<Url> parse_url(std::string_view text) {
  const std::size_t colon = text.find("://");
  if (colon == std::string_view::npos) return wrong(text, "");
  const std::string_view scheme = text.substr(0, colon);
  Url url;
  url.grpc = scheme == "grpc" || scheme == "grpcs";
  url.secure = scheme == "https" || scheme == "grpcs";
  if (!url.grpc && scheme != "http" && scheme != "https") return wrong(text, "another scheme");
  url.port = url.grpc ? kGrpcPort : kHttpPort;
  std::string_view rest = text.substr(colon + 3);
  if (rest.ends_with('/')) rest.remove_suffix(1);
  if (rest.find_first_of("/?#@") != std::string_view::npos) {
    return wrong(text, "only a host and a port may follow");
  }
  std::string_view port;
  if (rest.starts_with('[')) {
    const std::size_t end = rest.find(']');
    if (end == std::string_view::npos) return wrong(text, "a bracket is open");
    url.host = rest.substr(1, end - 1);
    port = rest.substr(end + 1);
    if (!port.empty() && !port.starts_with(':')) return wrong(text, "no port behind the bracket");
  } else {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    url.host = rest.substr(0, end);
    port = rest.substr(end);
  }
  if (url.host.empty()) return wrong(text, "no host");
  if (!port.empty()) {
    MILLRACE_ASSIGN(const std::int64_t number,
                    parse_integer(port.substr(1), "the port of the server", 1, 65535));
    url.port = static_cast<std::uint16_t>(number);
  }
  return url;
}

}  // namespace millrace::client
