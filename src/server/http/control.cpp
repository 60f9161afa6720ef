#include "server/http/control.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/text.h"
#include "base/try.h"
#include "server/http/json.h"
#include "server/http/proto_json.h"
#include "server/status.h"

namespace millrace::server {
namespace {

// --- Writing ---

// Members of an object, or elements of an array, with commas between them.
class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}
  Writer& open(char bracket) {
    out_ += bracket;
    first_ = true;
    return *this;
  }
  Writer& close(char bracket) {
    out_ += bracket;
    first_ = false;
    return *this;
  }
  Writer& key(std::string_view name) {
    element();
    append_json_string(out_, name);
    out_ += ':';
    first_ = true;  // the value needs no comma
    return *this;
  }
  // Before each value in an array.
  Writer& element() {
    if (!first_) out_ += ',';
    first_ = false;
    return *this;
  }
  Writer& value(std::string_view text) {
    append_json_string(out_, text);
    first_ = false;
    return *this;
  }
  Writer& value(bool truth) {
    out_ += truth ? "true" : "false";
    first_ = false;
    return *this;
  }
  template <class T>
    requires std::is_integral_v<T>
  Writer& value(T number) {
    append_text(out_, number);
    first_ = false;
    return *this;
  }
  template <class T>
  Writer& member(std::string_view name, const T& of) {
    return key(name).value(of);
  }

 private:
  std::string& out_;
  bool first_ = true;
};

Reply json_reply(std::string body) { return {.body = std::move(body)}; }

void write_strings(Writer& json, const std::vector<std::string>& values) {
  json.open('[');
  for (const std::string& value : values) json.element().value(value);
  json.close(']');
}

void write_tensors(Writer& json, const std::vector<TensorInfo>& tensors) {
  json.open('[');
  for (const TensorInfo& tensor : tensors) {
    json.element().open('{');
    json.member("name", tensor.name).member("datatype", to_string(tensor.type));
    json.key("shape").open('[');
    for (const std::int64_t size : tensor.shape) json.element().value(size);
    json.close(']').close('}');
  }
  json.close(']');
}

Reply server_metadata(const ServerMetadata& server) {
  std::string out;
  Writer json(out);
  json.open('{').member("name", server.name).member("version", server.version);
  write_strings(json.key("extensions"), server.extensions);
  json.close('}');
  return json_reply(std::move(out));
}

Reply model_metadata(const ModelMetadata& model) {
  std::string out;
  Writer json(out);
  json.open('{').member("name", model.name);
  write_strings(json.key("versions"), model.versions);
  json.member("platform", model.platform);
  write_tensors(json.key("inputs"), model.inputs);
  write_tensors(json.key("outputs"), model.outputs);
  json.close('}');
  return json_reply(std::move(out));
}

void write_duration(Writer& json, std::string_view name, const StatisticDuration& of) {
  json.key(name).open('{').member("count", of.count).member("ns", of.ns).close('}');
}

void write_version(Writer& json, const VersionStatistics& of) {
  json.element().open('{').member("name", of.name).member("version", of.version);
  json.member("last_inference", of.last_inference_ms);
  json.member("inference_count", of.inference_count);
  json.member("execution_count", of.execution_count);
  json.key("inference_stats").open('{');
  write_duration(json, "success", of.success);
  write_duration(json, "fail", of.fail);
  write_duration(json, "queue", of.queue);
  write_duration(json, "compute_input", of.compute_input);
  write_duration(json, "compute_infer", of.compute_infer);
  write_duration(json, "compute_output", of.compute_output);
  write_duration(json, "cache_hit", {});
  write_duration(json, "cache_miss", {});
  json.close('}');
  json.key("batch_stats").open('[');
  for (const BatchStatistics& batch : of.batches) {
    json.element().open('{').member("batch_size", batch.batch_size);
    write_duration(json, "compute_input", batch.compute_input);
    write_duration(json, "compute_infer", batch.compute_infer);
    write_duration(json, "compute_output", batch.compute_output);
    json.close('}');
  }
  json.close(']').close('}');
}

Reply statistics(const std::vector<VersionStatistics>& versions) {
  std::string out;
  Writer json(out);
  json.open('{').key("model_stats").open('[');
  for (const VersionStatistics& version : versions) write_version(json, version);
  json.close(']').close('}');
  return json_reply(std::move(out));
}

