#include "io/npy.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "base/try.h"
#include "io/elements.h"

namespace millrace {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kMaxHeaderBytes = 1U << 20;
constexpr std::size_t kHeaderAlignment = 64;

Error bad_file(std::string_view source, const std::string& what) {
  return {ErrorCode::invalid_argument, concat(source, ": not a valid .npy file: ", what)};
}

struct Header {
  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<std::int64_t>> shape;
};

// Reads the Python dictionary of a header: {'descr': '<f4', 'fortran_order': False, 'shape': (2,
// 3), }
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::string_view source) : text_(text), source_(source) {}

  Result<Header> parse() {
    Header header;
    MILLRACE_TRY(expect('{'));
    while (!accept('}')) {
      MILLRACE_ASSIGN(const std::string key, text_value());
      MILLRACE_TRY(expect(':'));
      MILLRACE_TRY(value_of(key, header));
      if (!accept(',')) {
        MILLRACE_TRY(expect('}'));
        break;
      }
    }
    skip_blanks();
    if (at_ != text_.size()) return fail("nothing after the dictionary");
    if (!header.descr || !header.fortran_order || !header.shape) {
      return bad_file(source_, "the header must have descr, fortran_order and shape");
    }
    return header;
  }

 private:
  Result<void> value_of(const std::string& key, Header& header) {
    if (key == "descr") {
      if (peek() == '[') {
        return Error{
            ErrorCode::unsupported,
            concat(source_, ": structured arrays are not supported; save the fields one by one")};
      }
      MILLRACE_ASSIGN(header.descr, text_value());
    } else if (key == "fortran_order") {
      MILLRACE_ASSIGN(header.fortran_order, bool_value());
    } else if (key == "shape") {
      MILLRACE_ASSIGN(header.shape, tuple_value());
    } else {
      return bad_file(source_, concat("the header has an unknown field ", quote(key)));
    }
    return {};
  }

  Result<std::string> text_value() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') return fail("a text in quotes");
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) return fail("a text that ends");
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }

  Result<bool> bool_value() {
    skip_blanks();
    for (const auto& [word, value] :
         {std::pair{std::string_view("True"), true}, {"False", false}}) {
      if (text_.substr(at_, word.size()) != word) continue;
      at_ += word.size();
      return value;
    }
    return fail("True or False");
  }

  Result<std::vector<std::int64_t>> tuple_value() {
    std::vector<std::int64_t> values;
    MILLRACE_TRY(expect('('));
    while (!accept(')')) {
      skip_blanks();
      std::int64_t value = 0;
      const char* begin = text_.data() + at_;
      const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
      if (error != std::errc{} || value < 0)
        return fail("a size of at least 0 that fits in 63 bits");
      at_ += static_cast<std::size_t>(end - begin);
      values.push_back(value);
      if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // as Python 2 wrote long numbers
      if (!accept(',')) {
        MILLRACE_TRY(expect(')'));
        break;
      }
    }
    return values;
  }

  void skip_blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t'))
      ++at_;
  }
  char peek() {
    skip_blanks();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool accept(char c) {
    if (peek() != c || at_ == text_.size()) return false;
    ++at_;
    return true;
  }
  Result<void> expect(char c) {
    if (accept(c)) return {};
    return fail(concat("'", c, "'"));
  }
  Error fail(std::string_view expected) const {
    return bad_file(source_, concat("expected ", expected, " in the header, got ",
                                    quote(text_.substr(at_, 16))));
  }

  std::string_view text_;
  std::string_view source_;
  std::size_t at_ = 0;
};

enum class Kind { plain, byte_strings, unicode };

// The element type of a file: what it becomes here, and how it lies there.
struct Element {
  Kind kind = Kind::plain;
  DataType type = DataType::fp32;
  std::size_t bytes = 0;  // of an element in the file
  std::size_t unit = 1;   // what a byte order applies to
  bool swapped = false;
};

