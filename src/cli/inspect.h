// What "millrace inspect" shows: of a model, and of a folder of models.
#pragma once

#include <string>

#include <millrace/model.h>

#include "cli/model_arguments.h"
#include "cli/print.h"

namespace millrace::cli {

/// A model's tensors, placements and memory.
[[nodiscard]] std::string model_text(const ModelInfo& info);
[[nodiscard]] Json model_json(const ModelInfo& info);

/// Whether an argument names a folder such as "millrace serve" takes: of models, or of one with
/// versions.
[[nodiscard]] bool holds_models(const std::string& argument);

/// Loads all of its models as the server would, and prints what each field of their configurations
/// became, and the models. The exit code is that of failure when one could not be loaded.
[[nodiscard]] Result<int> inspect_repository(const ModelArguments& arguments, bool json);

}  // namespace millrace::cli
