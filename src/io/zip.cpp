#include "io/zip.h"

#include <zlib.h>

#include <algorithm>
#include <limits>
#include <new>

#include "base/text.h"
#include "base/try.h"

namespace millrace {
namespace {

// The structures of a zip archive (APPNOTE 6.3): their signatures and fixed sizes in bytes.
constexpr std::uint32_t kLocalHeader = 0x04034b50;
constexpr std::uint32_t kDirectoryEntry = 0x02014b50;
constexpr std::uint32_t kDirectoryEnd = 0x06054b50;
constexpr std::uint32_t kDirectoryEnd64 = 0x06064b50;
constexpr std::uint32_t kDirectoryEnd64Locator = 0x07064b50;
constexpr std::size_t kLocalHeaderBytes = 30;
constexpr std::size_t kDirectoryEntryBytes = 46;
constexpr std::size_t kDirectoryEndBytes = 22;
constexpr std::size_t kDirectoryEnd64Bytes = 56;
constexpr std::size_t kLocatorBytes = 20;
constexpr std::size_t kMaxCommentBytes = 65535;

constexpr std::uint16_t kEncrypted = 1;
constexpr std::uint16_t kStored = 0;
constexpr std::uint16_t kDeflated = 8;
constexpr std::uint16_t kZip64Extra = 1;
constexpr std::uint32_t kIn64 = 0xFFFFFFFF;  // the true value is in a 64-bit field
constexpr std::uint16_t kIn64Short = 0xFFFF;
constexpr std::uint16_t kVersion = 20;
constexpr std::uint16_t kVersion64 = 45;
constexpr std::uint16_t kFirstDay = 0x0021;  // 1980-01-01: archives of the same arrays are the same
// The most that deflate can make of a byte, with a little room.
constexpr std::uint64_t kMostInflation = 1040;

Error bad_archive(std::string_view source, const std::string& what) {
  return {ErrorCode::invalid_argument, concat(source, ": not a valid .npz (zip) archive: ", what)};
}

// Little-endian fields of a piece of the archive that is known to be long enough.
template <class T>
T field(std::string_view bytes, std::size_t at) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  }
  return static_cast<T>(value);
}
std::uint16_t u16(std::string_view bytes, std::size_t at) {
  return field<std::uint16_t>(bytes, at);
}
std::uint32_t u32(std::string_view bytes, std::size_t at) {
  return field<std::uint32_t>(bytes, at);
}
std::uint64_t u64(std::string_view bytes, std::size_t at) {
  return field<std::uint64_t>(bytes, at);
}

// Whether [offset, offset + size) lies within the bytes.
bool within(std::string_view bytes, std::uint64_t offset, std::uint64_t size) {
  return offset <= bytes.size() && size <= bytes.size() - offset;
}

struct Directory {
  std::string_view bytes;
  std::uint64_t entries = 0;
};

Result<Directory> directory_at(std::string_view bytes, std::uint64_t offset, std::uint64_t size,
                               std::uint64_t entries, std::string_view source) {
  if (!within(bytes, offset, size)) {
    return bad_archive(source, concat("its directory is said to be at byte ", offset, " with ",
                                      size, " bytes, but there are ", bytes.size()));
  }
  return Directory{bytes.substr(offset, size), entries};
}

Result<Directory> find_directory(std::string_view bytes, std::string_view source) {
  std::size_t end = std::string_view::npos;
  const std::size_t most = std::min(bytes.size(), kDirectoryEndBytes + kMaxCommentBytes);
  for (std::size_t back = kDirectoryEndBytes; back <= most; ++back) {
    const std::size_t at = bytes.size() - back;
    if (u32(bytes, at) == kDirectoryEnd && u16(bytes, at + 20) == back - kDirectoryEndBytes) {
      end = at;
      break;
    }
  }
  if (end == std::string_view::npos) {
    return bad_archive(source, concat("no directory at the end of its ", bytes.size(),
                                      " bytes; it may have been cut short"));
  }
  if (end >= kLocatorBytes && u32(bytes, end - kLocatorBytes) == kDirectoryEnd64Locator) {
    const std::uint64_t at = u64(bytes, end - kLocatorBytes + 8);
    if (!within(bytes, at, kDirectoryEnd64Bytes) || u32(bytes, at) != kDirectoryEnd64) {
      return bad_archive(source, concat("no 64-bit directory end at byte ", at));
    }
    return directory_at(bytes, u64(bytes, at + 48), u64(bytes, at + 40), u64(bytes, at + 32),
                        source);
  }
  if (u16(bytes, end + 4) != 0 || u16(bytes, end + 6) != 0) {
    return Error{ErrorCode::unsupported,
                 concat(source, ": archives split over several files are not supported")};
  }
  return directory_at(bytes, u32(bytes, end + 16), u32(bytes, end + 12), u16(bytes, end + 10),
                      source);
}

struct Place {
  std::uint64_t packed_bytes = 0;
  std::uint64_t bytes = 0;
  std::uint64_t offset = 0;
};

