// Callers that wait for their answer where they submitted.
#pragma once

#include <span>

#include "device/host/host_queue.h"
#include "engine/request_state.h"

namespace millrace {

/// A caller that does nothing until its answer is there. While it lives, its thread may do the
/// batch of the request that it submits by itself, where a host device runs it: that costs no wake,
/// and the answer is there when the batch is done.
class WaitingCaller {
 public:
  WaitingCaller() noexcept;
  ~WaitingCaller();
  WaitingCaller(const WaitingCaller&) = delete;
  WaitingCaller& operator=(const WaitingCaller&) = delete;

  /// Notes that the calling thread submits `state`, if it is a waiting caller.
  static void submits(const RequestState& state) noexcept;
  /// Whether the calling thread waits for one of these.
  [[nodiscard]] static bool waits_for(std::span<RequestState* const> requests) noexcept;
  /// Does the batch, if it is for this thread.
  void help() noexcept { hand_.help(); }

 private:
  WaitingCaller* const outer_;
  const RequestState* state_ = nullptr;
  HelpingHand hand_{HelpingHand::Own()};
};

}  // namespace millrace
