#include "repository/config.h"

#include <array>
#include <filesystem>
#include <limits>

#include "base/file.h"
#include "base/model_name.h"
#include "base/text.h"
#include "base/try.h"
#include "io/fields.h"

namespace millrace {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kConfigName = "millrace.json";
constexpr std::string_view kReference = "reference:";
constexpr std::size_t kMostBytes = std::size_t{1} << 20;
constexpr std::int64_t kMostInt = std::numeric_limits<int>::max();

constexpr std::array<std::string_view, 17> kModelFields = {
    "model",    "name",       "backend",  "devices",  "lanes",        "slots",
    "batching", "limits",     "priority", "weight",   "hang_timeout", "options",
    "labels",   "preprocess", "models",   "ensemble", "plugins"};
constexpr std::array<std::string_view, 4> kBatchingFields = {"max_items", "preferred_items",
                                                             "max_delay", "preserve_order"};
constexpr std::array<std::string_view, 3> kLimitFields = {"max_requests", "max_bytes",
                                                          "default_timeout"};
constexpr std::array<std::string_view, 2> kEnsembleFields = {"steps", "outputs"};
constexpr std::array<std::string_view, 3> kStepFields = {"model", "inputs", "outputs"};

void read_duration(Fields& fields, std::string_view name, Duration& out) {
  std::string text;
  fields.text(name, text);
  if (text.empty()) return;
  const Result<std::chrono::nanoseconds> duration = parse_duration(text, fields.where(name));
  if (!duration.ok()) return fields.fail(duration.error());
  out = *duration;
}

void read_size(Fields& fields, std::string_view name, std::size_t& out) {
  const json* value = fields.find(name);
  if (!value) return;
  if (!value->is_string())
    return fields.integer(name, out, 1, std::numeric_limits<std::int64_t>::max());
  const Result<std::uint64_t> bytes = parse_bytes(value->get<std::string>(), fields.where(name));
  if (!bytes.ok()) return fields.fail(bytes.error());
  if (*bytes == 0) return fields.fail(name, "a size of at least 1 byte", *value);
  out = static_cast<std::size_t>(*bytes);
}

void read_devices(Fields& fields, std::vector<DeviceId>& out) {
  std::vector<std::string> names;
  fields.texts("devices", names);
  for (const std::string& name : names) {
    const Result<DeviceId> id = parse_device_id(name);
    if (!id.ok())
      return fields.fail(
          Error{id.error().code, concat(fields.where("devices"), ": ", id.error().message)});
    out.push_back(*id);
  }
}

void read_preferred(Fields& fields, BatchPolicy& out) {
  const json* value = fields.find("preferred_items");
  if (!value) return;
  constexpr std::string_view kExpected = "a list of ascending whole numbers of at least 1";
  if (!value->is_array()) return fields.fail("preferred_items", kExpected, *value);
  std::int64_t before = 0;
  for (const json& items : *value) {
    const bool good = items.is_number_integer() && items.get<std::int64_t>() > before;
    if (!good) return fields.fail("preferred_items", kExpected, *value);
    before = items.get<std::int64_t>();
    out.preferred_items.push_back(before);
  }
  if (out.max_items > 0 && before > out.max_items) {
    fields.fail("preferred_items", concat("sizes up to max_items (", out.max_items, ")"), *value);
  }
}

Result<void> read_batching(const json& value, const std::string& where, BatchPolicy& out) {
  Fields fields(value, where, kBatchingFields);
  fields.integer("max_items", out.max_items, 1, kMostInt);
  read_preferred(fields, out);
  read_duration(fields, "max_delay", out.max_delay);
  fields.flag("preserve_order", out.preserve_order);
  return fields.finish();
}

Result<void> read_limits(const json& value, const std::string& where, QueueLimits& out) {
  Fields fields(value, where, kLimitFields);
  fields.integer("max_requests", out.max_requests, 1, std::numeric_limits<std::int64_t>::max());
  read_size(fields, "max_bytes", out.max_bytes);
  read_duration(fields, "default_timeout", out.default_timeout);
  return fields.finish();
}

Result<EnsembleStep> read_step(const json& value, const std::string& where) {
  EnsembleStep step;
  Fields fields(value, where, kStepFields);
  fields.text("model", step.model);
  fields.text_map("inputs", step.inputs);
  fields.text_map("outputs", step.outputs);
  MILLRACE_TRY(fields.finish());
  if (step.model.empty())
    return Error{ErrorCode::invalid_argument, concat(where, ": expected a \"model\"")};
  return step;
}

Result<void> read_ensemble(const json& value, const std::string& where, ModelConfig& out) {
  Fields fields(value, where, kEnsembleFields);
  fields.texts("outputs", out.ensemble_outputs);
  if (const json* steps = fields.find("steps")) {
    if (!steps->is_array() || steps->empty()) {
      fields.fail("steps", "a list of at least one step", *steps);
    } else {
      for (const json& step : *steps) {
        MILLRACE_ASSIGN(out.ensemble.emplace_back(),
                        read_step(step, concat(where, ": steps[", out.ensemble.size(), "]")));
      }
    }
  }
  MILLRACE_TRY(fields.finish());
  if (out.ensemble.empty() || out.ensemble_outputs.empty()) {
    return Error{ErrorCode::invalid_argument,
                 concat(where, ": expected \"steps\" and \"outputs\"")};
  }
  return {};
}

Result<void> read_preprocess(const json& value, const std::string& where,
                             std::map<std::string, ImagePreprocess>& out) {
  if (!value.is_object()) {
    return Error{
        ErrorCode::invalid_argument,
        concat(where, ": expected an object with the names of inputs, got ", shown(value))};
  }
  for (const auto& [input, stated] : value.items()) {
    MILLRACE_ASSIGN(out[input], parse_preprocess_json(stated.dump(), concat(where, ": ", input)));
  }
  return {};
}

// A path in a configuration: relative ones start at its folder.
std::string joined(const std::string& configuration, const std::string& path) {
  if (path.empty() || path.starts_with(kReference) || fs::path(path).is_absolute()) return path;
  const fs::path folder = fs::path(configuration).parent_path();
  return (folder / path).lexically_normal().string();
}

std::string stem_of(const std::string& path) { return fs::path(path).stem().string(); }

// A configuration in a folder of its own names the model after the folder, one beside a file after
// itself.
std::string default_name(const std::string& path) {
  if (fs::path(path).filename() != kConfigName) return stem_of(path);
  std::error_code ignored;
  return fs::absolute(path, ignored).lexically_normal().parent_path().filename().string();
}

Result<void> read_parts(Fields& fields, const std::string& path, ModelFile& out) {
  if (const json* value = fields.find("batching")) {
    MILLRACE_TRY(read_batching(*value, fields.where("batching"), out.config.batching));
  }
  if (const json* value = fields.find("limits")) {
    MILLRACE_TRY(read_limits(*value, fields.where("limits"), out.config.limits));
  }
  if (const json* value = fields.find("preprocess")) {
    MILLRACE_TRY(read_preprocess(*value, fields.where("preprocess"), out.preprocess));
  }
  if (const json* value = fields.find("ensemble")) {
    MILLRACE_TRY(read_ensemble(*value, fields.where("ensemble"), out.config));
  }
  out.config.path = joined(path, out.config.path);
  out.labels = joined(path, out.labels);
  for (std::string& model : out.models) model = joined(path, model);
  for (std::string& plugin : out.config.plugins) plugin = joined(path, plugin);
  return {};
}

Result<void> check_whole(const ModelFile& file, const std::string& path) {
  const bool ensemble = !file.config.ensemble.empty();
  if (ensemble == !file.config.path.empty()) {
    return Error{ErrorCode::invalid_argument,
                 concat(path, ": expected either \"model\" (a file) or \"ensemble\", got ",
                        ensemble ? "both" : "neither")};
  }
  if (!ensemble && !file.models.empty()) {
    return Error{ErrorCode::invalid_argument,
                 concat(path, ": \"models\" is for ensembles; this is none")};
  }
  return {};
}

}  // namespace

