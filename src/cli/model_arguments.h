// The arguments of every verb that loads a model, and the loading itself.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <millrace/engine.h>

#include "repository/config.h"

namespace millrace::cli {

/// As given on the command line; what was left out is empty or 0 and follows from the
/// configuration.
struct ModelArguments {
  std::string model;
  std::vector<std::string> devices;
  std::string backend;
  int lanes = 0;
  int slots = 0;
  std::int64_t batch = 0;
  std::vector<std::string> options;  // "name=value"
  std::vector<std::string> plugins;
  bool share_activations = false;
};

/// Adds MODEL, --devices, --backend, --option, --plugin and --share-activations to a verb.
void add_model_arguments(CLI::App& verb, ModelArguments& arguments);
/// Adds --lanes, --slots and --batch with one value each.
void add_lane_arguments(CLI::App& verb, ModelArguments& arguments);

/// A loaded model with the engine that runs it and what its files said. The members go in the right
/// order: the model before the engine.
struct OpenModel {
  Engine engine;
  ModelFile file;
  Model model;
};

/// Reads the model's files, applies the arguments on top, starts an engine on the devices named
/// (else on those that the configuration names, else on all) and loads the model, after those that
/// an ensemble needs. Errors: those of `read_model`, `Engine::create` and `Engine::load`. Throws
/// UsageError for an
/// --option without "=".
[[nodiscard]] Result<OpenModel> open_model(const ModelArguments& arguments,
                                           EngineOptions options = {});
/// The same for a file already read; `file.config` has the last word on lanes, slots and batching.
[[nodiscard]] Result<OpenModel> open_model(ModelFile file, const ModelArguments& arguments,
                                           EngineOptions options = {});

/// The arguments applied to a configuration: backend, lanes, slots, batch, options and plug-ins,
/// which come on top of those that the configuration names.
void apply(const ModelArguments& arguments, ModelConfig& config);

}  // namespace millrace::cli