Result<Element> parse_descr(std::string_view descr, std::string_view source) {
  const auto unsupported = [&](std::string_view why) {
    return Error{ErrorCode::unsupported,
                 concat(source, ": arrays of type ", quote(descr), " are not supported", why)};
  };
  Element element;
  std::string_view rest = descr;
  if (!rest.empty() && std::string_view("<>|=").find(rest.front()) != std::string_view::npos) {
    element.swapped = rest.front() == '>';
    rest.remove_prefix(1);
  }
  if (rest.empty()) return bad_file(source, concat("descr ", quote(descr), " names no type"));
  const char kind = rest.front();
  if (kind == 'O') return unsupported(": they hold pickled Python objects");
  if (kind == 'V') return unsupported(": NumPy has no such type of its own; save them as float32");
  const Result<std::int64_t> size = parse_integer(rest.substr(1), "size", 0, std::int64_t{1} << 31);
  if (!size.ok()) return unsupported("");
  element.bytes = static_cast<std::size_t>(*size);
  if (kind == 'S' || kind == 'a' || kind == 'U') {
    element.kind = kind == 'U' ? Kind::unicode : Kind::byte_strings;
    element.type = DataType::bytes;
    if (kind == 'U') element.bytes *= 4;
    element.unit = kind == 'U' ? 4 : 1;
    return element;
  }
  if (std::string_view("biuf").find(kind) == std::string_view::npos) return unsupported("");
  const Result<DataType> type = parse_data_type(rest);
  if (!type.ok() || size_of(*type) != element.bytes) return unsupported("");
  element.type = *type;
  element.unit = element.bytes;
  return element;
}

// Copies elements that lie in Fortran order (first index fastest) into C order.
void to_c_order(const char* source, char* target, const Shape& shape, std::size_t bytes) {
  const std::size_t rank = shape.rank();
  std::array<std::size_t, kMaxRank> strides{};
  std::array<std::int64_t, kMaxRank> index{};
  std::size_t count = 1;
  for (std::size_t i = 0; i < rank; ++i) {
    strides[i] = count * bytes;
    count *= static_cast<std::size_t>(shape[i]);
  }
  std::size_t at = 0;
  for (std::size_t n = 0; n < count; ++n, target += bytes) {
    std::memcpy(target, source + at, bytes);
    for (std::size_t i = rank; i-- > 0;) {
      at += strides[i];
      if (++index[i] < shape[i]) break;
      at -= strides[i] * static_cast<std::size_t>(shape[i]);
      index[i] = 0;
    }
  }
}

void swap_units(char* data, std::size_t bytes, std::size_t unit) {
  for (std::size_t i = 0; i + unit <= bytes; i += unit) std::reverse(data + i, data + i + unit);
}

// The data as little-endian, C-ordered bytes; `owned` holds them when they are not those of the
// file.
std::string_view in_order(std::string_view data, const Element& element, const Shape& shape,
                          bool fortran_order, std::string& owned) {
  const bool reorder = fortran_order && shape.rank() > 1 && !data.empty();
  const bool swap = element.swapped && element.unit > 1;
  if (!reorder && !swap) return data;
  owned.assign(data);
  if (reorder) to_c_order(data.data(), owned.data(), shape, element.bytes);
  if (swap) swap_units(owned.data(), owned.size(), element.unit);
  return owned;
}

void append_utf8(std::string& out, std::uint32_t c) {
  const auto put = [&](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

// A fixed-width text without the zeros that fill it up, as UTF-8.
Result<std::string> text_of(std::string_view raw, const Element& element, std::string_view source) {
  if (element.kind == Kind::byte_strings) {
    const std::size_t last = raw.find_last_not_of('\0');
    return std::string(raw.substr(0, last == std::string_view::npos ? 0 : last + 1));
  }
  std::string text;
  std::size_t size = 0;  // without the zeros
  for (std::size_t i = 0; i < raw.size(); i += 4) {
    std::uint32_t c = 0;
    std::memcpy(&c, raw.data() + i, 4);
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) {
      return bad_file(source, concat("a text holds ", c, ", which is no unicode character"));
    }
    append_utf8(text, c);
    if (c != 0) size = text.size();
  }
  text.resize(size);
  return text;
}

Result<Tensor> strings_of(std::string_view data, const Element& element, const Shape& shape,
                          std::string_view source) {
  MILLRACE_ASSIGN(const std::int64_t count, element_count(shape));
  std::vector<std::string> texts;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::string_view raw =
        data.substr(static_cast<std::size_t>(i) * element.bytes, element.bytes);
    MILLRACE_ASSIGN(texts.emplace_back(), text_of(raw, element, source));
  }
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  return Tensor::of_strings(views, shape);
}

