// The best of the scores that a classifier gives.
#pragma once

#include <cstdint>
#include <vector>

#include <millrace/tensor.h>

namespace millrace {

struct Guess {
  std::int64_t label = 0;
  double score = 0;
};

/// The `count` classes with the highest scores among `classes` elements of `view` from element
/// `first` on, best first; of equal ones the lower number first, and what is no number last.
/// `view`: numbers in contiguous host memory.
[[nodiscard]] std::vector<Guess> best_guesses(const TensorView& view, std::int64_t first,
                                              std::int64_t classes, std::int64_t count);

}  // namespace millrace
