#include "server/http/head.h"

#include <charconv>

#include <boost/beast/http/error.hpp>

#include "base/text.h"

namespace millrace::server {
namespace http = boost::beast::http;

void RequestHead::clear() {
  method = Method::other;
  version = 11;
  method_text.clear();
  target.clear();
  json_bytes.reset();
  encoding = Encoding::identity;
  accepted = Encoding::identity;
  expects_continue = false;
  authorization.clear();
  traceparent.clear();
  timeout.reset();
  hosts = 0;
  status = 0;
  problem.clear();
}

void RequestParser::refuse(int status, std::string problem) {
  if (head_.status != 0) return;
  head_.status = status;
  head_.problem = std::move(problem);
}

void RequestParser::on_request_impl(http::verb method, string_view text, string_view target,
                                    int version, error_code&) {
  switch (method) {
    case http::verb::get:
      head_.method = Method::get;
      break;
    case http::verb::head:
      head_.method = Method::head;
      break;
    case http::verb::post:
      head_.method = Method::post;
      break;
    case http::verb::options:
      head_.method = Method::options;
      break;
    default:
      break;
  }
  head_.version = version;
  head_.method_text.assign(text.data(), text.size());
  head_.target.assign(target.data(), target.size());
}

void RequestParser::on_field_impl(http::field field, string_view name, string_view value,
                                  error_code&) {
  if (!in_head_) return;
  switch (field) {
    case http::field::host:
      ++head_.hosts;
      break;
    case http::field::content_encoding:
      if (equal_ignoring_case(value, "gzip")) {
        head_.encoding = Encoding::gzip;
      } else if (equal_ignoring_case(value, "deflate")) {
        head_.encoding = Encoding::deflate;
      } else if (!value.empty() && !equal_ignoring_case(value, "identity")) {
        refuse(415, concat("Content-Encoding ", quote(value),
                           " is not supported; gzip and deflate are"));
      }
      break;
    case http::field::accept_encoding:
      head_.accepted = choose_encoding(value);
      break;
    case http::field::transfer_encoding:
      if (!equal_ignoring_case(value, "chunked")) {
        refuse(501, concat("Transfer-Encoding ", quote(value), " is not supported; chunked is"));
      }
      break;
    case http::field::authorization:
      head_.authorization.assign(value.data(), value.size());
      break;
    case http::field::expect:
      if (equal_ignoring_case(value, "100-continue")) {
        head_.expects_continue = true;
      } else {
        refuse(417, concat("Expect ", quote(value), " cannot be met; 100-continue can"));
      }
      break;
    case http::field::unknown:
      unknown_field(name, value);
      break;
    default:
      break;
  }
}

void RequestParser::unknown_field(std::string_view name, std::string_view value) {
  if (equal_ignoring_case(name, "Inference-Header-Content-Length")) {
    std::uint64_t bytes = 0;
    const auto end = std::from_chars(value.data(), value.data() + value.size(), bytes);
    if (end.ec != std::errc() || end.ptr != value.data() + value.size() || head_.json_bytes) {
      refuse(400, concat("Inference-Header-Content-Length: expected one number of bytes, found ",
                         quote(value)));
      return;
    }
    head_.json_bytes = bytes;
  } else if (equal_ignoring_case(name, "traceparent")) {
    head_.traceparent.assign(value.data(), value.size());
  } else if (equal_ignoring_case(name, "Millrace-Timeout")) {
    const Result<std::chrono::nanoseconds> timeout = parse_duration(value, "Millrace-Timeout");
    if (timeout.ok()) {
      head_.timeout = std::chrono::duration_cast<Duration>(*timeout);
    } else {
      refuse(400, timeout.error().message);
    }
  }
}

std::size_t RequestParser::on_body_impl(string_view body, error_code&) { return body.size(); }

std::size_t RequestParser::on_chunk_body_impl(std::uint64_t, string_view body, error_code&) {
  chunks_.append(body);
  return body.size();
}

HeadError head_error(const boost::beast::error_code& error) {
  if (error == http::error::header_limit) {
    return {431, "the head of the request is too long"};
  }
  if (error == http::error::body_limit) return {413, "the body of the request is too long"};
  return {400, concat("this is no HTTP request that is understood here: ", error.message())};
}

}  // namespace millrace::server