Reply health(std::string_view word, bool good, std::string_view model = {}) {
  std::string out;
  Writer json(out);
  json.open('{');
  if (!model.empty()) json.member("name", model);
  json.member(word, good).close('}');
  Reply reply = json_reply(std::move(out));
  reply.status = good ? 200 : 503;
  return reply;
}

Reply index(const std::vector<RepositoryEntry>& entries) {
  std::string out;
  Writer json(out);
  json.open('[');
  for (const RepositoryEntry& entry : entries) {
    json.element().open('{').member("name", entry.name);
    if (!entry.version.empty()) json.member("version", entry.version);
    if (!entry.state.empty()) json.member("state", entry.state);
    if (!entry.reason.empty()) json.member("reason", entry.reason);
    json.close('}');
  }
  json.close(']');
  return json_reply(std::move(out));
}

Reply regions(const std::vector<RegionInfo>& all, bool cuda) {
  std::string out;
  Writer json(out);
  json.open('[');
  for (const RegionInfo& region : all) {
    json.element().open('{').member("name", region.name);
    if (cuda) {
      json.member("device_id", region.gpu);
    } else {
      json.member("key", region.key).member("offset", region.offset);
    }
    json.member("byte_size", region.bytes).close('}');
  }
  json.close(']');
  return json_reply(std::move(out));
}

Reply settings(const Settings& all) {
  std::string out;
  Writer json(out);
  json.open('{');
  for (const Setting& setting : all) {
    json.key(setting.name);
    if (const auto* many = std::get_if<std::vector<std::string>>(&setting.value)) {
      write_strings(json, *many);
    } else if (const auto* text = std::get_if<std::string>(&setting.value)) {
      json.value(*text);
    } else if (const auto* truth = std::get_if<bool>(&setting.value)) {
      json.value(*truth);
    } else {
      json.value(std::get<std::int64_t>(setting.value));
    }
  }
  json.close('}');
  return json_reply(std::move(out));
}

// --- Reading ---

Error invalid(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

// Reads a body that is an object, or empty; `field(json, key)` reads the values.
template <class Field>
Result<void> read_object(std::string_view body, Field field) {
  if (trimmed(body).empty()) return {};
  JsonReader json(body);
  std::string_view key;
  json.begin_object();
  while (json.next_key(key)) {
    if (!field(json, key)) break;
  }
  if (!json.finish()) return json.error();
  return {};
}

// The object "parameters" in the body.
template <class Field>
Result<void> read_parameters(std::string_view body, Field field) {
  return read_object(body, [&field](JsonReader& json, std::string_view key) {
    if (key != "parameters") return json.skip();
    std::string_view name;
    if (!json.begin_object()) return false;
    while (json.next_key(name)) {
      if (!field(json, name)) return false;
    }
    return json.ok();
  });
}

// Standard Base64 (RFC 4648), padded.
Result<std::string> from_base64(std::string_view text) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  static constexpr auto kValues = [] {
    std::array<std::int8_t, 256> values{};
    values.fill(-1);
    for (std::size_t i = 0; i < kDigits.size(); ++i) {
      values[static_cast<unsigned char>(kDigits[i])] = static_cast<std::int8_t>(i);
    }
    return values;
  }();
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  if (text.size() % 4 != 0) return invalid("expected Base64, whose length is a multiple of 4");
  std::string out;
  out.reserve(text.size() / 4 * 3);
  std::uint32_t bits = 0;
  const std::string_view digits = text.substr(0, text.size() - padding);
  for (std::size_t i = 0; i < digits.size(); ++i) {
    const std::int8_t value = kValues[static_cast<unsigned char>(digits[i])];
    if (value < 0) return invalid(concat("expected Base64, found ", quote(digits.substr(i, 1))));
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    if (i % 4 == 3) {
      out += static_cast<char>(bits >> 16);
      out += static_cast<char>(bits >> 8);
      out += static_cast<char>(bits);
    }
  }
  if (padding == 1) {
    out += static_cast<char>(bits >> 10);
    out += static_cast<char>(bits >> 2);
  } else if (padding == 2) {
    out += static_cast<char>(bits >> 4);
  }
  return out;
}

