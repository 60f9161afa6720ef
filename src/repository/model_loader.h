// From a model's files to a model that runs.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <millrace/engine.h>

#include "repository/config_mapping.h"
#include "repository/config_text.h"
#include "repository/model_files.h"
#include "repository/model_repository.h"

namespace millrace {

/// What a model's files and configuration ask for. Nothing was loaded for it.
struct ModelPlan {
  std::string name;
  ConfigText text;
  ModelFiles files;
  ConfigMapping mapping;
  std::vector<std::int64_t> versions;  // to be served, ascending
  std::string labels;                  // file with names of classes, for all outputs; may be empty
  std::string stamp;                   // of what is not among `files`
};

/// Reads a model's configuration and decides on versions. Errors: not_found, invalid_argument,
/// unsupported.
[[nodiscard]] Result<ModelPlan> plan_model(const ModelPlace& place, const Engine& engine);
/// The same with a configuration (JSON) and files that came with a request; either may be empty.
/// `place` may be that of no folder, where both are given.
[[nodiscard]] Result<ModelPlan> plan_model(const ModelPlace& place, const LoadParameters& sent,
                                           const Engine& engine);

/// Changes when the version should be loaded again.
[[nodiscard]] std::string fingerprint(const ModelPlan& plan, std::int64_t version);

/// A version in the engine, not yet anybody's.
struct EngineModel {
  std::string engine_name;
  ServedModel served;
};
/// Loads, completes, warms. `steps` are those of an ensemble, with the engine's names.
/// `engine_name` must be free. Errors: as Engine::load, and for what the configuration says of the
/// model that is not so; nothing stays loaded then.
[[nodiscard]] Result<EngineModel> load_version(Engine& engine, const ModelPlan& plan,
                                               std::int64_t version, std::string engine_name,
                                               std::vector<EnsembleStep> steps);

}  // namespace millrace
