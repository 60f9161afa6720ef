#include "server/http/connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <new>
#include <span>

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/http/error.hpp>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "server/bearer.h"
#include "server/http/date.h"
#include "server/status.h"

namespace millrace::server {
namespace {

using boost::beast::error_code;

constexpr std::size_t kMaxPieces = 64;  // of one system call
// An answer of so few bytes is copied behind its head: the system takes one piece faster than
// three.
constexpr std::size_t kSmallAnswer = 1024;
constexpr std::size_t kLingerBytes = std::size_t{1} << 20;
constexpr Duration kLinger = std::chrono::seconds(2);
constexpr std::size_t kUnknown = static_cast<std::size_t>(-1);
// So long is waited before a request is cancelled whose caller sends no more: it may only have
// closed its side.
constexpr Duration kHangUpGrace = std::chrono::milliseconds(100);
constexpr Duration kLongestTimeout = std::chrono::hours(24 * 365);

// Or its end.
bool something_in(int socket) {
  char byte = 0;
  return ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

bool over(TimePoint now, TimePoint since, Duration limit) {
  return limit > Duration::zero() && now - since > limit;
}

}  // namespace

Connection::Connection(std::shared_ptr<ServerCore> core, IoThread& thread, int socket,
                       std::string peer, Kind kind)
    : core_(std::move(core)),
      thread_(thread),
      descriptor_(socket),
      kind_(kind),
      peer_(std::move(peer)) {}

Connection::~Connection() {
  if (state_ != State::closed) ::close(descriptor_);  // it was never started
}

void Connection::start() {
  Lock lock(mutex_);
  since_ = Clock::now();
  if (!thread_.sockets.add(descriptor_, this)) {
    state_ = State::closing;
  } else if (core_->tls && kind_ == Kind::everything) {
    tls_ = TlsSession::make(*core_->tls, descriptor_);
    state_ = tls_ ? State::handshake : State::closing;
  }
  may_read_ = true;
  run(lock);
}

void Connection::stop() {
  CallTicket ticket;
  {
    const Lock lock(mutex_);
    if (state_ == State::handling) ticket = ticket_;
    close();
  }
  ticket.cancel();  // may answer
}

// --- Reading ---

void Connection::run(Lock& lock) {
  running_ = true;
  for (bool on = true; on;) {
    switch (state_) {
      case State::handshake:
        on = do_handshake();
        break;
      case State::head:
        on = do_head(lock);
        break;
      case State::body:
        on = do_body(lock);
        break;
      case State::handling:
        if (begin_ == end_) thread_.put_buffer(std::move(buffer_));  // whoever waits needs none
        if (ended_ && !gone_) look_for_hang_up();
        on = false;
        break;
      case State::sending:
        on = may_write_;
        if (on) send_some();
        break;
      case State::lingering:
        on = do_linger();
        break;
      case State::closing:
        close();
        break;
      case State::closed:
        on = false;
        break;
    }
  }
  running_ = false;
}

void Connection::happened(std::uint32_t events) {
  constexpr std::uint32_t kOver = EPOLLRDHUP | EPOLLHUP | EPOLLERR;
  Lock lock(mutex_);
  if ((events & (EPOLLIN | kOver)) != 0) may_read_ = true;
  if ((events & (EPOLLOUT | kOver)) != 0) may_write_ = true;
  if ((events & kOver) != 0) ended_ = true;
  run(lock);
}

// While the service has a request.
void Connection::look_for_hang_up() {
  char byte = 0;
  const ssize_t got = ::recv(descriptor_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR))) return;
  gone_ = true;
  gone_since_ = got == 0 ? Clock::now() : TimePoint::min();
}

Moved Connection::receive(std::span<iovec> into) {
  std::size_t room = 0;
  for (const iovec& place : into) room += place.iov_len;
  const Moved moved = tls_ ? tls_->receive(into) : receive_plain(descriptor_, into);
  // A read that left room took all there was; but TLS gives a record at a time.
  may_read_ = moved.status == Moved::Status::some &&
              (moved.bytes == room || ended_ || (tls_ && something_in(descriptor_)));
  progress_ += moved.bytes;
  return moved;
}

