// What a supervisor and its worker say to each other.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <millrace/error.h>

#include "server/metrics.h"

namespace millrace::server {

/// What a worker is started with: the descriptors that it inherits, -1 for those that there are
/// not, and what was before it. On its command line it is text: "http=4,metrics=5,grpc=6,...".
struct WorkerStart {
  int http = -1;
  int metrics = -1;
  int grpc = -1;
  int link = -1;  // a stream socket, the other end of which is the supervisor's
  WorkerHistory history;
  /// When the latest worker that served ended; nullopt: none did.
  std::optional<TimePoint> unserved_since;
};
[[nodiscard]] std::string to_string(const WorkerStart& start);
/// Errors: invalid_argument.
[[nodiscard]] Result<WorkerStart> parse_worker_start(std::string_view text);

// A byte each, from the worker to the supervisor. The supervisor answers the first with the same.
// Behind the last comes, to the end, the message of the error that the worker ends with.
inline constexpr char kTakesOver = 'T';  // it accepts connections from the answer on
inline constexpr char kBeat = 'B';       // it serves, and its threads go round
inline constexpr char kFails = 'F';
/// Of such a message: more is cut off.
inline constexpr std::size_t kMostLastWords = 1024;

/// The worker's end. Functions may be called from any thread, one at a time.
class WorkerLink {
 public:
  /// Owns the link's socket; programs that the worker starts inherit none. The worker is ended by
  /// the system when its supervisor is, which works unless the program has privileges of its own;
  /// `supervisor_gone` says so too.
  explicit WorkerLink(const WorkerStart& start) noexcept;
  ~WorkerLink();
  WorkerLink(const WorkerLink&) = delete;
  WorkerLink& operator=(const WorkerLink&) = delete;

  /// Returns when the supervisor does not accept connections any more, with what was before.
  [[nodiscard]] WorkerHistory take_over() noexcept;
  void beat() noexcept;
  /// The last that is said.
  void fail(std::string_view message) noexcept;
  [[nodiscard]] bool supervisor_gone() noexcept;

 private:
  const WorkerStart start_;
  const int socket_;
};

}  // namespace millrace::server
