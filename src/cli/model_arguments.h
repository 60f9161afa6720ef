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
  std::string model;  // as read_placed_model takes it
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
/// The same with one or more of MODEL, which go to `models`.
void add_models_arguments(CLI::App& verb, ModelArguments& arguments,
                          std::vector<std::string>& models);
/// Adds --lanes, --slots and --batch with one value each.
void add_lane_arguments(CLI::App& verb, ModelArguments& arguments);

/// A model as named on the command line: what its files say, and the devices named behind it.
struct PlacedModel {
  ModelFile file;
  std::vector<std::string> devices;  // as --devices takes them; empty: none were named
};
/// Reads "MODEL" or "MODEL@DEVICES", as in "a.onnx@0,1" or "reference:add@host:1". Errors: those of
/// `read_model`; invalid_argument for devices that cannot be read.
[[nodiscard]] Result<PlacedModel> read_placed_model(const std::string& argument);

/// Several loaded models and the engine that runs them. The members go in the right order.
struct OpenModels {
  struct One {
    ModelFile file;
    Model model;
  };
  Engine engine;
  std::vector<One> models;
};

/// Starts one engine on all devices named (by --devices, behind a model, in a configuration; else
/// on those that `options` names, else on all) and loads each model on its own devices, after those
/// that an ensemble needs: on those named behind it; else on those of --devices; else on those of
/// its configuration; else on all. Of several models of one name the later ones get a number.
/// Errors: those of `Engine::create` and `Engine::load`.
[[nodiscard]] Result<OpenModels> open_models(std::vector<PlacedModel> models,
                                             const ModelArguments& arguments,
                                             EngineOptions options = {});

/// A loaded model with the engine that runs it and what its files said. The members go in the right
/// order: the model before the engine.
struct OpenModel {
  Engine engine;
  ModelFile file;
  Model model;
};

/// Reads the model's files, applies the arguments on top and opens it as `open_models` does.
/// Errors: also those of `read_placed_model`. Throws UsageError for an --option without "=".
[[nodiscard]] Result<OpenModel> open_model(const ModelArguments& arguments,
                                           EngineOptions options = {});

/// Why the process should be restarted, as an error of Scope::process; success while all is well.
[[nodiscard]] Result<void> check_faults(const Engine& engine);

/// The arguments applied to a configuration: backend, lanes, slots, batch, options and plug-ins,
/// which come on top of those that the configuration names.
void apply(const ModelArguments& arguments, ModelConfig& config);

}  // namespace millrace::cli
