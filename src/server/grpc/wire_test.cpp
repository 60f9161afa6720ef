#include "server/grpc/wire.h"

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace millrace::server {
namespace {

/// `message` in pieces of `size` bytes, with empty ones between.
std::vector<std::string_view> split(std::string_view message, std::size_t size) {
  std::vector<std::string_view> pieces;
  for (std::size_t at = 0; at < message.size(); at += size) {
    pieces.push_back(message.substr(at, size));
    pieces.emplace_back();
  }
  return pieces;
}

std::string sample() {
  std::string message;
  put_varint(message, 1, 300);
  put_bytes(message, 2, "a text that is spread over many pieces");
  put_double(message, 3, -1.5);
  put_message(message, 20, [&] { put_bytes(message, 1, std::string(200, 'x')); });
  put_varint(message, 4, std::numeric_limits<std::uint64_t>::max());
  return message;
}

TEST(Wire, FieldsComeBackFromPiecesOfAnySize) {
  const std::string message = sample();
  for (std::size_t size = 1; size <= message.size(); ++size) {
    const auto pieces = split(message, size);
    WireReader reader(pieces);
    ASSERT_TRUE(reader.next());
    EXPECT_EQ(reader.field(), 1u);
    EXPECT_EQ(reader.varint(), 300u);
    ASSERT_TRUE(reader.next());
    EXPECT_EQ(reader.text(), "a text that is spread over many pieces");
    ASSERT_TRUE(reader.next());
    const std::uint64_t bits = reader.fixed64();
    double number = 0;
    std::memcpy(&number, &bits, sizeof number);
    EXPECT_EQ(number, -1.5);
    ASSERT_TRUE(reader.next());
    EXPECT_EQ(reader.field(), 20u);
    WireReader inner(pieces, reader.bytes());
    ASSERT_TRUE(inner.next());
    EXPECT_EQ(inner.text(), std::string(200, 'x'));
    EXPECT_FALSE(inner.next());
    EXPECT_TRUE(inner.ok());
    ASSERT_TRUE(reader.next());
    EXPECT_EQ(reader.varint(), std::numeric_limits<std::uint64_t>::max());
    EXPECT_FALSE(reader.next());
    EXPECT_TRUE(reader.ok());
  }
}

TEST(Wire, FieldsCanBeSkipped) {
  const std::string message = sample();
  const auto pieces = split(message, 3);
  WireReader reader(pieces);
  int fields = 0;
  while (reader.next()) {
    reader.skip();
    ++fields;
  }
  EXPECT_TRUE(reader.ok());
  EXPECT_EQ(fields, 5);
}

TEST(Wire, WhatIsCutOffIsMalformed) {
  const std::string message = sample();
  int whole = 0;
  for (std::size_t size = 0; size < message.size(); ++size) {
    const auto pieces = split(std::string_view(message).substr(0, size), 5);
    WireReader reader(pieces);
    while (reader.next()) reader.skip();
    whole += reader.ok() ? 1 : 0;
  }
  EXPECT_EQ(whole, 5);  // cut between two fields, or before the first
}

void expect_malformed(std::string_view message) {
  const auto pieces = split(message, 2);
  WireReader reader(pieces);
  while (reader.next()) reader.skip();
  EXPECT_FALSE(reader.ok());
}

TEST(Wire, TagsAndNumbersThatCannotBeAreMalformed) {
  using namespace std::string_view_literals;
  expect_malformed("\x00\x01"sv);                                          // field 0
  expect_malformed("\x0b"sv);                                              // a group
  expect_malformed("\x0f"sv);                                              // no type of that number
  expect_malformed("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"sv);  // too long
  expect_malformed("\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f"sv);          // a length past the end
  expect_malformed("\xff\xff\xff\xff\xff\x01\x01"sv);  // a field number too large
}

TEST(Wire, AValueReadAsWhatItIsNotIsMalformed) {
  std::string message;
  put_varint(message, 1, 1);
  const std::vector<std::string_view> pieces{message};
  WireReader reader(pieces);
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.bytes().size, 0u);
  EXPECT_FALSE(reader.ok());
  EXPECT_FALSE(reader.next());
}

TEST(Wire, TextsAreUtf8) {
  using namespace std::string_view_literals;
  const auto takes = [](std::string_view text) {
    std::string message;
    put_bytes(message, 1, text);
    const auto pieces = split(message, 2);
    WireReader reader(pieces);
    return reader.next() && reader.text() == text && reader.ok();
  };
  for (const auto text : {"plain"sv, "\0"sv, "\xc3\xa9"sv, "\xe2\x82\xac"sv, "\xed\x9f\xbf"sv,
                          "\xf0\x9f\x98\x80"sv, "\xf4\x8f\xbf\xbf"sv}) {
    EXPECT_TRUE(takes(text)) << text;
  }
  for (const auto text : {"\x80"sv, "\xc3"sv, "\xc0\x80"sv, "\xc1\xbf"sv, "\xe0\x9f\xbf"sv,
                          "\xed\xa0\x80"sv, "\xf0\x8f\xbf\xbf"sv, "\xf4\x90\x80\x80"sv,
                          "\xf5\x80\x80\x80"sv, "\xff"sv, "a\xe2\x82"sv}) {
    EXPECT_FALSE(takes(text));
  }
}

TEST(Wire, BytesInOnePieceAreSeenThere) {
  std::string message;
  put_bytes(message, 1, "abcdef");
  const std::vector<std::string_view> whole{message};
  WireReader reader(whole);
  ASSERT_TRUE(reader.next());
  const auto seen = in_one_piece(whole, reader.bytes());
  ASSERT_TRUE(seen);
  EXPECT_EQ(seen->data(), message.data() + 2);
  EXPECT_EQ(*seen, "abcdef");

  const auto pieces = split(message, 4);
  WireReader again(pieces);
  ASSERT_TRUE(again.next());
  EXPECT_FALSE(in_one_piece(pieces, again.bytes()));
}

TEST(Wire, MessagesOfAnyLengthAreWritten) {
  for (const std::size_t size : {0u, 1u, 127u, 128u, 16383u, 16384u}) {
    std::string message;
    put_message(message, 3, [&] { message.append(size, 'y'); });
    const std::vector<std::string_view> pieces{message};
    WireReader reader(pieces);
    ASSERT_TRUE(reader.next());
    EXPECT_EQ(reader.text(), std::string(size, 'y'));
    EXPECT_FALSE(reader.next());
    EXPECT_TRUE(reader.ok());
  }
}

}  // namespace
}  // namespace millrace::server
