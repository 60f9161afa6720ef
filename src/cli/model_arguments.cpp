#include "cli/model_arguments.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "cli/print.h"
#include "cli/verbs.h"

namespace millrace::cli {

namespace {

constexpr const char* kModelHelp =
    "A model file, a folder with millrace.json, a configuration (.json), or reference:KIND; with "
    "@DEVICES behind it, to run there";

void add_other_arguments(CLI::App& verb, ModelArguments& arguments) {
  verb.add_option("--devices", arguments.devices,
                  "Devices to run on: 0,1 or GPU-uuid, host, host:1 (default: all GPUs, else host)")
      ->delimiter(',')
      ->type_name("LIST");
  verb.add_option(
          "--backend", arguments.backend,
          "What runs the model (default: chosen by file and device; see \"millrace devices\")")
      ->type_name("NAME");
  verb.add_option("--option", arguments.options,
                  "A setting of the backend, as name=value; may come several times")
      ->type_name("NAME=VALUE")
      ->take_all();
  verb.add_option("--plugin", arguments.plugins,
                  "A shared library of plug-ins that the model uses; may come several times")
      ->type_name("FILE")
      ->take_all();
  verb.add_flag(
      "--share-activations", arguments.share_activations,
      "The lanes of a GPU use one block of scratch memory in turn: less memory, no overlap "
      "of runs");
}

}  // namespace

void add_model_arguments(CLI::App& verb, ModelArguments& arguments) {
  verb.add_option("MODEL", arguments.model, kModelHelp)->required()->type_name("");
  add_other_arguments(verb, arguments);
}

void add_models_arguments(CLI::App& verb, ModelArguments& arguments,
                          std::vector<std::string>& models) {
  verb.add_option("MODEL", models, kModelHelp)->required()->type_name("");
  add_other_arguments(verb, arguments);
}

void add_lane_arguments(CLI::App& verb, ModelArguments& arguments) {
  verb.add_option("--lanes", arguments.lanes, "Lanes on each device (default: the backend's)")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  verb.add_option("--slots", arguments.slots, "Batches in flight on each lane (default: 2)")
      ->check(CLI::Range(1, 8))
      ->type_name("N");
  verb.add_option("--batch", arguments.batch,
                  "The most items in a batch (default: the model's, 32 where it sets none)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->type_name("N");
}

void apply(const ModelArguments& arguments, ModelConfig& config) {
  if (!arguments.backend.empty()) config.backend = arguments.backend;
  if (arguments.lanes > 0) config.lanes = arguments.lanes;
  if (arguments.slots > 0) config.slots = arguments.slots;
  if (arguments.batch > 0) {
    config.batching.max_items = arguments.batch;
    std::erase_if(config.batching.preferred_items,
                  [&](std::int64_t items) { return items > arguments.batch; });
  }
  for (const std::string& option : arguments.options) {
    const std::size_t equals = option.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw UsageError("--option: expected name=value, got \"" + option + "\"");
    }
    config.options[option.substr(0, equals)] = option.substr(equals + 1);
  }
  config.plugins.insert(config.plugins.end(), arguments.plugins.begin(), arguments.plugins.end());
  if (arguments.share_activations) config.options["share_activations"] = "on";
}

namespace {

// Loads what an ensemble is made of, each file once, those that it needs itself first.
Result<void> load_parts(Engine& engine, const ModelFile& file, std::set<std::string>& loaded,
                        int depth) {
  constexpr int kDeepest = 16;
  if (depth > kDeepest) {
    return Error{
        ErrorCode::invalid_argument,
        file.configuration + ": expected ensembles nested at most 16 deep; is one part of itself?"};
  }
  for (const std::string& argument : file.models) {
    if (!loaded.insert(argument).second) continue;
    Result<ModelFile> part = read_model(argument);
    if (!part.ok()) return std::move(part).error();
    Result<void> parts = load_parts(engine, *part, loaded, depth + 1);
    if (!parts.ok()) return parts;
    Result<Model> model = engine.load(std::move(part->config));
    if (!model.ok()) return std::move(model).error();
  }
  return {};
}

bool names_device(const std::string& name) {
  return name.starts_with("GPU-") || name.starts_with("MIG-") || parse_device_id(name).ok();
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

/// The names of an engine's devices, each once however it is spelled.
class DeviceNames {
 public:
  /// The position of a name, which is added if it is new.
  std::size_t add(const std::string& name) {
    const Result<DeviceId> id = parse_device_id(name);
    const std::string spelled = id.ok() ? to_string(*id) : name;
    const auto at = std::find(names_.begin(), names_.end(), spelled);
    if (at != names_.end()) return static_cast<std::size_t>(at - names_.begin());
    names_.push_back(spelled);
    return names_.size() - 1;
  }
  [[nodiscard]] const std::vector<std::string>& all() const noexcept { return names_; }

 private:
  std::vector<std::string> names_;
};

std::string unused_name(const std::string& name, const std::set<std::string>& used) {
  if (!used.contains(name)) return name;
  for (int number = 2;; ++number) {
    std::string numbered = name + "#" + std::to_string(number);
    if (!used.contains(numbered)) return numbered;
  }
}

}  // namespace

Result<PlacedModel> read_placed_model(const std::string& argument) {
  PlacedModel placed;
  std::string model = argument;
  std::error_code ignored;
  const std::size_t at = argument.rfind('@');
  if (at != std::string::npos && !std::filesystem::exists(argument, ignored)) {
    model = argument.substr(0, at);
    placed.devices = split(argument.substr(at + 1), ',');
    for (const std::string& name : placed.devices) {
      if (names_device(name)) continue;
      return Error{ErrorCode::invalid_argument,
                   in_quotes(argument) +
                       ": expected devices after \"@\" (0,1 or GPU-uuid or host:1), got " +
                       in_quotes(name)};
    }
  }
  Result<ModelFile> file = read_model(model);
  if (!file.ok()) return std::move(file).error();
  placed.file = std::move(*file);
  return placed;
}

Result<OpenModels> open_models(std::vector<PlacedModel> models, const ModelArguments& arguments,
                               EngineOptions options) {
  DeviceNames names;
  for (const std::string& name : arguments.devices) names.add(name);
  std::vector<std::vector<std::size_t>> places;  // of each model's devices among the names
  for (PlacedModel& placed : models) {
    if (placed.devices.empty() && arguments.devices.empty()) {
      for (const DeviceId id : placed.file.config.devices) placed.devices.push_back(to_string(id));
    }
    std::vector<std::size_t>& own = places.emplace_back();
    for (const std::string& name : placed.devices) own.push_back(names.add(name));
  }
  if (!names.all().empty()) options.devices.devices = names.all();
  Result<Engine> engine = Engine::create(std::move(options));
  if (!engine.ok()) return std::move(engine).error();

  OpenModels open{std::move(*engine), {}};
  std::set<std::string> loaded;
  std::set<std::string> used;
  for (std::size_t i = 0; i < models.size(); ++i) {
    ModelFile& file = models[i].file;
    file.config.devices.clear();
    for (const std::size_t place : places[i]) {
      file.config.devices.push_back(open.engine.devices()[place]->id());
    }
    Result<void> parts = load_parts(open.engine, file, loaded, 0);
    if (!parts.ok()) return std::move(parts).error();
    for (const std::string& name : open.engine.model_names()) used.insert(name);
    if (file.config.name.empty()) file.config.name = default_name(file.config);
    file.config.name = unused_name(file.config.name, used);
    Result<Model> model = open.engine.load(file.config);
    if (!model.ok()) return std::move(model).error();
    open.models.push_back({std::move(file), std::move(*model)});
  }
  return open;
}

Result<void> check_faults(const Engine& engine) {
  const std::vector<DeviceFault> faults = engine.faults();
  if (faults.empty()) return {};
  return faults.front().error;
}

Result<OpenModel> open_model(const ModelArguments& arguments, EngineOptions options) {
  Result<PlacedModel> placed = read_placed_model(arguments.model);
  if (!placed.ok()) return std::move(placed).error();
  apply(arguments, placed->file.config);
  std::vector<PlacedModel> models;
  models.push_back(std::move(*placed));
  Result<OpenModels> open = open_models(std::move(models), arguments, std::move(options));
  if (!open.ok()) return std::move(open).error();
  OpenModels::One& one = open->models.front();
  return OpenModel{std::move(open->engine), std::move(one.file), std::move(one.model)};
}

}  // namespace millrace::cli