Result<std::size_t> data_bytes(const Element& element, const Shape& shape,
                               std::string_view source) {
  Result<std::int64_t> count = element_count(shape);
  if (!count.ok()) return bad_file(source, count.error().message);
  // Texts of no width take no room in the file but some here.
  constexpr std::int64_t kMostEmptyTexts = 1 << 20;
  if (element.bytes == 0 && *count > kMostEmptyTexts) {
    return bad_file(source, concat("it announces ", *count, " empty texts"));
  }
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<std::size_t>(*count), element.bytes, &bytes)) {
    return bad_file(source,
                    concat("shape ", shape, " of ", element.bytes, "-byte elements is too large"));
  }
  return bytes;
}

struct Split {
  std::string_view header;
  std::string_view data;
};

Result<Split> split(std::string_view bytes, std::string_view source) {
  if (bytes.substr(0, kMagic.size()) != kMagic) {
    return bad_file(source, concat("expected it to begin with \"\\x93NUMPY\", got ",
                                   quote(bytes.substr(0, kMagic.size()))));
  }
  const auto byte_at = [&](std::size_t i) -> std::size_t {
    return static_cast<unsigned char>(bytes[i]);
  };
  const auto cut_short = [&] {
    return bad_file(source, concat("it ends after ", bytes.size(), " bytes, within its header"));
  };
  if (bytes.size() < kMagic.size() + 2) return cut_short();
  const std::size_t version = byte_at(kMagic.size());
  if (version < 1 || version > 3) {
    return Error{ErrorCode::unsupported,
                 concat(source, ": expected .npy format version 1, 2 or 3, got ", version)};
  }
  const std::size_t length_bytes = version == 1 ? 2 : 4;
  const std::size_t start = kMagic.size() + 2 + length_bytes;
  if (bytes.size() < start) return cut_short();
  std::size_t length = 0;
  for (std::size_t i = 0; i < length_bytes; ++i)
    length |= byte_at(kMagic.size() + 2 + i) << (8 * i);
  if (length > kMaxHeaderBytes)
    return bad_file(source, concat("its header is said to have ", length, " bytes"));
  if (bytes.size() - start < length) return cut_short();
  return Split{bytes.substr(start, length), bytes.substr(start + length)};
}

}  // namespace

Result<Tensor> parse_npy(std::string_view bytes, std::string_view source) {
  MILLRACE_ASSIGN(const Split parts, split(bytes, source));
  MILLRACE_ASSIGN(const Header header, HeaderParser(parts.header, source).parse());
  MILLRACE_ASSIGN(const Element element, parse_descr(*header.descr, source));
  Result<Shape> shape = Shape::from(*header.shape);
  if (!shape.ok()) return Error{shape.error().code, concat(source, ": ", shape.error().message)};
  MILLRACE_ASSIGN(const std::size_t expected, data_bytes(element, *shape, source));
  if (parts.data.size() != expected) {
    return bad_file(source, concat("expected ", expected, " bytes of data for shape ", *shape,
                                   " of ", *header.descr, ", got ", parts.data.size()));
  }
  std::string owned;
  const std::string_view data = in_order(parts.data, element, *shape, *header.fortran_order, owned);
  if (element.type == DataType::bytes) return strings_of(data, element, *shape, source);
  MILLRACE_ASSIGN(Tensor tensor, Tensor::allocate(element.type, *shape));
  if (element.type == DataType::boolean) {  // any other byte would be no bool
    auto* target = static_cast<std::uint8_t*>(tensor.view().data);
    for (std::size_t i = 0; i < data.size(); ++i) target[i] = data[i] != 0 ? 1 : 0;
  } else if (!data.empty()) {
    std::memcpy(tensor.view().data, data.data(), data.size());
  }
  return tensor;
}

Result<Tensor> read_npy(const std::string& path) {
  MILLRACE_ASSIGN(const std::string bytes, read_file(path));
  return parse_npy(bytes, path);
}

