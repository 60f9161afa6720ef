// Sends requests to a model, here or on a server, as users would, and counts what comes back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <millrace/engine.h>
#include <millrace/model.h>

#include "cli/bench_inputs.h"
#include "cli/load_target.h"

namespace millrace::cli {

/// How requests arrive.
enum class Arrival : std::uint8_t {
  callbacks,  // closed loop: each callback sends its request again
  blocking,   // closed loop: one thread, one request, which waits for the answer
  poisson,    // open loop: at random times that do not depend on the answers
};

struct LoadOptions {
  Place place = Place::automatic;
  /// With Place::device: all inputs lie there, and outputs stay where they are computed. Otherwise
  /// inputs lie on the devices of the model in turn.
  std::optional<DeviceId> data_on;
  /// That runs the model; outlives the load. Null: all is pageable.
  const Engine* engine = nullptr;
  Arrival arrival = Arrival::callbacks;
  /// Closed loop: requests in flight.
  int concurrency = 1;
  /// Open loop: requests per second on average.
  double rate = 0;
  /// The most requests in flight of an open loop: a full queue of the default size, and what is on
  /// the way.
  int most_open = 65536 + 1024;
  std::int64_t request_items = 1;
  std::uint64_t seed = 1;
  /// Whether a full queue counts as a failure, in `first_error`.
  bool refusals_fail = true;
  /// One answer in this many is compared with the reference.
  int check_every = 64;
};

/// What came back in a stretch of time.
struct Tally {
  Histogram latency;  // nanoseconds, of what succeeded: to the callback, from the sending or, in an
                      // open loop, from the time it was meant to be sent
  Histogram lateness;          // open loop: from the time meant to the time sent
  std::uint64_t requests = 0;  // succeeded
  std::uint64_t items = 0;     // of those
  std::uint64_t errors = 0;    // failed, refused, or answered wrongly
  std::uint64_t refused = 0;   // of those: the queue was full
  std::uint64_t checked = 0;

  void merge(const Tally& other);
};

/// Sends in the background between `start` and `stop`. Through the public interface only. Each
/// request in flight of a closed loop has input memory of its own; in an open loop the requests go
/// round over 1,024 buffers (fewer where that would take more than 256 MiB). Once it runs, it
/// allocates nothing per request.
///
/// `start`, `take` and `stop` are for one thread.
class LoadGenerator {
 public:
  /// Makes the buffers, and asks the model for the answer to each distinct content (up to 256, or
  /// as many as a second allows), one at a time. Errors: those of the inputs and of the model.
  [[nodiscard]] static Result<std::unique_ptr<LoadGenerator>> make(
      std::unique_ptr<LoadTarget> target, const BenchInputs& inputs, const LoadOptions& options);
  /// On a model of the engine that the options name.
  [[nodiscard]] static Result<std::unique_ptr<LoadGenerator>> make(const Model& model,
                                                                   const BenchInputs& inputs,
                                                                   const LoadOptions& options);
  /// Stops.
  ~LoadGenerator();
  LoadGenerator(const LoadGenerator&) = delete;
  LoadGenerator& operator=(const LoadGenerator&) = delete;

  void start();
  /// What came back since the last call. Sends again what could not be sent.
  [[nodiscard]] Tally take();
  /// Sends no more and waits for what is in flight. Errors: deadline_exceeded.
  [[nodiscard]] Result<void> stop(Duration timeout = std::chrono::seconds(60));

  /// Of the first request that failed or was answered wrongly; empty when none was.
  [[nodiscard]] std::string first_error() const;
  [[nodiscard]] LoadTarget& target() noexcept;
  /// Requests sent or being sent whose answer has not come.
  [[nodiscard]] int in_flight() const noexcept;

 private:
  class State;
  explicit LoadGenerator(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace millrace::cli
