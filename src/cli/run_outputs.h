// What "millrace run" does with the answers: rows as they come, arrays for a file, a summary at the
// end.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <millrace/model.h>

#include "cli/print.h"

namespace millrace::cli {

/// Figures of one output over all answers.
class OutputSummary {
 public:
  OutputSummary(std::string name, DataType type) : name_(std::move(name)), type_(type) {}
  void add(const TensorView& view);

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] DataType type() const { return type_; }
  [[nodiscard]] Json json() const;
  /// name, type, shape, lowest, mean, highest, first values.
  [[nodiscard]] std::vector<std::string> row() const;

 private:
  [[nodiscard]] std::string shape_text() const;

  std::string name_;
  DataType type_;
  Shape item_shape_;       // of what was added, kDynamic where it differed
  std::int64_t rows_ = 0;  // along the first dimension
  std::uint64_t answers_ = 0;
  std::uint64_t elements_ = 0;
  std::uint64_t no_numbers_ = 0;
  double lowest_ = 0;
  double highest_ = 0;
  double sum_ = 0;
  std::vector<std::string> first_;
};

/// Collects one output over all answers, to be written as one array, or as one for each answer
/// where the answers differ in more than their number of rows.
class OutputCollector {
 public:
  explicit OutputCollector(std::string name) : name_(std::move(name)) {}
  /// Keeps a copy. Errors: out_of_memory.
  Result<void> add(const TensorView& view);
  /// The arrays; valid while this lives. Errors: out_of_memory.
  [[nodiscard]] Result<std::vector<NamedTensor>> arrays() const;

 private:
  [[nodiscard]] bool alike() const;
  [[nodiscard]] Result<NamedTensor> joined() const;

  std::string name_;
  std::vector<Tensor> parts_;
};

/// Row `row` of a tensor as nested lists; the whole tensor when `row` is negative.
[[nodiscard]] Json values_json(const TensorView& view, std::int64_t row);

}  // namespace millrace::cli