namespace {

std::string descr_of(DataType type) {
  switch (type) {
    case DataType::boolean:
      return "|b1";
    case DataType::uint8:
      return "|u1";
    case DataType::int8:
      return "|i1";
    case DataType::uint16:
      return "<u2";
    case DataType::uint32:
      return "<u4";
    case DataType::uint64:
      return "<u8";
    case DataType::int16:
      return "<i2";
    case DataType::int32:
      return "<i4";
    case DataType::int64:
      return "<i8";
    case DataType::fp16:
      return "<f2";
    case DataType::fp64:
      return "<f8";
    default:
      return "<f4";
  }
}

std::string header_of(std::string_view descr, const Shape& shape) {
  std::string dictionary = concat("{'descr': '", descr, "', 'fortran_order': False, 'shape': (");
  for (const std::int64_t size : shape) dictionary += concat(size, ", ");
  if (shape.rank() > 0) dictionary.resize(dictionary.size() - (shape.rank() == 1 ? 1 : 2));
  dictionary += "), }";
  constexpr std::size_t kBefore = kMagic.size() + 4;
  const std::size_t unpadded = kBefore + dictionary.size() + 1;
  dictionary.append((kHeaderAlignment - unpadded % kHeaderAlignment) % kHeaderAlignment, ' ');
  dictionary += '\n';
  std::string header(kMagic);
  header += {'\x01', '\x00'};
  header += static_cast<char>(dictionary.size() & 0xFF);
  header += static_cast<char>(dictionary.size() >> 8);
  return header + dictionary;
}

Result<void> strings_npy(const TensorView& view, std::int64_t count, NpyParts& parts) {
  const char* block = static_cast<const char*>(view.data);
  std::size_t width = 1;  // NumPy has no empty ones
  for (std::int64_t i = 0; i < count; ++i) {
    const std::size_t size = view.offsets[i + 1] - view.offsets[i];
    width = std::max(width, size);
    if (size > 0 && block[view.offsets[i + 1] - 1] == '\0') {
      return Error{ErrorCode::unsupported,
                   concat("element ", i, " ends in a zero byte, which a .npy file cannot keep")};
    }
  }
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<std::size_t>(count), width, &bytes) ||
      bytes > parts.owned.max_size()) {
    return Error{ErrorCode::out_of_memory,
                 concat(count, " texts of up to ", width, " bytes do not fit in a .npy file")};
  }
  parts.owned.assign(bytes, '\0');
  for (std::int64_t i = 0; i < count; ++i) {
    const std::size_t size = view.offsets[i + 1] - view.offsets[i];
    if (size > 0)
      std::memcpy(parts.owned.data() + static_cast<std::size_t>(i) * width, block + view.offsets[i],
                  size);
  }
  parts.data = parts.owned;
  parts.header = header_of(concat("|S", width), view.shape);
  return {};
}

}  // namespace

Result<void> make_npy(const TensorView& view, NpyParts& parts) {
  MILLRACE_TRY(validate(view, "a .npy file"));
  if (view.device.kind != DeviceKind::host || !view.contiguous()) {
    return Error{ErrorCode::invalid_argument,
                 "a .npy file is written from contiguous host memory only"};
  }
  MILLRACE_ASSIGN(const std::int64_t count, element_count(view.shape));
  if (view.type == DataType::bytes) return strings_npy(view, count, parts);
  parts.header = header_of(descr_of(view.type), view.shape);
  const bool widened = view.type == DataType::bf16 || view.type == DataType::fp8_e4m3 ||
                       view.type == DataType::fp8_e5m2;
  if (!widened) {
    MILLRACE_ASSIGN(const std::size_t bytes, view.bytes());
    parts.data = {static_cast<const char*>(view.data), bytes};
    return {};
  }
  parts.owned.resize(static_cast<std::size_t>(count) * sizeof(float));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<float>(element_value(view, i));
    std::memcpy(parts.owned.data() + static_cast<std::size_t>(i) * sizeof value, &value,
                sizeof value);
  }
  parts.data = parts.owned;
  return {};
}

Result<void> write_npy(const TensorView& view, const std::string& path) {
  NpyParts parts;
  Result<void> made = make_npy(view, parts);
  if (!made.ok())
    return Error{made.error().code,
                 concat("cannot write ", quote(path), ": ", made.error().message)};
  MILLRACE_ASSIGN(AtomicFile file, AtomicFile::create(path));
  MILLRACE_TRY(file.write(parts.header));
  MILLRACE_TRY(file.write(parts.data));
  return file.commit();
}

}  // namespace millrace
