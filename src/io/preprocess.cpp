#include "io/preprocess.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/text.h"
#include "base/try.h"
#include "io/elements.h"
#include "io/fields.h"

namespace millrace {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 7> kFields = {"resize", "layout", "channels", "scale",
                                                     "mean",   "std",    "filter"};
constexpr std::int64_t kMostSide = 32768;

Error bad(std::string_view where, std::string_view field, std::string_view expected,
          std::string_view found) {
  return {ErrorCode::invalid_argument,
          concat(where, ": ", field, ": expected ", expected, ", got ", found)};
}

template <class T>
struct Choice {
  std::string_view name;
  T value;
};
constexpr std::array<Choice<PixelLayout>, 2> kLayouts = {
    {{"NCHW", PixelLayout::nchw}, {"NHWC", PixelLayout::nhwc}}};
constexpr std::array<Choice<PixelChannels>, 3> kChannels = {
    {{"gray", PixelChannels::gray}, {"rgb", PixelChannels::rgb}, {"bgr", PixelChannels::bgr}}};
constexpr std::array<Choice<ResizeFilter>, 2> kFilters = {
    {{"bilinear", ResizeFilter::bilinear}, {"nearest", ResizeFilter::nearest}}};

template <class T, std::size_t N>
Result<T> choose(const std::array<Choice<T>, N>& choices, std::string_view text,
                 std::string_view where, std::string_view field) {
  std::vector<std::string_view> known;
  for (const Choice<T>& choice : choices) {
    if (equal_ignoring_case(choice.name, text)) return choice.value;
    known.push_back(choice.name);
  }
  return bad(where, field, concat("one of ", join(known, ", ")), quote(text));
}

// A number, or a fraction such as 1/255.
Result<double> parse_fraction(std::string_view text, std::string_view where,
                              std::string_view field) {
  const std::size_t slash = text.find('/');
  const Result<double> above = parse_number(trimmed(text.substr(0, slash)), field);
  const Result<double> below = slash == std::string_view::npos
                                   ? Result<double>(1.0)
                                   : parse_number(trimmed(text.substr(slash + 1)), field);
  if (above.ok() && below.ok() && *below != 0 && std::isfinite(*above / *below))
    return *above / *below;
  return bad(where, field, "a number or a fraction such as 1/255", quote(text));
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.push_back(trimmed(text.substr(0, end)));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

Result<std::vector<double>> parse_numbers(std::string_view text, std::string_view where,
                                          std::string_view field) {
  std::vector<double> values;
  for (const std::string_view part : split(text, ':')) {
    MILLRACE_ASSIGN(values.emplace_back(), parse_fraction(part, where, field));
  }
  return values;
}

Result<void> check(const ImagePreprocess& stated, std::string_view where) {
  for (const auto& [field, values] : {std::pair{"mean", &stated.mean}, {"std", &stated.std}}) {
    if (values->size() > 1 && values->size() != 3) {
      return bad(where, field, "1 or 3 numbers", concat(values->size()));
    }
  }
  for (const double value : stated.std) {
    if (value == 0) return bad(where, "std", "numbers other than 0", "0");
  }
  return {};
}

Result<void> set_text(ImagePreprocess& out, std::string_view field, std::string_view value,
                      std::string_view where) {
  if (field == "resize") {
    const std::vector<std::string_view> sides = split(value, 'x');
    const Result<std::int64_t> height = parse_integer(sides[0], field, 1, kMostSide);
    const Result<std::int64_t> width =
        sides.size() == 2 ? parse_integer(sides[1], field, 1, kMostSide) : height;
    if (sides.size() > 2 || !height.ok() || !width.ok()) {
      return bad(where, field, concat("HEIGHTxWIDTH with sides from 1 to ", kMostSide),
                 quote(value));
    }
    out.resize = ImageSize{static_cast<int>(*height), static_cast<int>(*width)};
  } else if (field == "layout") {
    MILLRACE_ASSIGN(out.layout, choose(kLayouts, value, where, field));
  } else if (field == "channels") {
    MILLRACE_ASSIGN(out.channels, choose(kChannels, value, where, field));
  } else if (field == "filter") {
    MILLRACE_ASSIGN(out.filter, choose(kFilters, value, where, field));
  } else if (field == "scale") {
    MILLRACE_ASSIGN(out.scale, parse_fraction(value, where, field));
  } else if (field == "mean") {
    MILLRACE_ASSIGN(out.mean, parse_numbers(value, where, field));
  } else if (field == "std") {
    MILLRACE_ASSIGN(out.std, parse_numbers(value, where, field));
  } else {
    return Error{ErrorCode::invalid_argument, concat(where, ": ", unknown_field(field, kFields))};
  }
  return {};
}

// What a field's JSON value is as text, so that both forms have one reader.
Result<std::string> field_text(const std::string& field, const json& value,
                               std::string_view where) {
  if (value.is_string()) return value.get<std::string>();
  const auto number = [](const json& n) { return n.dump(); };
  if (field == "scale" && value.is_number()) return number(value);
  if (field != "resize" && field != "mean" && field != "std") {
    return bad(where, field, field == "scale" ? "a number" : "a text", shown(value));
  }
  if (value.is_number() && field != "resize") return number(value);
  const bool numbers =
      value.is_array() && !value.empty() &&
      std::all_of(value.begin(), value.end(), [](const json& n) { return n.is_number(); });
  if (!numbers || (field == "resize" && value.size() != 2)) {
    return bad(where, field, field == "resize" ? "[HEIGHT, WIDTH]" : "a list of numbers",
               shown(value));
  }
  std::vector<std::string> parts;
  for (const json& n : value) parts.push_back(number(n));
  return join(parts, field == "resize" ? "x" : ":");
}

}  // namespace

Result<ImagePreprocess> parse_preprocess_json(std::string_view text, std::string_view where) {
  MILLRACE_ASSIGN(const json value, parse_json(text, where));
  MILLRACE_TRY(Fields(value, std::string(where), kFields).finish());
  ImagePreprocess stated;
  for (const auto& [field, member] : value.items()) {
    MILLRACE_ASSIGN(const std::string written, field_text(field, member, where));
    MILLRACE_TRY(set_text(stated, field, written, where));
  }
  MILLRACE_TRY(check(stated, where));
  return stated;
}

Result<ImagePreprocess> parse_preprocess_text(std::string_view text, ImagePreprocess base) {
  constexpr std::string_view kWhere = "preprocess";
  for (const std::string_view part : split(text, ',')) {
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos) {
      return Error{ErrorCode::invalid_argument,
                   concat(kWhere, ": expected field=value,..., got ", quote(part), "; fields are ",
                          join(kFields, ", "))};
    }
    MILLRACE_TRY(
        set_text(base, trimmed(part.substr(0, equals)), trimmed(part.substr(equals + 1)), kWhere));
  }
  MILLRACE_TRY(check(base, kWhere));
  return base;
}

