#include "server/grpc/decompress.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <zlib.h>

namespace millrace::server {
namespace {

std::string compressed(const std::string& text, bool gzip) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, MAX_WBITS + (gzip ? 16 : 0), 8,
                         Z_DEFAULT_STRATEGY),
            Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

std::vector<std::string_view> split(std::string_view message, std::size_t size) {
  std::vector<std::string_view> pieces;
  for (std::size_t at = 0; at < message.size(); at += size) {
    pieces.push_back(message.substr(at, size));
  }
  return pieces;
}

std::string varied(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * i >> 3);
  return text;
}

class Decompress : public testing::TestWithParam<grpc_compression_algorithm> {
 protected:
  bool gzip() const { return GetParam() == GRPC_COMPRESS_GZIP; }
};
INSTANTIATE_TEST_SUITE_P(Algorithms, Decompress,
                         testing::Values(GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE),
                         [](const auto& algorithm) {
                           return algorithm.param == GRPC_COMPRESS_GZIP ? "gzip" : "deflate";
                         });

TEST_P(Decompress, GivesBackWhatWasCompressed) {
  for (const std::size_t size : {0u, 1u, 16384u, 100000u}) {
    const std::string text = varied(size);
    const std::string packed = compressed(text, gzip());
    for (const std::size_t piece : {std::size_t{1}, std::size_t{100}, packed.size()}) {
      const auto pieces = split(packed, piece);
      const auto found = decompress(pieces, GetParam(), size);
      ASSERT_TRUE(found.ok()) << found.error().message;
      EXPECT_EQ(*found, text);
    }
  }
}

TEST_P(Decompress, MoreThanIsAllowed) {
  const std::string packed = compressed(std::string(1 << 24, 'a'), gzip());
  const auto pieces = split(packed, packed.size());
  const auto found = decompress(pieces, GetParam(), (1 << 24) - 1);
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.error().code, ErrorCode::out_of_memory);
  EXPECT_TRUE(decompress(pieces, GetParam(), 1 << 24).ok());
}

TEST_P(Decompress, WhatIsCutOffOrDamagedOrGoesOn) {
  const std::string packed = compressed(varied(1000), gzip());
  for (const std::string& wrong : {packed.substr(0, packed.size() - 1), packed.substr(1),
                                   packed + "x", std::string("not compressed"), std::string()}) {
    for (const std::size_t piece : {std::size_t{1}, wrong.size() + 1}) {
      const auto pieces = split(wrong, piece);
      const auto found = decompress(pieces, GetParam(), 1 << 20);
      ASSERT_FALSE(found.ok());
      EXPECT_EQ(found.error().code, ErrorCode::invalid_argument);
    }
  }
}

}  // namespace
}  // namespace millrace::server
