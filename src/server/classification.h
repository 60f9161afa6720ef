// The classification extension: the best classes of an output instead of its numbers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <millrace/tensor.h>

namespace millrace::server {

/// Of numbers in contiguous host memory, for each item the best `classes` (fewer where there are no
/// more), as BYTES "VALUE:INDEX", and ":LABEL" where `labels` has one. The shape is that of `view`
/// with its last dimension cut to the number of classes; of a scalar or a vector without a batch
/// axis, [classes]. Errors: invalid_argument for BYTES and for what has no classes.
[[nodiscard]] Result<Tensor> classify(const TensorView& view, std::int64_t classes,
                                      const std::vector<std::string>& labels);

}  // namespace millrace::server
