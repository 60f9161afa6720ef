#include "io/image.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "io/npz.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#include <stb_image_write.h>
#pragma GCC diagnostic pop

namespace millrace {
namespace {

void append(void* out, void* data, int size) {
  static_cast<std::string*>(out)->append(static_cast<const char*>(data),
                                         static_cast<std::size_t>(size));
}

std::string png(int width, int height, int channels, const std::vector<std::uint8_t>& pixels) {
  std::string out;
  stbi_write_png_to_func(append, &out, width, height, channels, pixels.data(), width * channels);
  return out;
}

std::string jpeg(int width, int height, int channels, const std::vector<std::uint8_t>& pixels) {
  std::string out;
  stbi_write_jpg_to_func(append, &out, width, height, channels, pixels.data(), 95);
  return out;
}

std::string refusal(std::string_view bytes) {
  const Result<Image> image = decode_image(bytes, 3, "x.png");
  return image.ok() ? "accepted" : image.error().message;
}

TEST(Image, DecodesPngExactly) {
  const std::vector<std::uint8_t> pixels = {255, 0,  0,  0, 255, 0, 0,   0,   255,
                                            10,  20, 30, 1, 2,   3, 200, 100, 50};
  const Result<Image> image = decode_image(png(3, 2, 3, pixels), 3, "x.png");
  ASSERT_TRUE(image.ok()) << image.error().message;
  EXPECT_EQ(image->width, 3);
  EXPECT_EQ(image->height, 2);
  EXPECT_EQ(image->channels, 3);
  EXPECT_EQ(image->pixels, pixels);
}

TEST(Image, MakesGrayOfColoursAndColoursOfGray) {
  const Result<Image> gray = decode_image(png(1, 1, 3, {255, 255, 255}), 1, "x.png");
  ASSERT_TRUE(gray.ok());
  EXPECT_EQ(gray->pixels, (std::vector<std::uint8_t>{255}));
  const Result<Image> green = decode_image(png(1, 1, 3, {0, 255, 0}), 1, "x.png");
  EXPECT_NEAR(green->pixels[0], 0.587 * 255, 1.5);
  const Result<Image> colour = decode_image(png(1, 1, 1, {77}), 3, "x.png");
  EXPECT_EQ(colour->pixels, (std::vector<std::uint8_t>{77, 77, 77}));
}

TEST(Image, DropsTransparency) {
  const Result<Image> image = decode_image(png(1, 1, 4, {9, 8, 7, 0}), 3, "x.png");
  ASSERT_TRUE(image.ok());
  EXPECT_EQ(image->pixels, (std::vector<std::uint8_t>{9, 8, 7}));
}

TEST(Image, DecodesJpegNearly) {
  std::vector<std::uint8_t> pixels;
  for (int i = 0; i < 16 * 16; ++i) pixels.insert(pixels.end(), {200, 100, 50});
  const Result<Image> image = decode_image(jpeg(16, 16, 3, pixels), 3, "x.jpg");
  ASSERT_TRUE(image.ok()) << image.error().message;
  ASSERT_EQ(image->pixels.size(), pixels.size());
  for (std::size_t i = 0; i < pixels.size(); ++i) EXPECT_NEAR(image->pixels[i], pixels[i], 4);
}

TEST(Image, ReadsTheDigits) {
  const Result<Image> image = read_image(MILLRACE_SOURCE_DIR "/examples/digits/images/1_11.png", 1);
  ASSERT_TRUE(image.ok()) << image.error().message;
  const Result<std::vector<NamedArray>> arrays =
      read_npz(MILLRACE_SOURCE_DIR "/examples/digits/held_out.npz");
  ASSERT_TRUE(arrays.ok());
  const float* first =
      (*arrays)[0].view.as<const float>();  // row 11 of the data is the first held out
  ASSERT_EQ(image->pixels.size(), 64U);
  for (std::size_t i = 0; i < 64; ++i)
    EXPECT_EQ(image->pixels[i], std::lround(first[i] * 255 / 16));
}

TEST(Image, RefusesWhatIsNoPicture) {
  EXPECT_NE(refusal("").find("(empty)"), std::string::npos);
  EXPECT_EQ(refusal("GIF89a").find(
                "cannot read image \"x.png\": expected a PNG or JPEG file, got 6 bytes"),
            0U);
}

TEST(Image, RefusesATruncatedPicture) {
  const std::string whole = png(8, 8, 3, std::vector<std::uint8_t>(192, 5));
  for (const std::size_t size : {std::size_t{8}, whole.size() / 2, whole.size() - 20}) {
    EXPECT_NE(refusal(std::string_view(whole).substr(0, size)), "accepted") << size;
  }
}

TEST(Image, RefusesASizeBeyondMeasure) {
  std::string bytes = png(1, 1, 1, {0});
  const std::size_t width = bytes.find("IHDR") + 4;
  bytes.replace(width, 8, std::string("\0\0\x4e\x20\0\0\x4e\x20", 8));  // 20000 x 20000
  EXPECT_NE(refusal(bytes).find("more than"), std::string::npos) << refusal(bytes);
}

TEST(Image, KnowsNames) {
  EXPECT_TRUE(is_image_name("a.png"));
  EXPECT_TRUE(is_image_name("dir/A.JPEG"));
  EXPECT_TRUE(is_image_name("a.b.jpg"));
  EXPECT_FALSE(is_image_name(".png"));
  EXPECT_FALSE(is_image_name("a.gif"));
  EXPECT_FALSE(is_image_name("png"));
}

}  // namespace
}  // namespace millrace
