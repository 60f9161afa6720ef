#include "server/grpc/decompress.h"

#include <algorithm>
#include <array>
#include <limits>

#include <zlib.h>

#include "base/text.h"

namespace millrace::server {
namespace {

class Inflater {
 public:
  Inflater() = default;
  ~Inflater() { inflateEnd(&stream_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  bool start(grpc_compression_algorithm algorithm) {
    constexpr int kGzip = 16;  // added to the window's bits, as zlib documents it
    return inflateInit2(&stream_, MAX_WBITS + (algorithm == GRPC_COMPRESS_GZIP ? kGzip : 0)) ==
           Z_OK;
  }
  /// Appends what `piece` yields. False: it is malformed, or there is more than `most` bytes.
  bool take(std::string_view piece, std::string& out, std::size_t most) {
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(piece.data()));
    stream_.avail_in = static_cast<uInt>(piece.size());
    std::array<char, 16384> block;
    while (stream_.avail_in > 0 || stream_.avail_out == 0) {
      stream_.next_out = reinterpret_cast<Bytef*>(block.data());
      stream_.avail_out = block.size();
      const int result = inflate(&stream_, Z_NO_FLUSH);
      out.append(block.data(), block.size() - stream_.avail_out);
      ended_ = result == Z_STREAM_END;
      if (out.size() > most) return false;
      if (result == Z_BUF_ERROR) return true;  // wants the next piece
      if (ended_) return stream_.avail_in == 0;
      if (result != Z_OK) return false;
    }
    return true;
  }
  bool ended() const { return ended_; }

 private:
  z_stream stream_{};
  bool ended_ = false;
};

}  // namespace

Result<std::string> decompress(Pieces pieces, grpc_compression_algorithm algorithm,
                               std::size_t most) {
  if (algorithm != GRPC_COMPRESS_GZIP && algorithm != GRPC_COMPRESS_DEFLATE) {
    return Error{ErrorCode::unsupported, "expected a message compressed with gzip or deflate"};
  }
  const Error malformed{ErrorCode::invalid_argument,
                        concat("the message is not what \"grpc-encoding: ",
                               algorithm == GRPC_COMPRESS_GZIP ? "gzip" : "deflate", "\" says")};
  Inflater inflater;
  if (!inflater.start(algorithm)) return Error{ErrorCode::out_of_memory, "no memory for zlib"};
  std::string message;
  for (const std::string_view piece : pieces) {
    if (inflater.ended()) return malformed;
    if (inflater.take(piece, message, most)) continue;
    if (message.size() <= most) return malformed;
    return Error{ErrorCode::out_of_memory,
                 concat("the message is longer than ", most, " bytes when decompressed")};
  }
  if (!inflater.ended()) return malformed;
  return message;
}

}  // namespace millrace::server