Shape PreprocessPlan::shape(ImageSize of) const noexcept {
  Shape shape;
  if (rank == 4) shape.push_back(1);
  if (layout == PixelLayout::nchw) shape.push_back(channel_count());
  shape.push_back(of.height);
  shape.push_back(of.width);
  if (layout == PixelLayout::nhwc) shape.push_back(channel_count());
  return shape;
}

namespace {

struct Axes {
  std::int64_t channels = kDynamic;
  std::int64_t height = kDynamic;
  std::int64_t width = kDynamic;
};

Axes axes_of(const Shape& shape, PixelLayout layout) {
  const std::size_t first = shape.rank() - 3;
  if (layout == PixelLayout::nchw) return {shape[first], shape[first + 1], shape[first + 2]};
  return {shape[first + 2], shape[first], shape[first + 1]};
}

bool counts_channels(std::int64_t size) { return size == 1 || size == 3; }

Result<PixelLayout> layout_of(const ImagePreprocess& stated, const TensorInfo& input,
                              const std::string& where) {
  if (stated.layout) return *stated.layout;
  for (const PixelLayout layout : {PixelLayout::nchw, PixelLayout::nhwc}) {
    if (counts_channels(axes_of(input.shape, layout).channels)) return layout;
  }
  return Error{ErrorCode::invalid_argument,
               concat(where, ": shape ", input.shape,
                      " does not say where the channels are; state \"layout\"")};
}

Result<PixelChannels> channels_of(const ImagePreprocess& stated, std::int64_t axis,
                                  const TensorInfo& input, const std::string& where) {
  if (!stated.channels) {
    if (axis == 1) return PixelChannels::gray;
    if (axis == 3) return PixelChannels::rgb;
    return Error{ErrorCode::invalid_argument,
                 concat(where, ": shape ", input.shape,
                        " does not say how many channels; state \"channels\"")};
  }
  const int count = *stated.channels == PixelChannels::gray ? 1 : 3;
  if (axis == kDynamic || axis == count) return *stated.channels;
  return Error{ErrorCode::invalid_argument,
               concat(where, ": expected ", axis, " channels for shape ", input.shape, ", got ",
                      count, " from \"channels\"")};
}

Result<ImageSize> size_of_images(const ImagePreprocess& stated, const Axes& axes,
                                 const TensorInfo& input, const std::string& where) {
  if (stated.resize) {
    const bool fits = (axes.height == kDynamic || axes.height == stated.resize->height) &&
                      (axes.width == kDynamic || axes.width == stated.resize->width);
    if (fits) return *stated.resize;
    return Error{ErrorCode::invalid_argument,
                 concat(where, ": expected images for shape ", input.shape, ", got \"resize\" to ",
                        stated.resize->height, "x", stated.resize->width)};
  }
  if (axes.height == kDynamic && axes.width == kDynamic) return ImageSize{};
  const auto usable = [](std::int64_t side) { return side >= 1 && side <= kMostSide; };
  if (!usable(axes.height) || !usable(axes.width)) {
    return Error{ErrorCode::invalid_argument, concat(where, ": shape ", input.shape,
                                                     " gives no size of images; state \"resize\"")};
  }
  return ImageSize{static_cast<int>(axes.height), static_cast<int>(axes.width)};
}

bool known_type(DataType type) {
  return type == DataType::uint8 || type == DataType::fp16 || type == DataType::bf16 ||
         type == DataType::fp32 || type == DataType::fp64;
}

}  // namespace

