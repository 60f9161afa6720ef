#include "client/http_client.h"

#include <deque>
#include <future>
#include <thread>
#include <unordered_set>

#include <openssl/evp.h>
#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "base/try.h"
#include "client/http_message.h"
#include "client/messages.h"
#include "client/status.h"
#include "server/grpc/inference_service.pb.h"
#include "server/http/json.h"

namespace millrace::client {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

/// Bodies up to this go into one piece of memory with the head.
constexpr std::size_t kCopiedBytes = 4096;
constexpr const char* kJsonLength = "Inference-Header-Content-Length";

struct HttpAnswer {
  int status = 0;
  std::optional<std::size_t> json_bytes;
  std::string body;
};

/// One request on its way. Its memory stays until the socket has done with it.
struct Exchange {
  std::string head;  // with the blank line, and small bodies behind it
  std::vector<asio::const_buffer> body;
  std::optional<TimePoint> deadline;
  bool again = false;  // it was sent once already, over a connection that had been closed
  std::function<void(Result<HttpAnswer>)> done;

  // Of inferences.
  Request request;
  InferBody infer;
};
using ExchangePtr = std::unique_ptr<Exchange>;

struct Settings {
  Url url;
  ClientOptions options;
  std::vector<tcp::endpoint> endpoints;
  std::optional<asio::ssl::context> tls;
};

class Connection;

/// Where connections come from and go back to. On the client's thread only.
class Pool {
 public:
  Pool(asio::io_context& context, Settings settings)
      : context_(context), settings_(std::move(settings)) {}
  void send(ExchangePtr exchange);
  void stop();
  /// Takes the next request, or none: then the connection rests.
  ExchangePtr next(const std::shared_ptr<Connection>& connection);
  void gone(const std::shared_ptr<Connection>& connection);

  asio::io_context& context() noexcept { return context_; }
  Settings& settings() noexcept { return settings_; }
  [[nodiscard]] bool stopping() const noexcept { return stopping_; }

 private:
  asio::io_context& context_;
  Settings settings_;
  std::vector<std::shared_ptr<Connection>> idle_;
  std::unordered_set<std::shared_ptr<Connection>> all_;
  std::deque<ExchangePtr> waiting_;
  bool stopping_ = false;
};

/// One connection, one request at a time.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  explicit Connection(Pool& pool) : pool_(pool), socket_(pool.context()), timer_(pool.context()) {}

