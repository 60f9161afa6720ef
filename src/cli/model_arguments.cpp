#include "cli/model_arguments.h"

#include <set>
#include <utility>

#include "cli/verbs.h"

namespace millrace::cli {

void add_model_arguments(CLI::App& verb, ModelArguments& arguments) {
  verb.add_option(
          "MODEL", arguments.model,
          "A model file, a folder with millrace.json, a configuration (.json), or reference:KIND")
      ->required()
      ->type_name("");
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

}  // namespace

Result<OpenModel> open_model(ModelFile file, const ModelArguments& arguments,
                             EngineOptions options) {
  if (!arguments.devices.empty()) {
    options.devices.devices = arguments.devices;
    file.config.devices.clear();  // all of those named
  } else if (options.devices.devices.empty()) {
    for (const DeviceId id : file.config.devices) options.devices.devices.push_back(to_string(id));
  }
  Result<Engine> engine = Engine::create(std::move(options));
  if (!engine.ok()) return std::move(engine).error();
  std::set<std::string> loaded;
  Result<void> parts = load_parts(*engine, file, loaded, 0);
  if (!parts.ok()) return std::move(parts).error();
  Result<Model> model = engine->load(file.config);
  if (!model.ok()) return std::move(model).error();
  return OpenModel{std::move(*engine), std::move(file), std::move(*model)};
}

Result<OpenModel> open_model(const ModelArguments& arguments, EngineOptions options) {
  Result<ModelFile> file = read_model(arguments.model);
  if (!file.ok()) return std::move(file).error();
  apply(arguments, file->config);
  return open_model(std::move(*file), arguments, std::move(options));
}

}  // namespace millrace::cli