Result<LoadParameters> load_parameters(std::string_view body) {
  constexpr std::string_view kFile = "file:";
  LoadParameters parameters;
  std::optional<Error> problem;
  MILLRACE_TRY(read_parameters(body, [&](JsonReader& json, std::string_view key) {
    if (key == "config") return json.read_string(parameters.config);
    if (!key.starts_with(kFile)) {
      return json.fail(concat("parameter ", quote(key), ": expected \"config\" or \"file:PATH\""));
    }
    const std::string path(key.substr(kFile.size()));
    std::string_view text;
    if (!json.read_string(text)) return false;
    Result<std::string> content = from_base64(text);
    if (!content.ok()) return json.fail(concat(quote(path), ": ", content.error().message));
    parameters.files[path] = std::move(*content);
    return true;
  }));
  return parameters;
}

bool read_setting(JsonReader& json, Setting& setting) {
  switch (json.peek()) {
    case JsonReader::Kind::boolean:
      return json.read_bool(setting.value.emplace<bool>());
    case JsonReader::Kind::number:
      return json.read_integer(setting.value.emplace<std::int64_t>());
    case JsonReader::Kind::null:  // back to what it was at the start
      setting.value.emplace<std::monostate>();
      return json.read_null();
    case JsonReader::Kind::array: {
      auto& values = setting.value.emplace<std::vector<std::string>>();
      json.begin_array();
      while (json.next_element()) {
        if (!json.read_string(values.emplace_back())) return false;
      }
      return json.ok();
    }
    default:
      return json.read_string(setting.value.emplace<std::string>());
  }
}

Result<Settings> read_settings(std::string_view body) {
  Settings changes;
  MILLRACE_TRY(read_object(body, [&changes](JsonReader& json, std::string_view key) {
    changes.emplace_back().name = key;
    return read_setting(json, changes.back());
  }));
  return changes;
}

struct Registration {
  std::string key;
  std::size_t offset = 0;
  std::optional<std::size_t> bytes;
  std::string handle;
  std::int64_t gpu = 0;
};

bool read_handle(JsonReader& json, std::string& handle) {
  std::string_view key;
  if (!json.begin_object()) return false;
  while (json.next_key(key)) {
    if (key != "b64") {
      if (!json.skip()) return false;
      continue;
    }
    std::string_view text;
    if (!json.read_string(text)) return false;
    Result<std::string> bytes = from_base64(text);
    if (!bytes.ok()) return json.fail(bytes.error().message);
    handle = std::move(*bytes);
  }
  return json.ok();
}

Result<Registration> read_registration(std::string_view body) {
  Registration of;
  MILLRACE_TRY(read_object(body, [&of](JsonReader& json, std::string_view key) {
    if (key == "key") return json.read_string(of.key);
    if (key == "offset") return json.read_unsigned(of.offset);
    if (key == "byte_size") return json.read_unsigned(of.bytes.emplace());
    if (key == "raw_handle") return read_handle(json, of.handle);
    if (key == "device_id") return json.read_integer(of.gpu);
    return json.skip();
  }));
  if (!of.bytes) return invalid("\"byte_size\" is missing");
  return of;
}

// --- Answering ---

Result<Reply> register_system(Service& service, const Route& route, std::string_view body) {
  MILLRACE_ASSIGN(MemoryRegions* const memory, service.system_memory());
  MILLRACE_ASSIGN(const Registration of, read_registration(body));
  if (of.key.empty()) return invalid("\"key\" is missing");
  MILLRACE_TRY(memory->register_system(route.region, of.key, of.offset, *of.bytes));
  return Reply{};
}

Result<Reply> register_cuda(Service& service, const Route& route, std::string_view body) {
  MILLRACE_ASSIGN(MemoryRegions* const memory, service.cuda_memory());
  MILLRACE_ASSIGN(const Registration of, read_registration(body));
  if (of.handle.empty()) return invalid("\"raw_handle\": {\"b64\": ...} is missing");
  if (of.gpu < 0 || of.gpu > 1024) return invalid(concat("there is no GPU ", of.gpu));
  MILLRACE_TRY(memory->register_cuda(route.region, std::as_bytes(std::span(of.handle)),
                                     static_cast<int>(of.gpu), *of.bytes));
  return Reply{};
}

Result<Reply> memory_reply(Service& service, const Route& route, std::string_view body) {
  const bool cuda = route.endpoint >= Endpoint::cuda_memory_status;
  if (route.endpoint == Endpoint::system_memory_register) {
    return register_system(service, route, body);
  }
  if (route.endpoint == Endpoint::cuda_memory_register) {
    return register_cuda(service, route, body);
  }
  MILLRACE_ASSIGN(MemoryRegions* const memory,
                  cuda ? service.cuda_memory() : service.system_memory());
  if (route.endpoint == Endpoint::system_memory_unregister ||
      route.endpoint == Endpoint::cuda_memory_unregister) {
    memory->unregister(route.region);
    return Reply{};
  }
  MILLRACE_ASSIGN(const std::vector<RegionInfo> all, memory->status(route.region));
  return regions(all, cuda);
}

