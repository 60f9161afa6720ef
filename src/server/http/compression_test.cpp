#include "server/http/compression.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace millrace::server {
namespace {

std::string compressed(std::string_view text, Encoding encoding) {
  Compressor compressor(encoding);
  compressor.add(text.data(), text.size() / 2);
  compressor.add(text.data() + text.size() / 2, text.size() - text.size() / 2);
  return compressor.finish().value();
}

bool grow(std::size_t) { return true; }

std::string pattern(std::size_t bytes) {
  std::string text(bytes, '\0');
  std::uint32_t state = 1;
  for (char& c : text) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 30);
  }
  return text;
}

TEST(Compression, ComesBack) {
  for (const Encoding encoding : {Encoding::gzip, Encoding::deflate}) {
    for (const std::size_t bytes : {0U, 1U, 100U, 5000U, 300000U}) {
      const std::string text = pattern(bytes);
      const Result<std::string> back =
          decompress(compressed(text, encoding), encoding, 300000, grow);
      ASSERT_TRUE(back.ok()) << back.error().message;
      EXPECT_EQ(*back, text);
    }
  }
}

TEST(Compression, TakesDeflateWithoutAFrame) {
  std::string framed = compressed("some text", Encoding::deflate);
  const std::string bare = framed.substr(2, framed.size() - 6);
  EXPECT_EQ(decompress(bare, Encoding::deflate, 100, grow).value(), "some text");
}

TEST(Compression, RefusesWhatIsCorrupt) {
  const std::string good = compressed(pattern(5000), Encoding::gzip);
  const auto refusal = [](std::string_view text) {
    const Result<std::string> back = decompress(text, Encoding::gzip, 1 << 20, grow);
    return back.ok() ? ErrorCode::internal : back.error().code;
  };
  EXPECT_EQ(refusal(""), ErrorCode::invalid_argument);
  EXPECT_EQ(refusal("not compressed"), ErrorCode::invalid_argument);
  EXPECT_EQ(refusal(good.substr(0, good.size() - 1)), ErrorCode::invalid_argument);
  EXPECT_EQ(refusal(good.substr(0, 100)), ErrorCode::invalid_argument);
  EXPECT_EQ(refusal(good + "x"), ErrorCode::invalid_argument);
  std::string flipped = good;
  flipped[flipped.size() - 6] = static_cast<char>(flipped[flipped.size() - 6] ^ 1);
  EXPECT_EQ(refusal(flipped), ErrorCode::invalid_argument);
}

TEST(Compression, BoundsBombs) {
  const std::string bomb = compressed(std::string(std::size_t{64} << 20, '\0'), Encoding::gzip);
  ASSERT_LT(bomb.size(), 1U << 20);
  std::size_t taken = 0;
  const Result<std::string> back =
      decompress(bomb, Encoding::gzip, 1 << 20, [&taken](std::size_t bytes) {
        taken += bytes;
        return true;
      });
  ASSERT_FALSE(back.ok());
  EXPECT_EQ(back.error().code, ErrorCode::unsupported);
  EXPECT_LE(taken, (1U << 20) + 1);
}

TEST(Compression, AsksBeforeItGrows) {
  const std::string text = pattern(100000);
  const Result<std::string> back = decompress(compressed(text, Encoding::gzip), Encoding::gzip,
                                              1 << 20, [](std::size_t) { return false; });
  ASSERT_FALSE(back.ok());
  EXPECT_EQ(back.error().code, ErrorCode::queue_full);
}

TEST(Compression, ExactlyTheLimitIsFine) {
  const std::string text = pattern(10000);
  const std::string gzip = compressed(text, Encoding::gzip);
  EXPECT_EQ(decompress(gzip, Encoding::gzip, 10000, grow).value(), text);
  EXPECT_FALSE(decompress(gzip, Encoding::gzip, 9999, grow).ok());
}

TEST(Compression, ChoosesWhatIsAccepted) {
  EXPECT_EQ(choose_encoding(""), Encoding::identity);
  EXPECT_EQ(choose_encoding("br, identity"), Encoding::identity);
  EXPECT_EQ(choose_encoding("deflate, gzip"), Encoding::gzip);
  EXPECT_EQ(choose_encoding("GZIP;q=0.5"), Encoding::gzip);
  EXPECT_EQ(choose_encoding("gzip;q=0, deflate"), Encoding::deflate);
  EXPECT_EQ(choose_encoding("gzip;q=0.000"), Encoding::identity);
  EXPECT_EQ(choose_encoding(",,;"), Encoding::identity);
}

}  // namespace
}  // namespace millrace::server
