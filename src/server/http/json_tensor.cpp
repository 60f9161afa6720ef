#include "server/http/json_tensor.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "base/text.h"
#include "base/try.h"

namespace millrace::server {
namespace {

// Whole numbers, exactly within their type.
template <class T>
bool read_value(JsonReader& json, DataType type, T& value) {
  std::string_view token;
  if (!json.read_number(token)) return false;
  const auto end = std::from_chars(token.data(), token.data() + token.size(), value);
  if (end.ec == std::errc() && end.ptr == token.data() + token.size()) return true;
  return json.fail(concat(quote(token), " is no ", type));
}
bool read_value(JsonReader& json, DataType type, double& value) {
  (void)type;
  return json.read_double(value);
}
bool read_value(JsonReader& json, DataType type, float& value) {
  double wide = 0;
  if (!json.read_double(wide)) return false;
  value = static_cast<float>(wide);
  return std::isfinite(value) || json.fail(concat(wide, " is too large for ", type));
}
bool read_value(JsonReader& json, DataType type, bool& value) {
  if (json.peek() == JsonReader::Kind::boolean) return json.read_bool(value);
  std::string_view token;
  if (!json.read_number(token)) return false;
  value = token == "1";
  return value || token == "0" || json.fail(concat(quote(token), " is no ", type));
}

// Reads arrays of values, nested as the shape says or not at all, and hands each value to `put`.
template <class Put>
class Walk {
 public:
  Walk(JsonReader& json, const CallInput& input, std::int64_t count, Put put)
      : json_(json), input_(input), count_(count), put_(put) {}

  bool run() {
    if (!level(0)) return false;
    return seen_ == count_ || wrong_count();
  }

 private:
  bool level(std::size_t depth) {
    if (!json_.begin_array()) return false;
    std::int64_t entries = 0;
    bool nested = false;
    while (json_.next_element()) {
      const bool array = json_.peek() == JsonReader::Kind::array;
      if (entries++ == 0) nested = array;
      if (array != nested) return json_.fail("values and arrays side by side");
      if (nested) {
        if (depth + 1 >= input_.shape.rank()) return wrong_nesting();
        if (!level(depth + 1)) return false;
      } else {
        if (seen_ == count_) return wrong_count();
        if (!put_(seen_++)) return false;
      }
    }
    if (!json_.ok()) return false;
    const bool flat = depth == 0 && !nested;
    const bool innermost = nested || entries == 0 || depth + 1 == input_.shape.rank();
    return flat || (innermost && entries == input_.shape[depth]) || wrong_nesting();
  }
  bool wrong_count() {
    return json_.fail(concat("data: expected the ", count_, " values of shape ", input_.shape,
                             seen_ == count_ ? ", found more" : concat(", found ", seen_)));
  }
  bool wrong_nesting() {
    return json_.fail(concat("data: expected a flat array, or arrays nested as the shape ",
                             input_.shape, " says"));
  }

  JsonReader& json_;
  const CallInput& input_;
  std::int64_t count_;
  Put put_;
  std::int64_t seen_ = 0;
};

template <class Put>
bool walk(JsonReader& json, const CallInput& input, std::int64_t count, Put put) {
  return Walk<Put>(json, input, count, put).run();
}

template <class T>
bool read_numbers(JsonReader& json, CallInput& input, std::int64_t count) {
  Result<Tensor> tensor = Tensor::allocate(input.type, input.shape);
  if (!tensor.ok()) return json.fail(std::move(tensor.error().message));
  T* values = static_cast<T*>(tensor->view().data);
  if (!walk(json, input, count, [&json, &input, values](std::int64_t i) {
        return read_value(json, input.type, values[i]);
      })) {
    return false;
  }
  input.tensor = std::move(*tensor);
  return true;
}

// Into the rows of the binary form, which the input then refers to.
bool read_strings(JsonReader& json, CallInput& input, std::int64_t count) {
  const auto rows = std::make_shared<std::string>();
  if (!walk(json, input, count, [&json, &rows](std::int64_t) {
        std::string_view text;
        if (!json.read_string(text)) return false;
        const auto length = static_cast<std::uint32_t>(text.size());
        rows->append(reinterpret_cast<const char*>(&length), sizeof length);
        rows->append(text);
        return true;
      })) {
    return false;
  }
  input.raw.emplace(rows->data(), rows->size());
  input.raw_lease = Lease::share(rows);
  return true;
}

template <class T>
Result<void> append_numbers(std::string& out, const TensorView& view, std::int64_t count,
                            std::string_view name) {
  const T* values = static_cast<const T*>(view.data);
  for (std::int64_t i = 0; i < count; ++i) {
    if (i > 0) out += ',';
    if constexpr (std::is_floating_point_v<T>) {
      if (!std::isfinite(values[i])) {
        return Error{ErrorCode::invalid_argument,
                     concat("output \"", name, "\" holds ", values[i], " at element ", i,
                            ", which JSON cannot carry: ask for it with \"binary_data\": true")};
      }
      append_json_number(out, values[i]);
    } else if constexpr (std::is_signed_v<T>) {
      append_json_number(out, std::int64_t{values[i]});
    } else {
      append_json_number(out, std::uint64_t{values[i]});
    }
  }
  return {};
}

std::string_view element(const TensorView& view, std::int64_t i) noexcept {
  return {static_cast<const char*>(view.data) + view.offsets[i],
          static_cast<std::size_t>(view.offsets[i + 1] - view.offsets[i])};
}

Result<void> append_strings(std::string& out, const TensorView& view, std::int64_t count,
                            std::string_view name) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (i > 0) out += ',';
    const std::string_view text = element(view, i);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t length = utf8_length(text.substr(at));
      if (length == 0) {
        return Error{ErrorCode::invalid_argument,
                     concat("output \"", name, "\" is not UTF-8 at element ", i,
                            ", which JSON cannot carry: ask for it with \"binary_data\": true")};
      }
      at += length;
    }
    append_json_string(out, text);
  }
  return {};
}