// Replaces the values that did not fit by those of the 64-bit extra field.
bool widen(std::string_view extra, Place& place) {
  if (place.bytes != kIn64 && place.packed_bytes != kIn64 && place.offset != kIn64) return true;
  while (extra.size() >= 4) {
    const std::uint16_t id = u16(extra, 0);
    const std::size_t size = u16(extra, 2);
    if (extra.size() - 4 < size) return false;
    std::string_view body = extra.substr(4, size);
    extra.remove_prefix(4 + size);
    if (id != kZip64Extra) continue;
    for (std::uint64_t* value : {&place.bytes, &place.packed_bytes, &place.offset}) {
      if (*value != kIn64) continue;
      if (body.size() < 8) return false;
      *value = u64(body, 0);
      body.remove_prefix(8);
    }
    return true;
  }
  return false;
}

Result<std::string_view> packed_data(std::string_view bytes, const Place& place,
                                     const std::string& where) {
  const auto outside = [&] { return bad_archive(where, "its data lies outside of the archive"); };
  if (!within(bytes, place.offset, kLocalHeaderBytes)) return outside();
  const std::string_view local = bytes.substr(place.offset);
  if (u32(local, 0) != kLocalHeader)
    return bad_archive(where, concat("no header at byte ", place.offset));
  const std::uint64_t skipped = kLocalHeaderBytes + u16(local, 26) + u16(local, 28);
  if (!within(local, skipped, place.packed_bytes)) return outside();
  return local.substr(skipped, place.packed_bytes);
}

Result<ZipMember> member_of(std::string_view bytes, std::string_view entry, std::string name,
                            std::string_view extra, std::string_view source) {
  const std::string where = concat(source, ": member ", quote(name));
  const std::uint16_t method = u16(entry, 10);
  if ((u16(entry, 8) & kEncrypted) != 0) {
    return Error{ErrorCode::unsupported, concat(where, " is encrypted, which is not supported")};
  }
  if (method != kStored && method != kDeflated) {
    return Error{ErrorCode::unsupported,
                 concat(where, ": expected compression 0 (stored) or 8 (deflate), got ", method)};
  }
  Place place{u32(entry, 20), u32(entry, 24), u32(entry, 42)};
  if (!widen(extra, place)) return bad_archive(where, "its 64-bit sizes are missing");
  ZipMember member;
  member.name = std::move(name);
  member.deflated = method == kDeflated;
  member.bytes = place.bytes;
  member.checksum = u32(entry, 16);
  MILLRACE_ASSIGN(member.packed, packed_data(bytes, place, where));
  const bool possible = member.deflated ? member.bytes / kMostInflation <= place.packed_bytes
                                        : member.bytes == place.packed_bytes;
  if (!possible) {
    return bad_archive(where, concat(place.packed_bytes, " packed bytes cannot hold the ",
                                     place.bytes, " announced"));
  }
  return member;
}

}  // namespace

Result<std::vector<ZipMember>> read_zip(std::string_view bytes, std::string_view source) {
  MILLRACE_ASSIGN(Directory directory, find_directory(bytes, source));
  std::vector<ZipMember> members;
  std::string_view rest = directory.bytes;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    if (rest.size() < kDirectoryEntryBytes || u32(rest, 0) != kDirectoryEntry) {
      return bad_archive(
          source, concat("expected ", directory.entries, " entries in its directory, found ", i));
    }
    const std::size_t name_bytes = u16(rest, 28);
    const std::size_t extra_bytes = u16(rest, 30);
    const std::size_t entry_bytes = kDirectoryEntryBytes + name_bytes + extra_bytes + u16(rest, 32);
    if (rest.size() < entry_bytes)
      return bad_archive(source, concat("entry ", i, " of its directory is cut short"));
    std::string name(rest.substr(kDirectoryEntryBytes, name_bytes));
    const std::string_view extra = rest.substr(kDirectoryEntryBytes + name_bytes, extra_bytes);
    if (name.empty() || name.back() != '/') {
      MILLRACE_ASSIGN(members.emplace_back(),
                      member_of(bytes, rest, std::move(name), extra, source));
    }
    rest.remove_prefix(entry_bytes);
  }
  return members;
}

namespace {

bool inflate_into(std::string_view packed, std::string& out) {
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::bad_alloc();
  constexpr std::size_t kMost = std::numeric_limits<uInt>::max();
  std::size_t read = 0;
  std::size_t written = 0;
  int status = Z_OK;
  while (status == Z_OK) {
    const std::size_t in = std::min(packed.size() - read, kMost);
    const std::size_t room = std::min(out.size() - written, kMost);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data() + read));
    stream.avail_in = static_cast<uInt>(in);
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + written);
    stream.avail_out = static_cast<uInt>(room);
    status = inflate(&stream, Z_NO_FLUSH);
    read += in - stream.avail_in;
    written += room - stream.avail_out;
  }
  inflateEnd(&stream);
  return status == Z_STREAM_END && written == out.size();
}