// After a read that brought nothing. Always false.
bool Connection::wait_or_close(const Moved& moved) {
  const bool wait =
      moved.status == Moved::Status::want_read || moved.status == Moved::Status::want_write;
  if (!wait) close();
  return false;
}

bool Connection::do_handshake() {
  const Moved moved = tls_->handshake();
  if (moved.status != Moved::Status::some) return wait_or_close(moved);
  state_ = State::head;
  since_ = Clock::now();
  return true;
}

bool Connection::fill_buffer() {
  if (begin_ == end_) {
    begin_ = end_ = 0;
    if (!may_read_ && !(tls_ && tls_->pending())) {
      thread_.put_buffer(std::move(buffer_));
      return false;
    }
  }
  if (!buffer_) buffer_ = thread_.take_buffer();
  if (begin_ > 0 && end_ == thread_.buffer_bytes) {
    std::copy(buffer_.get() + begin_, buffer_.get() + end_, buffer_.get());
    end_ -= begin_;
    begin_ = 0;
  }
  iovec place{buffer_.get() + end_, thread_.buffer_bytes - end_};
  const Moved moved = receive({&place, 1});
  if (moved.status == Moved::Status::some) {
    end_ += moved.bytes;
    return true;
  }
  if (begin_ == end_) thread_.put_buffer(std::move(buffer_));
  return wait_or_close(moved);
}

bool Connection::do_head(Lock& lock) {
  if (begin_ == end_ && !fill_buffer()) return false;
  const bool first = !std::exchange(started_, true);
  if (first) {
    length_ = 0;
    route_.model.clear();
    head_.clear();
    parser_.emplace(head_, chunks_);
    parser_->header_limit(static_cast<std::uint32_t>(core_->options.max_header_bytes));
    parser_->body_limit(core_->options.max_body_bytes);
  }
  error_code error;
  begin_ += parser_->put(boost::asio::buffer(buffer_.get() + begin_, end_ - begin_), error);
  if (parser_->is_header_done() && !error) return head_done(lock);
  if (first) arrived_ = since_ = Clock::now();
  if (error && error != boost::beast::http::error::need_more) {
    unread_ = kUnknown;
    const HeadError problem = head_error(error);
    return refuse(error_reply(problem.status, problem.message));
  }
  if (begin_ == 0 && end_ == thread_.buffer_bytes) {
    unread_ = kUnknown;
    return refuse(error_reply(431, "the head of the request is too long"));
  }
  return fill_buffer();
}

bool Connection::do_body(Lock& lock) {
  bool there = false;
  if (part_ == Part::chunks) {
    there = read_chunks();
  } else if (need_ > 0 || part_ == Part::small) {
    while (end_ - begin_ < need_) {
      if (!fill_buffer()) return false;
    }
    there = true;
  } else {
    there = read_places();
  }
  if (!there || state_ != State::body) return state_ != State::body && state_ != State::closed;
  return part_done(lock);
}

// First what is in the buffer, then from the socket right where it belongs.
bool Connection::read_places() {
  while (place_ < places_.size()) {
    Place& place = places_[place_];
    if (begin_ < end_) {
      const std::size_t bytes = std::min(place.bytes, end_ - begin_);
      std::copy_n(buffer_.get() + begin_, bytes, place.data);
      begin_ += bytes;
      place.data += bytes;
      place.bytes -= bytes;
      unread_ -= bytes;
    }
    if (place.bytes == 0) {
      ++place_;
      continue;
    }
    iovec into[kMaxPieces];
    std::size_t count = 0;
    for (std::size_t i = place_; i < places_.size() && count < kMaxPieces; ++i) {
      into[count++] = {places_[i].data, places_[i].bytes};
    }
    const Moved moved = receive({into, count});
    if (moved.status != Moved::Status::some) return wait_or_close(moved);
    unread_ -= moved.bytes;
    for (std::size_t left = moved.bytes; left > 0;) {
      Place& filled = places_[place_];
      const std::size_t bytes = std::min(left, filled.bytes);
      filled.data += bytes;
      filled.bytes -= bytes;
      left -= bytes;
      if (filled.bytes == 0) ++place_;
    }
  }
  return true;
}

