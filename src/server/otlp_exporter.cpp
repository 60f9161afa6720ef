#include "server/otlp_exporter.h"

#include <algorithm>
#include <utility>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

#include <millrace/version.h>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "server/otlp_json.h"

namespace millrace::server {
namespace {

namespace http = boost::beast::http;
using boost::beast::error_code;
using boost::beast::string_view;
using tcp = boost::asio::ip::tcp;

constexpr Duration kLook = std::chrono::milliseconds(50);  // whether the end has come
constexpr std::size_t kMostAnswerBytes = std::size_t{1} << 20;
constexpr Duration kLongestRetryAfter = std::chrono::seconds(60);

// Those of the protocol that ask for another try.
bool is_for_later(int status) {
  return status == 429 || status == 502 || status == 503 || status == 504;
}

}  // namespace

// -------------------------------------------------------------------------------------------------
// the connection

/// What became of a request: the status of its answer, or 0 and what is wrong.
struct Outcome {
  int status = 0;
  std::string problem;
  Duration retry_after{};
};

/// One connection, kept open between requests. Used by the exporter's thread alone.
class OtlpExporter::Client {
 public:
  explicit Client(const OtlpExporter& exporter) : exporter_(exporter) {}

  Outcome post(const std::string& body) {
    until_ = Clock::now() + exporter_.options_.timeout;
    const bool kept = socket_.is_open();
    Outcome outcome = try_post(body);
    // A connection that was kept may have been closed meanwhile.
    if (kept && outcome.status == 0 && !late()) outcome = try_post(body);
    return outcome;
  }

 private:
  Outcome try_post(const std::string& body) {
    if (error_code error = connect(); error) return failed("connect", error);
    http::request<http::string_body> request(http::verb::post, exporter_.address_.target, 11);
    request.set(http::field::host, exporter_.address_.host + ":" + exporter_.address_.port);
    request.set(http::field::user_agent, concat("millrace/", version()));
    request.set(http::field::content_type, "application/json");
    request.body() = body;
    request.prepare_payload();
    error_code error =
        await([&](auto done) { http::async_write(socket_, request, std::move(done)); });
    if (error) return failed("send", error);
    http::response_parser<http::string_body> answer;
    answer.body_limit(kMostAnswerBytes);
    buffer_.clear();
    error = await([&](auto done) { http::async_read(socket_, buffer_, answer, std::move(done)); });
    if (error) return failed("read an answer", error);
    if (!answer.keep_alive()) close();
    return outcome_of(answer.get());
  }

  Outcome outcome_of(const http::response<http::string_body>& answer) {
    Outcome outcome;
    outcome.status = static_cast<int>(answer.result_int());
    if (outcome.status / 100 != 2) {
      const std::string_view text(answer.body().data(),
                                  std::min<std::size_t>(answer.body().size(), 200));
      outcome.problem = concat("it answers ", outcome.status, ' ', quote(text));
    }
    const string_view after = answer[http::field::retry_after];
    if (const auto seconds = parse_integer({after.data(), after.size()}, "Retry-After", 0);
        seconds) {
      outcome.retry_after = *seconds > 60 ? kLongestRetryAfter : std::chrono::seconds(*seconds);
    }
    return outcome;
  }

  error_code connect() {
    if (socket_.is_open()) return {};
    error_code error;
    const auto ends =
        tcp::resolver(context_).resolve(exporter_.address_.host, exporter_.address_.port, error);
    if (error) return error;
    return await([&](auto done) {
      boost::asio::async_connect(
          socket_, ends,
          [done = std::move(done)](const error_code& result, const tcp::endpoint&) mutable {
            done(result, 0);
          });
    });
  }

  /// Starts what `start` starts, and waits until it is done, it is late, or the end has come.
  template <class Start>
  error_code await(const Start& start) {
    error_code result;
    bool done = false;
    start([&result, &done](const error_code& error, std::size_t) {
      result = error;
      done = true;
    });
    context_.restart();
    while (!done) {
      context_.run_one_for(kLook);
      if (done || !late()) continue;
      close();
      context_.run();  // what was started ends
      return boost::asio::error::timed_out;
    }
    return result;
  }

  [[nodiscard]] bool late() const {
    const TimePoint now = Clock::now();
    return now >= until_ ||
           (exporter_.stopping() && now.time_since_epoch().count() >=
                                        exporter_.give_up_at_.load(std::memory_order_relaxed));
  }
  Outcome failed(std::string_view what, const error_code& error) {
    close();
    return {0, concat("cannot ", what, ": ", error.message()), {}};
  }
  void close() {
    error_code ignored;
    socket_.close(ignored);
  }