Result<Reply> settings_reply(Service& service, const Route& route, Method method,
                             std::string_view body) {
  const bool logs = route.endpoint == Endpoint::log_settings;
  if (method == Method::post) {
    MILLRACE_ASSIGN(const Settings changes, read_settings(body));
    MILLRACE_ASSIGN(const Settings all, logs ? service.change_log_settings(changes)
                                             : service.change_trace_settings(route.model, changes));
    return settings(all);
  }
  MILLRACE_ASSIGN(const Settings all,
                  logs ? service.log_settings() : service.trace_settings(route.model));
  return settings(all);
}

Result<Reply> repository_reply(Service& service, const Route& route, std::string_view body) {
  bool flag = false;  // of ready models only; unload what depends on it too
  if (route.endpoint == Endpoint::model_load) {
    MILLRACE_ASSIGN(const LoadParameters parameters, load_parameters(body));
    MILLRACE_TRY(service.load_model(route.model, parameters));
    return Reply{};
  }
  if (route.endpoint == Endpoint::model_unload) {
    MILLRACE_TRY(read_parameters(body, [&flag](JsonReader& json, std::string_view key) {
      return key == "unload_dependents" ? json.read_bool(flag) : json.skip();
    }));
    MILLRACE_TRY(service.unload_model(route.model, flag));
    return Reply{};
  }
  MILLRACE_TRY(read_object(body, [&flag](JsonReader& json, std::string_view key) {
    return key == "ready" ? json.read_bool(flag) : json.skip();
  }));
  MILLRACE_ASSIGN(const std::vector<RepositoryEntry> entries, service.repository_index(flag));
  return index(entries);
}

Result<Reply> reply(Service& service, const Route& route, Method method, std::string_view body) {
  switch (route.endpoint) {
    case Endpoint::server_live:
      return health("live", service.live());
    case Endpoint::server_ready:
      return health("ready", service.ready());
    case Endpoint::server_metadata:
      return server_metadata(service.metadata());
    case Endpoint::model_metadata: {
      MILLRACE_ASSIGN(const ModelMetadata model,
                      service.model_metadata(route.model, route.version));
      return model_metadata(model);
    }
    case Endpoint::model_ready: {
      MILLRACE_ASSIGN(const bool ready, service.model_ready(route.model, route.version));
      return health("ready", ready, route.model);
    }
    case Endpoint::model_config: {
      MILLRACE_ASSIGN(const auto config, service.model_config(route.model, route.version));
      return json_reply(to_json(*config));
    }
    case Endpoint::statistics: {
      MILLRACE_ASSIGN(const std::vector<VersionStatistics> all,
                      service.statistics(route.model, route.version));
      return statistics(all);
    }
    case Endpoint::trace_settings:
    case Endpoint::log_settings:
      return settings_reply(service, route, method, body);
    case Endpoint::repository_index:
    case Endpoint::model_load:
    case Endpoint::model_unload:
      return repository_reply(service, route, body);
    case Endpoint::system_memory_status:
    case Endpoint::system_memory_register:
    case Endpoint::system_memory_unregister:
    case Endpoint::cuda_memory_status:
    case Endpoint::cuda_memory_register:
    case Endpoint::cuda_memory_unregister:
      return memory_reply(service, route, body);
    case Endpoint::openapi:
      return json_reply(std::string(openapi_document()));
    case Endpoint::infer:
    case Endpoint::metrics:
    case Endpoint::none:
      break;
  }
  return error_reply(404, "there is nothing here");
}

}  // namespace

Reply error_reply(int status, std::string_view message) {
  std::string out;
  Writer(out).open('{').member("error", message).close('}');
  Reply reply = json_reply(std::move(out));
  reply.status = status;
  return reply;
}

Reply error_reply(const Error& error) {
  Reply reply = error_reply(http_status(error.code), error.message);
  if (reply.status == 429 || reply.status == 503) reply.retry_after_s = 1;
  return reply;
}

Reply answer_control(Service& service, const Route& route, Method method, std::string_view body) {
  Result<Reply> made = reply(service, route, method, body);
  if (!made.ok()) return error_reply(made.error());
  return std::move(*made);
}

}  // namespace millrace::server
