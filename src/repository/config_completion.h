// A configuration completed from the model that was loaded for it, and checked against that.
#pragma once

#include <string>
#include <vector>

#include <millrace/model.h>

#include "repository/config_text.h"

namespace millrace {

/// The protocol's type; TYPE_INVALID for those that it has no name for (FP8).
[[nodiscard]] inference::DataType to_config_type(DataType type) noexcept;
/// Whether the configuration's type is the model's.
[[nodiscard]] bool same_type(inference::DataType stated, DataType model) noexcept;

/// The configuration in force: `text` with everything it leaves out. `name`: what the model is
/// called; `file`: of the model, empty where it has none. Errors: invalid_argument for what the
/// model is not, saying what differs.
[[nodiscard]] Result<inference::ModelConfig> complete_config(const ConfigText& text,
                                                             const ModelInfo& info,
                                                             const std::string& name,
                                                             const std::string& file);

/// Whether the shapes of a loaded model carry a batch axis that the configuration leaves out of its
/// dims.
[[nodiscard]] bool batched(const ModelInfo& info);

/// Whether the configuration states the model's shapes whole, so that their first dimension counts
/// no items to it.
[[nodiscard]] bool states_whole_shapes(const ConfigText& text, const ModelInfo& info);

}  // namespace millrace
