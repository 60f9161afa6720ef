#include "client/http_message.h"

#include <algorithm>
#include <cstring>

#include "base/text.h"
#include "base/try.h"
#include "server/http/json.h"
#include "server/http/json_tensor.h"
#include "server/wire_bytes.h"

namespace millrace::client {
namespace {

using server::append_json_number;
using server::append_json_string;
using server::JsonReader;
using server::RegionSlice;

constexpr std::size_t kMostErrorText = 500;

Error broken(std::string what) {
  return {ErrorCode::internal, "the server's answer cannot be read: " + std::move(what)};
}

const RequestedOutput* asked_for(const Request& request, std::string_view name) {
  const auto found = std::find_if(request.outputs.begin(), request.outputs.end(),
                                  [name](const RequestedOutput& o) { return o.name == name; });
  return found == request.outputs.end() ? nullptr : &*found;
}

void append_region(std::string& json, const RegionSlice& slice) {
  json += "\"shared_memory_region\":";
  append_json_string(json, slice.region);
  json += ",\"shared_memory_offset\":";
  append_json_number(json, std::uint64_t{slice.offset});
  json += ",\"shared_memory_byte_size\":";
  append_json_number(json, std::uint64_t{slice.bytes});
}

Result<void> append_input(InferBody& body, const NamedTensor& input, const RegionTable& regions) {
  std::string& json = body.json;
  json += "{\"name\":";
  append_json_string(json, input.name);
  json += concat(",\"datatype\":\"", input.view.type, "\",\"shape\":[", join(input.view.shape, ","),
                 "],\"parameters\":{");
  if (!input.view.contiguous()) {
    return Error{ErrorCode::invalid_argument,
                 concat("input ", quote(input.name), " is strided; expected contiguous memory")};
  }
  if (input.view.type == DataType::bytes) {
    std::string& rows = body.made.emplace_back(server::wire_bytes_size(input.view), '\0');
    server::write_wire_bytes(input.view, reinterpret_cast<std::byte*>(rows.data()));
    body.pieces.push_back({rows.data(), rows.size()});
  } else {
    MILLRACE_ASSIGN(const std::size_t bytes, input.view.bytes());
    if (const auto slice = regions.find(input.view.data, bytes, input.view.device)) {
      append_region(json, *slice);
      json += "}}";
      return {};
    }
    if (input.view.device.kind != DeviceKind::host) {
      return Error{ErrorCode::invalid_argument,
                   concat("input ", quote(input.name), " lies on ", to_string(input.view.device),
                          " and in no registered region; expected host memory")};
    }
    body.pieces.push_back({input.view.data, bytes});
  }
  json += "\"binary_data_size\":";
  append_json_number(json, std::uint64_t{body.pieces.back().bytes});
  json += "}}";
  return {};
}

Result<void> append_output(std::string& json, const RequestedOutput& output,
                           const RegionTable& regions) {
  json += "{\"name\":";
  append_json_string(json, output.name);
  json += ",\"parameters\":{";
  std::optional<RegionSlice> slice;
  if (output.placement == OutputPlacement::target) {
    MILLRACE_ASSIGN(const std::size_t bytes, output.target.bytes());
    slice = regions.find(output.target.data, bytes, output.target.device);
  }
  if (slice) {
    append_region(json, *slice);
  } else {
    json += "\"binary_data\":true";
  }
  json += "}}";
  return {};
}

void append_parameters(std::string& json, const Request& request) {
  json += "\"parameters\":{\"binary_data_output\":true";
  if (request.priority != 0) {
    json += ",\"priority\":";
    append_json_number(json, std::int64_t{request.priority});
  }
  json += '}';
}

// What the JSON says of one output.
struct AnsweredOutput {
  server::CallInput tensor;  // name, type, shape, and the data that the JSON has
  std::optional<std::uint64_t> binary_bytes;
  bool region = false;
};

bool read_output_parameters(JsonReader& json, AnsweredOutput& output) {
  std::string_view key;
  if (!json.begin_object()) return false;
  while (json.next_key(key)) {
    if (key == "binary_data_size") {
      if (!json.read_unsigned(output.binary_bytes.emplace())) return false;
    } else {
      output.region |= key == "shared_memory_region";
      if (!json.skip()) return false;
    }
  }
  return json.ok();
}

bool read_output(JsonReader& json, AnsweredOutput& output) {
  std::string_view key;
  std::optional<JsonReader> data;
  if (!json.begin_object()) return false;
  while (json.next_key(key)) {
    bool good = true;
    if (key == "name") {
      good = json.read_string(output.tensor.name);
    } else if (key == "datatype") {
      std::string_view text;
      if (!json.read_string(text)) return false;
      const Result<DataType> type = parse_data_type(text);
      if (!type.ok()) return json.fail(type.error().message);
      output.tensor.type = *type;
    } else if (key == "shape") {
      if (!json.begin_array()) return false;
      while (json.next_element()) {
        std::int64_t size = 0;
        if (!json.read_integer(size)) return false;
        if (size < 0 || output.tensor.shape.rank() == kMaxRank) return json.fail("no such shape");
        output.tensor.shape.push_back(size);
      }
    } else if (key == "parameters") {
      good = read_output_parameters(json, output);
    } else {
      if (key == "data") data.emplace(json);  // read when type and shape are known
      good = json.skip();
    }
    if (!good) return false;
  }
  if (!json.ok() || !data) return json.ok();
  return read_json_tensor(*data, output.tensor) || json.fail(data->error().message);
}

Result<std::vector<AnsweredOutput>> read_outputs(std::string_view text, std::string& id) {
  JsonReader json(text);
  std::vector<AnsweredOutput> outputs;
  std::string_view key;
  json.begin_object();
  while (json.next_key(key)) {
    if (key == "id") {
      json.read_string(id);
    } else if (key == "outputs") {
      json.begin_array();
      while (json.next_element()) {
        if (!read_output(json, outputs.emplace_back())) break;
      }
    } else {
      json.skip();
    }
  }
  if (!json.finish()) return broken(json.error().message);
  return outputs;
}

// The tensor of an output with its data: in the body's next bytes, in the JSON, or in a region.
Result<NamedTensor> tensor_of(AnsweredOutput& output, std::string_view& binary, const Lease& body,
                              const Request& request) {
  server::CallInput& tensor = output.tensor;
  NamedTensor out;
  out.name = tensor.name;
  if (output.region) {
    const RequestedOutput* const asked = asked_for(request, out.name);
    if (!asked) return broken(concat("output ", quote(out.name), " in a region unasked"));
    out.view = TensorView::of(tensor.type, asked->target.data, tensor.shape, asked->target.device);
    out.lease = asked->lease;
    return out;
  }
  if (!output.binary_bytes) {
    if (!tensor.tensor) return broken(concat("output ", quote(out.name), " has no data"));
    out.view = tensor.tensor->view();
    out.lease = tensor.tensor->lease();
    return out;
  }
  if (*output.binary_bytes > binary.size()) {
    return broken(concat("output ", quote(out.name), " is to have ", *output.binary_bytes,
                         " bytes, ", binary.size(), " are left"));
  }
  const std::string_view data = binary.substr(0, *output.binary_bytes);
  binary.remove_prefix(data.size());
  if (tensor.type == DataType::bytes) {
    MILLRACE_ASSIGN(const Tensor texts,
                    server::read_wire_bytes(std::as_bytes(std::span(data)), tensor.shape,
                                            concat("output ", quote(out.name))));
    out.view = texts.view();
    out.lease = texts.lease();
    return out;
  }
  MILLRACE_ASSIGN(const std::size_t expected, byte_count(tensor.type, tensor.shape));
  if (data.size() != expected) {
    return broken(concat("output ", quote(out.name), " of ", tensor.type, " ", tensor.shape,
                         " has ", data.size(), " bytes, not ", expected));
  }
  out.view = TensorView::of(tensor.type, data.data(), tensor.shape);
  out.lease = body;
  return out;
}

}  // namespace

Result<InferBody> write_request(const Request& request, const RegionTable& regions) {
  InferBody body;
  body.made.reserve(request.inputs.size());  // pieces point into them
  body.json.reserve(384);
  body.json += '{';
  if (!request.id.empty()) {
    body.json += "\"id\":";
    append_json_string(body.json, request.id);
    body.json += ',';
  }
  append_parameters(body.json, request);
  body.json += ",\"inputs\":[";
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    if (i > 0) body.json += ',';
    MILLRACE_TRY(append_input(body, request.inputs[i], regions));
  }
  body.json += ']';
  if (!request.outputs.empty()) {
    body.json += ",\"outputs\":[";
    for (std::size_t i = 0; i < request.outputs.size(); ++i) {
      if (i > 0) body.json += ',';
      MILLRACE_TRY(append_output(body.json, request.outputs[i], regions));
    }
    body.json += ']';
  }
  body.json += '}';
  body.bytes = body.json.size();
  for (const InferBody::Piece& piece : body.pieces) body.bytes += piece.bytes;
  return body;
}

