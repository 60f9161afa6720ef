// Pictures: PNG and JPEG files as 8-bit pixels.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/error.h>

namespace millrace {

/// Pixels of 8 bits a channel, row by row from the top, channels interleaved.
struct Image {
  int width = 0;
  int height = 0;
  int channels = 0;                  // 1: gray, 3: red, green, blue
  std::vector<std::uint8_t> pixels;  // height * width * channels
};

/// Decodes a PNG or JPEG into `channels` (1 or 3). Gray is the luma of colours; 16-bit samples are
/// reduced to 8; transparency is dropped. `source` is what errors call it. Errors: invalid_argument
/// for what is no such picture or is damaged; unsupported for more than 2^28 pixels; out_of_memory.
[[nodiscard]] Result<Image> decode_image(std::string_view bytes, int channels,
                                         std::string_view source);
/// The same from a file. Errors: also not_found, unavailable.
[[nodiscard]] Result<Image> read_image(const std::string& path, int channels);

/// Whether a name ends as pictures' names do: .png, .jpg, .jpeg, in any case.
[[nodiscard]] bool is_image_name(std::string_view name) noexcept;

}  // namespace millrace
