#include "cli/scores.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cli/print.h"
#include "io/elements.h"

namespace millrace::cli {

std::vector<Guess> best_guesses(const TensorView& view, std::int64_t item, std::int64_t count) {
  const std::int64_t classes = view.shape[1];
  std::vector<Guess> guesses;
  for (std::int64_t c = 0; c < classes; ++c)
    guesses.push_back({c, element_value(view, item * classes + c)});
  const auto better = [](const Guess& a, const Guess& b) {
    const double lowest = -std::numeric_limits<double>::infinity();
    const double x = std::isnan(a.score) ? lowest : a.score;
    const double y = std::isnan(b.score) ? lowest : b.score;
    return x != y ? x > y : a.label < b.label;
  };
  const std::int64_t kept = std::min(count, classes);
  std::partial_sort(guesses.begin(), guesses.begin() + kept, guesses.end(), better);
  guesses.resize(static_cast<std::size_t>(kept));
  return guesses;
}

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
