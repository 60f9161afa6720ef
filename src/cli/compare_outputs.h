// How far the answers of a model in one precision are from those in another. Pure arithmetic.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <millrace/tensor.h>

namespace millrace::cli {

/// The figures of one output, summed up over all answers given to `add`.
class OutputComparison {
 public:
  explicit OutputComparison(std::string name) : name_(std::move(name)) {}

  /// Takes one answer: contiguous host memory on both sides. Types may differ; shapes must not.
  void add(const TensorView& reference, const TensorView& found);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::uint64_t elements() const noexcept { return elements_; }
  /// Of |found - reference|.
  [[nodiscard]] double max_error() const noexcept { return max_error_; }
  [[nodiscard]] double mean_error() const noexcept;
  /// The length of the difference over that of the reference, all elements taken as one vector: 0
  /// when equal, infinite where the reference is 0 and the answer is not.
  [[nodiscard]] double relative_error() const noexcept;
  /// Of the angle between both, 1 when they point the same way (or both are 0).
  [[nodiscard]] double cosine() const noexcept;
  /// Elements that are finite in one and not in the other, or infinite with another sign.
  [[nodiscard]] std::uint64_t not_finite() const noexcept { return not_finite_; }

  /// Whether the output looks like scores of classes ([N,C], floating point), or is of a type that
  /// is right or wrong (integers, BOOL, BYTES).
  [[nodiscard]] bool counts_agreement() const noexcept { return rows_ > 0; }
  /// The share of items with the same best class, or of elements that are equal. 1 without any.
  [[nodiscard]] double agreement() const noexcept;
  /// The first answer of another shape, in words; empty when there was none.
  [[nodiscard]] const std::string& shape_problem() const noexcept { return shape_problem_; }

 private:
  void add_number(double reference, double found) noexcept;
  void add_classes(const TensorView& reference, const TensorView& found);

  std::string name_;
  std::uint64_t elements_ = 0;
  std::uint64_t not_finite_ = 0;
  double max_error_ = 0;
  double sum_of_errors_ = 0;
  double squared_difference_ = 0;
  double squared_reference_ = 0;
  double squared_found_ = 0;
  double product_ = 0;
  bool exact_ = false;  // right or wrong
  std::uint64_t rows_ = 0;
  std::uint64_t agreeing_ = 0;
  std::string shape_problem_;
};

/// How much may be lost.
struct ComparisonLimits {
  double relative_error = 0;
  /// 0: not judged.
  double agreement = 0;
};

/// What is usual for a precision or variant ("fp32", "tf32", "fp16", "bf16", "int8", "fp8";
/// anything else as fp16), on real inputs.
[[nodiscard]] ComparisonLimits usual_limits(std::string_view precision) noexcept;

/// Why an output is not good, in words; empty when it is.
[[nodiscard]] std::string problem_of(const OutputComparison& output,
                                     const ComparisonLimits& limits);

}  // namespace millrace::cli