  const OtlpExporter& exporter_;
  boost::asio::io_context context_{1};
  tcp::socket socket_{context_};
  boost::beast::flat_buffer buffer_;
  TimePoint until_;
};

// -------------------------------------------------------------------------------------------------
// the exporter

Result<OtlpExporter::Address> OtlpExporter::parse(const std::string& url) {
  const Error wrong{ErrorCode::invalid_argument,
                    concat("--otlp-url ", quote(url),
                           ": expected http://HOST:PORT/v1/traces, a collector of OTLP over HTTP")};
  constexpr std::string_view kScheme = "http://";
  if (!url.starts_with(kScheme)) return wrong;
  const std::string_view rest = std::string_view(url).substr(kScheme.size());
  const std::size_t slash = std::min(rest.find('/'), rest.size());
  const std::string_view authority = rest.substr(0, slash);
  Address address;
  address.target = slash < rest.size() ? rest.substr(slash) : "/v1/traces";
  const std::size_t bracket = authority.find(']');  // behind an IPv6 address
  const std::size_t colon = authority.find(':', bracket == std::string_view::npos ? 0 : bracket);
  address.host = authority.substr(0, colon);
  address.port = colon == std::string_view::npos ? "4318" : authority.substr(colon + 1);
  if (address.host.starts_with('[') && address.host.ends_with(']')) {
    address.host = address.host.substr(1, address.host.size() - 2);
  }
  if (address.host.empty() || !parse_integer(address.port, "port", 1, 65535)) return wrong;
  const bool odd = std::ranges::any_of(rest, [](char c) { return c <= ' ' || c == '@'; });
  if (odd) return wrong;
  return address;
}

Result<std::unique_ptr<OtlpExporter>> OtlpExporter::start(
    OtlpOptions options, std::function<std::vector<BatchTimeline>()> timelines) {
  MILLRACE_ASSIGN(Address address, parse(options.url));
  std::unique_ptr<OtlpExporter> exporter(
      new OtlpExporter(std::move(options), std::move(address), std::move(timelines)));
  OtlpExporter* const self = exporter.get();
  self->queue_->on_pressure([self] {
    const std::lock_guard lock(self->mutex_);
    self->pressed_ = true;
    self->changed_.notify_one();
  });
  MILLRACE_ASSIGN(self->thread_, Thread::start("mr-otlp", [self] { self->work(); }));
  return exporter;
}

OtlpExporter::OtlpExporter(OtlpOptions options, Address address,
                           std::function<std::vector<BatchTimeline>()> timelines)
    : options_(std::move(options)),
      address_(std::move(address)),
      timelines_(std::move(timelines)),
      queue_(std::make_shared<TraceQueue>(options_.queue)) {}

OtlpExporter::~OtlpExporter() {
  queue_->on_pressure({});  // requests may outlive this
  give_up_at_ = (Clock::now() + options_.last_effort).time_since_epoch().count();
  {
    const std::lock_guard lock(mutex_);
    stopping_.store(true, std::memory_order_release);
  }
  changed_.notify_all();
  thread_.join();
}

OtlpCounters OtlpExporter::counters() const noexcept {
  return {exported_.load(std::memory_order_relaxed), refused_.load(std::memory_order_relaxed),
          retries_.load(std::memory_order_relaxed)};
}

void OtlpExporter::work() {
  Client client(*this);
  for (;;) {
    const bool last = stopping();
    for (std::deque<TraceRecord> records; !(records = queue_->take(options_.batch)).empty();) {
      send(client, records);
    }
    if (last) return;
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, options_.interval, [this] { return pressed_ || stopping(); });
    pressed_ = false;
  }
}

void OtlpExporter::send(Client& client, const std::deque<TraceRecord>& records) {
  const std::string body =
      otlp_json(records, timelines_ ? timelines_() : std::vector<BatchTimeline>(), epoch_now());
  Duration wait = options_.first_pause;
  for (int attempt = 1;; ++attempt) {
    const Outcome outcome = client.post(body);
    if (outcome.status / 100 == 2) {
      exported_.fetch_add(records.size(), std::memory_order_relaxed);
      if (std::exchange(failing_, false)) log_info("the collector of traces takes them again");
      return;
    }
    say(outcome.problem);
    const bool again = outcome.status == 0 || is_for_later(outcome.status);
    if (!again || attempt >= options_.attempts || !pause(std::max(wait, outcome.retry_after))) {
      break;
    }
    retries_.fetch_add(1, std::memory_order_relaxed);
    wait = std::min(wait * 2, options_.longest_pause);
  }
  refused_.fetch_add(records.size(), std::memory_order_relaxed);
}

bool OtlpExporter::pause(Duration time) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, time, [this] { return stopping(); });
}

// Once, until it works again.
void OtlpExporter::say(const std::string& problem) {
  if (std::exchange(failing_, true)) return;
  log_warning("traces do not reach ", options_.url, ": ", problem,
              "; they are dropped while that lasts");
}

}  // namespace millrace::server
