#include "server/grpc/wire.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace millrace::server {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are read as they lie");

/// Calls `take(data, size)` for each part of `bytes`.
template <class Take>
void each_part(Pieces pieces, const WireBytes& bytes, const Take& take) {
  const char* at = bytes.at;
  std::size_t left = bytes.size;
  for (std::size_t i = bytes.piece; left > 0; ++i) {
    if (i != bytes.piece) at = pieces[i].data();
    const char* end = pieces[i].data() + pieces[i].size();
    const std::size_t size = std::min(left, static_cast<std::size_t>(end - at));
    if (size > 0) take(at, size);  // an empty piece may begin nowhere
    left -= size;
  }
}

/// How many bytes a character takes that begins with `first`; 0: none begins so.
int character_size(unsigned char first) noexcept {
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first < 0xe0) return 2;
  if (first >= 0xe0 && first < 0xf0) return 3;
  return first >= 0xf0 && first < 0xf5 ? 4 : 0;
}

/// Without surrogates, and each character in its shortest form.
bool is_utf8(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const int size = character_size(first);
    if (size == 0 || text.size() - i < static_cast<std::size_t>(size)) return false;
    for (int k = 1; k < size; ++k) {
      const auto next = static_cast<unsigned char>(text[i + static_cast<std::size_t>(k)]);
      unsigned char low = 0x80, high = 0xbf;
      if (k == 1 && first == 0xe0) low = 0xa0;
      if (k == 1 && first == 0xed) high = 0x9f;
      if (k == 1 && first == 0xf0) low = 0x90;
      if (k == 1 && first == 0xf4) high = 0x8f;
      if (next < low || next > high) return false;
    }
    i += static_cast<std::size_t>(size);
  }
  return true;
}

}  // namespace

std::optional<std::string_view> in_one_piece(Pieces pieces, const WireBytes& bytes) noexcept {
  if (bytes.size == 0) return std::string_view();
  const std::string_view piece = pieces[bytes.piece];
  if (bytes.size > static_cast<std::size_t>(piece.data() + piece.size() - bytes.at)) return {};
  return std::string_view(bytes.at, bytes.size);
}

void copy(Pieces pieces, const WireBytes& bytes, void* to) noexcept {
  char* out = static_cast<char*>(to);
  each_part(pieces, bytes, [&](const char* data, std::size_t size) {
    std::memcpy(out, data, size);
    out += size;
  });
}

std::string to_text(Pieces pieces, const WireBytes& bytes) {
  std::string text;
  text.reserve(bytes.size);
  each_part(pieces, bytes, [&](const char* data, std::size_t size) { text.append(data, size); });
  return text;
}

WireReader::WireReader(Pieces pieces) noexcept : pieces_(pieces) {
  for (const std::string_view piece : pieces) left_ += piece.size();
  if (pieces_.empty()) return;
  at_ = pieces_[0].data();
  end_ = at_ + pieces_[0].size();
}

void WireReader::fail() noexcept {
  ok_ = false;
  left_ = 0;
}

/// There must be a byte left.
unsigned char WireReader::byte() noexcept {
  while (at_ == end_) {
    ++piece_;
    at_ = pieces_[piece_].data();
    end_ = at_ + pieces_[piece_].size();
  }
  --left_;
  return static_cast<unsigned char>(*at_++);
}

void WireReader::advance(std::size_t size) noexcept {
  left_ -= size;
  while (size > static_cast<std::size_t>(end_ - at_)) {
    size -= static_cast<std::size_t>(end_ - at_);
    ++piece_;
    at_ = pieces_[piece_].data();
    end_ = at_ + pieces_[piece_].size();
  }
  at_ += size;
}

std::uint64_t WireReader::number() noexcept {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (left_ == 0) break;
    const unsigned char part = byte();
    value |= static_cast<std::uint64_t>(part & 0x7f) << shift;
    if (part < 0x80) return value;
  }
  fail();
  return 0;
}

bool WireReader::next() noexcept {
  if (left_ == 0) return false;
  const std::uint64_t tag = number();
  field_ = static_cast<std::uint32_t>(tag >> 3);
  type_ = static_cast<WireType>(tag & 7);
  const bool known = type_ == WireType::varint || type_ == WireType::fixed64 ||
                     type_ == WireType::bytes || type_ == WireType::fixed32;
  if (ok_ && (tag >> 3 == 0 || tag >> 32 != 0 || !known)) fail();
  return ok_;
}

bool WireReader::expect(WireType type) noexcept {
  if (type_ != type) fail();
  return ok_;
}

void WireReader::read(void* to, std::size_t size) noexcept {
  if (size > left_) return fail();
  copy(pieces_, {piece_, at_, size}, to);
  advance(size);
}

std::uint64_t WireReader::fixed64() noexcept {
  std::uint64_t value = 0;
  if (expect(WireType::fixed64)) read(&value, sizeof value);
  return value;
}

std::uint32_t WireReader::fixed32() noexcept {
  std::uint32_t value = 0;
  if (expect(WireType::fixed32)) read(&value, sizeof value);
  return value;
}

WireBytes WireReader::bytes() noexcept {
  if (!expect(WireType::bytes)) return {};
  const std::uint64_t size = number();
  if (size > left_) fail();
  if (!ok_) return {};
  const WireBytes found{piece_, at_, static_cast<std::size_t>(size)};
  advance(found.size);
  return found;
}

std::string WireReader::text() {
  std::string found = to_text(pieces_, bytes());
  if (!is_utf8(found)) fail();
  return found;
}

void WireReader::skip() noexcept {
  switch (type_) {
    case WireType::varint:
      (void)number();
      break;
    case WireType::fixed64:
      (void)fixed64();
      break;
    case WireType::fixed32:
      (void)fixed32();
      break;
    case WireType::bytes:
      (void)bytes();
      break;
  }
}

void put_number(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

void put_varint(std::string& out, std::uint32_t field, std::uint64_t value) {
  put_number(out, std::uint64_t{field} << 3 | static_cast<std::uint64_t>(WireType::varint));
  put_number(out, value);
}

void put_double(std::string& out, std::uint32_t field, double value) {
  put_number(out, std::uint64_t{field} << 3 | static_cast<std::uint64_t>(WireType::fixed64));
  const auto bits = std::bit_cast<std::uint64_t>(value);
  out.append(reinterpret_cast<const char*>(&bits), sizeof bits);
}

void put_head(std::string& out, std::uint32_t field, std::size_t size) {
  put_number(out, std::uint64_t{field} << 3 | static_cast<std::uint64_t>(WireType::bytes));
  put_number(out, size);
}

void put_bytes(std::string& out, std::uint32_t field, std::string_view value) {
  put_head(out, field, value.size());
  out.append(value);
}

}  // namespace millrace::server
