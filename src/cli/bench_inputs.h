// What a benchmark sends: distinct contents for a model's inputs in memory of their own, and the
// answers that the model must give to them.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <millrace/model.h>

#include "cli/run_inputs.h"

namespace millrace::cli {

/// Contents of requests: items of the user's files round and round, or random values from a seed.
/// Content number k is the same each time it is made.
class BenchInputs {
 public:
  /// Random values where there are no arguments. Errors: those of `open_inputs`; unsupported for
  /// random values of a size that the model leaves open.
  [[nodiscard]] static Result<BenchInputs> open(
      const ModelInfo& model, const InputArguments& arguments,
      const std::map<std::string, ImagePreprocess>& configured, std::uint64_t seed);

  /// How many contents differ when a request has `items` items; very many when they are random.
  [[nodiscard]] std::size_t distinct(std::int64_t items) const noexcept;
  /// Content `k` as a tensor for each input, in new memory that their leases hold.
  [[nodiscard]] Result<std::vector<NamedTensor>> make(std::size_t k, std::int64_t items) const;

 private:
  [[nodiscard]] Result<Tensor> random(const TensorInfo& input, std::size_t k,
                                      std::int64_t items) const;
  [[nodiscard]] Result<Tensor> gathered(const InputSource& source, std::size_t k,
                                        std::int64_t items) const;

  std::vector<TensorInfo> infos_;
  Inputs files_;  // no sources: random
  std::uint64_t seed_ = 0;
};

/// Bytes of the tensors, the offsets of BYTES included.
[[nodiscard]] std::size_t bytes_of(std::span<const NamedTensor> tensors);

/// The tensors copied to memory of their own. Contiguous host memory only.
[[nodiscard]] Result<std::vector<NamedTensor>> copy_of(std::span<const NamedTensor> tensors);

/// What is wrong with an answer; empty when it is right: the same names, types and shapes, the same
/// integers, BOOL and BYTES, and floating-point values that differ by no more than sums added up in
/// another order may: by a thousandth of the largest magnitude expected (FP32, FP64), a 32nd (16
/// bits) or a quarter (8 bits).
[[nodiscard]] std::string difference_of(std::span<const NamedTensor> found,
                                        std::span<const NamedTensor> expected);

}  // namespace millrace::cli
