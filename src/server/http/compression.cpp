#include "server/http/compression.h"

#include <zlib.h>

#include <algorithm>
#include <limits>

#include "base/text.h"
#include "base/try.h"

namespace millrace::server {
namespace {

constexpr int kGzipOrZlib = 15 + 32;
constexpr int kRaw = -15;
constexpr std::size_t kStep = std::size_t{1} << 20;  // the least that output grows by, when large

struct Inflater {
  z_stream stream{};
  bool ready = false;

  explicit Inflater(int bits) { ready = inflateInit2(&stream, bits) == Z_OK; }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  ~Inflater() {
    if (ready) inflateEnd(&stream);
  }
};

uInt clamp(std::size_t bytes) {
  return static_cast<uInt>(std::min<std::size_t>(bytes, std::numeric_limits<uInt>::max() / 2));
}

// RFC 1950's two bytes; what else is called deflate begins with its blocks.
bool has_zlib_frame(std::string_view text) {
  if (text.size() < 2) return false;
  const auto first = static_cast<unsigned char>(text[0]);
  const auto second = static_cast<unsigned char>(text[1]);
  return (first & 15U) == 8 && (first * 256U + second) % 31 == 0;
}

// Makes room for more; false: there must not be more.
Result<void> make_room(std::string& out, std::size_t used, std::size_t limit,
                       const std::function<bool(std::size_t)>& grow) {
  if (used < out.size()) return {};
  if (out.size() >= limit) {
    return Error{ErrorCode::unsupported,
                 concat("the body is more than ", limit, " bytes when decompressed")};
  }
  const std::size_t more =
      std::min(limit - out.size(), std::clamp<std::size_t>(out.size(), 4096, 64 * kStep));
  if (!grow(more)) {
    return Error{ErrorCode::queue_full, "too many bytes of requests in flight; try again later"};
  }
  out.resize(out.size() + more);
  return {};
}

}  // namespace

std::string_view to_string(Encoding encoding) noexcept {
  switch (encoding) {
    case Encoding::identity:
      return "identity";
    case Encoding::gzip:
      return "gzip";
    case Encoding::deflate:
      break;
  }
  return "deflate";
}

Result<std::string> decompress(std::string_view text, Encoding encoding, std::size_t limit,
                               const std::function<bool(std::size_t)>& grow) {
  if (encoding == Encoding::identity) return std::string(text);
  const bool raw = encoding == Encoding::deflate && !has_zlib_frame(text);
  Inflater inflater(raw ? kRaw : kGzipOrZlib);
  if (!inflater.ready) return Error{ErrorCode::out_of_memory, "no memory to decompress a body"};
  z_stream& stream = inflater.stream;
  std::string out;
  std::size_t used = 0;
  std::size_t read = 0;
  while (true) {
    MILLRACE_TRY(make_room(out, used, limit + 1, grow));  // one more tells "just" from "over"
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data() + read));
    stream.avail_in = clamp(text.size() - read);
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + used);
    stream.avail_out = clamp(out.size() - used);
    const uInt in = stream.avail_in;
    const uInt room = stream.avail_out;
    const int status = inflate(&stream, Z_NO_FLUSH);
    read += in - stream.avail_in;
    used += room - stream.avail_out;
    if (status == Z_STREAM_END) break;
    if (status != Z_OK && status != Z_BUF_ERROR) {
      return Error{ErrorCode::invalid_argument,
                   concat("the body is not ", encoding, ", at byte ", read)};
    }
    if (read == text.size() && stream.avail_out > 0) {
      return Error{ErrorCode::invalid_argument,
                   concat("the ", encoding, " body ends too early, after ", read, " bytes")};
    }
  }
  if (read != text.size()) {
    return Error{ErrorCode::invalid_argument, concat("the ", encoding, " body ends at byte ", read,
                                                     ", and ", text.size() - read, " more follow")};
  }
  if (used > limit) {
    return Error{ErrorCode::unsupported,
                 concat("the body is more than ", limit, " bytes when decompressed")};
  }
  out.resize(used);
  return out;
}

struct Compressor::State {
  z_stream stream{};
  std::string out;
  std::size_t used = 0;
  bool good = false;

  void run(int flush) {
    while (good) {
      if (used == out.size()) out.resize(std::max<std::size_t>(1024, out.size() * 2));
      stream.next_out = reinterpret_cast<Bytef*>(out.data() + used);
      stream.avail_out = clamp(out.size() - used);
      const uInt room = stream.avail_out;
      const int status = deflate(&stream, flush);
      used += room - stream.avail_out;
      if (status == Z_STREAM_END) return;
      if (status != Z_OK && status != Z_BUF_ERROR) good = false;
      if (flush == Z_NO_FLUSH && stream.avail_in == 0 && stream.avail_out > 0) return;
    }
  }
};

Compressor::Compressor(Encoding encoding) : state_(new State) {
  state_->good =
      deflateInit2(&state_->stream, Z_BEST_SPEED, Z_DEFLATED,
                   encoding == Encoding::gzip ? 15 + 16 : 15, 8, Z_DEFAULT_STRATEGY) == Z_OK;
}

Compressor::~Compressor() {
  deflateEnd(&state_->stream);
  delete state_;
}

void Compressor::add(const void* data, std::size_t bytes) {
  const auto* at = static_cast<const Bytef*>(data);
  while (bytes > 0 && state_->good) {
    state_->stream.next_in = const_cast<Bytef*>(at);
    state_->stream.avail_in = clamp(bytes);
    const uInt taken = state_->stream.avail_in;
    state_->run(Z_NO_FLUSH);
    at += taken;
    bytes -= taken;
  }
}

Result<std::string> Compressor::finish() {
  state_->run(Z_FINISH);
  if (!state_->good) return Error{ErrorCode::out_of_memory, "no memory to compress a body"};
  state_->out.resize(state_->used);
  return std::move(state_->out);
}

namespace {

// "q=0" after the name: that one is not wanted.
bool refused(std::string_view parameters) {
  const std::size_t at = parameters.find("q=");
  if (at == std::string_view::npos) return false;
  const std::string_view weight = trimmed(parameters.substr(at + 2));
  return !weight.empty() && weight.find_first_not_of("0.") == std::string_view::npos;
}

}  // namespace

Encoding choose_encoding(std::string_view accepted) noexcept {
  bool deflate_taken = false;
  while (!accepted.empty()) {
    const std::size_t comma = std::min(accepted.find(','), accepted.size());
    const std::string_view entry = accepted.substr(0, comma);
    accepted.remove_prefix(std::min(comma + 1, accepted.size()));
    const std::size_t semicolon = std::min(entry.find(';'), entry.size());
    if (refused(entry.substr(semicolon))) continue;
    const std::string_view name = trimmed(entry.substr(0, semicolon));
    if (equal_ignoring_case(name, "gzip")) return Encoding::gzip;
    if (equal_ignoring_case(name, "deflate")) deflate_taken = true;
  }
  return deflate_taken ? Encoding::deflate : Encoding::identity;
}

}  // namespace millrace::server
