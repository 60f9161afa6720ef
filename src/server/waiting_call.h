// Calls of models that were evicted: they wait until the model is back.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "repository/model_repository.h"
#include "server/call.h"

namespace millrace::server {

/// A call that waits for its model, or was submitted since.
class WaitingCall {
 public:
  explicit WaitingCall(ModelRepository& repository) noexcept : repository_(repository) {}
  /// Before anybody may cancel it.
  void waits_as(std::uint64_t id) noexcept { id_ = id; }
  /// False: it was cancelled before.
  [[nodiscard]] bool begin();
  void submitted(Ticket ticket);
  bool cancel() noexcept;

 private:
  ModelRepository& repository_;
  std::uint64_t id_ = 0;
  std::mutex mutex_;
  // Guarded by mutex_.
  bool begun_ = false;
  bool cancelled_ = false;
  Ticket ticket_;
};

/// Takes a call back while it has not started. Copyable; to be let go before the service.
class CallTicket {
 public:
  CallTicket() noexcept = default;
  CallTicket(Ticket ticket) noexcept : ticket_(std::move(ticket)) {}
  explicit CallTicket(std::shared_ptr<WaitingCall> waiting) noexcept
      : waiting_(std::move(waiting)) {}
  /// As Ticket::cancel. May answer.
  bool cancel() noexcept { return waiting_ ? waiting_->cancel() : ticket_.cancel(); }

 private:
  Ticket ticket_;
  std::shared_ptr<WaitingCall> waiting_;
};

/// Of inputs that need only last for the call to `Service::infer`: copies. Errors: out_of_memory.
Result<void> keep_inputs(Call& call);

}  // namespace millrace::server