Result<ModelFile> parse_model_config(std::string_view text, const std::string& path) {
  MILLRACE_ASSIGN(const json value, parse_json(text, path));
  ModelFile file;
  file.configuration = path;
  ModelConfig& config = file.config;
  Fields fields(value, path, kModelFields);
  fields.text("model", config.path);
  fields.text("name", config.name);
  fields.text("backend", config.backend);
  read_devices(fields, config.devices);
  fields.integer("lanes", config.lanes, 1, 1024);
  fields.integer("slots", config.slots, 1, 8);
  fields.integer("priority", config.priority_class, std::numeric_limits<int>::min(), kMostInt);
  fields.number("weight", config.weight, 1e-6, 1e6);
  read_duration(fields, "hang_timeout", config.hang_timeout);
  fields.text_map("options", config.options);
  fields.texts("plugins", config.plugins);
  fields.text("labels", file.labels);
  fields.texts("models", file.models);
  MILLRACE_TRY(fields.finish());
  MILLRACE_TRY(read_parts(fields, path, file));
  MILLRACE_TRY(fields.finish());
  MILLRACE_TRY(check_whole(file, path));
  if (config.name.empty()) config.name = default_name(path);
  return file;
}

Result<ModelFile> read_model_config(const std::string& path) {
  MILLRACE_ASSIGN(const std::string text, read_file(path, kMostBytes));
  return parse_model_config(text, path);
}