  void connect(ExchangePtr exchange) {
    begin(std::move(exchange));
    const auto self = shared_from_this();
    asio::async_connect(socket_, pool_.settings().endpoints,
                        [self](error_code error, const tcp::endpoint&) {
                          if (error) return self->fail(error, "cannot connect");
                          error_code ignored;
                          self->socket_.set_option(tcp::no_delay(true), ignored);
                          self->connected();
                        });
  }
  void run(ExchangePtr exchange) {
    reused_ = true;
    begin(std::move(exchange));
    write();
  }
  void close() {
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  void begin(ExchangePtr exchange) {
    exchange_ = std::move(exchange);
    expired_ = false;
    if (!exchange_->deadline) return;
    timer_.expires_at(*exchange_->deadline);
    timer_.async_wait([self = shared_from_this()](error_code error) {
      if (error || !self->exchange_ || Clock::now() < self->timer_.expiry()) return;
      self->expired_ = true;
      self->close();
    });
  }
  void connected() {
    if (!pool_.settings().tls) return write();
    const std::string& host = pool_.settings().url.host;
    tls_.emplace(socket_, *pool_.settings().tls);
    tls_->set_verify_callback(asio::ssl::host_name_verification(host));
    SSL_set_tlsext_host_name(tls_->native_handle(), host.c_str());
    tls_->async_handshake(asio::ssl::stream_base::client,
                          [self = shared_from_this()](error_code error) {
                            if (error) return self->fail(error, "no TLS");
                            self->write();
                          });
  }
  template <class F>
  void with_stream(F&& f) {
    if (tls_) return f(*tls_);
    f(socket_);
  }
  void write() {
    const auto written = [self = shared_from_this()](error_code error, size_t) {
      // A server that refuses a request may answer before it has read all of it.
      if (error && error != asio::error::broken_pipe && error != asio::error::connection_reset) {
        return self->fail(error, "cannot send");
      }
      self->read();
    };
    with_stream([&](auto& stream) {
      const asio::const_buffer head = asio::buffer(exchange_->head);
      if (exchange_->body.empty()) return asio::async_write(stream, head, written);
      std::vector<asio::const_buffer> all = {head};
      all.insert(all.end(), exchange_->body.begin(), exchange_->body.end());
      asio::async_write(stream, all, written);
    });
  }
  void read() {
    parser_.emplace();
    parser_->body_limit(boost::none);
    with_stream([this](auto& stream) {
      http::async_read(stream, buffer_, *parser_,
                       [self = shared_from_this()](error_code error, size_t bytes) {
                         if (error) return self->fail(error, "no answer", bytes);
                         self->answered();
                       });
    });
  }
  void answered() {
    HttpAnswer answer;
    auto& message = parser_->get();
    answer.status = static_cast<int>(message.result_int());
    if (const auto found = message.find(kJsonLength); found != message.end()) {
      const auto text = found->value();
      const Result<std::int64_t> bytes = parse_integer({text.data(), text.size()}, kJsonLength, 0);
      if (!bytes.ok()) return finish(bytes.error(), false);
      answer.json_bytes = static_cast<std::size_t>(*bytes);
    }
    answer.body = std::move(message.body());
    finish(std::move(answer), parser_->keep_alive());
  }
  void fail(error_code error, std::string_view what, std::size_t received = 0) {
    if (reused_ && received == 0 && !expired_ && !exchange_->again && !pool_.stopping()) {
      // The server closed it while it rested: the request was not taken.
      ExchangePtr exchange = std::move(exchange_);
      exchange->again = true;
      leave();
      return pool_.send(std::move(exchange));
    }
    if (expired_) {
      return finish(
          Error{ErrorCode::deadline_exceeded,
                concat("no answer from ", pool_.settings().url.address(), " before the deadline")},
          false);
    }
    if (pool_.stopping()) return finish(Error{ErrorCode::cancelled, "the client stops"}, false);
    finish(Error{ErrorCode::unavailable,
                 concat(pool_.settings().url.address(), ": ", what, ": ", error.message())},
           false);
  }
  void leave() {
    close();
    timer_.cancel();
    pool_.gone(shared_from_this());
  }
  void finish(Result<HttpAnswer> answer, bool keep) {
    const auto self = shared_from_this();
    ExchangePtr exchange = std::move(exchange_);
    if (exchange->deadline) timer_.cancel();
    ExchangePtr next;
    if (keep && !pool_.stopping()) {
      next = pool_.next(self);
    } else {
      leave();
    }
    if (next) run(std::move(next));
    exchange->done(std::move(answer));
  }

  Pool& pool_;
  tcp::socket socket_;
  std::optional<asio::ssl::stream<tcp::socket&>> tls_;
  asio::steady_timer timer_;
  boost::beast::flat_buffer buffer_;
  std::optional<http::response_parser<http::string_body>> parser_;
  ExchangePtr exchange_;
  bool reused_ = false;
  bool expired_ = false;
};

void Pool::send(ExchangePtr exchange) {
  if (stopping_) return exchange->done(Error{ErrorCode::cancelled, "the client stops"});
  if (!idle_.empty()) {
    const auto connection = std::move(idle_.back());
    idle_.pop_back();
    return connection->run(std::move(exchange));
  }
  if (all_.size() >= settings_.options.max_connections) {
    return waiting_.push_back(std::move(exchange));
  }
  const auto connection = std::make_shared<Connection>(*this);
  all_.insert(connection);
  connection->connect(std::move(exchange));
}

ExchangePtr Pool::next(const std::shared_ptr<Connection>& connection) {
  if (waiting_.empty()) {
    idle_.push_back(connection);
    return nullptr;
  }
  ExchangePtr exchange = std::move(waiting_.front());
  waiting_.pop_front();
  return exchange;
}

void Pool::gone(const std::shared_ptr<Connection>& connection) {
  all_.erase(connection);
  if (waiting_.empty() || stopping_) return;
  ExchangePtr exchange = std::move(waiting_.front());
  waiting_.pop_front();
  send(std::move(exchange));
}

void Pool::stop() {
  stopping_ = true;
  for (ExchangePtr& exchange : waiting_) {
    exchange->done(Error{ErrorCode::cancelled, "the client stops"});
  }
  waiting_.clear();
  idle_.clear();
  for (const auto& connection : all_) connection->close();
}

Result<Settings> settings_for(asio::io_context& context, Url url, ClientOptions options) {
  Settings settings{std::move(url), std::move(options), {}, {}};
  error_code error;
  tcp::resolver resolver(context);
  for (const auto& found :
       resolver.resolve(settings.url.host, std::to_string(settings.url.port), error)) {
    settings.endpoints.push_back(found.endpoint());
  }
  if (error) {
    return Error{ErrorCode::unavailable,
                 concat("cannot find ", quote(settings.url.host), ": ", error.message())};
  }
  if (!settings.url.secure) return settings;
  const ClientTls& tls = settings.options.tls;
  settings.tls.emplace(asio::ssl::context::tls_client);
  settings.tls->set_verify_mode(asio::ssl::verify_peer, error);
  const auto use = [&error](const std::string& path, auto&& load) -> Result<void> {
    if (path.empty()) return {};
    load();
    if (!error) return {};
    return Error{ErrorCode::invalid_argument,
                 concat("cannot use ", quote(path), " for TLS: ", error.message())};
  };
  if (tls.authorities.empty()) settings.tls->set_default_verify_paths(error);
  error.clear();
  MILLRACE_TRY(
      use(tls.authorities, [&] { settings.tls->load_verify_file(tls.authorities, error); }));
  MILLRACE_TRY(use(tls.certificate,
                   [&] { settings.tls->use_certificate_chain_file(tls.certificate, error); }));
  MILLRACE_TRY(use(tls.key, [&] {
    settings.tls->use_private_key_file(tls.key, asio::ssl::context::pem, error);
  }));
  return settings;
}

/// As part of a path: letters, digits and -._~ as they are.
std::string in_path(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || std::string_view("-._~").find(c) != std::string_view::npos) {
      out += c;
    } else {
      out += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return out;
}

std::string model_path(const ModelName& model) {
  std::string path = "/v2/models/" + in_path(model.name);
  if (!model.version.empty()) path += "/versions/" + in_path(model.version);
  return path;
}

std::string base64(std::span<const std::byte> bytes) {
  std::string out((bytes.size() + 2) / 3 * 4 + 1, '\0');  // with the zero that it writes
  out.resize(static_cast<std::size_t>(EVP_EncodeBlock(
      reinterpret_cast<unsigned char*>(out.data()),
      reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()))));
  return out;
}