bool Connection::read_chunks() {
  while (true) {
    if (begin_ < end_) {
      error_code error;
      const std::size_t used =
          parser_->put(boost::asio::buffer(buffer_.get() + begin_, end_ - begin_), error);
      begin_ += used;
      if (error && error != boost::beast::http::error::need_more) {
        const HeadError problem = head_error(error);
        return refuse(error_reply(problem.status, problem.message));
      }
      if (chunks_.size() > std::max(reserved_, thread_.buffer_bytes)) {
        const std::size_t more = std::max(chunks_.size() - reserved_, chunks_.size() / 2);
        if (!core_->reserve(more)) {
          return refuse(error_reply(503, "too many bytes of requests in flight; try again later"));
        }
        reserved_ += more;
      }
      if (parser_->is_done()) {
        unread_ = 0;
        return true;
      }
      if (!error) continue;
      if (begin_ == 0 && end_ == thread_.buffer_bytes) {
        return refuse(error_reply(400, "a chunk whose head is too long"));
      }
    }
    if (!fill_buffer()) return false;
  }
}

bool Connection::do_linger() {
  char thrown_away[16384];
  iovec place{thrown_away, sizeof thrown_away};
  begin_ = end_ = 0;
  if (progress_ > kLingerBytes) {
    close();
    return false;
  }
  const Moved moved = receive({&place, 1});
  return moved.status == Moved::Status::some || wait_or_close(moved);
}

// --- Waiting and the end ---

void Connection::post_run() {
  boost::asio::post(thread_.context, [self = shared_from_this()] {
    Lock lock(self->mutex_);
    self->run(lock);
  });
}

void Connection::close() {
  if (state_ == State::closed) return;
  const bool handling = state_ == State::handling;
  state_ = State::closed;
  if (tls_) tls_->shut_down();
  thread_.sockets.remove(descriptor_);
  ::close(descriptor_);
  if (!handling) request_over();  // else by whoever answers
  thread_.put_buffer(std::move(buffer_));
  std::vector<std::shared_ptr<Connection>>& list = thread_.connections;
  list[index].swap(list.back());
  list[index]->index = index;
  thread_.closed.push_back(std::move(list.back()));
  list.pop_back();
  core_->leave();
}

void Connection::look(TimePoint now) {
  CallTicket ticket;
  {
    Lock lock(mutex_);
    if (state_ == State::handling) {
      if (gone_ && now > gone_since_ + kHangUpGrace) ticket = ticket_;
    } else {
      look_at_time(lock, now);
    }
  }
  ticket.cancel();  // may answer
}

void Connection::look_at_time(Lock& lock, TimePoint now) {
  const HttpOptions& options = core_->options;
  const Duration slow =
      options.body_timeout +
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(
          static_cast<double>(progress_) / static_cast<double>(options.slowest_rate)));
  const Duration body = options.body_timeout > Duration::zero() ? slow : Duration::zero();
  bool late = false;
  switch (state_) {
    case State::handshake:
      late = over(now, since_, options.header_timeout);
      break;
    case State::head:
      late = started_ ? over(now, since_, options.header_timeout)
                      : over(now, since_, options.idle_timeout);
      if (!started_ && (late || core_->draining.load(std::memory_order_relaxed))) return close();
      break;
    case State::body:
    case State::sending:
      late = over(now, since_, body);
      break;
    case State::lingering:
      if (over(now, since_, kLinger)) close();
      break;
    case State::handling:
    case State::closing:
    case State::closed:
      break;
  }
  if (!late) return;
  core_->counters.timeouts.fetch_add(1, std::memory_order_relaxed);
  if (state_ != State::head && state_ != State::body) return close();
  unread_ = kUnknown;
  refuse(error_reply(408, "the request did not come in time"));
  run(lock);
}

// --- The request ---

bool Connection::head_done(Lock& lock) {
  arrived_ = Clock::now();
  keep_alive_ = parser_->keep_alive();
  find_route(head_.target, route_);
  length_ = 0;
  if (const auto length = parser_->content_length_remaining()) length_ = *length;
  unread_ = parser_->chunked() ? kUnknown : length_;
  if (std::optional<Reply> reply = objection()) {
    // Where such a request ends may be seen differently by whoever forwarded it.
    if (head_.status != 0 || head_.hosts != 1) unread_ = kUnknown;
    return refuse(std::move(*reply));
  }
  if (route_.endpoint == Endpoint::infer) {
    trace_ = core_->service.begin_trace(route_.model, head_.traceparent, "http", arrived_);
  }
  state_ = State::body;
  since_ = arrived_;
  progress_ = 0;
  if (!plan_body()) return true;
  if (part_ == Part::small && end_ - begin_ >= need_) return part_done(lock);
  send_continue();
  return true;
}

