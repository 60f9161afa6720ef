// A server that does nothing on the HTTP library of ours: it reads each request to its end and
// answers with the same 200 bytes, those of an inference of 16 x FP32; a GET with what a client
// asks of a model before that. What any server on that library costs at least.
//
//   server_do_nothing_http --port 9000 [--style library]      (port 0: any; it is printed)
//
// Style "own": Beast's parser over Asio with a connection of our own, as the real server. Style
// "library": Beast's own async_read and async_write.
#include <sys/socket.h>

#include <cstdio>
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

constexpr std::string_view kInference =
    R"({"model_name":"identity","model_version":"1","outputs":[{"name":"output","datatype":"FP32",)"
    R"("shape":[1,16],"parameters":{"binary_data_size":64}}]})"
    "................................................................";
constexpr std::size_t kInferenceJson = kInference.size() - 64;
constexpr std::string_view kModel =
    R"({"name":"identity","versions":["1"],"platform":"none","inputs":[{"name":"input","datatype":)"
    R"("FP32","shape":[-1,16]}],"outputs":[{"name":"output","datatype":"FP32","shape":[-1,16]}]})";

std::string with_head(std::string_view body, std::string_view fields) {
  return "HTTP/1.1 200 OK\r\n" + std::string(fields) +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
}
const std::string kAnswer = with_head(kInference,
                                      "Content-Type: application/octet-stream\r\n"
                                      "Inference-Header-Content-Length: " +
                                          std::to_string(kInferenceJson) + "\r\n");
const std::string kDescription = with_head(kModel, "Content-Type: application/json\r\n");

// Beast's parser, with what it finds thrown away.
class Parser : public http::basic_parser<true> {
 public:
  bool asks = false;  // a GET

 private:
  void on_request_impl(http::verb verb, string_view, string_view, int, error_code&) override {
    asks = verb == http::verb::get;
  }
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
      out += parser_->asks ? kDescription : kAnswer;
      parser_.reset();
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
    const bool asks = parser_->get().method() == http::verb::get;
    response_.set("Content-Type", "application/octet-stream");
    if (!asks) {
      response_.set("Inference-Header-Content-Length", std::to_string(kInferenceJson));
    }
    response_.body() = asks ? kModel : kInference;
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
  std::printf("%d\n", int{acceptor.local_endpoint().port()});
  std::fflush(stdout);
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
