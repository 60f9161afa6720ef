#include "cli/compare_outputs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cli/print.h"
#include "cli/scores.h"
#include "io/elements.h"

namespace millrace::cli {
namespace {

bool same_text(const TensorView& a, const TensorView& b, std::int64_t i) noexcept {
  const auto element = static_cast<std::size_t>(i);
  return element_text(a, element) == element_text(b, element);
}

}  // namespace

void OutputComparison::add(const TensorView& reference, const TensorView& found) {
  const bool texts = reference.type == DataType::bytes;
  if (reference.shape != found.shape || texts != (found.type == DataType::bytes)) {
    if (shape_problem_.empty()) {
      shape_problem_ = "expected " + std::string(to_string(reference.type)) + " " +
                       to_string(reference.shape) + ", got " + std::string(to_string(found.type)) +
                       " " + to_string(found.shape);
    }
    return;
  }
  const Result<std::int64_t> count = element_count(reference.shape);
  if (!count.ok()) return;
  elements_ += static_cast<std::uint64_t>(*count);
  exact_ = !is_floating(reference.type);
  for (std::int64_t i = 0; i < *count; ++i) {
    const double a = texts ? 0 : element_value(reference, i);
    const double b = texts ? 0 : element_value(found, i);
    if (exact_) {
      ++rows_;
      agreeing_ += texts ? same_text(reference, found, i) : a == b;
    }
    if (!texts) add_number(a, b);
  }
  if (!exact_ && may_be_scores(reference.type, reference.shape)) add_classes(reference, found);
}

void OutputComparison::add_number(double reference, double found) noexcept {
  if (!std::isfinite(reference) || !std::isfinite(found)) {
    const bool same = reference == found || (std::isnan(reference) && std::isnan(found));
    if (!same) ++not_finite_;
    return;
  }
  const double error = std::abs(found - reference);
  max_error_ = std::max(max_error_, error);
  sum_of_errors_ += error;
  squared_difference_ += error * error;
  squared_reference_ += reference * reference;
  squared_found_ += found * found;
  product_ += reference * found;
}

void OutputComparison::add_classes(const TensorView& reference, const TensorView& found) {
  for (std::int64_t row = 0; row < reference.shape[0]; ++row) {
    ++rows_;
    const auto best = [row](const TensorView& view) {
      return best_guesses(view, row * view.shape[1], view.shape[1], 1)[0].label;
    };
    agreeing_ += best(reference) == best(found);
  }
}

double OutputComparison::mean_error() const noexcept {
  return elements_ == 0 ? 0 : sum_of_errors_ / static_cast<double>(elements_);
}

double OutputComparison::relative_error() const noexcept {
  if (squared_difference_ == 0) return 0;
  if (squared_reference_ == 0) return std::numeric_limits<double>::infinity();
  return std::sqrt(squared_difference_ / squared_reference_);
}

double OutputComparison::cosine() const noexcept {
  if (squared_reference_ == 0 && squared_found_ == 0) return 1;
  if (squared_reference_ == 0 || squared_found_ == 0) return 0;
  return product_ / std::sqrt(squared_reference_) / std::sqrt(squared_found_);
}

double OutputComparison::agreement() const noexcept {
  return rows_ == 0 ? 1 : static_cast<double>(agreeing_) / static_cast<double>(rows_);
}

ComparisonLimits usual_limits(std::string_view precision) noexcept {
  if (precision == "fp32") return {1e-4, 0.99};
  if (precision == "tf32") return {5e-3, 0.99};
  if (precision == "bf16") return {5e-2, 0.98};
  if (precision == "int8") return {0.15, 0.98};
  if (precision == "fp8") return {0.2, 0.98};
  return {1e-2, 0.99};
}

std::string problem_of(const OutputComparison& output, const ComparisonLimits& limits) {
  if (!output.shape_problem().empty()) return output.shape_problem();
  if (output.not_finite() > 0) {
    return format_count(output.not_finite()) + " of " + format_count(output.elements()) +
           " values are not finite where the reference's are, or the other way round";
  }
  if (!(output.relative_error() <= limits.relative_error)) {
    return "relative error " + format_value(output.relative_error()) + ", at most " +
           format_value(limits.relative_error) + " allowed";
  }
  if (output.counts_agreement() && output.agreement() < limits.agreement) {
    return "agreement " + format_percent(output.agreement()) + ", at least " +
           format_percent(limits.agreement) + " expected";
  }
  return {};
}

}  // namespace millrace::cli