std::optional<Reply> Connection::objection() const {
  if (head_.status != 0) return error_reply(head_.status, head_.problem);
  if (head_.hosts > 1 || (head_.hosts == 0 && head_.version > 10)) {
    return error_reply(400, "expected one Host field in the head of the request");
  }
  const EndpointTraits traits = server::traits(route_.endpoint);
  const bool served = kind_ == Kind::metrics ? route_.endpoint == Endpoint::metrics
                                             : core_->options.metrics != nullptr ||
                                                   route_.endpoint != Endpoint::metrics;
  if (route_.endpoint == Endpoint::none || !served) {
    return error_reply(404, concat("there is nothing at ", quote(head_.target),
                                   "; see /openapi.json for what there is"));
  }
  if (head_.method == Method::options) {
    Reply reply{.status = 204, .body = {}};
    reply.allow = traits.allowed;
    return reply;
  }
  const bool reads = head_.method == Method::get || head_.method == Method::head;
  if (reads ? !traits.get : head_.method != Method::post || !traits.post) {
    Reply reply = error_reply(405, concat(quote(head_.target), " takes ", traits.allowed, ", not ",
                                          quote(head_.method_text)));
    reply.allow = traits.allowed;
    return reply;
  }
  return kind_ == Kind::metrics ? std::nullopt : unauthorized(traits);
}

std::optional<Reply> Connection::unauthorized(const EndpointTraits& traits) const {
  if (traits.open) return std::nullopt;
  const HttpOptions& options = core_->options;
  switch (admission(head_.authorization, traits.control, options.tokens, options.control_tokens)) {
    case Admission::admitted:
      return std::nullopt;
    case Admission::not_allowed:
      return error_reply(403, "this token does not allow that");
    case Admission::unknown:
      break;
  }
  Reply reply =
      error_reply(401, "expected \"Authorization: Bearer TOKEN\" with a token known here");
  reply.ask_for_token = true;
  return reply;
}

// Decides where the body goes. False: it was refused.
bool Connection::plan_body() {
  need_ = 0;
  place_ = 0;
  if (parser_->chunked()) {
    part_ = Part::chunks;
    parser_->eager(true);
    return true;
  }
  const std::size_t room = thread_.buffer_bytes;
  if (length_ <= room) {
    part_ = Part::small;
    need_ = length_;
    if (begin_ + need_ > room) {
      std::copy(buffer_.get() + begin_, buffer_.get() + end_, buffer_.get());
      end_ -= begin_;
      begin_ = 0;
    }
    return true;
  }
  if (!core_->reserve(length_)) {
    Reply reply = error_reply(503, "too many bytes of requests in flight; try again later");
    reply.retry_after_s = 1;
    return refuse(std::move(reply)), false;
  }
  reserved_ = length_;
  if (route_.endpoint == Endpoint::infer && head_.encoding == Encoding::identity) {
    return plan_infer();
  }
  part_ = Part::whole;
  return plan_memory(length_);
}

bool Connection::plan_memory(std::size_t bytes) {
  memory_.reset(new (std::nothrow) char[bytes]);
  if (!memory_) {
    refuse(error_reply(503, "no memory for the body of the request"));
    return false;
  }
  places_.push_back({memory_.get(), bytes});
  return true;
}

// Of an inference that is larger than the read buffer.
bool Connection::plan_infer() {
  if (head_.json_bytes == 0U) {
    part_ = Part::raw;
    const Result<char*> data = prepare_raw(length_);
    if (!data.ok()) return refuse(data.error()), false;
    places_.push_back({*data, length_});
    return true;
  }
  if (!head_.json_bytes) {
    part_ = Part::whole;
    return plan_memory(length_);
  }
  const std::uint64_t bytes = *head_.json_bytes;
  if (bytes > length_) {
    refuse(error_reply(400, concat("Inference-Header-Content-Length is ", bytes,
                                   ", but the body has only ", length_, " bytes")));
    return false;
  }
  part_ = Part::json;
  if (bytes > thread_.buffer_bytes) return plan_memory(bytes);
  need_ = bytes;
  if (begin_ + need_ > thread_.buffer_bytes) {
    std::copy(buffer_.get() + begin_, buffer_.get() + end_, buffer_.get());
    end_ -= begin_;
    begin_ = 0;
  }
  return true;
}