Result<PreprocessPlan> plan_preprocess(const ImagePreprocess& stated, const TensorInfo& input) {
  const std::string where = concat("images for input ", quote(input.name));
  if (!known_type(input.type)) {
    return Error{ErrorCode::unsupported,
                 concat(where, ": expected type UINT8, FP16, BF16, FP32 or FP64, the model takes ",
                        input.type)};
  }
  const bool with_batch = input.shape.rank() == 4 && input.batch_axis <= 0;
  const bool without_batch = input.shape.rank() == 3 && input.batch_axis < 0;
  if (!with_batch && !without_batch) {
    return Error{
        ErrorCode::invalid_argument,
        concat(where, ": expected a shape such as [N,C,H,W] or [N,H,W,C], the model takes ",
               input.shape)};
  }
  PreprocessPlan plan;
  plan.type = input.type;
  plan.rank = input.shape.rank();
  MILLRACE_ASSIGN(plan.layout, layout_of(stated, input, where));
  const Axes axes = axes_of(input.shape, plan.layout);
  MILLRACE_ASSIGN(plan.channels, channels_of(stated, axes.channels, input, where));
  MILLRACE_ASSIGN(plan.size, size_of_images(stated, axes, input, where));
  plan.filter = stated.filter.value_or(ResizeFilter::bilinear);
  if (!stated.scale && input.type != DataType::uint8) {
    return Error{ErrorCode::invalid_argument,
                 concat(where, ": how pixels (0 to 255) become ", input.type,
                        " is not stated; give it in the model's "
                        "configuration (\"preprocess\") or as --preprocess \"scale=1/255\" "
                        "(scale=1 keeps 0 to 255)")};
  }
  plan.scale = stated.scale.value_or(1);
  const auto channels = static_cast<std::size_t>(plan.channel_count());
  const auto spread = [&](const std::vector<double>& values, double(&out)[3],
                          std::string_view field) -> Result<void> {
    if (values.size() > 1 && values.size() != channels) {
      return Error{ErrorCode::invalid_argument, concat(where, ": ", field, ": expected ", channels,
                                                       " number(s), got ", values.size())};
    }
    for (std::size_t i = 0; i < channels && !values.empty(); ++i)
      out[i] = values[values.size() == 1 ? 0 : i];
    return {};
  };
  MILLRACE_TRY(spread(stated.mean, plan.mean, "mean"));
  MILLRACE_TRY(spread(stated.std, plan.std, "std"));
  return plan;
}

