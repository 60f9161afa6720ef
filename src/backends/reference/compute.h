// What reference models compute, on host memory.
#pragma once

#include <millrace/error.h>
#include <millrace/tensor.h>

#include "backends/backend.h"
#include "backends/reference/options.h"

namespace millrace::reference {

/// The tensors that a model of these options declares.
[[nodiscard]] std::vector<TensorInfo> inputs_of(const Options& options);
[[nodiscard]] std::vector<TensorInfo> outputs_of(const Options& options);

/// Whether the outputs' sizes follow from the inputs' shapes alone.
[[nodiscard]] bool sizes_known(const Options& options) noexcept;

/// How many items a run's inputs hold.
[[nodiscard]] std::int64_t items_of(const Options& options,
                                    std::span<const TensorView> inputs) noexcept;

/// Sees to it that output `index`, whose size is known, has memory, and writes its shape.
Result<void> place_output(const Options& options, std::span<const TensorView> inputs,
                          std::span<OutputSlot> outputs, std::size_t index);

/// Reads the inputs and writes all outputs; allocates those that have no memory.
Result<void> compute(const Options& options, std::span<const TensorView> inputs,
                     std::span<OutputSlot> outputs);

}  // namespace millrace::reference