void Connection::send_continue() {
  if (!head_.expects_continue || begin_ < end_) return;
  constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  iovec place{const_cast<char*>(kContinue.data()), kContinue.size()};
  const Moved moved = tls_ ? tls_->send({&place, 1}) : send_plain(descriptor_, {&place, 1});
  if (moved.bytes != kContinue.size()) state_ = State::closing;
}

bool Connection::part_done(Lock& lock) {
  const char* in_buffer = buffer_ ? buffer_.get() + begin_ : nullptr;
  switch (part_) {
    case Part::small:
      begin_ += need_;
      unread_ = 0;
      return body_done(lock, {in_buffer, need_}, {});
    case Part::whole:
      return body_done(lock, {memory_.get(), length_}, {});
    case Part::json:
      begin_ += need_;
      unread_ -= need_;
      return json_done({need_ > 0 ? in_buffer : memory_.get(), *head_.json_bytes});
    case Part::inputs:
    case Part::raw:
      return submit(lock);
    case Part::chunks:
      break;
  }
  if (chunks_.size() <= thread_.buffer_bytes) return body_done(lock, chunks_, {});
  auto owned = std::make_shared<std::string>(std::move(chunks_));
  chunks_ = {};
  const std::string_view body = *owned;
  return body_done(lock, body, Lease::share(std::move(owned)));
}

// The JSON of an inference whose binary data comes next.
bool Connection::json_done(std::string_view json) {
  infer_.call.model = route_.model;
  Result<void> read = read_infer(json, length_ - json.size(), infer_);
  if (read.ok()) read = place_inputs();
  if (!read.ok()) return refuse(read.error());
  part_ = Part::inputs;
  need_ = 0;
  return true;
}

// Memory for each binary input, such that its devices read it where it is.
Result<void> Connection::place_inputs() {
  places_.clear();
  place_ = 0;
  for (std::size_t i = 0; i < infer_.call.inputs.size(); ++i) {
    const std::size_t bytes = infer_.binary_bytes[i];
    if (bytes == kNotBinary) continue;
    CallInput& input = infer_.call.inputs[i];
    if (bytes == 0) {
      input.raw.emplace(nullptr, 0);
      continue;
    }
    MILLRACE_ASSIGN(Tensor memory, core_->service.receive_buffer(route_.model, bytes));
    input.raw.emplace(memory.view().data, bytes);
    input.raw_lease = memory.lease();
    places_.push_back({static_cast<char*>(memory.view().data), bytes});
  }
  return {};
}

// For a body that is one input's data: where it goes.
Result<char*> Connection::prepare_raw(std::size_t bytes) {
  MILLRACE_ASSIGN(const ModelMetadata model,
                  core_->service.model_metadata(route_.model, route_.version));
  if (model.inputs.size() != 1) {
    return Error{ErrorCode::invalid_argument,
                 concat("model ", quote(route_.model), " has ", model.inputs.size(),
                        " inputs: a body of nothing but data is for models with one")};
  }
  MILLRACE_TRY(read_raw_infer(model.inputs[0], bytes, infer_));
  CallInput& input = infer_.call.inputs[0];
  const bool strings = input.type == DataType::bytes;
  if (strings && bytes > 0xFFFFFFFFU) {
    return Error{ErrorCode::invalid_argument, "a BYTES element has less than 4 GiB"};
  }
  const auto length = static_cast<std::uint32_t>(bytes);
  const std::size_t before = strings ? sizeof length : 0;
  MILLRACE_ASSIGN(Tensor memory, core_->service.receive_buffer(route_.model, before + bytes));
  char* data = static_cast<char*>(memory.view().data);
  if (strings) std::copy_n(reinterpret_cast<const char*>(&length), sizeof length, data);
  input.raw.emplace(data, before + bytes);
  input.raw_lease = memory.lease();
  return data + before;
}