namespace {

// Where a target pixel's centre lies between two source pixels.
struct Tap {
  int low = 0;
  int high = 0;
  float weight = 0;  // of `high`
};

std::vector<Tap> taps(int source, int target, ResizeFilter filter) {
  std::vector<Tap> all(static_cast<std::size_t>(target));
  const double step = static_cast<double>(source) / target;
  for (int i = 0; i < target; ++i) {
    const double centre = (i + 0.5) * step;
    Tap& tap = all[static_cast<std::size_t>(i)];
    if (filter == ResizeFilter::nearest) {
      tap.low = tap.high = std::min(static_cast<int>(centre), source - 1);
      continue;
    }
    const double at = std::clamp(centre - 0.5, 0.0, static_cast<double>(source - 1));
    tap.low = static_cast<int>(at);
    tap.high = std::min(tap.low + 1, source - 1);
    tap.weight = static_cast<float>(at - tap.low);
  }
  return all;
}

void store(const PreprocessPlan& plan, char* data, std::size_t i, double value) {
  const auto put = [&](auto element) {
    std::memcpy(data + i * sizeof element, &element, sizeof element);
  };
  switch (plan.type) {
    case DataType::uint8:
      return put(static_cast<std::uint8_t>(std::lround(std::clamp(value, 0.0, 255.0))));
    case DataType::fp16:
      return put(fp16_bits(static_cast<float>(value)));
    case DataType::bf16:
      return put(bf16_bits(static_cast<float>(value)));
    case DataType::fp64:
      return put(value);
    default:
      return put(static_cast<float>(value));
  }
}

}  // namespace

std::vector<float> resize_pixels(const Image& image, ImageSize size, ResizeFilter filter) {
  const auto channels = static_cast<std::size_t>(image.channels);
  const auto row_length = static_cast<std::size_t>(image.width) * channels;
  const std::vector<Tap> rows = taps(image.height, size.height, filter);
  const std::vector<Tap> columns = taps(image.width, size.width, filter);
  std::vector<float> out;
  out.reserve(rows.size() * columns.size() * channels);
  for (const Tap& y : rows) {
    const std::uint8_t* top = image.pixels.data() + static_cast<std::size_t>(y.low) * row_length;
    const std::uint8_t* bottom =
        image.pixels.data() + static_cast<std::size_t>(y.high) * row_length;
    for (const Tap& x : columns) {
      const std::size_t left = static_cast<std::size_t>(x.low) * channels;
      const std::size_t right = static_cast<std::size_t>(x.high) * channels;
      for (std::size_t c = 0; c < channels; ++c) {
        const auto mix = [](float a, float b, float weight) { return a + (b - a) * weight; };
        const float above = mix(top[left + c], top[right + c], x.weight);
        const float below = mix(bottom[left + c], bottom[right + c], x.weight);
        out.push_back(mix(above, below, y.weight));
      }
    }
  }
  return out;
}

Result<Tensor> preprocess_image(const Image& image, const PreprocessPlan& plan) {
  const ImageSize own{image.height, image.width};
  const ImageSize size = plan.size.height > 0 ? plan.size : own;
  MILLRACE_ASSIGN(const Tensor tensor, Tensor::allocate(plan.type, plan.shape(size)));
  std::vector<float> resized;
  try {
    if (size != own) resized = resize_pixels(image, size, plan.filter);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory,
                 concat("no memory for an image of ", size.height, "x", size.width)};
  }
  const auto channels = static_cast<std::size_t>(image.channels);
  const std::size_t pixels =
      static_cast<std::size_t>(size.height) * static_cast<std::size_t>(size.width);
  auto* data = static_cast<char*>(tensor.view().data);
  for (std::size_t p = 0; p < pixels; ++p) {
    for (std::size_t c = 0; c < channels; ++c) {
      const std::size_t source =
          p * channels + (plan.channels == PixelChannels::bgr ? channels - 1 - c : c);
      const double pixel = resized.empty() ? static_cast<double>(image.pixels[source])
                                           : static_cast<double>(resized[source]);
      const std::size_t target =
          plan.layout == PixelLayout::nchw ? c * pixels + p : p * channels + c;
      store(plan, data, target, (pixel * plan.scale - plan.mean[c]) / plan.std[c]);
    }
  }
  return tensor;
}

}  // namespace millrace
