#include "cli/scores.h"

#include <cmath>

#include "cli/print.h"
#include "io/elements.h"

namespace millrace::cli {

bool may_be_scores(DataType type, const Shape& shape) noexcept {
  const bool floating = type == DataType::fp16 || type == DataType::bf16 ||
                        type == DataType::fp32 || type == DataType::fp64;
  return floating && shape.rank() == 2 && shape[1] >= 2;
}

bool are_probabilities(const TensorView& view) noexcept {
  constexpr double kTolerance = 0.01;  // binary16 has three digits
  const std::int64_t classes = view.shape[1];
  for (std::int64_t item = 0; item < view.shape[0]; ++item) {
    double sum = 0;
    for (std::int64_t c = 0; c < classes; ++c) {
      const double score = element_value(view, item * classes + c);
      if (!(score >= 0 && score <= 1 + kTolerance)) return false;
      sum += score;
    }
    if (std::abs(sum - 1) > kTolerance) return false;
  }
  return true;
}

std::string label_of(const std::vector<std::string>& labels, std::int64_t label) {
  const auto i = static_cast<std::size_t>(label);
  return i < labels.size() ? printable(labels[i]) : std::to_string(label);
}

}  // namespace millrace::cli