Result<void> Connection::inflate(std::string_view& body, Lease& lease) {
  if (head_.encoding == Encoding::identity) return {};
  Result<std::string> plain =
      decompress(body, head_.encoding, core_->options.max_body_bytes, [this](std::size_t bytes) {
        if (!core_->reserve(bytes)) return false;
        reserved_ += bytes;
        return true;
      });
  if (!plain.ok()) return std::move(plain).error();
  auto owned = std::make_shared<std::string>(std::move(*plain));
  body = *owned;
  lease = Lease::share(std::move(owned));
  return {};
}

bool Connection::body_done(Lock& lock, std::string_view body, Lease lease) {
  if (const Result<void> done = inflate(body, lease); !done.ok()) {
    const ErrorCode code = done.error().code;
    return refuse(error_reply(code == ErrorCode::unsupported  ? 413
                              : code == ErrorCode::queue_full ? 503
                                                              : http_status(code),
                              done.error().message));
  }
  if (route_.endpoint == Endpoint::infer) return infer_body(lock, body, lease);
  return control(lock, body);
}

// An inference that is all there.
bool Connection::infer_body(Lock& lock, std::string_view body, const Lease& lease) {
  if (head_.json_bytes == 0U) {
    const Result<char*> data = prepare_raw(body.size());
    if (!data.ok()) return refuse(data.error());
    std::copy(body.begin(), body.end(), *data);
    return submit(lock);
  }
  std::optional<std::size_t> binary;
  std::string_view json = body;
  if (head_.json_bytes) {
    if (*head_.json_bytes > body.size()) {
      return refuse(
          error_reply(400, concat("Inference-Header-Content-Length is ", *head_.json_bytes,
                                  ", but the body has only ", body.size(), " bytes")));
    }
    json = body.substr(0, *head_.json_bytes);
    binary = body.size() - json.size();
  }
  if (const Result<void> read = read_infer(json, binary, infer_); !read.ok()) {
    return refuse(read.error());
  }
  bind_binary(infer_, body.data() + json.size(), lease);
  return submit(lock);
}

std::uint64_t Connection::begin_handling() {
  state_ = State::handling;
  self_ = shared_from_this();
  ticket_ = {};
  return ++sequence_;
}

bool Connection::submit(Lock& lock) {
  const std::uint64_t sequence = begin_handling();
  Call call = std::move(infer_.call);
  call.model = route_.model;
  call.version = route_.version;
  call.trace = trace_;
  if (head_.timeout) call.deadline = arrived_ + std::min(*head_.timeout, kLongestTimeout);
  lock.unlock();
  Result<CallTicket> ticket =
      core_->service.infer(std::move(call), [this, sequence](Result<Answer>&& result, bool last) {
        if (last) answer(std::move(result), sequence);
      });
  if (!ticket.ok()) {
    answer(std::move(ticket).error(), sequence);
    lock.lock();
    return true;
  }
  lock.lock();
  if (state_ == State::handling && sequence_ == sequence) ticket_ = std::move(*ticket);
  return true;
}

bool Connection::control(Lock& lock, std::string_view body) {
  const std::uint64_t sequence = begin_handling();
  const auto reply = [this](std::string_view text) {
    if (route_.endpoint == Endpoint::metrics) {
      return Reply{.body = core_->options.metrics(), .type = "text/plain; version=0.0.4"};
    }
    return answer_control(core_->service, route_, head_.method, text);
  };
  const auto safely = [reply](std::string_view text) {
    try {
      return reply(text);
    } catch (const std::exception& error) {
      return error_reply(500, error.what());
    }
  };
  if (traits(route_.endpoint).slow) {
    boost::asio::post(core_->slow, [this, safely, sequence, text = std::string(body)] {
      respond(safely(text), sequence);
    });
    return true;
  }
  lock.unlock();
  respond(safely(body), sequence);
  lock.lock();
  return true;
}

// Answers at once; what of the body is not there yet is not waited for.
bool Connection::refuse(Reply reply) {
  if (unread_ <= end_ - begin_) {
    begin_ += unread_;
    unread_ = 0;
  } else {
    keep_alive_ = false;
  }
  const std::uint64_t sequence = begin_handling();
  write_reply(std::move(reply));
  const std::shared_ptr<Connection> keep = deliver(sequence);
  return true;
}

// --- The answer ---

