// Protocol buffers' wire format: read where it lies, in the pieces in which a message came, and
// written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace millrace::server {

/// A message in pieces, in order. Borrowed.
using Pieces = std::span<const std::string_view>;

/// Bytes of a message: `size` from `at`, which lies in piece number `piece`, on through the next
/// pieces.
struct WireBytes {
  std::size_t piece = 0;
  const char* at = nullptr;
  std::size_t size = 0;
};

/// Null when they are spread over several pieces.
[[nodiscard]] std::optional<std::string_view> in_one_piece(Pieces pieces,
                                                           const WireBytes& bytes) noexcept;
/// `to` has room for all of them.
void copy(Pieces pieces, const WireBytes& bytes, void* to) noexcept;
[[nodiscard]] std::string to_text(Pieces pieces, const WireBytes& bytes);

enum class WireType : std::uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

/// Walks through the fields of a message:
///   while (reader.next()) switch (reader.field()) { case 1: id = reader.varint(); break; ...
///     default: reader.skip(); }
///   if (!reader.ok()) ...
/// What is malformed ends the walk: lengths past the end, a value that is read as what it is not,
/// groups. Nothing is copied; the pieces must outlive what was read.
class WireReader {
 public:
  explicit WireReader(Pieces pieces) noexcept;
  /// A message within that one.
  WireReader(Pieces pieces, const WireBytes& message) noexcept
      : pieces_(pieces), piece_(message.piece), at_(message.at), left_(message.size) {
    if (piece_ < pieces_.size()) end_ = pieces_[piece_].data() + pieces_[piece_].size();
  }

  /// On to the next field, whose value must then be read or skipped. False at the end.
  [[nodiscard]] bool next() noexcept;
  [[nodiscard]] std::uint32_t field() const noexcept { return field_; }
  [[nodiscard]] WireType type() const noexcept { return type_; }
  /// Whether all that was read was well formed.
  [[nodiscard]] bool ok() const noexcept { return ok_; }

  [[nodiscard]] std::uint64_t varint() noexcept { return expect(WireType::varint) ? number() : 0; }
  [[nodiscard]] std::uint64_t fixed64() noexcept;
  [[nodiscard]] std::uint32_t fixed32() noexcept;
  [[nodiscard]] WireBytes bytes() noexcept;
  /// A text that is not UTF-8 is malformed.
  [[nodiscard]] std::string text();
  void skip() noexcept;

  // Within a packed field, in place of `next`.
  [[nodiscard]] bool more() const noexcept { return left_ > 0; }
  /// A variable-length number without a tag before it.
  [[nodiscard]] std::uint64_t number() noexcept;

 private:
  bool expect(WireType type) noexcept;
  void fail() noexcept;
  [[nodiscard]] unsigned char byte() noexcept;
  void advance(std::size_t size) noexcept;
  void read(void* to, std::size_t size) noexcept;

  Pieces pieces_;
  std::size_t piece_ = 0;
  const char* at_ = nullptr;
  const char* end_ = nullptr;  // of the piece
  std::size_t left_ = 0;       // of the message
  std::uint32_t field_ = 0;
  WireType type_ = WireType::varint;
  bool ok_ = true;
};

// Writing: each appends to `out`.
void put_number(std::string& out, std::uint64_t value);
void put_varint(std::string& out, std::uint32_t field, std::uint64_t value);
void put_double(std::string& out, std::uint32_t field, double value);
void put_bytes(std::string& out, std::uint32_t field, std::string_view value);
/// What stands before `size` bytes of a field.
void put_head(std::string& out, std::uint32_t field, std::size_t size);
/// A message that `body` appends.
template <class Body>
void put_message(std::string& out, std::uint32_t field, const Body& body) {
  put_number(out, std::uint64_t{field} << 3 | static_cast<std::uint64_t>(WireType::bytes));
  const std::size_t at = out.size();
  out.push_back('\0');  // room for a length below 128
  body();
  const std::size_t size = out.size() - at - 1;
  if (size < 0x80) {
    out[at] = static_cast<char>(size);
    return;
  }
  std::string length;
  put_number(length, size);
  out.replace(at, 1, length);
}

}  // namespace millrace::server
