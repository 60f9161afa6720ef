#include "server/grpc/infer_request.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/text.h"
#include "base/try.h"
#include "server/grpc/typed_contents.h"

namespace millrace::server {
namespace {

Error malformed(std::string_view where) {
  return {ErrorCode::invalid_argument,
          concat("malformed ", where, ": it is cut off, or not a message of that kind")};
}

Error wrong_input(const CallInput& input, std::string_view what) {
  return {ErrorCode::invalid_argument, concat("input ", quote(input.name), ": ", what)};
}

/// What an input says of itself besides what the call holds.
struct InputDetails {
  WireBytes contents;
  Parameters parameters;
};

/// The whole request, its tensors not yet looked at.
struct RawRequest {
  Call call;
  std::vector<InputDetails> details;  // of each input
  std::vector<WireBytes> raw;
};

Result<void> read_value(Pieces pieces, const WireBytes& bytes, const std::string& name,
                        std::optional<Parameter>& value) {
  WireReader reader(pieces, bytes);
  while (reader.next()) {
    switch (reader.field()) {
      case 1:
        value = reader.varint() != 0;
        break;
      case 2:
        value = static_cast<std::int64_t>(reader.varint());
        break;
      case 3:
        value = reader.text();
        break;
      case 4:
        value = std::bit_cast<double>(reader.fixed64());
        break;
      case 5: {
        const std::uint64_t number = reader.varint();
        if (number > std::numeric_limits<std::int64_t>::max()) {
          return Error{ErrorCode::invalid_argument,
                       concat("parameter ", quote(name), ": ", number,
                              " is more than a signed 64-bit number holds")};
        }
        value = static_cast<std::int64_t>(number);
        break;
      }
      default:
        reader.skip();
    }
  }
  if (!reader.ok()) return malformed("parameter");
  return {};
}

/// One entry of a map of parameters; one without a value is passed over.
Result<void> read_parameter(Pieces pieces, const WireBytes& entry, Parameters& parameters) {
  WireReader reader(pieces, entry);
  std::string name;
  std::optional<Parameter> value;
  while (reader.next()) {
    if (reader.field() == 1) {
      name = reader.text();
    } else if (reader.field() == 2) {
      MILLRACE_TRY(read_value(pieces, reader.bytes(), name, value));
    } else {
      reader.skip();
    }
  }
  if (!reader.ok()) return malformed("parameter");
  if (value) parameters.set(std::move(name), *std::move(value));
  return {};
}

/// One dimension, or those of a packed field.
Result<void> read_shape(Pieces pieces, WireReader& reader, CallInput& input) {
  std::size_t rank = input.shape.rank();
  const auto add = [&](std::uint64_t size) {
    if (++rank <= kMaxRank) input.shape.push_back(static_cast<std::int64_t>(size));
  };
  if (reader.type() == WireType::varint) {
    add(reader.varint());
  } else {
    WireReader sizes(pieces, reader.bytes());
    while (sizes.more()) add(sizes.number());
    if (!sizes.ok()) return malformed("shape");
  }
  if (rank > kMaxRank) {
    return Error{ErrorCode::unsupported, concat("input ", quote(input.name), ": its shape has ",
                                                "more than ", kMaxRank, " dimensions")};
  }
  return {};
}

Result<void> read_type(std::string_view name, CallInput& input) {
  for (const DataType type : all_data_types()) {
    if (to_string(type) != name) continue;
    input.type = type;
    return {};
  }
  return wrong_input(input, concat("unknown datatype ", quote(name), ", expected one of ",
                                   join(all_data_types(), ", ")));
}

Result<void> read_input(Pieces pieces, const WireBytes& bytes, RawRequest& request) {
  CallInput& input = request.call.inputs.emplace_back();
  InputDetails& details = request.details.emplace_back();
  std::string type;
  WireReader reader(pieces, bytes);
  while (reader.next()) {
    switch (reader.field()) {
      case 1:
        input.name = reader.text();
        break;
      case 2:
        type = reader.text();
        break;
      case 3:
        MILLRACE_TRY(read_shape(pieces, reader, input));
        break;
      case 4:
        MILLRACE_TRY(read_parameter(pieces, reader.bytes(), details.parameters));
        break;
      case 5:
        if (details.contents.size > 0) return wrong_input(input, "it has contents twice");
        details.contents = reader.bytes();
        break;
      default:
        reader.skip();
    }
  }
  if (!reader.ok()) return malformed("input");
  return read_type(type, input);
}

Result<std::int64_t> read_integer(const Parameters& parameters, std::string_view name,
                                  std::int64_t otherwise) {
  const Parameter* found = parameters.find(name);
  if (!found) return otherwise;
  const auto* number = std::get_if<std::int64_t>(found);
  if (number && *number >= 0) return *number;
  return Error{ErrorCode::invalid_argument,
               concat("parameter ", quote(name), ": expected a number of 0 or more")};
}

/// The shared memory that the parameters of a tensor name; none where they name none.
Result<std::optional<RegionSlice>> read_region(const Parameters& parameters) {
  const Parameter* found = parameters.find("shared_memory_region");
  if (!found) return std::optional<RegionSlice>();
  const auto* region = std::get_if<std::string>(found);
  if (!region) {
    return Error{ErrorCode::invalid_argument,
                 "parameter \"shared_memory_region\": expected the name of a region"};
  }
  if (!parameters.find("shared_memory_byte_size")) {
    return Error{ErrorCode::invalid_argument,
                 concat("shared memory region ", quote(*region),
                        ": expected the parameter \"shared_memory_byte_size\" with it")};
  }
  MILLRACE_ASSIGN(const auto bytes, read_integer(parameters, "shared_memory_byte_size", 0));
  MILLRACE_ASSIGN(const auto offset, read_integer(parameters, "shared_memory_offset", 0));
  return std::optional(
      RegionSlice{*region, static_cast<std::size_t>(offset), static_cast<std::size_t>(bytes)});
}

Result<void> read_output(Pieces pieces, const WireBytes& bytes, Call& call) {
  CallOutput& output = call.outputs.emplace_back();
  Parameters parameters;
  WireReader reader(pieces, bytes);
  while (reader.next()) {
    if (reader.field() == 1) {
      output.name = reader.text();
    } else if (reader.field() == 2) {
      MILLRACE_TRY(read_parameter(pieces, reader.bytes(), parameters));
    } else {
      reader.skip();
    }
  }
  if (!reader.ok()) return malformed("output");
  MILLRACE_ASSIGN(output.classes, read_integer(parameters, "classification", 0));
  MILLRACE_ASSIGN(output.region, read_region(parameters));
  return {};
}

Result<void> check_count(std::size_t count, std::string_view what) {
  if (count < kMaxTensors) return {};
  return Error{ErrorCode::invalid_argument,
               concat("a request has at most ", kMaxTensors, " ", what)};
}

Result<void> read_fields(Pieces message, RawRequest& request) {
  Call& call = request.call;
  WireReader reader(message);
  while (reader.next()) {
    switch (reader.field()) {
      case 1:
        call.model = reader.text();
        break;
      case 2:
        call.version = reader.text();
        break;
      case 3:
        call.id = reader.text();
        break;
      case 4:
        MILLRACE_TRY(read_parameter(message, reader.bytes(), call.parameters));
        break;
      case 5:
        MILLRACE_TRY(check_count(call.inputs.size(), "inputs"));
        MILLRACE_TRY(read_input(message, reader.bytes(), request));
        break;
      case 6:
        MILLRACE_TRY(check_count(call.outputs.size(), "outputs"));
        MILLRACE_TRY(read_output(message, reader.bytes(), call));
        break;
      case 7:
        MILLRACE_TRY(check_count(request.raw.size(), "entries in raw_input_contents"));
        request.raw.push_back(reader.bytes());
        break;
      default:
        reader.skip();
    }
  }
  if (!reader.ok()) return malformed("ModelInferRequest");
  return {};
}

/// Where an input's elements go that do not lie in one piece.
Result<Tensor> room(const std::string& model, const CallInput& input, std::size_t bytes,
                    const ReceiveBuffer& receive) {
  MILLRACE_ASSIGN(Tensor tensor, receive(model, bytes));
  tensor.view().type = input.type;
  tensor.view().shape = input.shape;
  tensor.view().strides = {};
  return tensor;
}

Result<void> take_raw_bytes(Pieces message, const WireBytes& bytes, CallInput& input) {
  MILLRACE_ASSIGN(const Tensor block,
                  Tensor::allocate(DataType::uint8, {static_cast<std::int64_t>(bytes.size)}));
  copy(message, bytes, block.view().data);
  input.raw = {block.view().data, bytes.size};
  input.raw_lease = block.lease();
  return {};
}

Result<void> take_raw(Pieces message, const WireBytes& bytes, const std::string& model,
                      CallInput& input, const ReceiveBuffer& receive) {
  const bool varies = input.type == DataType::bytes;
  const auto expected = byte_count(input.type, input.shape);
  if (!expected) return wrong_input(input, expected.error().message);
  if (!varies && *expected != bytes.size) {
    return wrong_input(input, concat("expected ", *expected, " bytes in raw_input_contents for ",
                                     input.type, " ", input.shape, ", got ", bytes.size));
  }
  if (const auto whole = in_one_piece(message, bytes)) {
    input.raw = {whole->data(), whole->size()};
    return {};
  }
  if (varies) return take_raw_bytes(message, bytes, input);
  MILLRACE_ASSIGN(input.tensor, room(model, input, bytes.size, receive));
  copy(message, bytes, input.tensor->view().data);
  return {};
}

Result<void> take_typed(Pieces message, const WireBytes& contents, const std::string& model,
                        CallInput& input, const ReceiveBuffer& receive) {
  const auto count = element_count(input.shape);
  if (!count) return wrong_input(input, count.error().message);
  const TypedContents typed{message, contents, input.type, *count};
  if (const auto checked = check(typed); !checked) {
    return wrong_input(input, checked.error().message);
  }
  if (input.type == DataType::bytes) {
    MILLRACE_ASSIGN(
        const Tensor block,
        Tensor::allocate(DataType::uint8, {static_cast<std::int64_t>(wire_bytes_size(typed))}));
    const std::size_t size = copy_wire_bytes(typed, block.view().data);
    input.raw = {block.view().data, size};
    input.raw_lease = block.lease();
    return {};
  }
  const std::size_t bytes = static_cast<std::size_t>(*count) * size_of(input.type);
  MILLRACE_ASSIGN(input.tensor, room(model, input, bytes, receive));
  if (const auto copied = copy_elements(typed, input.tensor->view().data); !copied) {
    return wrong_input(input, copied.error().message);
  }
  return {};
}

Result<void> take_inputs(Pieces message, RawRequest& request, const ReceiveBuffer& receive) {
  Call& call = request.call;
  std::size_t in_message = 0;
  for (std::size_t i = 0; i < call.inputs.size(); ++i) {
    MILLRACE_ASSIGN(call.inputs[i].region, read_region(request.details[i].parameters));
    if (!call.inputs[i].region) ++in_message;
  }
  const bool raw = !request.raw.empty();
  if (raw && request.raw.size() != in_message) {
    return Error{ErrorCode::invalid_argument,
                 concat("expected ", in_message,
                        " entries in raw_input_contents, one for each input that is not in shared "
                        "memory, got ",
                        request.raw.size())};
  }
  std::size_t next = 0;
  for (std::size_t i = 0; i < call.inputs.size(); ++i) {
    CallInput& input = call.inputs[i];
    const WireBytes& contents = request.details[i].contents;
    if (contents.size > 0 && (raw || input.region)) {
      return wrong_input(
          input, concat("it has contents, and ",
                        raw ? "the request has raw_input_contents" : "a shared memory region",
                        "; expected one of them"));
    }
    if (input.region) continue;
    if (raw) {
      MILLRACE_TRY(take_raw(message, request.raw[next++], call.model, input, receive));
    } else {
      MILLRACE_TRY(take_typed(message, contents, call.model, input, receive));
    }
  }
  return {};
}

}  // namespace

Result<Call> read_infer_request(Pieces message, const ReceiveBuffer& receive) {
  RawRequest request;
  MILLRACE_TRY(read_fields(message, request));
  MILLRACE_TRY(take_inputs(message, request, receive));
  return std::move(request.call);
}

RequestNames read_request_names(Pieces message) {
  RequestNames names;
  WireReader reader(message);
  while (reader.next()) {
    if (reader.field() == 1) {
      names.model = reader.text();
    } else if (reader.field() == 3) {
      names.id = reader.text();
    } else {
      reader.skip();
    }
  }
  return names;
}

}  // namespace millrace::server