namespace {

std::string_view reason(int status) noexcept {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Other";
  }
}

void append_field(std::string& head, std::string_view name, std::string_view value) {
  head += name;
  head += ": ";
  head += value;
  head += "\r\n";
}

}  // namespace

void Connection::write_head(int status, std::string_view type, std::size_t bytes,
                            const Reply* reply) {
  status_ = status;
  if (core_->draining.load(std::memory_order_relaxed)) keep_alive_ = false;
  std::string& head = out_head_;
  head.clear();
  append_text(head, "HTTP/1.1 ");
  append_text(head, status);
  head += ' ';
  append_text(head, reason(status));
  head += "\r\n";
  head += date_field();
  if (status != 204) {
    if (bytes > 0) append_field(head, "Content-Type", type);
    if (out_.binary) {
      append_text(head, "Inference-Header-Content-Length: ");
      append_text(head, out_.json.size());
      head += "\r\n";
    }
    if (!encoded_.empty()) append_field(head, "Content-Encoding", to_string(head_.accepted));
    append_text(head, "Content-Length: ");
    append_text(head, bytes);
    head += "\r\n";
  }
  if (reply && !reply->allow.empty()) append_field(head, "Allow", reply->allow);
  if (reply && reply->ask_for_token) append_field(head, "WWW-Authenticate", "Bearer");
  if (reply && reply->retry_after_s > 0) {
    append_field(head, "Retry-After", concat(reply->retry_after_s));
  }
  if (trace_) append_field(head, "traceresponse", to_traceparent(trace_->context()));
  if (!keep_alive_) {
    append_field(head, "Connection", "close");
  } else if (head_.version < 11) {
    append_field(head, "Connection", "keep-alive");
  }
  head += "\r\n";
}

// Compresses the body, if the client takes that and it is worth it.
void Connection::write_encoding() {
  if (head_.accepted == Encoding::identity || out_.bytes() < core_->options.compress_from_bytes) {
    return;
  }
  Compressor compressor(head_.accepted);
  compressor.add(out_.json.data(), out_.json.size());
  for (const AnswerBody::Piece& piece : out_.pieces) compressor.add(piece.data, piece.bytes);
  Result<std::string> encoded = compressor.finish();
  if (encoded.ok()) encoded_ = std::move(*encoded);
}

void Connection::write_reply(Reply reply) {
  out_.clear();
  encoded_.clear();
  out_.json = std::move(reply.body);
  write_encoding();
  const std::size_t bytes = encoded_.empty() ? out_.json.size() : encoded_.size();
  write_head(reply.status, reply.type, bytes, &reply);
  if (head_.method == Method::head) {
    out_.json.clear();
    encoded_.clear();
  }
}

void Connection::respond(Reply reply, std::uint64_t sequence) {
  write_reply(std::move(reply));
  std::shared_ptr<Connection> keep;  // until the lock is gone
  const Lock lock(mutex_);
  keep = deliver(sequence);
}

void Connection::answer(Result<Answer>&& answer, std::uint64_t sequence) {
  if (!answer.ok()) return respond(error_reply(answer.error()), sequence);
  answer_.emplace(std::move(*answer));
  out_.clear();
  encoded_.clear();
  const Result<void> written = write_answer(*answer_, infer_.forms, out_);
  if (!written.ok()) return respond(error_reply(written.error()), sequence);
  write_encoding();
  write_head(200, out_.binary ? "application/octet-stream" : "application/json",
             encoded_.empty() ? out_.bytes() : encoded_.size(), nullptr);
  if (encoded_.empty() && out_.bytes() <= kSmallAnswer) {
    out_head_ += out_.json;
    for (const AnswerBody::Piece& piece : out_.pieces) {
      out_head_.append(static_cast<const char*>(piece.data), piece.bytes);
    }
    out_.clear();
  }
  std::shared_ptr<Connection> keep;  // until the lock is gone
  const Lock lock(mutex_);
  keep = deliver(sequence);
}

std::shared_ptr<Connection> Connection::deliver(std::uint64_t sequence) {
  std::shared_ptr<Connection> keep = std::move(self_);
  if (state_ != State::handling || sequence_ != sequence) {  // closed meanwhile
    request_over();
    return keep;
  }
  state_ = State::sending;
  answered_ = since_ = Clock::now();
  progress_ = 0;
  sent_ = 0;
  out_bytes_ = out_head_.size() + (encoded_.empty() ? out_.bytes() : encoded_.size());
  send_some();
  return keep;
}