class HttpClient final : public Client {
 public:
  HttpClient(std::unique_ptr<asio::io_context> context, Settings settings)
      : context_(std::move(context)),
        work_(asio::make_work_guard(*context_)),
        timeout_(settings.options.timeout),
        pool_(*context_, std::move(settings)) {
    const Settings& used = pool_.settings();
    fields_ = concat(" HTTP/1.1\r\nHost: ", used.url.address(), "\r\n");
    if (!used.options.token.empty()) {
      fields_ += concat("Authorization: Bearer ", used.options.token, "\r\n");
    }
    thread_ = std::thread([this] {
      name_this_thread("mr-client");
      context_->run();
    });
  }
  ~HttpClient() override {
    asio::post(*context_, [this] { pool_.stop(); });
    work_.reset();
    thread_.join();
  }

  Result<bool> live() override { return healthy("/v2/health/live"); }
  Result<bool> ready() override { return healthy("/v2/health/ready"); }
  Result<bool> model_ready(const ModelName& model) override {
    return healthy(model_path(model) + "/ready");
  }
  Result<server::ServerMetadata> metadata() override {
    inference::ServerMetadataResponse message;
    MILLRACE_TRY(ask("GET", "/v2", "", message));
    return server_metadata_of(message);
  }
  Result<server::ModelMetadata> model_metadata(const ModelName& model) override {
    inference::ModelMetadataResponse message;
    MILLRACE_TRY(ask("GET", model_path(model), "", message));
    return model_metadata_of(message);
  }
  Result<std::vector<server::VersionStatistics>> statistics(const ModelName& model) override {
    inference::ModelStatisticsResponse message;
    const std::string path = model.name.empty() ? "/v2/models" : model_path(model);
    MILLRACE_TRY(ask("GET", path + "/stats", "", message));
    return statistics_of(message);
  }
  Result<std::vector<RepositoryEntry>> repository_index(bool ready_only) override {
    MILLRACE_ASSIGN(const std::string body,
                    ask("POST", "/v2/repository/index", ready_only ? R"({"ready":true})" : "{}"));
    inference::RepositoryIndexResponse message;
    MILLRACE_TRY(read_json("{\"models\":" + body + "}", message));
    return index_of(message);
  }
  Result<void> load_model(const std::string& model, const LoadParameters& parameters) override {
    std::string body = "{\"parameters\":{";
    const auto add = [&body](std::string_view name, std::string_view value) {
      if (!body.ends_with('{')) body += ',';
      server::append_json_string(body, name);
      body += ':';
      server::append_json_string(body, value);
    };
    if (!parameters.config.empty()) add("config", parameters.config);
    for (const auto& [path, content] : parameters.files) {
      add("file:" + path, base64(std::as_bytes(std::span(content))));
    }
    return done(ask("POST", "/v2/repository/models/" + in_path(model) + "/load", body + "}}"));
  }
  Result<void> unload_model(const std::string& model, bool unload_dependents) override {
    return done(ask("POST", "/v2/repository/models/" + in_path(model) + "/unload",
                    concat("{\"parameters\":{\"unload_dependents\":", unload_dependents, "}}")));
  }

