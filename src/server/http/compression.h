// gzip and deflate, as Content-Encoding names them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include <millrace/error.h>

namespace millrace::server {

enum class Encoding : std::uint8_t { identity, gzip, deflate };

/// "identity", "gzip", "deflate".
[[nodiscard]] std::string_view to_string(Encoding encoding) noexcept;

/// What `text` is when decompressed: at most `limit` bytes. `grow(bytes)` is asked before so many
/// more are taken, and may refuse. Deflate may come with or without zlib's frame. Errors:
/// invalid_argument (corrupt, cut off, something behind the end), unsupported (longer than the
/// limit), queue_full (`grow` refused).
[[nodiscard]] Result<std::string> decompress(std::string_view text, Encoding encoding,
                                             std::size_t limit,
                                             const std::function<bool(std::size_t bytes)>& grow);

/// Compresses piece after piece, fast rather than small.
class Compressor {
 public:
  explicit Compressor(Encoding encoding);
  Compressor(const Compressor&) = delete;
  Compressor& operator=(const Compressor&) = delete;
  ~Compressor();

  void add(const void* data, std::size_t bytes);
  /// All of it, compressed. Once. Errors: out_of_memory.
  [[nodiscard]] Result<std::string> finish();

 private:
  struct State;
  State* state_;
};

/// Of an Accept-Encoding header: the best of ours that it takes.
[[nodiscard]] Encoding choose_encoding(std::string_view accepted) noexcept;

}  // namespace millrace::server
