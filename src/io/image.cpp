#include "io/image.h"

#include <array>
#include <cassert>
#include <limits>
#include <memory>

#include "base/file.h"
#include "base/text.h"
#include "base/try.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#include <stb_image.h>
#pragma GCC diagnostic pop

namespace millrace {
namespace {

constexpr std::int64_t kMostPixels = std::int64_t{1} << 28;

struct FreePixels {
  void operator()(stbi_uc* pixels) const noexcept { stbi_image_free(pixels); }
};

std::string reason() {
  const char* text = stbi_failure_reason();
  return text ? text : "unknown";
}

}  // namespace

Result<Image> decode_image(std::string_view bytes, int channels, std::string_view source) {
  assert(channels == 1 || channels == 3);
  const auto bad = [&](const std::string& why) {
    return Error{ErrorCode::invalid_argument,
                 concat("cannot read image ", quote(source), ": expected a PNG or JPEG file, got ",
                        bytes.size(), " bytes that cannot be decoded (", why, ")")};
  };
  if (bytes.size() > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    return bad("too large");
  const auto* data = reinterpret_cast<const stbi_uc*>(bytes.data());
  const int size = static_cast<int>(bytes.size());
  Image image;
  int found = 0;
  if (bytes.empty() || !stbi_info_from_memory(data, size, &image.width, &image.height, &found)) {
    return bad(bytes.empty() ? "empty" : reason());
  }
  if (std::int64_t{image.width} * image.height > kMostPixels) {
    return Error{ErrorCode::unsupported,
                 concat("cannot read image ", quote(source), ": it has ", image.width, " x ",
                        image.height, " pixels, more than ", kMostPixels)};
  }
  const std::unique_ptr<stbi_uc, FreePixels> pixels(
      stbi_load_from_memory(data, size, &image.width, &image.height, &found, channels));
  if (!pixels) return bad(reason());
  image.channels = channels;
  const auto count = static_cast<std::size_t>(image.width) *
                     static_cast<std::size_t>(image.height) * static_cast<std::size_t>(channels);
  try {
    image.pixels.assign(pixels.get(), pixels.get() + count);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, concat("cannot read image ", quote(source),
                                                  ": no memory for ", format_bytes(count))};
  }
  return image;
}

Result<Image> read_image(const std::string& path, int channels) {
  MILLRACE_ASSIGN(const std::string bytes, read_file(path));
  return decode_image(bytes, channels, path);
}

bool is_image_name(std::string_view name) noexcept {
  constexpr std::array<std::string_view, 3> kEndings = {".png", ".jpg", ".jpeg"};
  for (const std::string_view ending : kEndings) {
    if (name.size() > ending.size() &&
        equal_ignoring_case(name.substr(name.size() - ending.size()), ending))
      return true;
  }
  return false;
}

}  // namespace millrace
