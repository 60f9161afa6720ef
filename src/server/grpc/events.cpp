#include "server/grpc/events.h"

#include <utility>

#include <grpc/slice_buffer.h>

#include "base/log.h"

namespace millrace::server {
namespace {

void drop_lease(void* counted) {
  Lease lease = Lease::adopt(static_cast<Lease::Counted*>(counted));
  lease.reset();
}

grpc_slice to_slice(MessagePart& part) {
  if (part.data && part.lease) {
    return grpc_slice_new_with_user_data(const_cast<void*>(part.data), part.size, drop_lease,
                                         part.lease.release());
  }
  const std::string_view bytes = part.view();
  return grpc_slice_from_copied_buffer(bytes.data(), bytes.size());
}

}  // namespace

std::string_view Metadata::find(std::string_view name) const noexcept {
  for (std::size_t i = 0; i < array_.count; ++i) {
    if (to_view(array_.metadata[i].key) == name) return to_view(array_.metadata[i].value);
  }
  return {};
}

std::vector<std::string_view> pieces_of(const grpc_byte_buffer& buffer) {
  const grpc_slice_buffer& slices = buffer.data.raw.slice_buffer;
  std::vector<std::string_view> pieces;
  pieces.reserve(slices.count);
  for (std::size_t i = 0; i < slices.count; ++i) {
    if (GRPC_SLICE_LENGTH(slices.slices[i]) > 0) pieces.push_back(to_view(slices.slices[i]));
  }
  return pieces;
}

BufferHandle to_buffer(Message&& message) {
  BufferHandle buffer(grpc_raw_byte_buffer_create(nullptr, 0));
  for (MessagePart& part : message) {
    grpc_slice_buffer_add(&buffer->data.raw.slice_buffer, to_slice(part));
  }
  return buffer;
}

std::optional<TimePoint> to_time_point(gpr_timespec deadline) noexcept {
  if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0) return {};
  const gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
  constexpr std::int64_t kForeverSeconds = 1'000'000'000;  // what a clock can still add
  if (left.tv_sec > kForeverSeconds) return {};
  return Clock::now() + std::chrono::seconds(left.tv_sec) + std::chrono::nanoseconds(left.tv_nsec);
}

grpc_op& Batch::add(grpc_op_type type) noexcept {
  grpc_op& operation = operations_[count_++];
  operation.op = type;
  return operation;
}

Batch& Batch::send_initial_metadata(bool compress) noexcept {
  grpc_op& operation = add(GRPC_OP_SEND_INITIAL_METADATA);
  if (compress) {
    operation.data.send_initial_metadata.maybe_compression_level.is_set = 1;
    operation.data.send_initial_metadata.maybe_compression_level.level = GRPC_COMPRESS_LEVEL_LOW;
  }
  return *this;
}

Batch& Batch::send_message(grpc_byte_buffer* buffer) noexcept {
  add(GRPC_OP_SEND_MESSAGE).data.send_message.send_message = buffer;
  return *this;
}

Batch& Batch::send_status(int status, const grpc_slice* details,
                          std::span<grpc_metadata> trailing) noexcept {
  grpc_op& operation = add(GRPC_OP_SEND_STATUS_FROM_SERVER);
  operation.data.send_status_from_server.status = static_cast<grpc_status_code>(status);
  operation.data.send_status_from_server.status_details = const_cast<grpc_slice*>(details);
  operation.data.send_status_from_server.trailing_metadata = trailing.data();
  operation.data.send_status_from_server.trailing_metadata_count = trailing.size();
  return *this;
}

Batch& Batch::receive_message(grpc_byte_buffer** buffer) noexcept {
  add(GRPC_OP_RECV_MESSAGE).data.recv_message.recv_message = buffer;
  return *this;
}

Batch& Batch::receive_close(int* cancelled) noexcept {
  add(GRPC_OP_RECV_CLOSE_ON_SERVER).data.recv_close_on_server.cancelled = cancelled;
  return *this;
}

void Batch::start(grpc_call* call, Event& event) noexcept {
  const grpc_call_error error =
      grpc_call_start_batch(call, operations_.data(), count_, event.tag(), nullptr);
  if (error != GRPC_CALL_OK) {  // a defect of ours: the event will not happen
    log_error("gRPC refused to start a batch: ", grpc_call_error_to_string(error));
  }
}

}  // namespace millrace::server