Result<Response> read_answer(std::string body, std::optional<std::size_t> json_bytes,
                             const Request& request) {
  auto kept = std::make_shared<const std::string>(std::move(body));
  const Lease lease = Lease::share(kept);
  const std::string_view all = *kept;
  const std::size_t json = json_bytes.value_or(all.size());
  if (json > all.size()) {
    return broken(concat("its JSON is to have ", json, " bytes, the body has ", all.size()));
  }
  Response response;
  MILLRACE_ASSIGN(std::vector<AnsweredOutput> outputs,
                  read_outputs(all.substr(0, json), response.id));
  std::string_view binary = all.substr(json);
  for (AnsweredOutput& output : outputs) {
    MILLRACE_ASSIGN(NamedTensor tensor, tensor_of(output, binary, lease, request));
    if (!output.region) MILLRACE_TRY(deliver(tensor, request));
    response.outputs.push_back(std::move(tensor));
  }
  if (!binary.empty()) return broken(concat(binary.size(), " bytes belong to no output"));
  return response;
}

std::string error_text(std::string_view body) {
  JsonReader json(body);
  std::string_view key;
  std::string text;
  if (json.peek() == JsonReader::Kind::object && json.begin_object()) {
    while (json.next_key(key)) {
      const bool read = key == "error" ? json.read_string(text) : json.skip();
      if (!read) break;
    }
  }
  if (json.ok() && !text.empty()) return text;
  return std::string(body.substr(0, kMostErrorText));
}

Result<void> deliver(NamedTensor& output, const Request& request) {
  const RequestedOutput* const asked = asked_for(request, output.name);
  if (!asked || asked->placement != OutputPlacement::target) return {};
  MILLRACE_ASSIGN(const std::size_t bytes, output.view.bytes());
  MILLRACE_ASSIGN(const std::size_t room, asked->target.bytes());
  if (bytes > room || output.view.type != asked->target.type ||
      asked->target.device.kind != DeviceKind::host) {
    return broken(concat("output ", quote(output.name), " of ", output.view.type, " ",
                         output.view.shape, " does not fit its target of ", asked->target.type, " ",
                         asked->target.shape));
  }
  if (bytes > 0) std::memcpy(asked->target.data, output.view.data, bytes);
  output.view.data = asked->target.data;
  output.lease = asked->lease;
  return {};
}

}  // namespace millrace::client