  Result<void> infer(const ModelName& model, Request request, Callback callback) override;

 private:
  Result<void> do_register_system(const std::string& name, const std::string& key,
                                  std::size_t bytes) override {
    std::string body = "{\"key\":";
    server::append_json_string(body, key);
    body += concat(",\"offset\":0,\"byte_size\":", bytes, "}");
    return done(ask("POST", "/v2/systemsharedmemory/region/" + in_path(name) + "/register", body));
  }
  Result<void> do_register_cuda(const std::string& name, std::span<const std::byte> handle, int gpu,
                                std::size_t bytes) override {
    return done(ask("POST", "/v2/cudasharedmemory/region/" + in_path(name) + "/register",
                    concat("{\"raw_handle\":{\"b64\":\"", base64(handle), "\"},\"device_id\":", gpu,
                           ",\"byte_size\":", bytes, "}")));
  }
  Result<void> do_unregister(const std::string& name, bool cuda) override {
    const std::string kind = cuda ? "/v2/cudasharedmemory" : "/v2/systemsharedmemory";
    return done(
        ask("POST", kind + (name.empty() ? "" : "/region/" + in_path(name)) + "/unregister", ""));
  }

  static Result<void> done(Result<std::string> body) {
    if (!body.ok()) return std::move(body).error();
    return {};
  }
  static Result<std::string> body_of(HttpAnswer answer) {
    if (answer.status == 200) return std::move(answer.body);
    return Error{code_of_http(answer.status),
                 concat(error_text(answer.body), " (HTTP status ", answer.status, ")")};
  }