namespace {

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

Result<ModelFile> read_folder(const fs::path& folder) {
  const fs::path configuration = folder / kConfigName;
  if (is_file(configuration)) return read_model_config(configuration.string());
  if (is_file(folder / "saved_model.pb")) {
    ModelFile file;
    file.config.path = folder.string();
    return file;
  }
  return Error{ErrorCode::not_found, concat("the folder ", quote(folder.string()),
                                            " is no model: expected ", kConfigName, " in it")};
}

bool same_file(const std::string& a, const std::string& b) {
  std::error_code error;
  return fs::equivalent(a, b, error) && !error;
}

}  // namespace

std::string default_name(const ModelConfig& config) { return name_from_path(config.path); }

Result<ModelFile> read_model(const std::string& argument) {
  ModelFile bare;
  bare.config.path = argument;
  if (argument.starts_with(kReference)) return bare;
  const fs::path path(argument);
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return read_folder(path);
  if (!fs::exists(path, ignored)) {
    return Error{
        ErrorCode::not_found,
        concat("there is no model ", quote(argument), ": expected a model file, a folder with ",
               kConfigName, ", a configuration (.json) or \"reference:KIND\"")};
  }
  const bool reference_file = argument.ends_with(".reference.json");
  if (path.extension() == ".json" && !reference_file) return read_model_config(argument);

  fs::path own = path;
  own.replace_extension(".json");
  if (!reference_file && is_file(own)) {
    MILLRACE_ASSIGN(ModelFile file, read_model_config(own.string()));
    if (file.config.path.empty() || !same_file(file.config.path, argument)) {
      return Error{ErrorCode::invalid_argument,
                   concat(own.string(), ": expected \"model\" to name ", path.filename().string(),
                          ", which it lies beside; got ", quote(file.config.path))};
    }
    return file;
  }
  const fs::path shared = path.parent_path() / kConfigName;
  if (is_file(shared)) {
    MILLRACE_ASSIGN(ModelFile file, read_model_config(shared.string()));
    if (same_file(file.config.path, argument)) return file;
  }
  return bare;
}

}  // namespace millrace
