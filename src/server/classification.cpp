#include "server/classification.h"

#include <algorithm>

#include "base/text.h"
#include "base/try.h"
#include "io/guesses.h"

namespace millrace::server {

Result<Tensor> classify(const TensorView& view, std::int64_t classes,
                        const std::vector<std::string>& labels) {
  if (view.type == DataType::bytes || view.shape.rank() == 0 || classes < 1) {
    return Error{ErrorCode::invalid_argument,
                 concat("classification: expected at least 1 class of a tensor of numbers with a "
                        "dimension, got ",
                        classes, " of ", view.type, " ", view.shape)};
  }
  const std::int64_t all = view.shape[view.shape.rank() - 1];
  MILLRACE_ASSIGN(const std::int64_t elements, element_count(view.shape));
  const std::int64_t kept = std::min(classes, all);
  Shape shape = view.shape;
  shape[shape.rank() - 1] = kept;
  std::vector<std::string> texts;
  for (std::int64_t first = 0; all > 0 && first < elements; first += all) {
    for (const Guess& guess : best_guesses(view, first, all, kept)) {
      std::string text = concat(guess.score, ':', guess.label);
      const auto label = static_cast<std::size_t>(guess.label);
      if (label < labels.size()) text += ":" + labels[label];
      texts.push_back(std::move(text));
    }
  }
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  return Tensor::of_strings(views, shape);
}

}  // namespace millrace::server