std::uint32_t checksum_of(std::string_view bytes, std::uint32_t before = 0) {
  if (bytes.empty()) return before;
  return static_cast<std::uint32_t>(
      crc32_z(before, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

}  // namespace

Result<std::string_view> unpack(const ZipMember& member, std::string& owned,
                                std::string_view source) {
  const std::string where = concat(source, ": member ", quote(member.name));
  std::string_view content = member.packed;
  if (member.deflated) {
    try {
      owned.resize(member.bytes);
      if (!inflate_into(member.packed, owned)) {
        return bad_archive(where,
                           concat("its compressed data do not unpack to ", member.bytes, " bytes"));
      }
    } catch (const std::exception&) {
      return Error{ErrorCode::out_of_memory,
                   concat(where, ": no memory for ", format_bytes(member.bytes))};
    }
    content = owned;
  }
  if (checksum_of(content) != member.checksum)
    return bad_archive(where, "its checksum does not match its data");
  return content;
}

namespace {

// Builds the structures field by field.
class Fields {
 public:
  Fields& u16(std::uint64_t value) { return put(value, 2); }
  Fields& u32(std::uint64_t value) { return put(value, 4); }
  Fields& u64(std::uint64_t value) { return put(value, 8); }
  Fields& text(std::string_view text) {
    bytes_ += text;
    return *this;
  }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  Fields& put(std::uint64_t value, int size) {
    for (int i = 0; i < size; ++i) bytes_ += static_cast<char>(value >> (8 * i) & 0xFF);
    return *this;
  }
  std::string bytes_;
};

std::uint64_t narrow(std::uint64_t value) { return std::min<std::uint64_t>(value, kIn64); }

}  // namespace

Result<void> ZipWriter::write(std::string_view bytes) {
  written_ += bytes.size();
  return file_.write(bytes);
}

Result<void> ZipWriter::add(std::string_view name, std::string_view first,
                            std::string_view second) {
  if (name.size() > kIn64Short) {
    return Error{ErrorCode::invalid_argument,
                 concat("a name of ", name.size(), " bytes does not fit in an archive")};
  }
  Entry entry{std::string(name), first.size() + second.size(), written_,
              checksum_of(second, checksum_of(first))};
  const bool large = entry.bytes >= kIn64;
  Fields header;
  header.u32(kLocalHeader)
      .u16(large ? kVersion64 : kVersion)
      .u16(0)
      .u16(kStored)
      .u16(0)
      .u16(kFirstDay);
  header.u32(entry.checksum).u32(narrow(entry.bytes)).u32(narrow(entry.bytes));
  header.u16(name.size()).u16(large ? 20 : 0).text(name);
  if (large) header.u16(kZip64Extra).u16(16).u64(entry.bytes).u64(entry.bytes);
  entries_.push_back(std::move(entry));
  MILLRACE_TRY(write(header.bytes()));
  MILLRACE_TRY(write(first));
  return write(second);
}

Result<void> ZipWriter::finish() {
  const std::uint64_t start = written_;
  for (const Entry& entry : entries_) {
    const bool large = entry.bytes >= kIn64;
    const bool far = entry.offset >= kIn64;
    const std::uint64_t extra = (large ? 16U : 0U) + (far ? 8U : 0U);
    Fields fields;
    fields.u32(kDirectoryEntry)
        .u16(kVersion64)
        .u16(large || far ? kVersion64 : kVersion)
        .u16(0)
        .u16(kStored);
    fields.u16(0)
        .u16(kFirstDay)
        .u32(entry.checksum)
        .u32(narrow(entry.bytes))
        .u32(narrow(entry.bytes));
    fields.u16(entry.name.size()).u16(extra ? extra + 4 : 0).u16(0).u16(0).u16(0).u32(0);
    fields.u32(narrow(entry.offset)).text(entry.name);
    if (extra) fields.u16(kZip64Extra).u16(extra);
    if (large) fields.u64(entry.bytes).u64(entry.bytes);
    if (far) fields.u64(entry.offset);
    MILLRACE_TRY(write(fields.bytes()));
  }
  const std::uint64_t end = written_;
  const std::uint64_t count = entries_.size();
  Fields fields;
  if (count >= kIn64Short || start >= kIn64 || end - start >= kIn64) {
    fields.u32(kDirectoryEnd64)
        .u64(kDirectoryEnd64Bytes - 12)
        .u16(kVersion64)
        .u16(kVersion64)
        .u32(0)
        .u32(0);
    fields.u64(count).u64(count).u64(end - start).u64(start);
    fields.u32(kDirectoryEnd64Locator).u32(0).u64(end).u32(1);
  }
  const std::uint64_t short_count = std::min<std::uint64_t>(count, kIn64Short);
  fields.u32(kDirectoryEnd).u16(0).u16(0).u16(short_count).u16(short_count);
  fields.u32(narrow(end - start)).u32(narrow(start)).u16(0);
  return write(fields.bytes());
}

}  // namespace millrace
