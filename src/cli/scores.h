// Outputs that are scores of classes, and what they say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <millrace/tensor.h>

#include "io/guesses.h"

namespace millrace::cli {

/// Whether a tensor is [N,C] of a floating-point type with at least two classes.
[[nodiscard]] bool may_be_scores(DataType type, const Shape& shape) noexcept;

/// Whether the scores of each item are shares: within 0 and 1, with a sum of 1 (to one in a
/// hundred).
[[nodiscard]] bool are_probabilities(const TensorView& view) noexcept;

/// The name of a class: its label, or its number where there are none.
[[nodiscard]] std::string label_of(const std::vector<std::string>& labels, std::int64_t label);

}  // namespace millrace::cli
