#include "engine/waiting_caller.h"

#include <algorithm>
#include <utility>

namespace millrace {
namespace {

thread_local WaitingCaller* caller = nullptr;

}  // namespace

WaitingCaller::WaitingCaller() noexcept : outer_(std::exchange(caller, this)) {}

WaitingCaller::~WaitingCaller() { caller = outer_; }

void WaitingCaller::submits(const RequestState& state) noexcept {
  if (caller && !caller->state_) caller->state_ = &state;
}

bool WaitingCaller::waits_for(std::span<RequestState* const> requests) noexcept {
  return caller && std::find(requests.begin(), requests.end(), caller->state_) != requests.end();
}

}  // namespace millrace
