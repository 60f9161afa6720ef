// Host memory of somebody else, made such that GPUs copy from and to it where it lies.
#pragma once

#include <cstddef>

#include <millrace/error.h>
#include <millrace/lease.h>

namespace millrace {

/// Pins [data, data + bytes) for all GPUs of this process until the last copy of the lease goes;
/// the memory must live for as long, and no GPU may be copying from or to it any more then. For
/// memory that is used again and again (pinning costs about as much as copying it), such as memory
/// shared with another process. Call it when a GPU is in use already. Both pinning and unpinning
/// may wait for a GPU. Errors: out_of_memory (the system pins no more), invalid_argument (not
/// memory that can be pinned), unsupported in a build without CUDA.
[[nodiscard]] Result<Lease> pin_host_memory(void* data, std::size_t bytes);

}  // namespace millrace
