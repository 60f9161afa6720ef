#include "io/guesses.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "io/elements.h"

namespace millrace {

std::vector<Guess> best_guesses(const TensorView& view, std::int64_t first, std::int64_t classes,
                                std::int64_t count) {
  std::vector<Guess> guesses;
  guesses.reserve(static_cast<std::size_t>(classes));
  for (std::int64_t c = 0; c < classes; ++c) guesses.push_back({c, element_value(view, first + c)});
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

}  // namespace millrace