// What is left to be sent, as far as it fits.
std::size_t Connection::pieces_left(std::span<iovec> into) const {
  std::size_t count = 0;
  std::size_t skip = sent_;
  const auto add = [&](const void* data, std::size_t bytes) {
    if (skip >= bytes) {
      skip -= bytes;
    } else if (count < into.size()) {
      into[count++] = {static_cast<char*>(const_cast<void*>(data)) + skip, bytes - skip};
      skip = 0;
    }
  };
  add(out_head_.data(), out_head_.size());
  if (!encoded_.empty()) {
    add(encoded_.data(), encoded_.size());
    return count;
  }
  add(out_.json.data(), out_.json.size());
  for (const AnswerBody::Piece& piece : out_.pieces) add(piece.data, piece.bytes);
  return count;
}

void Connection::send_some() {
  while (sent_ < out_bytes_) {
    iovec pieces[kMaxPieces];
    const std::span<iovec> left(pieces, pieces_left(pieces));
    may_write_ = false;
    const Moved moved = tls_ ? tls_->send(left) : send_plain(descriptor_, left);
    if (moved.status == Moved::Status::some) {
      sent_ += moved.bytes;
      progress_ += moved.bytes;
    } else if (moved.status == Moved::Status::want_write) {
      return;
    } else {
      state_ = State::closing;
      core_->counters.aborted.fetch_add(1, std::memory_order_relaxed);
      since_ = Clock::now();
      report();
      request_over();
      if (!running_) post_run();
      return;
    }
  }
  sent();
}

// All of the answer is with the system.
void Connection::sent() {
  since_ = Clock::now();
  report();
  request_over();
  if (keep_alive_) {
    state_ = State::head;
    started_ = false;
    const bool more = begin_ < end_ || may_read_ || (tls_ && tls_->pending());
    if (more && !running_) post_run();
    return;
  }
  state_ = State::closing;
  if (unread_ > 0) {  // closing now would take the answer from the caller
    if (tls_) tls_->shut_down();
    ::shutdown(descriptor_, SHUT_WR);
    state_ = State::lingering;
    progress_ = 0;
  }
  if (!running_) post_run();
}

// `since_` is when the answer was sent.
void Connection::report() {
  HttpCounters& counters = core_->counters;
  constexpr auto kRelaxed = std::memory_order_relaxed;
  counters.requests.fetch_add(1, kRelaxed);
  if (status_ >= 400) counters.errors.fetch_add(1, kRelaxed);
  if (const std::size_t place = static_cast<std::size_t>(status_) - HttpCounters::kFirstStatus;
      place < counters.by_status.size()) {
    counters.by_status[place].fetch_add(1, kRelaxed);
  }
  counters.received_bytes.fetch_add(length_, kRelaxed);
  counters.sent_bytes.fetch_add(sent_, kRelaxed);
  if (trace_) trace_->over(status_, status_ >= 400, since_);
  if (!core_->options.on_request) return;
  const std::string traced = trace_ ? to_traceparent(trace_->context()) : std::string();
  HttpAccess access;
  access.method = head_.method_text;
  access.target = head_.target;
  access.model = route_.model;
  access.peer = peer_;
  access.traceparent = trace_ ? traced : head_.traceparent;
  access.status = status_;
  access.received_bytes = length_;
  access.sent_bytes = sent_;
  access.arrived = arrived_;
  access.answered = answered_;
  access.sent = since_;
  if (answer_ && status_ == 200) access.traffic = answer_->traffic.get();
  core_->options.on_request(access);
}

// Gives back what the request held.
void Connection::request_over() {
  constexpr std::size_t kKept = 4096;
  trace_.reset();
  answer_.reset();
  out_.clear();
  if (out_.json.capacity() > kKept) out_.json = {};
  encoded_ = {};
  infer_ = {};
  memory_.reset();
  places_.clear();
  chunks_.clear();
  if (chunks_.capacity() > kKept) chunks_ = {};
  core_->release(std::exchange(reserved_, 0));
}

}  // namespace millrace::server
