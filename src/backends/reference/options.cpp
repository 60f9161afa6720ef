#include "backends/reference/options.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "base/try.h"

namespace millrace::reference {
namespace {

using Texts = std::map<std::string, std::string>;

constexpr std::string_view kPrefix = "reference:";
constexpr std::string_view kSuffix = ".reference.json";

constexpr std::array<std::pair<Kind, std::string_view>, 7> kKinds = {{
    {Kind::identity, "identity"},
    {Kind::busy, "busy"},
    {Kind::add, "add"},
    {Kind::checksum, "checksum"},
    {Kind::nonzero, "nonzero"},
    {Kind::fail, "fail"},
    {Kind::hang, "hang"},
}};

Error bad_value(std::string_view option, std::string_view expected, std::string_view found) {
  return {ErrorCode::invalid_argument,
          concat("reference option \"", option, "\": expected ", expected, ", got ", quote(found))};
}

Result<bool> parse_switch(std::string_view option, std::string_view text) {
  if (text == "1" || text == "true") return true;
  if (text == "0" || text == "false") return false;
  return bad_value(option, "0 or 1", text);
}

Result<std::chrono::nanoseconds> parse_micros(std::string_view option, std::string_view text) {
  const Result<double> micros = parse_number(text, option);
  constexpr double kMost = 1e12;  // 11 days
  if (!micros.ok() || *micros < 0 || *micros > kMost) {
    return bad_value(option, "microseconds from 0 to 1e12", text);
  }
  return std::chrono::nanoseconds(std::llround(*micros * 1000));
}

template <class T>
Result<T> parse_count(std::string_view option, std::string_view text, std::int64_t low,
                      std::int64_t high) {
  const Result<std::int64_t> count = parse_integer(text, option, low, high);
  if (!count.ok())
    return bad_value(option, concat("a whole number from ", low, " to ", high), text);
  return static_cast<T>(*count);
}

Result<std::size_t> parse_size(std::string_view option, std::string_view text) {
  const Result<std::uint64_t> bytes = parse_bytes(text, option);
  if (!bytes.ok()) return bad_value(option, "a size as in 4096 or 64MiB", text);
  return static_cast<std::size_t>(*bytes);
}

template <class T>
Result<T> parse_choice(std::string_view option, std::string_view text,
                       std::span<const std::pair<T, std::string_view>> choices) {
  std::vector<std::string_view> known;
  for (const auto& [value, name] : choices) {
    if (name == text) return value;
    known.push_back(name);
  }
  return bad_value(option, concat("one of ", join(known, ", ")), text);
}

Result<std::vector<DataType>> parse_types(std::string_view text) {
  std::vector<DataType> types;
  while (true) {
    const std::size_t comma = text.find(',');
    MILLRACE_ASSIGN(const DataType type, parse_data_type(trimmed(text.substr(0, comma))));
    types.push_back(type);
    if (comma == std::string_view::npos) return types;
    text.remove_prefix(comma + 1);
  }
}

Result<Shape> parse_item_shape(std::string_view text) {
  MILLRACE_ASSIGN(const Shape shape, parse_shape(text));
  if (shape.rank() >= kMaxRank) {
    return bad_value("shape", concat("at most ", kMaxRank - 1, " dimensions"), text);
  }
  for (const std::int64_t dim : shape) {
    if (dim < 0 && dim != kDynamic) return bad_value("shape", "sizes of at least 0, or -1", text);
  }
  return shape;
}

Result<ErrorCode> parse_code(std::string_view text) {
  constexpr ErrorCode kCodes[] = {ErrorCode::invalid_argument,  ErrorCode::not_found,
                                  ErrorCode::unavailable,       ErrorCode::queue_full,
                                  ErrorCode::deadline_exceeded, ErrorCode::cancelled,
                                  ErrorCode::out_of_memory,     ErrorCode::gpu_fault,
                                  ErrorCode::unsupported,       ErrorCode::internal};
  std::vector<std::pair<ErrorCode, std::string_view>> choices;
  for (const ErrorCode code : kCodes) choices.emplace_back(code, to_string(code));
  return parse_choice<ErrorCode>("code", text, choices);
}

Result<Scope> parse_scope(std::string_view text) {
  constexpr std::pair<Scope, std::string_view> kScopes[] = {
      {Scope::request, "request"}, {Scope::model, "model"}, {Scope::process, "process"}};
  return parse_choice<Scope>("scope", text, kScopes);
}

Result<bool> parse_batch_axis(std::string_view text) {
  constexpr std::pair<bool, std::string_view> kAxis[] = {{true, "auto"}, {false, "off"}};
  return parse_choice<bool>("batch_axis", text, kAxis);
}

Result<BusyMode> parse_mode(std::string_view text) {
  constexpr std::pair<BusyMode, std::string_view> kModes[] = {{BusyMode::sleep, "sleep"},
                                                              {BusyMode::compute, "compute"}};
  return parse_choice<BusyMode>("mode", text, kModes);
}

Result<FailWhen> parse_when(std::string_view text) {
  constexpr std::pair<FailWhen, std::string_view> kTimes[] = {{FailWhen::enqueue, "enqueue"},
                                                              {FailWhen::run, "run"}};
  return parse_choice<FailWhen>("when", text, kTimes);
}

// Which kinds take an option, as a bit for each kind.
constexpr unsigned bit(Kind kind) { return 1U << static_cast<unsigned>(kind); }
constexpr unsigned kAll = ~0U;
constexpr unsigned kCopying =
    bit(Kind::identity) | bit(Kind::busy) | bit(Kind::fail) | bit(Kind::hang);

struct Option {
  std::string_view name;
  unsigned kinds;
  Result<void> (*set)(Options& options, std::string_view text);
};

// The body of a setter: parses into `field` of the options.
#define MILLRACE_OPTION(field, ...)                             \
  [](Options& options, std::string_view text) -> Result<void> { \
    MILLRACE_ASSIGN(options.field, __VA_ARGS__);                \
    return {};                                                  \
  }

constexpr std::int64_t kMostInt = std::numeric_limits<int>::max();
constexpr std::int64_t kMostInt64 = std::numeric_limits<std::int64_t>::max();

constexpr Option kOptions[] = {
    {"type", kAll, MILLRACE_OPTION(types, parse_types(text))},
    {"shape", kAll, MILLRACE_OPTION(shape, parse_item_shape(text))},
    {"inputs", kCopying, MILLRACE_OPTION(inputs, parse_count<int>("inputs", text, 1, 64))},
    {"max_items", kAll,
     MILLRACE_OPTION(max_items, parse_count<std::int64_t>("max_items", text, 0, kMostInt))},
    {"batched", kAll, MILLRACE_OPTION(batched, parse_switch("batched", text))},
    {"batch_axis", kAll, MILLRACE_OPTION(batch_axis, parse_batch_axis(text))},
    {"no_read", bit(Kind::checksum), MILLRACE_OPTION(no_read, parse_switch("no_read", text))},
    {"batch_us", kAll, MILLRACE_OPTION(batch_time, parse_micros("batch_us", text))},
    {"item_us", kAll, MILLRACE_OPTION(item_time, parse_micros("item_us", text))},
    {"mode", kAll, MILLRACE_OPTION(mode, parse_mode(text))},
    {"first_run_us", kAll, MILLRACE_OPTION(first_run_time, parse_micros("first_run_us", text))},
    {"at", bit(Kind::fail) | bit(Kind::hang),
     MILLRACE_OPTION(at, parse_count<std::uint64_t>("at", text, 1, kMostInt64))},
    {"every", bit(Kind::fail),
     MILLRACE_OPTION(every, parse_count<std::uint64_t>("every", text, 1, kMostInt64))},
    {"when", bit(Kind::fail) | bit(Kind::hang), MILLRACE_OPTION(when, parse_when(text))},
    {"code", bit(Kind::fail), MILLRACE_OPTION(code, parse_code(text))},
    {"scope", bit(Kind::fail), MILLRACE_OPTION(scope, parse_scope(text))},
    {"sticky", bit(Kind::fail), MILLRACE_OPTION(sticky, parse_switch("sticky", text))},
    {"fail_load", kAll, MILLRACE_OPTION(fail_load, parse_switch("fail_load", text))},
    {"fail_lane", kAll,
     MILLRACE_OPTION(fail_lane, parse_count<int>("fail_lane", text, 0, kMostInt))},
    {"fail_prepare", kAll, MILLRACE_OPTION(fail_prepare, parse_switch("fail_prepare", text))},
    {"output_sized_late", kAll,
     MILLRACE_OPTION(output_sized_late, parse_switch("output_sized_late", text))},
    {"blocking", kAll, MILLRACE_OPTION(blocking, parse_switch("blocking", text))},
    {"own_stream", kAll, MILLRACE_OPTION(own_stream, parse_switch("own_stream", text))},
    {"wants_prepare", kAll, MILLRACE_OPTION(wants_prepare, parse_switch("wants_prepare", text))},
    {"fixed_addresses", kAll,
     MILLRACE_OPTION(fixed_addresses, parse_switch("fixed_addresses", text))},
    {"only_prepared", kAll, MILLRACE_OPTION(only_prepared, parse_switch("only_prepared", text))},
    {"terminable", kAll, MILLRACE_OPTION(terminable, parse_switch("terminable", text))},
    {"graphs", kAll, MILLRACE_OPTION(graphs, parse_switch("graphs", text))},
    {"not_captured", kAll, MILLRACE_OPTION(not_captured, parse_switch("not_captured", text))},
    {"avoids_eager", kAll, MILLRACE_OPTION(avoids_eager, parse_switch("avoids_eager", text))},
    {"host_input", kCopying, MILLRACE_OPTION(host_input, parse_switch("host_input", text))},
    {"lanes", kAll, MILLRACE_OPTION(lanes, parse_count<int>("lanes", text, 1, 1024))},
    {"share_weights", kAll, MILLRACE_OPTION(share_weights, parse_switch("share_weights", text))},
    {"weights_bytes", kAll, MILLRACE_OPTION(weights_bytes, parse_size("weights_bytes", text))},
    {"lane_bytes", kAll, MILLRACE_OPTION(lane_bytes, parse_size("lane_bytes", text))},
    {"prepared_bytes", kAll, MILLRACE_OPTION(prepared_bytes, parse_size("prepared_bytes", text))},
    {"load_us", kAll, MILLRACE_OPTION(load_time, parse_micros("load_us", text))},
    {"prepare_us", kAll, MILLRACE_OPTION(prepare_time, parse_micros("prepare_us", text))},
};
#undef MILLRACE_OPTION

Result<void> set_option(Options& options, std::string_view name, std::string_view value) {
  const unsigned kind = bit(options.kind);
  std::vector<std::string_view> known;
  for (const Option& option : kOptions) {
    if ((option.kinds & kind) == 0) continue;
    if (option.name == name) return option.set(options, value);
    known.push_back(option.name);
  }
  return Error{ErrorCode::invalid_argument,
               concat("the reference model \"", to_string(options.kind), "\" has no option ",
                      quote(name), "; it has ", join(known, ", "))};
}

Result<Options> defaults_of(std::string_view kind) {
  std::vector<std::string_view> known;
  for (const auto& [value, name] : kKinds) {
    if (name == kind) {
      Options options;
      options.kind = value;
      if (value == Kind::busy) options.batch_time = std::chrono::milliseconds(1);
      if (value == Kind::fail || value == Kind::hang) options.at = 1;
      return options;
    }
    known.push_back(name);
  }
  return Error{ErrorCode::invalid_argument, concat("there is no reference model ", quote(kind),
                                                   "; there are ", join(known, ", "))};
}

bool is_numeric(DataType type) {
  return type != DataType::boolean && type != DataType::bytes && type != DataType::fp8_e4m3 &&
         type != DataType::fp8_e5m2;
}

// What no option can see by itself.
Result<void> check(const Options& options) {
  const auto refuse = [&](auto&&... pieces) {
    return Error{ErrorCode::invalid_argument,
                 concat("the reference model \"", to_string(options.kind), "\": ", pieces...)};
  };
  if (options.types.size() != 1 &&
      options.types.size() != static_cast<std::size_t>(options.inputs)) {
    return refuse(options.types.size(), " types for ", options.inputs,
                  " inputs; give one for all or one for each");
  }
  for (const DataType type : options.types) {
    if (options.kind == Kind::add && !is_numeric(type)) {
      return refuse("cannot add ", to_string(type),
                    "; use an integer type, FP16, BF16, FP32 or FP64");
    }
    if (type == DataType::bytes && (options.fixed_addresses || options.kind == Kind::nonzero)) {
      return refuse(options.kind == Kind::nonzero ? "does not take BYTES"
                                                  : "fixed_addresses does not go with BYTES");
    }
  }
  if (options.output_sized_late && options.kind == Kind::checksum) {
    return refuse("output_sized_late does not go with an output of 4 bytes");
  }
  if (options.output_sized_late && options.shape.empty()) {
    return refuse("output_sized_late needs a shape with at least one dimension");
  }
  if (options.fixed_addresses &&
      (options.output_sized_late || options.kind == Kind::nonzero || is_dynamic(options.shape))) {
    return refuse("fixed_addresses needs outputs whose size is known before the run");
  }
  if (options.host_input && options.batched) {
    return refuse("host_input needs batched=0: an input whose values are a shape is not shared");
  }
  if (!options.batched && options.max_items > 1) {
    return refuse("max_items=", options.max_items, " does not go with batched=0");
  }
  return {};
}

Result<Options> make_options(std::string_view kind, Texts texts, const Texts& more) {
  MILLRACE_ASSIGN(Options options, defaults_of(kind));
  for (const auto& [name, value] : more) texts[name] = value;
  if (options.kind == Kind::fail && texts.contains("every") && !texts.contains("at"))
    options.at = 0;
  for (const auto& [name, value] : texts) MILLRACE_TRY(set_option(options, name, value));
  MILLRACE_TRY(check(options));
  return options;
}

Error bad_json(std::string_view what) {
  return {ErrorCode::invalid_argument,
          concat("expected a reference description such as {\"kind\": \"busy\", \"options\": "
                 "{\"batch_us\": 100}}, ",
                 what)};
}

}  // namespace

std::string_view to_string(Kind kind) noexcept {
  for (const auto& [value, name] : kKinds) {
    if (value == kind) return name;
  }
  return "?";
}

bool is_reference_path(std::string_view path) noexcept {
  return path.starts_with(kPrefix) || path.ends_with(kSuffix);
}

bool is_reference_content(std::string_view content) noexcept {
  const std::size_t first = content.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && content[first] == '{';
}

Result<Options> parse_options(std::string_view description, const Texts& more) {
  if (description.starts_with(kPrefix)) description.remove_prefix(kPrefix.size());
  const std::size_t question = description.find('?');
  const std::string_view kind = description.substr(0, question);
  Texts texts;
  std::string_view rest =
      question == std::string_view::npos ? std::string_view() : description.substr(question + 1);
  while (!rest.empty()) {
    const std::size_t end = rest.find('&');
    const std::string_view pair = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    const std::size_t equal = pair.find('=');
    if (equal == std::string_view::npos || equal == 0) {
      return Error{ErrorCode::invalid_argument,
                   concat("expected reference:KIND?option=value&..., got ", quote(pair),
                          " where an option should be")};
    }
    const auto [at, added] =
        texts.emplace(std::string(pair.substr(0, equal)), std::string(pair.substr(equal + 1)));
    if (!added) {
      return Error{ErrorCode::invalid_argument,
                   concat("the reference option ", quote(at->first), " is given twice")};
    }
  }
  return make_options(kind, std::move(texts), more);
}

Result<Options> parse_json_options(std::string_view content, const Texts& more) {
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(content);
  } catch (const nlohmann::json::parse_error& error) {
    return bad_json(concat("but it is not JSON at byte ", error.byte));
  } catch (const nlohmann::json::out_of_range&) {
    return bad_json("found a number that no type can hold");
  }
  if (!json.is_object()) return bad_json("found no object");
  std::string kind;
  Texts texts;
  for (const auto& [key, value] : json.items()) {
    if (key == "kind" && value.is_string()) {
      kind = value.get<std::string>();
    } else if (key == "options" && value.is_object()) {
      for (const auto& [name, option] : value.items()) {
        texts[name] = option.is_string()
                          ? option.get<std::string>()
                          : option.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
      }
    } else {
      return bad_json(concat("found ", quote(key),
                             key == "kind" || key == "options" ? " of another type" : ""));
    }
  }
  if (kind.empty()) return bad_json("found no \"kind\"");
  return make_options(kind, std::move(texts), more);
}

}  // namespace millrace::reference
