// DLPack 1.x: tensors handed over to and from other libraries without a copy.
#pragma once

#include <millrace/tensor.h>

// The standard structures, only named here: whoever reads or fills them includes dlpack.h itself,
// before or after this header.
struct DLManagedTensor;
struct DLManagedTensorVersioned;

namespace millrace {

/// Takes over `managed`: its deleter is called when the last lease on the tensor goes. `ready`, if
/// given, must be reached before the data is read; it must outlive the tensor. On error nothing is
/// taken over: calling the deleter stays with the caller. Strides are kept where they say more than
/// "contiguous".
///
/// Managed (unified) and pinned memory is taken as host memory, which GPUs read where it lies. A
/// read-only tensor may be an input only: the flag is not kept. Errors: invalid_argument (null,
/// negative sizes, a byte offset or strides that overflow), unsupported (another major version,
/// lanes other than 1, a device or type that Millrace does not know, sub-byte types, negative
/// strides, more than `kMaxRank` dimensions), out_of_memory.
[[nodiscard]] Result<Tensor> from_dlpack(DLManagedTensorVersioned* managed, EventRef ready = {});
/// The same for the structure before version 1.0.
[[nodiscard]] Result<Tensor> from_dlpack(DLManagedTensor* managed, EventRef ready = {});

/// A DLPack tensor that shares `tensor`'s memory and holds a copy of its lease until the consumer
/// calls the deleter. The consumer must wait for `tensor.view().ready` first; `read_only` sets
/// DLPack's flag. Errors: unsupported for BYTES and for types DLPack has none for.
[[nodiscard]] Result<DLManagedTensorVersioned*> to_dlpack(const Tensor& tensor,
                                                          bool read_only = false);
/// The same as the structure before version 1.0, for consumers that know no other. It has no flags.
[[nodiscard]] Result<DLManagedTensor*> to_dlpack_unversioned(const Tensor& tensor);

}  // namespace millrace
