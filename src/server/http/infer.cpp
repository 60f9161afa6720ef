#include "server/http/infer.h"

#include <algorithm>

#include "base/text.h"
#include "base/try.h"
#include "server/http/json.h"
#include "server/http/json_tensor.h"

namespace millrace::server {
namespace {

Error invalid(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

// Keys of an object that were seen: each may come once.
class Once {
 public:
  explicit Once(JsonReader& json) : json_(json) {}
  bool operator()(unsigned key, std::string_view name) {
    if ((seen_ >> key & 1U) != 0) return json_.fail(concat(quote(name), " is given twice"));
    seen_ |= 1U << key;
    return true;
  }

 private:
  JsonReader& json_;
  unsigned seen_ = 0;
};

bool read_parameter(JsonReader& json, std::string_view key, Parameter& value) {
  std::string_view text;
  switch (json.peek()) {
    case JsonReader::Kind::boolean:
      return json.read_bool(value.emplace<bool>());
    case JsonReader::Kind::string:
      return json.read_string(value.emplace<std::string>());
    case JsonReader::Kind::number: {
      JsonReader ahead = json;
      if (!ahead.read_number(text)) return json.read_number(text);
      if (text.find_first_of(".eE") != std::string_view::npos) {
        return json.read_double(value.emplace<double>());
      }
      return json.read_integer(value.emplace<std::int64_t>());
    }
    default:
      return json.fail(
          concat("parameter ", quote(key), ": expected true, false, a number or a string"));
  }
}

// Walks over a "parameters" object; `take(key)` reads a value that it knows and says so.
template <class Take>
bool read_parameters(JsonReader& json, Take take) {
  std::string_view key;
  if (!json.begin_object()) return false;
  std::size_t count = 0;
  while (json.next_key(key)) {
    if (++count > kMaxTensors) return json.fail("more parameters than anyone needs");
    if (!take(key)) return false;
  }
  return json.ok();
}

// The shared-memory parameters of an input or output.
struct RegionParameters {
  RegionSlice slice;
  bool named = false;
  bool sized = false;
  bool other = false;  // an offset

  // Whether `key` was one of them. Its value has been read, if `json` is ok.
  bool take(JsonReader& json, std::string_view key) {
    std::uint64_t number = 0;
    if (key == "shared_memory_region") {
      named = true;
      json.read_string(slice.region);
    } else if (key == "shared_memory_byte_size") {
      sized = true;
      if (json.read_unsigned(number)) slice.bytes = number;
    } else if (key == "shared_memory_offset") {
      other = true;
      if (json.read_unsigned(number)) slice.offset = number;
    } else {
      return false;
    }
    return true;
  }
  bool finish(JsonReader& json, std::optional<RegionSlice>& into) {
    if (!named && !sized && !other) return true;
    if (!named || slice.region.empty()) {
      return json.fail("\"shared_memory_region\" is missing beside the other parameters of it");
    }
    if (!sized) return json.fail("\"shared_memory_byte_size\" is missing");
    into = std::move(slice);
    return true;
  }
};

bool read_type(JsonReader& json, DataType& type) {
  std::string_view text;
  if (!json.read_string(text)) return false;
  for (const DataType known : all_data_types()) {
    if (to_string(known) == text) {
      type = known;
      return true;
    }
  }
  return json.fail(concat("datatype ", quote(text), " is not known; the types are ",
                          join(all_data_types(), ", ")));
}

bool read_shape(JsonReader& json, Shape& shape) {
  if (!json.begin_array()) return false;
  while (json.next_element()) {
    std::int64_t size = 0;
    if (!json.read_integer(size)) return false;
    if (size < 0) return json.fail(concat("a shape with the negative size ", size));
    if (shape.rank() == kMaxRank) {
      return json.fail(concat("a shape with more than ", kMaxRank, " dimensions"));
    }
    shape.push_back(size);
  }
  return json.ok();
}

// One object of "inputs".
class InputReader {
 public:
  InputReader(JsonReader& json, std::optional<std::size_t> binary, CallInput& input,
              std::size_t& binary_bytes)
      : json_(json), once_(json), binary_(binary), input_(input), bytes_(binary_bytes) {}

  bool run() {
    if (!json_.begin_object()) return false;
    std::string_view key;
    while (json_.next_key(key)) {
      if (!field(key)) return false;
    }
    return json_.ok() && check() && late_data();
  }

 private:
  bool field(std::string_view key) {
    if (key == "name") return once_(0, key) && json_.read_string(input_.name);
    if (key == "datatype") return (typed_ = once_(1, key) && read_type(json_, input_.type));
    if (key == "shape") return (shaped_ = once_(2, key) && read_shape(json_, input_.shape));
    if (key == "parameters") return once_(3, key) && parameters();
    if (key == "data") {
      if (!once_(4, key)) return false;
      has_data_ = true;
      if (typed_ && shaped_) return read_json_tensor(json_, input_);
      later_.emplace(json_);
      return json_.skip();
    }
    return json_.skip();
  }

  bool parameters() {
    return read_parameters(json_, [this](std::string_view key) {
      if (key == "binary_data_size") {
        std::uint64_t bytes = 0;
        if (!json_.read_unsigned(bytes)) return false;
        if (bytes >= kNotBinary) return json_.fail("a binary_data_size that cannot be");
        bytes_ = bytes;
        return true;
      }
      if (region_.take(json_, key)) return json_.ok();
      return json_.skip();
    });
  }

  bool check() {
    if (input_.name.empty()) return json_.fail("an input without a name");
    if (!typed_) return json_.fail(concat("input ", quote(input_.name), " has no datatype"));
    if (!shaped_) return json_.fail(concat("input ", quote(input_.name), " has no shape"));
    if (!region_.finish(json_, input_.region)) return false;
    const bool has_binary = bytes_ != kNotBinary;
    if (has_binary && !binary_) {
      return json_.fail(concat("input ", quote(input_.name),
                               " has a binary_data_size, but the request has no "
                               "Inference-Header-Content-Length"));
    }
    if (int{has_data_} + int{has_binary} + int{input_.region.has_value()} != 1) {
      return json_.fail(concat("input ", quote(input_.name),
                               ": expected exactly one of \"data\", \"binary_data_size\" and "
                               "\"shared_memory_region\""));
    }
    return true;
  }

  // Data that came before the type or the shape.
  bool late_data() {
    if (!later_) return true;
    if (read_json_tensor(*later_, input_)) return true;
    json_ = std::move(*later_);  // with its error
    return false;
  }

  JsonReader& json_;
  Once once_;
  std::optional<std::size_t> binary_;
  CallInput& input_;
  std::size_t& bytes_;
  bool typed_ = false;
  bool shaped_ = false;
  bool has_data_ = false;
  RegionParameters region_;
  std::optional<JsonReader> later_;
};

bool read_inputs(JsonReader& json, std::optional<std::size_t> binary, InferRequest& request) {
  std::vector<CallInput>& inputs = request.call.inputs;
  if (!json.begin_array()) return false;
  while (json.next_element()) {
    if (inputs.size() == kMaxTensors) return json.fail("too many inputs");
    std::size_t bytes = kNotBinary;
    CallInput& input = inputs.emplace_back();
    if (!InputReader(json, binary, input, bytes).run()) return false;
    request.binary_bytes.push_back(bytes);
    for (std::size_t i = 0; i + 1 < inputs.size(); ++i) {
      if (inputs[i].name == input.name) {
        return json.fail(concat("input ", quote(input.name), " is given twice"));
      }
    }
  }
  return json.ok();
}

bool read_output(JsonReader& json, CallOutput& output, std::optional<bool>& binary) {
  if (!json.begin_object()) return false;
  Once once(json);
  RegionParameters region;
  std::string_view key;
  while (json.next_key(key)) {
    if (key == "name") {
      if (!once(0, key) || !json.read_string(output.name)) return false;
    } else if (key == "parameters") {
      if (!once(1, key) || !read_parameters(json, [&](std::string_view name) {
            if (name == "binary_data") return json.read_bool(binary.emplace());
            if (name == "classification") {
              return json.read_integer(output.classes) &&
                     (output.classes >= 0 || json.fail("a negative number of classes"));
            }
            if (region.take(json, name)) return json.ok();
            return json.skip();
          })) {
        return false;
      }
    } else if (!json.skip()) {
      return false;
    }
  }
  if (!json.ok() || !region.finish(json, output.region)) return false;
  return !output.name.empty() || json.fail("an output without a name");
}

bool read_outputs(JsonReader& json, InferRequest& request,
                  InlineVector<std::optional<bool>, 4>& binary) {
  std::vector<CallOutput>& outputs = request.call.outputs;
  if (!json.begin_array()) return false;
  while (json.next_element()) {
    if (outputs.size() == kMaxTensors) return json.fail("too many outputs");
    CallOutput& output = outputs.emplace_back();
    if (!read_output(json, output, binary.emplace_back())) return false;
    for (std::size_t i = 0; i + 1 < outputs.size(); ++i) {
      if (outputs[i].name == output.name) {
        return json.fail(concat("output ", quote(output.name), " is asked for twice"));
      }
    }
  }
  return json.ok();
}

bool read_request_parameters(JsonReader& json, InferRequest& request) {
  return read_parameters(json, [&](std::string_view key) {
    if (key == "binary_data_output") return json.read_bool(request.forms.binary);
    std::string name(key);
    Parameter value;
    if (!read_parameter(json, name, value)) return false;
    if (request.call.parameters.find(name)) {
      return json.fail(concat("parameter ", quote(name), " is given twice"));
    }
    request.call.parameters.set(std::move(name), std::move(value));
    return true;
  });
}

bool read_request(JsonReader& json, std::optional<std::size_t> binary, InferRequest& request) {
  Once once(json);
  InlineVector<std::optional<bool>, 4> forms;
  if (!json.begin_object()) return false;
  std::string_view key;
  while (json.next_key(key)) {
    bool good = true;
    if (key == "id") {
      good = once(0, key) && json.read_string(request.call.id);
    } else if (key == "inputs") {
      good = once(1, key) && read_inputs(json, binary, request);
    } else if (key == "outputs") {
      good = once(2, key) && read_outputs(json, request, forms);
    } else if (key == "parameters") {
      good = once(3, key) && read_request_parameters(json, request);
    } else {
      good = json.skip();
    }
    if (!good) return false;
  }
  for (const std::optional<bool>& form : forms) {
    request.forms.asked.push_back(form.value_or(request.forms.binary));
  }
  return json.finish();
}

void append_parameter(std::string& out, const Parameter& value) {
  if (const bool* truth = std::get_if<bool>(&value)) {
    out += *truth ? "true" : "false";
  } else if (const std::int64_t* number = std::get_if<std::int64_t>(&value)) {
    append_json_number(out, *number);
  } else if (const double* real = std::get_if<double>(&value)) {
    append_json_number(out, *real);
  } else {
    append_json_string(out, std::get<std::string>(value));
  }
}

void append_parameters(std::string& out, const Parameters& parameters) {
  char separator = '{';
  out += "\"parameters\":";
  for (const auto& [name, value] : parameters) {
    out += separator;
    append_json_string(out, name);
    out += ':';
    append_parameter(out, value);
    separator = ',';
  }
  out += '}';
}

void append_region(std::string& out, const RegionSlice& region) {
  out += ",\"parameters\":{\"shared_memory_region\":";
  append_json_string(out, region.region);
  out += ",\"shared_memory_offset\":";
  append_json_number(out, std::uint64_t{region.offset});
  out += ",\"shared_memory_byte_size\":";
  append_json_number(out, std::uint64_t{region.bytes});
  out += '}';
}

Result<void> append_binary(AnswerBody& body, const AnsweredOutput& output) {
  AnswerBody::Piece piece;
  if (output.type == DataType::bytes) {
    MILLRACE_ASSIGN(std::string rows, bytes_rows(output.name, output.view));
    const std::string& made = body.made.emplace_back(std::move(rows));
    piece = {made.data(), made.size()};
  } else {
    MILLRACE_ASSIGN(piece.bytes, byte_count(output.type, output.shape));
    piece.data = output.view.data;
  }
  body.json += ",\"parameters\":{\"binary_data_size\":";
  append_json_number(body.json, std::uint64_t{piece.bytes});
  body.json += '}';
  body.binary = true;
  if (piece.bytes > 0) body.pieces.push_back(piece);
  return {};
}

Result<void> append_output(AnswerBody& body, const AnsweredOutput& output, bool binary) {
  std::string& json = body.json;
  json += "{\"name\":";
  append_json_string(json, output.name);
  json += ",\"datatype\":\"";
  json += to_string(output.type);
  json += "\",\"shape\":[";
  for (std::size_t i = 0; i < output.shape.rank(); ++i) {
    if (i > 0) json += ',';
    append_json_number(json, output.shape[i]);
  }
  json += ']';
  if (output.region) {
    append_region(json, *output.region);
  } else if (binary) {
    MILLRACE_TRY(append_binary(body, output));
  } else {
    json += ",\"data\":";
    MILLRACE_TRY(append_json_tensor(json, output.name, output.view));
  }
  json += '}';
  return {};
}

// The shape of the one input of a raw request. At most one size is unknown besides that of the
// batch, which is 1 then.
Result<Shape> raw_shape(const TensorInfo& input, std::size_t elements) {
  Shape shape = input.shape;
  std::size_t open = shape.rank();  // the dimension to be found
  std::uint64_t known = 1;
  for (std::size_t i = 0; i < shape.rank(); ++i) {
    if (shape[i] != kDynamic) {
      known *= static_cast<std::uint64_t>(shape[i]);
    } else if (open == shape.rank()) {
      open = i;
    } else if (static_cast<int>(open) == input.batch_axis) {
      shape[open] = 1;
      open = i;
    } else {
      return invalid(concat("input \"", input.name, "\" of shape ", input.shape,
                            " cannot be given by its bytes alone: more than one size is open"));
    }
  }
  if (open < shape.rank() && known > 0 && elements % known == 0) {
    shape[open] = static_cast<std::int64_t>(elements / known);
    return shape;
  }
  if (open == shape.rank() && elements == known) return shape;
  return invalid(concat("the body holds ", elements, " elements of ", input.type,
                        ", which do not fit shape ", input.shape, " of input \"", input.name,
                        "\""));
}

}  // namespace

Result<void> read_infer(std::string_view json, std::optional<std::size_t> binary_bytes,
                        InferRequest& request) {
  JsonReader reader(json);
  if (!read_request(reader, binary_bytes, request)) return reader.error();
  if (request.call.inputs.empty()) return invalid("the request has no inputs");
  std::size_t left = binary_bytes.value_or(0);
  for (std::size_t i = 0; i < request.call.inputs.size(); ++i) {
    const std::size_t bytes = request.binary_bytes[i];
    if (bytes == kNotBinary) continue;
    if (bytes > left) {
      return invalid(concat("input ", quote(request.call.inputs[i].name), " is to have ", bytes,
                            " bytes of binary data, but only ", left, " are left of the ",
                            *binary_bytes, " behind the JSON"));
    }
    left -= bytes;
  }
  if (left > 0) {
    return invalid(
        concat("the body goes on for ", left, " bytes behind the binary data of the last input"));
  }
  return {};
}

void bind_binary(InferRequest& request, const char* data, const Lease& lease) {
  for (std::size_t i = 0; i < request.call.inputs.size(); ++i) {
    const std::size_t bytes = request.binary_bytes[i];
    if (bytes == kNotBinary) continue;
    request.call.inputs[i].raw.emplace(data, bytes);
    request.call.inputs[i].raw_lease = lease;
    data += bytes;
  }
}

Result<void> read_raw_infer(const TensorInfo& info, std::size_t bytes, InferRequest& request) {
  CallInput& input = request.call.inputs.emplace_back();
  input.name = info.name;
  input.type = info.type;
  std::size_t elements = 1;
  if (const std::size_t size = size_of(info.type); size > 0) {
    if (bytes % size != 0) {
      return invalid(concat("the body of ", bytes, " bytes is not a whole number of ", info.type,
                            " for input \"", info.name, "\""));
    }
    elements = bytes / size;
  }
  MILLRACE_ASSIGN(input.shape, raw_shape(info, elements));
  request.binary_bytes.push_back(bytes);
  request.forms.binary = true;
  return {};
}

Result<void> write_answer(const Answer& answer, const OutputForms& forms, AnswerBody& body) {
  std::string& json = body.json;
  body.made.reserve(answer.outputs.size());  // pieces point into them
  json += "{\"model_name\":";
  append_json_string(json, answer.model);
  json += ",\"model_version\":";
  append_json_string(json, answer.version);
  if (!answer.id.empty()) {
    json += ",\"id\":";
    append_json_string(json, answer.id);
  }
  if (!answer.parameters.empty()) {
    json += ',';
    append_parameters(json, answer.parameters);
  }
  json += ",\"outputs\":[";
  for (std::size_t i = 0; i < answer.outputs.size(); ++i) {
    if (i > 0) json += ',';
    const bool binary = i < forms.asked.size() ? forms.asked[i] : forms.binary;
    MILLRACE_TRY(append_output(body, answer.outputs[i], binary));
  }
  json += "]}";
  return {};
}

}  // namespace millrace::server
