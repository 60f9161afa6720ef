// A server that does nothing on the HTTP library of ours: it reads each request to its end and
// answers with the same 200 bytes. What any server on that library costs at least.
//
//   server_do_nothing_http --port 9000 [--style library]
//
// Style "own": Beast's parser over Asio with a connection of our own, as the real server. Style
// "library": Beast's own async_read and async_write.
#include <sys/socket.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <boost/asio.hpp>
#include <boost/beast.hpp>

#include <CLI/CLI.hpp>

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::beast::error_code;
using boost::beast::string_view;

constexpr std::size_t kBody = 72;
constexpr std::string_view kAnswer =
    "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
    "Inference-Header-Content-Length: 40\r\nContent-Length: 72\r\n\r\n"
    "........................................................................";

// Beast's parser, with what it finds thrown away.
class Parser : public http::basic_parser<true> {
  void on_request_impl(http::verb, string_view, string_view, int, error_code&) override {}
  void on_response_impl(int, string_view, int, error_code&) override {}
  void on_field_impl(http::field, string_view, string_view, error_code&) override {}
  void on_header_impl(error_code&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, error_code&) override {}
  std::size_t on_body_impl(string_view body, error_code&) override { return body.size(); }
  void on_chunk_header_impl(std::uint64_t, string_view, error_code&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, string_view body, error_code&) override {
    return body.size();
  }
  void on_finish_impl(error_code&) override {}
};

class OwnSession : public std::enable_shared_from_this<OwnSession> {
 public:
  explicit OwnSession(tcp::socket socket) : socket_(std::move(socket)) {
    socket_.non_blocking(true);
  }
  void run() {
    socket_.async_read_some(asio::buffer(buffer_ + have_, sizeof buffer_ - have_),
                            [self = shared_from_this()](error_code error, std::size_t bytes) {
                              if (error) return;
                              self->have_ += bytes;
                              if (self->answer()) self->run();
                            });
  }

 private:
  bool answer() {
    std::string out;
    while (have_ > 0) {
      if (!parser_) parser_.emplace().eager(true);
      error_code error;
      const std::size_t used = parser_->put(asio::buffer(buffer_, have_), error);
      if (error && error != http::error::need_more) return false;
      have_ -= used;
      std::memmove(buffer_, buffer_ + used, have_);
      if (!parser_->is_done()) break;
      parser_.reset();
      out += kAnswer;
    }
    return out.empty() || ::send(socket_.native_handle(), out.data(), out.size(), MSG_NOSIGNAL) ==
                              static_cast<ssize_t>(out.size());
  }

  tcp::socket socket_;
  std::optional<Parser> parser_;
  std::size_t have_ = 0;
  char buffer_[4096];
};

class LibrarySession : public std::enable_shared_from_this<LibrarySession> {
 public:
  explicit LibrarySession(tcp::socket socket) : socket_(std::move(socket)) {}
  void run() {
    parser_.emplace();
    http::async_read(socket_, buffer_, *parser_,
                     [self = shared_from_this()](error_code error, std::size_t) {
                       if (!error) self->answer();
                     });
  }

 private:
  void answer() {
    response_ = {};
    response_.version(11);
    response_.result(http::status::ok);
    response_.set("Content-Type", "application/octet-stream");
    response_.set("Inference-Header-Content-Length", "40");
    response_.body().assign(kBody, '.');
    response_.prepare_payload();
    http::async_write(socket_, response_,
                      [self = shared_from_this()](error_code error, std::size_t) {
                        if (!error) self->run();
                      });
  }

  tcp::socket socket_;
  boost::beast::flat_buffer buffer_{65536};
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> response_;
};

template <class Session>
void serve(std::uint16_t port) {
  asio::io_context context(1);
  tcp::acceptor acceptor(context, {asio::ip::address_v4::loopback(), port});
  std::function<void()> accept = [&] {
    acceptor.async_accept([&](error_code error, tcp::socket socket) {
      if (!error) {
        socket.set_option(tcp::no_delay(true));
        std::make_shared<Session>(std::move(socket))->run();
      }
      accept();
    });
  };
  accept();
  context.run();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Answers every request with the same bytes");
  std::uint16_t port = 9000;
  std::string style = "own";
  app.add_option("--port", port, "Of 127.0.0.1");
  app.add_option("--style", style)->check(CLI::IsMember({"own", "library"}));
  CLI11_PARSE(app, argc, argv);
  if (style == "own") {
    serve<OwnSession>(port);
  } else {
    serve<LibrarySession>(port);
  }
  return 0;
}
