// Options for images, as text and as JSON, and what they make of a small picture. The first byte
// chooses the form and the model's input.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "io/preprocess.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace millrace;
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const bool json = (data[0] & 1) != 0;
  const Result<ImagePreprocess> stated =
      json ? parse_preprocess_json(text, "fuzz") : parse_preprocess_text(text);
  if (!stated.ok()) return 0;
  if (stated->resize && std::int64_t{stated->resize->height} * stated->resize->width > 4096)
    return 0;

  const Shape shapes[] = {{-1, 3, -1, -1}, {-1, -1, -1, 1}, {3, 4, 4}, {-1, -1, -1, -1}};
  const DataType types[] = {DataType::fp32, DataType::uint8, DataType::fp16, DataType::bf16};
  const Shape& shape = shapes[data[0] >> 1 & 3];
  const TensorInfo input{"images", types[data[0] >> 3 & 3], shape, shape.rank() == 4 ? 0 : -1};
  const Result<PreprocessPlan> plan = plan_preprocess(*stated, input);
  if (!plan.ok()) return 0;
  Image image{3, 2, plan->channel_count(), {}};
  for (int i = 0; i < 6 * image.channels; ++i)
    image.pixels.push_back(static_cast<std::uint8_t>(40 * i));
  const Result<Tensor> tensor = preprocess_image(image, *plan);
  if (!tensor.ok() || !matches(tensor->shape(), shape)) std::abort();
  return 0;
}
