// Requests that a version is to have answered before it takes others, as a configuration states
// them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <millrace/model.h>

#include "repository/config_text.h"
#include "repository/model_files.h"

namespace millrace {

struct WarmUp {
  enum class Data : std::uint8_t { zero, random, file };
  struct Input {
    inference::DataType type = inference::TYPE_INVALID;
    std::vector<std::int64_t> dims;  // without the batch axis where the model has one apart
    Data data = Data::zero;
    std::string file;  // in the folder "warmup" of the model: raw elements, of all items
  };
  std::string path;  // "model_warmup[0]", for messages
  std::int64_t items = 1;
  int count = 1;
  std::map<std::string, Input> inputs;
};

/// Errors: invalid_argument for what contradicts itself.
[[nodiscard]] Result<std::vector<WarmUp>> map_warm_ups(const ConfigText& text);

/// Runs one. `apart`: whether shapes are `dims` behind a batch axis. Errors: invalid_argument,
/// not_found, unavailable for what is wrong with it; those of the model.
[[nodiscard]] Result<void> run_warm_up(const WarmUp& warm_up, const Model& model, bool apart,
                                       const ConfigText& text, const ModelFiles& files);

}  // namespace millrace
