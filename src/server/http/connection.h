// One connection: requests are read and answered one after the other.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "server/http/control.h"
#include "server/http/core.h"
#include "server/http/head.h"
#include "server/http/infer.h"
#include "server/http/route.h"
#include "server/http/tls.h"

namespace millrace::server {

/// Served by its I/O thread, except that whoever has the answer sends it as far as the socket takes
/// it. Reading goes on when an answer is sent, so that pipelined requests wait in the socket.
class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  enum class Kind : std::uint8_t { everything, metrics };

  /// Takes over `socket`, which does not block; `peer` is who is at its other end.
  Connection(std::shared_ptr<ServerCore> core, IoThread& thread, int socket, std::string peer,
             Kind kind);
  ~Connection();

  // On the I/O thread.
  void start();
  /// What epoll says of its socket, once for each change.
  void happened(std::uint32_t events);
  /// Looks at timeouts, and whether the server drains.
  void look(TimePoint now);
  void stop();

  /// Its place in the thread's list.
  std::size_t index = 0;

 private:
  enum class State : std::uint8_t {
    handshake,
    head,      // no request, or the beginning of one
    body,      // between the head and the last byte
    handling,  // the service has it; whoever answers owns the request's members
    sending,
    lingering,  // answered for the last time; what still comes is thrown away
    closing,    // only to be closed by the I/O thread
    closed,
  };
  // What is being received, and what is done when it is there.
  enum class Part : std::uint8_t {
    small,   // all of the body into the read buffer
    whole,   // all of it into memory of its own
    json,    // the JSON of an inference into the read buffer or memory of its own
    inputs,  // binary data into the inputs
    raw,     // a body that is all binary data into the input
    chunks,  // of unknown length
  };
  struct Place {
    char* data = nullptr;
    std::size_t bytes = 0;
  };
  using Lock = std::unique_lock<std::mutex>;

  // Reading, with the lock held. Each answers whether to go on at once.
  void run(Lock& lock);
  bool do_handshake();
  bool do_head(Lock& lock);
  bool do_body(Lock& lock);
  bool do_linger();
  bool read_places();
  bool read_chunks();
  // More into the read buffer; false: wait, or the connection is closing.
  bool fill_buffer();
  Moved receive(std::span<iovec> into);
  bool wait_or_close(const Moved& moved);
  void look_for_hang_up();
  void look_at_time(Lock& lock, TimePoint now);

  // The request, on the I/O thread with the lock held.
  bool head_done(Lock& lock);
  [[nodiscard]] std::optional<Reply> objection() const;
  [[nodiscard]] std::optional<Reply> unauthorized(const EndpointTraits& traits) const;
  bool plan_body();
  bool plan_infer();
  bool plan_memory(std::size_t bytes);
  void send_continue();
  bool part_done(Lock& lock);
  bool json_done(std::string_view json);
  bool body_done(Lock& lock, std::string_view body, Lease lease);
  bool infer_body(Lock& lock, std::string_view body, const Lease& lease);
  Result<void> inflate(std::string_view& body, Lease& lease);
  Result<char*> prepare_raw(std::size_t bytes);
  Result<void> place_inputs();
  bool submit(Lock& lock);
  bool control(Lock& lock, std::string_view body);
  bool refuse(Reply reply);
  bool refuse(const Error& error) { return refuse(error_reply(error)); }

  // Answering: by whoever has the answer.
  std::uint64_t begin_handling();
  void answer(Result<Answer>&& answer, std::uint64_t sequence);
  void respond(Reply reply, std::uint64_t sequence);
  void write_reply(Reply reply);
  void write_head(int status, std::string_view type, std::size_t bytes, const Reply* reply);
  void write_encoding();
  // With the lock held.
  [[nodiscard]] std::shared_ptr<Connection> deliver(std::uint64_t sequence);
  void send_some();
  void sent();
  void report();
  void request_over();
  std::size_t pieces_left(std::span<iovec> into) const;

  // With the lock held; `close` on the I/O thread.
  void post_run();
  void close();

  const std::shared_ptr<ServerCore> core_;
  IoThread& thread_;
  const int descriptor_;
  const Kind kind_;
  const std::string peer_;

  std::mutex mutex_;
  // Guarded by mutex_.
  State state_ = State::head;
  bool running_ = false;  // `run` is, and sees what changes
  // Told once, so it is remembered until the socket says otherwise.
  bool may_read_ = false;   // the socket may have something
  bool may_write_ = false;  // the socket may take something
  bool ended_ = false;      // behind what the socket has there is its end
  bool gone_ = false;       // the peer sends no more
  TimePoint gone_since_;
  std::unique_ptr<TlsSession> tls_;
  std::unique_ptr<char[]> buffer_;  // null while there is nothing in it
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  TimePoint since_;             // of what the timeouts count
  std::size_t progress_ = 0;    // bytes since then
  std::uint64_t sequence_ = 0;  // of the request that is handled
  CallTicket ticket_;
  std::shared_ptr<Connection> self_;  // while it is handled

  // The request: the I/O thread's, and while it is handled the answerer's.
  std::optional<RequestParser> parser_;
  RequestHead head_;
  Route route_;
  std::string chunks_;
  bool keep_alive_ = true;
  bool started_ = false;  // something of the head is there
  Part part_ = Part::small;
  std::size_t need_ = 0;    // bytes of `small` and `json` in the buffer; 0: in memory_
  std::size_t length_ = 0;  // of the body
  std::size_t unread_ = 0;  // of it; at most what is there, for chunks
  std::unique_ptr<char[]> memory_;
  std::vector<Place> places_;
  std::size_t place_ = 0;
  InferRequest infer_;
  std::size_t reserved_ = 0;
  TimePoint arrived_;
  RequestTracePtr trace_;

  // The answer.
  int status_ = 0;
  std::string out_head_;
  AnswerBody out_;
  std::optional<Answer> answer_;
  std::string encoded_;  // the body instead, compressed
  std::size_t out_bytes_ = 0;
  std::size_t sent_ = 0;
  TimePoint answered_;
};

}  // namespace millrace::server
