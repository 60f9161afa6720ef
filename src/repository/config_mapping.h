// What a configuration in the well-known format means to the engine.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <millrace/model.h>

#include "repository/config_fields.h"
#include "repository/config_text.h"
#include "repository/model_files.h"
#include "repository/request_policy.h"
#include "repository/warm_up.h"

namespace millrace {

/// A configuration's formats of model files. Which backend runs one follows from the device.
enum class ModelFormat : std::uint8_t { automatic, onnx, tensorrt, reference, ensemble };

/// One step of an ensemble, before it is known which loaded model it means.
struct EnsemblePart {
  std::string model;
  std::int64_t version = -1;  // -1: what the model's policy prefers
  EnsembleStep step;          // its `model` is not set
};

/// What holds for all versions of a model. Pure data: nothing was loaded for it.
struct ConfigMapping {
  /// Without name, path and content.
  ModelConfig engine;
  ModelFormat format = ModelFormat::automatic;
  std::string model_file;  // within the version's folder; empty: by format
  RequestPolicy requests;
  /// Whether the model may be unloaded while it is idle and memory is short.
  bool evictable = true;
  std::vector<EnsemblePart> parts;
  std::vector<WarmUp> warm_ups;
  std::vector<StatedField> fields;  // all that the text states
  /// What was accepted and is not done, each with its place and what happens instead.
  std::vector<std::string> hints;
};

/// Refuses, by name and place, what is contradictory or would change answers. `devices`: the
/// engine's. Errors: invalid_argument, unsupported.
[[nodiscard]] Result<ConfigMapping> map_config(const ConfigText& text, const ModelFiles& files,
                                               std::span<const DeviceId> devices);

/// The versions that the configuration's policy chooses of those there, ascending. Errors:
/// invalid_argument for one that is named and not there.
[[nodiscard]] Result<std::vector<std::int64_t>> choose_versions(
    const ConfigText& text, const std::vector<std::int64_t>& there);

}  // namespace millrace
