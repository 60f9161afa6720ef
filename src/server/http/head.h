// The head of a request: what its first line and its fields say.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/verb.hpp>

#include <millrace/device.h>
#include <millrace/error.h>

#include "server/http/compression.h"

namespace millrace::server {

enum class Method : std::uint8_t { get, head, post, options, other };

struct RequestHead {
  Method method = Method::other;
  int version = 11;  // of HTTP, 10 or 11
  std::string method_text;
  std::string target;  // as it came, with the query
  /// Inference-Header-Content-Length. 0: the body is data alone. Without one it is JSON, whatever
  /// its type is said to be: clients send JSON as application/octet-stream.
  std::optional<std::uint64_t> json_bytes;
  Encoding encoding = Encoding::identity;  // of the body
  Encoding accepted = Encoding::identity;  // of the answer
  bool expects_continue = false;
  std::string authorization;
  std::string traceparent;
  std::optional<Duration> timeout;  // Millrace-Timeout
  int hosts = 0;                    // how often Host was given
  /// What is wrong, with the status that says so; 0: nothing.
  int status = 0;
  std::string problem;

  /// As new, with its memory kept.
  void clear();
};

/// Beast's parser of requests, which fills in a RequestHead and hands chunks of the body on. After
/// the head, a body of known length is the caller's to receive.
class RequestParser final : public boost::beast::http::basic_parser<true> {
 public:
  /// `head` (cleared) and `chunks` must outlive the parser.
  RequestParser(RequestHead& head, std::string& chunks) : head_(head), chunks_(chunks) {}

 private:
  using error_code = boost::beast::error_code;
  using string_view = boost::beast::string_view;

  void on_request_impl(boost::beast::http::verb method, string_view text, string_view target,
                       int version, error_code& error) override;
  void on_field_impl(boost::beast::http::field field, string_view name, string_view value,
                     error_code& error) override;
  std::size_t on_body_impl(string_view body, error_code& error) override;
  std::size_t on_chunk_body_impl(std::uint64_t left, string_view body, error_code& error) override;
  void on_response_impl(int, string_view, int, error_code&) override {}
  void on_header_impl(error_code&) override { in_head_ = false; }
  void on_body_init_impl(const boost::optional<std::uint64_t>&, error_code&) override {}
  void on_chunk_header_impl(std::uint64_t, string_view, error_code&) override {}
  void on_finish_impl(error_code&) override {}

  void unknown_field(std::string_view name, std::string_view value);
  void refuse(int status, std::string problem);

  RequestHead& head_;
  std::string& chunks_;
  bool in_head_ = true;  // else fields are a trailer's
};

/// The status and the message for an error of the parser.
struct HeadError {
  int status = 400;
  std::string message;
};
[[nodiscard]] HeadError head_error(const boost::beast::error_code& error);

}  // namespace millrace::server
