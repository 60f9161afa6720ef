#include "server/grpc/infer_answer.h"

#include <cstddef>
#include <utility>

#include "server/grpc/wire.h"
#include "server/wire_bytes.h"

namespace millrace::server {
namespace {

void put_parameter(std::string& out, std::uint32_t field, std::string_view name,
                   const Parameter& value) {
  put_message(out, field, [&] {
    put_bytes(out, 1, name);
    put_message(out, 2, [&] {
      if (const auto* flag = std::get_if<bool>(&value)) {
        put_varint(out, 1, *flag ? 1 : 0);
      } else if (const auto* number = std::get_if<std::int64_t>(&value)) {
        put_varint(out, 2, static_cast<std::uint64_t>(*number));
      } else if (const auto* text = std::get_if<std::string>(&value)) {
        put_bytes(out, 3, *text);
      } else {
        put_double(out, 4, std::get<double>(value));
      }
    });
  });
}

void put_region(std::string& out, const RegionSlice& region) {
  put_parameter(out, 4, "shared_memory_region", region.region);
  put_parameter(out, 4, "shared_memory_byte_size", static_cast<std::int64_t>(region.bytes));
  if (region.offset > 0) {
    put_parameter(out, 4, "shared_memory_offset", static_cast<std::int64_t>(region.offset));
  }
}

void put_output(std::string& out, const AnsweredOutput& output) {
  put_message(out, 5, [&] {
    put_bytes(out, 1, output.name);
    put_bytes(out, 2, to_string(output.type));
    if (!output.shape.empty()) {
      put_message(out, 3, [&] {
        for (const std::int64_t size : output.shape) {
          put_number(out, static_cast<std::uint64_t>(size));
        }
      });
    }
    if (output.region) put_region(out, *output.region);
  });
}

void put_elements(std::string& out, const TensorView& view) {
  const std::size_t size = wire_bytes_size(view);
  put_head(out, 6, size);
  const std::size_t at = out.size();
  out.resize(at + size);
  write_wire_bytes(view, reinterpret_cast<std::byte*>(out.data() + at));
}

void put_data(Message& message, AnsweredOutput& output) {
  std::string& out = message.back().bytes;
  if (output.region) return put_head(out, 6, 0);
  if (output.type == DataType::bytes) return put_elements(out, output.view);
  const auto bytes = byte_count(output.type, output.shape);
  const std::size_t size = bytes.ok() ? *bytes : 0;
  put_head(out, 6, size);
  if (size < kCopiedOutputBytes) {
    out.append(static_cast<const char*>(output.view.data), size);
    return;
  }
  message.push_back({{}, output.view.data, size, std::move(output.lease)});
  message.emplace_back();
}

}  // namespace

Message write_infer_answer(Answer&& answer) {
  Message message(1);
  std::string& out = message.front().bytes;
  out.reserve(256);
  put_bytes(out, 1, answer.model);
  put_bytes(out, 2, answer.version);
  if (!answer.id.empty()) put_bytes(out, 3, answer.id);
  for (const auto& [name, value] : answer.parameters) put_parameter(out, 4, name, value);
  for (const AnsweredOutput& output : answer.outputs) put_output(out, output);
  for (AnsweredOutput& output : answer.outputs) put_data(message, output);
  if (message.back().bytes.empty() && message.size() > 1) message.pop_back();
  return message;
}

Message write_stream_answer(Answer&& answer) {
  Message message = write_infer_answer(std::move(answer));
  std::size_t size = 0;
  for (const MessagePart& part : message) size += part.view().size();
  std::string head;
  put_head(head, 2, size);
  message.front().bytes.insert(0, head);
  return message;
}

Message write_stream_error(const Error& error, std::string_view model, std::string_view id) {
  Message message(1);
  std::string& out = message.front().bytes;
  put_bytes(out, 1, error.message);
  put_message(out, 2, [&] {
    put_bytes(out, 1, model);
    if (!id.empty()) put_bytes(out, 3, id);
  });
  return message;
}

}  // namespace millrace::server