Result<void> append_values(std::string& out, const TensorView& view, std::int64_t count,
                           std::string_view name) {
  switch (view.type) {
    case DataType::boolean:
      for (std::int64_t i = 0; i < count; ++i) {
        if (i > 0) out += ',';
        out += static_cast<const std::uint8_t*>(view.data)[i] ? "true" : "false";
      }
      return {};
    case DataType::uint8:
      return append_numbers<std::uint8_t>(out, view, count, name);
    case DataType::uint16:
      return append_numbers<std::uint16_t>(out, view, count, name);
    case DataType::uint32:
      return append_numbers<std::uint32_t>(out, view, count, name);
    case DataType::uint64:
      return append_numbers<std::uint64_t>(out, view, count, name);
    case DataType::int8:
      return append_numbers<std::int8_t>(out, view, count, name);
    case DataType::int16:
      return append_numbers<std::int16_t>(out, view, count, name);
    case DataType::int32:
      return append_numbers<std::int32_t>(out, view, count, name);
    case DataType::int64:
      return append_numbers<std::int64_t>(out, view, count, name);
    case DataType::fp32:
      return append_numbers<float>(out, view, count, name);
    case DataType::fp64:
      return append_numbers<double>(out, view, count, name);
    case DataType::bytes:
      return append_strings(out, view, count, name);
    case DataType::fp16:
    case DataType::bf16:
    case DataType::fp8_e4m3:
    case DataType::fp8_e5m2:
      break;
  }
  return Error{ErrorCode::invalid_argument,
               concat("output \"", name, "\" is of type ", view.type,
                      ", which JSON cannot carry: ask for it with \"binary_data\": true")};
}

}  // namespace

bool read_json_tensor(JsonReader& json, CallInput& input) {
  const Result<std::int64_t> count = element_count(input.shape);
  if (!count.ok()) return json.fail(count.error().message);
  // Memory is only taken for as many values as the text could hold.
  if (static_cast<std::uint64_t>(*count) > json.left()) {
    return json.fail(
        concat("data: expected the ", *count, " values of shape ", input.shape, ", found fewer"));
  }
  switch (input.type) {
    case DataType::boolean:
      return read_numbers<bool>(json, input, *count);
    case DataType::uint8:
      return read_numbers<std::uint8_t>(json, input, *count);
    case DataType::uint16:
      return read_numbers<std::uint16_t>(json, input, *count);
    case DataType::uint32:
      return read_numbers<std::uint32_t>(json, input, *count);
    case DataType::uint64:
      return read_numbers<std::uint64_t>(json, input, *count);
    case DataType::int8:
      return read_numbers<std::int8_t>(json, input, *count);
    case DataType::int16:
      return read_numbers<std::int16_t>(json, input, *count);
    case DataType::int32:
      return read_numbers<std::int32_t>(json, input, *count);
    case DataType::int64:
      return read_numbers<std::int64_t>(json, input, *count);
    case DataType::fp32:
      return read_numbers<float>(json, input, *count);
    case DataType::fp64:
      return read_numbers<double>(json, input, *count);
    case DataType::bytes:
      return read_strings(json, input, *count);
    case DataType::fp16:
    case DataType::bf16:
    case DataType::fp8_e4m3:
    case DataType::fp8_e5m2:
      break;
  }
  return json.fail(
      concat("data of type ", input.type, " cannot be given as JSON: send it as binary data"));
}

Result<void> append_json_tensor(std::string& out, std::string_view name, const TensorView& view) {
  MILLRACE_ASSIGN(const std::int64_t count, element_count(view.shape));
  out += '[';
  MILLRACE_TRY(append_values(out, view, count, name));
  out += ']';
  return {};
}

Result<std::string> bytes_rows(std::string_view name, const TensorView& view) {
  MILLRACE_ASSIGN(const std::int64_t count, element_count(view.shape));
  std::string rows;
  if (count == 0) return rows;
  rows.reserve(static_cast<std::size_t>(count) * 4 + view.offsets[count] - view.offsets[0]);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::string_view text = element(view, i);
    if (text.size() > std::numeric_limits<std::uint32_t>::max()) {
      return Error{ErrorCode::invalid_argument,
                   concat("output \"", name, "\": element ", i, " of ", text.size(),
                          " bytes is too long for the protocol")};
    }
    const auto length = static_cast<std::uint32_t>(text.size());
    rows.append(reinterpret_cast<const char*>(&length), sizeof length);
    rows.append(text);
  }
  return rows;
}

}  // namespace millrace::server
