// Compressed messages.
#pragma once

#include <string>

#include <grpc/compression.h>

#include <millrace/error.h>

#include "server/grpc/wire.h"

namespace millrace::server {

/// The message that was compressed. Errors: invalid_argument (not compressed like that),
/// out_of_memory (it is longer than `most` bytes; what was decompressed until then is thrown away).
[[nodiscard]] Result<std::string> decompress(Pieces pieces, grpc_compression_algorithm algorithm,
                                             std::size_t most);

}  // namespace millrace::server
