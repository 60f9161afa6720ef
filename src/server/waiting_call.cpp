#include "server/waiting_call.h"

#include <cstring>

#include "base/try.h"

namespace millrace::server {

bool WaitingCall::begin() {
  const std::lock_guard lock(mutex_);
  begun_ = true;
  return !cancelled_;
}

void WaitingCall::submitted(Ticket ticket) {
  bool cancelled = false;
  {
    const std::lock_guard lock(mutex_);
    ticket_ = ticket;
    cancelled = cancelled_;
  }
  if (cancelled) ticket.cancel();
}

bool WaitingCall::cancel() noexcept {
  Ticket ticket;
  bool begun = false;
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    begun = begun_;
    ticket = ticket_;
  }
  return begun ? ticket.cancel() : repository_.give_up(id_);
}

Result<void> keep_inputs(Call& call) {
  for (CallInput& input : call.inputs) {
    if (!input.raw || input.raw_lease) continue;
    const auto [data, bytes] = *input.raw;
    MILLRACE_ASSIGN(const Tensor copy,
                    Tensor::allocate(DataType::uint8, {static_cast<std::int64_t>(bytes)}));
    if (bytes > 0) std::memcpy(copy.view().data, data, bytes);
    input.raw = {copy.view().data, bytes};
    input.raw_lease = copy.lease();
  }
  return {};
}

}  // namespace millrace::server
