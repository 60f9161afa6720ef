// Requests and their answers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <millrace/inline_vector.h>
#include <millrace/tensor.h>

namespace millrace {

/// A tensor by the name that the model gives it (see "millrace inspect").
///
/// As an input: with a lease, the memory is used where it lies and must not change until the lease
/// is dropped. Without one, it is only borrowed: it must stay valid and unchanged until the answer
/// comes, and where the answer is an error with `ErrorCode::unavailable` about a lane that hangs,
/// for as long as the engine lives; give a lease where that matters.
///
/// Host memory that is pageable or strided is copied by `submit`, unless its `ready` event is not
/// reached by then: no thread waits for it, and a lane's stream copies it when it is. Memory of a
/// GPU may have gaps between rows; borrowed memory of a GPU that is not there is an
/// invalid_argument.
struct NamedTensor {
  std::string name;
  TensorView view;
  Lease lease;
};

/// Where an output goes.
enum class OutputPlacement : std::uint8_t {
  automatic,  // host memory of the engine's pool, held by the response's lease
  device,     // stays on the device that computed it; the response's view has a ready event
  target,     // into `RequestedOutput::target`
};

struct RequestedOutput {
  std::string name;
  OutputPlacement placement = OutputPlacement::automatic;
  /// For OutputPlacement::target: contiguous memory of the caller's, of the output's type and at
  /// least its size. Not for BYTES.
  TensorView target;
  Lease lease;
};

/// Requests of one sequence are to run in order on one lane. No backend supports this yet: a
/// request with a non-zero id is refused by name.
struct Sequence {
  std::uint64_t id = 0;
  bool start = false;
  bool end = false;
};

struct Request {
  /// Every input of the model, once. Along the batch axis all have the same number of items, at
  /// least 1 and at most the model's maximum.
  InlineVector<NamedTensor, 2> inputs;
  /// The outputs wanted; empty: all, placed automatically.
  InlineVector<RequestedOutput, 2> outputs;
  /// Among requests of one model: larger first.
  int priority = 0;
  /// Work not started by then is dropped with deadline_exceeded.
  std::optional<TimePoint> deadline;
  /// Echoed in the response.
  std::string id;
  /// The callback takes some microseconds and blocks on nothing: a thread that serves others may
  /// run it.
  bool brief_callback = false;
  Sequence sequence;
  /// The open loop's intended send time: when set, `RequestTimes::submitted` and the latency
  /// histograms count from here.
  std::optional<TimePoint> intended;
};

/// When a request passed each point, on the host's clock.
struct RequestTimes {
  TimePoint submitted;
  TimePoint picked;
  TimePoint staged;
  TimePoint completed;
};

struct Response {
  std::string id;
  /// In the order asked for, else in the model's. The views lie in memory that their leases hold;
  /// the outputs of requests that ran in one batch may share a block, which is reused when all have
  /// gone.
  InlineVector<NamedTensor, 2> outputs;
  RequestTimes times;
  DeviceId device;  // that computed it
  int lane = 0;
  std::int64_t batch_items = 0;  // of the batch it ran in

  /// Null when there is no output of that name.
  [[nodiscard]] const NamedTensor* find(std::string_view name) const noexcept {
    for (const NamedTensor& output : outputs) {
      if (output.name == name) return &output;
    }
    return nullptr;
  }
};

/// Called once per response of a request (`last` on the final one; today's models answer once), on
/// a thread of the engine's executor, never within `submit`; with `Request::brief_callback` perhaps
/// on a thread of the server's, or at the end of a `Burst`. It may submit; what it submits may
/// start only when it returns. It should not block. An exception from it is caught and logged.
using Callback = std::function<void(Result<Response> response, bool last)>;

/// For a thread that has several requests at hand: while it lives, what the thread submits goes to
/// the devices together, at its end or after some 30 us, as one batch where it fits and with one
/// wake-up instead of one each. At its end the thread may do short batches of host devices itself,
/// and run callbacks that are brief (`Request::brief_callback`): hold no lock then that one may
/// want. Whoever waits for a future has submitted all first. Of nested ones the outermost counts.
/// Stays on its thread.
class Burst {
 public:
  Burst() noexcept;
  ~Burst();
  Burst(const Burst&) = delete;
  Burst& operator=(const Burst&) = delete;

 private:
  bool outermost_;
};

class RequestState;

/// A submitted request: lets its owner take it back. Copyable; may outlive the engine.
class Ticket {
 public:
  Ticket() noexcept = default;
  /// True when the request had not started: it is answered with `ErrorCode::cancelled`. False when
  /// it is running or answered; then nothing changes.
  bool cancel() noexcept;

 private:
  friend class Future;
  friend class EngineAccess;
  explicit Ticket(Lease lease, RequestState* state) noexcept
      : lease_(std::move(lease)), state_(state) {}
  Lease lease_;
  RequestState* state_ = nullptr;
};

/// The one response to come. Movable, used by one thread at a time; dropping it does not cancel.
class Future {
 public:
  Future() noexcept = default;
  explicit operator bool() const noexcept { return ticket_.state_ != nullptr; }
  [[nodiscard]] bool ready() const noexcept;
  void wait() const noexcept;
  /// Whether it is ready by `until`.
  [[nodiscard]] bool wait_until(TimePoint until) const noexcept;
  /// Waits, then hands the response over; once.
  [[nodiscard]] Result<Response> get();
  /// As `Ticket::cancel`.
  bool cancel() noexcept { return ticket_.cancel(); }

 private:
  friend class EngineAccess;
  explicit Future(Ticket ticket) noexcept : ticket_(std::move(ticket)) {}
  Ticket ticket_;
};

}  // namespace millrace