  // From any thread: the first of several wakes the client's.
  void send(ExchangePtr exchange) {
    if (std::this_thread::get_id() == thread_.get_id()) return pool_.send(std::move(exchange));
    bool first = false;
    {
      const std::lock_guard lock(mutex_);
      first = submitted_.empty();
      submitted_.push_back(std::move(exchange));
    }
    if (!first) return;
    asio::post(*context_, [this] {
      std::vector<ExchangePtr> taken;
      {
        const std::lock_guard lock(mutex_);
        taken.swap(submitted_);
      }
      for (ExchangePtr& each : taken) pool_.send(std::move(each));
    });
  }
  Result<HttpAnswer> exchange(std::string_view method, std::string_view path,
                              std::string_view body) {
    auto exchange = std::make_unique<Exchange>();
    exchange->head =
        concat(method, " ", path, fields_, "Content-Length: ", body.size(), "\r\n\r\n", body);
    exchange->deadline = Clock::now() + timeout_;
    std::promise<Result<HttpAnswer>> promise;
    exchange->done = [&promise](Result<HttpAnswer> answer) {
      promise.set_value(std::move(answer));
    };
    std::future<Result<HttpAnswer>> future = promise.get_future();
    send(std::move(exchange));
    return future.get();
  }
  Result<std::string> ask(std::string_view method, std::string_view path, std::string_view body) {
    MILLRACE_ASSIGN(HttpAnswer answer, exchange(method, path, body));
    return body_of(std::move(answer));
  }
  Result<void> ask(std::string_view method, std::string_view path, std::string_view body,
                   google::protobuf::Message& message) {
    MILLRACE_ASSIGN(const std::string answer, ask(method, path, body));
    return read_json(answer, message);
  }
  // 200 says yes; what else there is says no, but for what is wrong with the request.
  Result<bool> healthy(const std::string& path) {
    MILLRACE_ASSIGN(HttpAnswer answer, exchange("GET", path, ""));
    if (answer.status == 200) return true;
    if (answer.status == 503 || answer.status == 400) return false;
    return body_of(std::move(answer)).error();
  }

  std::unique_ptr<asio::io_context> context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  const Duration timeout_;
  Pool pool_;
  std::string fields_;
  std::mutex mutex_;
  std::vector<ExchangePtr> submitted_;
  std::thread thread_;
};

void call(const Callback& callback, Result<Response> response) noexcept {
  try {
    callback(std::move(response), true);
  } catch (const std::exception& error) {
    log_error("a callback of a client threw: ", error.what());
  }
}

Result<void> HttpClient::infer(const ModelName& model, Request request, Callback callback) {
  auto exchange = std::make_unique<Exchange>();
  exchange->request = std::move(request);
  exchange->deadline = exchange->request.deadline;
  const TimePoint submitted = Clock::now();
  MILLRACE_ASSIGN(exchange->infer, write_request(exchange->request, regions()));
  const InferBody& body = exchange->infer;
  std::string& head = exchange->head;
  head =
      concat("POST ", model_path(model), "/infer", fields_, kJsonLength, ": ", body.json.size(),
             "\r\nContent-Type: application/octet-stream\r\nContent-Length: ", body.bytes, "\r\n");
  if (exchange->deadline) {
    const auto left = std::chrono::duration_cast<std::chrono::microseconds>(
        std::max<Duration>(*exchange->deadline - submitted, std::chrono::microseconds(1)));
    head += concat("Millrace-Timeout: ", left.count(), "us\r\n");
  }
  head += "\r\n";
  head += body.json;
  const bool small = body.bytes - body.json.size() <= kCopiedBytes;
  for (const InferBody::Piece& piece : body.pieces) {
    if (small) {
      head.append(static_cast<const char*>(piece.data), piece.bytes);
    } else {
      exchange->body.emplace_back(piece.data, piece.bytes);
    }
  }
  Exchange* const sent = exchange.get();  // there until `done` has returned
  exchange->done = [sent, submitted, callback = std::move(callback)](Result<HttpAnswer> answer) {
    if (!answer.ok()) return call(callback, std::move(answer).error());
    const std::optional<std::size_t> json = answer->json_bytes;
    Result<std::string> text = body_of(std::move(*answer));
    if (!text.ok()) return call(callback, std::move(text).error());
    Result<Response> response = read_answer(std::move(*text), json, sent->request);
    if (response.ok()) {
      response->times.submitted = submitted;
      response->times.completed = Clock::now();
    }
    call(callback, std::move(response));
  };
  send(std::move(exchange));
  return {};
}

}  // namespace

Result<std::unique_ptr<Client>> connect_http(Url url, ClientOptions options) {
  auto context = std::make_unique<asio::io_context>(1);
  MILLRACE_ASSIGN(Settings settings, settings_for(*context, std::move(url), std::move(options)));
  std::unique_ptr<Client> client =
      std::make_unique<HttpClient>(std::move(context), std::move(settings));
  const Result<bool> live = client->live();
  if (!live.ok() && live.error().code == ErrorCode::unavailable) return live.error();
  return client;
}

}  // namespace millrace::client
