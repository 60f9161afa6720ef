// Arbitrary bytes as what comes in on a connection: heads, and bodies in chunks.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/error.hpp>

#include "server/http/head.h"
#include "server/http/route.h"

namespace {

using namespace millrace::server;

constexpr std::size_t kLimit = 1 << 16;

// Reads one request; the bytes that it took, or 0.
std::size_t read_request(std::string_view text) {
  RequestHead head;
  std::string chunks;
  RequestParser parser(head, chunks);
  parser.header_limit(4096);
  parser.body_limit(kLimit);
  boost::beast::error_code error;
  std::size_t used = parser.put(boost::asio::buffer(text.data(), text.size()), error);
  if (used > text.size()) std::abort();
  if (error || !parser.is_header_done()) {
    if (error && head_error(error).status < 400) std::abort();
    return 0;
  }
  Route route;
  find_route(head.target, route);
  if (route.endpoint == Endpoint::infer && route.model.empty()) std::abort();
  if (head.status != 0 && head.problem.empty()) std::abort();
  if (const auto length = parser.content_length_remaining()) {
    if (parser.chunked() || *length > kLimit) std::abort();
    return *length > text.size() - used ? 0 : used + *length;
  }
  if (!parser.chunked()) return used;
  parser.eager(true);
  while (!parser.is_done() && used < text.size()) {
    const std::size_t more =
        parser.put(boost::asio::buffer(text.data() + used, text.size() - used), error);
    used += more;
    if (chunks.size() > kLimit) std::abort();
    if (error || more == 0) return 0;
  }
  return parser.is_done() ? used : 0;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  while (!text.empty()) {
    const std::size_t used = read_request(text);
    if (used == 0) break;
    text.remove_prefix(used);
  }
  return 0;
}
