// From pixels to a model's input, as the model's configuration states it.
//
// In JSON:  {"resize": [224, 224], "layout": "NCHW", "channels": "rgb", "scale": "1/255",
//            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "filter": "bilinear"}
// As text:
// resize=224x224,layout=NCHW,channels=rgb,scale=1/255,mean=0.485:0.456:0.406,filter=nearest
//
// A value of the input is (pixel * scale - mean) / std, with pixels from 0 to 255.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include <millrace/model.h>
#include <millrace/tensor.h>

#include "io/image.h"

namespace millrace {

enum class PixelLayout : std::uint8_t { nchw, nhwc };
enum class PixelChannels : std::uint8_t { gray, rgb, bgr };
enum class ResizeFilter : std::uint8_t { bilinear, nearest };

struct ImageSize {
  int height = 0;
  int width = 0;
  friend bool operator==(ImageSize, ImageSize) = default;
};

/// What was stated; the rest follows from the model's input (see `plan_preprocess`).
struct ImagePreprocess {
  std::optional<ImageSize> resize;
  std::optional<PixelLayout> layout;
  std::optional<PixelChannels> channels;
  std::optional<double> scale;
  std::vector<double> mean;  // none, one for all channels, or one for each
  std::vector<double> std;
  std::optional<ResizeFilter> filter;
  friend bool operator==(const ImagePreprocess&, const ImagePreprocess&) = default;
};

/// Reads the JSON object. Unknown fields are refused with the nearest known name. `where` begins
/// errors. Errors: invalid_argument.
[[nodiscard]] Result<ImagePreprocess> parse_preprocess_json(std::string_view json,
                                                            std::string_view where);
/// Reads "field=value,..." on top of `base`: what it names replaces what was there. Errors: as
/// above.
[[nodiscard]] Result<ImagePreprocess> parse_preprocess_text(std::string_view text,
                                                            ImagePreprocess base = {});

/// Every decision made, for one input of a model.
struct PreprocessPlan {
  ImageSize size;  // height 0: that of the picture
  PixelLayout layout = PixelLayout::nchw;
  PixelChannels channels = PixelChannels::rgb;
  double scale = 1;
  double mean[3] = {0, 0, 0};
  double std[3] = {1, 1, 1};
  ResizeFilter filter = ResizeFilter::bilinear;
  DataType type = DataType::fp32;
  std::size_t rank = 4;  // 3: without a batch dimension of its own

  [[nodiscard]] int channel_count() const noexcept {
    return channels == PixelChannels::gray ? 1 : 3;
  }
  /// Of one picture of that size, its leading dimension of 1 included where the input has one.
  [[nodiscard]] Shape shape(ImageSize size) const noexcept;
};

/// Decides how pictures become `input`, whose shape ([N,C,H,W], [N,H,W,C] or either without N) says
/// what was not stated. The scale must be stated, unless the input takes UINT8: models differ in
/// it, and a wrong one gives wrong answers silently. Errors: invalid_argument when the two do not
/// fit, or too little is known; unsupported for types other than UINT8, FP16, BF16, FP32, FP64.
[[nodiscard]] Result<PreprocessPlan> plan_preprocess(const ImagePreprocess& stated,
                                                     const TensorInfo& input);

/// One picture (decoded with `plan.channel_count()` channels) as a tensor of its own. Resizing
/// counts pixels by their centres; UINT8 values are rounded and clamped. Errors: out_of_memory.
[[nodiscard]] Result<Tensor> preprocess_image(const Image& image, const PreprocessPlan& plan);

/// A resized copy. `size` at least 1 x 1.
[[nodiscard]] std::vector<float> resize_pixels(const Image& image, ImageSize size,
                                               ResizeFilter filter);

}  // namespace millrace
