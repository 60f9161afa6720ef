#include "cli/bench_inputs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "cli/print.h"
#include "io/elements.h"

namespace millrace::cli {
namespace {

// Of the largest magnitude expected.
double tolerance_of(DataType type) noexcept {
  switch (type) {
    case DataType::fp32:
    case DataType::fp64:
      return 1e-3;
    case DataType::fp16:
    case DataType::bf16:
      return 1.0 / 32;
    default:
      return 1.0 / 4;
  }
}

// Small numbers: [0, 1) in floating point, 0 to 9 in integers (which may be indices into a table).
void fill_random(DataType type, void* data, std::size_t count, std::mt19937_64& random) {
  const auto fill = [&](auto* values, auto&& value) {
    for (std::size_t i = 0; i < count; ++i) values[i] = value();
  };
  const auto unit = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  const auto digit = [&] { return random() % 10; };
  switch (type) {
    case DataType::boolean:
      return fill(static_cast<std::uint8_t*>(data),
                  [&] { return static_cast<std::uint8_t>(random() & 1); });
    case DataType::uint8:
    case DataType::int8:
      return fill(static_cast<std::uint8_t*>(data),
                  [&] { return static_cast<std::uint8_t>(digit()); });
    case DataType::uint16:
    case DataType::int16:
      return fill(static_cast<std::uint16_t*>(data),
                  [&] { return static_cast<std::uint16_t>(digit()); });
    case DataType::uint32:
    case DataType::int32:
      return fill(static_cast<std::uint32_t*>(data),
                  [&] { return static_cast<std::uint32_t>(digit()); });
    case DataType::uint64:
    case DataType::int64:
      return fill(static_cast<std::uint64_t*>(data), digit);
    case DataType::fp16:
      return fill(static_cast<std::uint16_t*>(data),
                  [&] { return fp16_bits(static_cast<float>(unit())); });
    case DataType::bf16:
      return fill(static_cast<std::uint16_t*>(data),
                  [&] { return bf16_bits(static_cast<float>(unit())); });
    case DataType::fp32:
      return fill(static_cast<float*>(data), [&] { return static_cast<float>(unit()); });
    case DataType::fp64:
      return fill(static_cast<double*>(data), unit);
    case DataType::fp8_e4m3:  // these bits are finite in both
    case DataType::fp8_e5m2:
      return fill(static_cast<std::uint8_t*>(data),
                  [&] { return static_cast<std::uint8_t>(random() & 0x77); });
    case DataType::bytes:
      return;
  }
}

Result<Tensor> random_strings(const Shape& shape, std::size_t count, std::mt19937_64& random) {
  std::vector<std::string> texts(count);
  for (std::string& text : texts) {
    text.resize(1 + random() % 16);
    for (char& c : text) c = static_cast<char>('a' + random() % 26);
  }
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  return Tensor::of_strings(views, shape);
}

std::string text_of(const TensorView& view) {
  return std::string(to_string(view.type)) + " " + to_string(view.shape);
}

std::string different_strings(const TensorView& found, const TensorView& expected,
                              std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (element_text(found, i) != element_text(expected, i)) {
      return "element " + std::to_string(i) + ": expected " + in_quotes(element_text(expected, i)) +
             ", got " + in_quotes(element_text(found, i));
    }
  }
  return {};
}

std::string different_numbers(const TensorView& found, const TensorView& expected,
                              std::int64_t count) {
  double largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double magnitude = std::abs(element_value(expected, i));
    if (std::isfinite(magnitude)) largest = std::max(largest, magnitude);
  }
  const double allowed = is_floating(expected.type) ? largest * tolerance_of(expected.type) : 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double a = element_value(found, i);
    const double b = element_value(expected, i);
    if (a == b || (std::isnan(a) && std::isnan(b)) || std::abs(a - b) <= allowed) continue;
    return "element " + std::to_string(i) + ": expected " + format_value(b) + ", got " +
           format_value(a);
  }
  return {};
}

std::string different_tensor(const TensorView& found, const TensorView& expected) {
  if (found.type != expected.type || found.shape != expected.shape) {
    return "expected " + text_of(expected) + ", got " + text_of(found);
  }
  const Result<std::int64_t> count = element_count(expected.shape);
  if (!count.ok() || *count == 0) return {};
  if (expected.type == DataType::bytes)
    return different_strings(found, expected, static_cast<std::size_t>(*count));
  const std::size_t bytes = static_cast<std::size_t>(*count) * size_of(expected.type);
  if (std::memcmp(found.data, expected.data, bytes) == 0) return {};
  if (size_of(expected.type) == 8 && !is_floating(expected.type))
    return "other integers than expected";  // beyond 2^53 no doubles
  return different_numbers(found, expected, *count);
}

}  // namespace

Result<BenchInputs> BenchInputs::open(const ModelInfo& model, const InputArguments& arguments,
                                      const std::map<std::string, ImagePreprocess>& configured,
                                      std::uint64_t seed) {
  BenchInputs inputs;
  inputs.infos_ = model.inputs;
  inputs.seed_ = seed;
  if (!arguments.inputs.empty()) {
    Result<Inputs> files = open_inputs(arguments, model, configured);
    if (!files.ok()) return std::move(files).error();
    inputs.files_ = std::move(*files);
    return inputs;
  }
  for (const TensorInfo& input : model.inputs) {
    for (std::size_t d = 0; d < input.shape.rank(); ++d) {
      if (input.shape[d] != kDynamic || static_cast<int>(d) == input.batch_axis) continue;
      return Error{ErrorCode::unsupported, "input " + in_quotes(input.name) + " of model " +
                                               in_quotes(model.name) + " is " +
                                               to_string(input.shape) +
                                               ", which leaves more than the number of items open; "
                                               "give real data with --input " +
                                               input.name + "=FILE"};
    }
  }
  return inputs;
}

std::size_t BenchInputs::distinct(std::int64_t items) const noexcept {
  if (files_.sources.empty()) return std::numeric_limits<std::size_t>::max();
  const bool itemized = std::any_of(files_.sources.begin(), files_.sources.end(),
                                    [](const auto& source) { return source->items() > 0; });
  if (!itemized) return 1;
  // k*items mod files_.items takes this many values.
  std::int64_t a = files_.items, b = items;
  while (b != 0) a = std::exchange(b, a % b);
  return static_cast<std::size_t>(files_.items / a);
}

Result<Tensor> BenchInputs::random(const TensorInfo& input, std::size_t k,
                                   std::int64_t items) const {
  Shape shape = input.shape;
  if (input.batch_axis >= 0) shape[static_cast<std::size_t>(input.batch_axis)] = items;
  std::mt19937_64 random(seed_ * 0x9e3779b97f4a7c15U + k);
  const Result<std::int64_t> count = element_count(shape);
  if (!count.ok()) return count.error();
  if (input.type == DataType::bytes)
    return random_strings(shape, static_cast<std::size_t>(*count), random);
  Result<Tensor> tensor = Tensor::allocate(input.type, shape);
  if (tensor.ok())
    fill_random(input.type, tensor->view().data, static_cast<std::size_t>(*count), random);
  return tensor;
}

// The items one after another in one tensor.
Result<Tensor> BenchInputs::gathered(const InputSource& source, std::size_t k,
                                     std::int64_t items) const {
  std::vector<NamedTensor> parts;
  const std::int64_t count = source.items() == 0 ? 1 : items;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto item = (static_cast<std::int64_t>(k % distinct(items)) * items + i) % files_.items;
    Result<NamedTensor> part = source.take(source.items() == 0 ? 0 : item, 1);
    if (!part.ok()) return std::move(part).error();
    parts.push_back(std::move(*part));
  }
  Shape shape = parts[0].view.shape;
  if (source.items() > 0) shape[0] = items;
  if (parts[0].view.type == DataType::bytes) {
    std::vector<std::string_view> texts;
    for (const NamedTensor& part : parts) {
      const Result<std::int64_t> elements = element_count(part.view.shape);
      if (!elements.ok()) return elements.error();
      for (std::size_t i = 0; i < static_cast<std::size_t>(*elements); ++i)
        texts.push_back(element_text(part.view, i));
    }
    return Tensor::of_strings(texts, shape);
  }
  Result<Tensor> tensor = Tensor::allocate(parts[0].view.type, shape);
  if (!tensor.ok()) return tensor;
  auto* target = static_cast<char*>(tensor->view().data);
  for (const NamedTensor& part : parts) {
    const Result<std::size_t> bytes = part.view.bytes();
    if (!bytes.ok()) return bytes.error();
    if (*bytes > 0) std::memcpy(target, part.view.data, *bytes);
    target += *bytes;
  }
  return tensor;
}

Result<std::vector<NamedTensor>> BenchInputs::make(std::size_t k, std::int64_t items) const {
  std::vector<NamedTensor> made;
  for (std::size_t i = 0; i < infos_.size(); ++i) {
    Result<Tensor> tensor = files_.sources.empty() ? random(infos_[i], k, items)
                                                   : gathered(*files_.sources[i], k, items);
    if (!tensor.ok()) return std::move(tensor).error();
    made.push_back({infos_[i].name, tensor->view(), tensor->lease()});
  }
  return made;
}

std::size_t bytes_of(std::span<const NamedTensor> tensors) {
  std::size_t total = 0;
  for (const NamedTensor& tensor : tensors) {
    total += tensor.view.bytes().ok() ? *tensor.view.bytes() : 0;
    if (tensor.view.type == DataType::bytes)
      total += byte_count(DataType::bytes, tensor.view.shape).ok()
                   ? *byte_count(DataType::bytes, tensor.view.shape)
                   : 0;
  }
  return total;
}

Result<std::vector<NamedTensor>> copy_of(std::span<const NamedTensor> tensors) {
  std::vector<NamedTensor> copies;
  for (const NamedTensor& tensor : tensors) {
    Result<Tensor> copy = Tensor();
    if (tensor.view.type == DataType::bytes) {
      const Result<std::int64_t> count = element_count(tensor.view.shape);
      if (!count.ok()) return count.error();
      std::vector<std::string_view> texts;
      for (std::size_t i = 0; i < static_cast<std::size_t>(*count); ++i)
        texts.push_back(element_text(tensor.view, i));
      copy = Tensor::of_strings(texts, tensor.view.shape);
    } else {
      copy = Tensor::allocate(tensor.view.type, tensor.view.shape);
      const Result<std::size_t> bytes = tensor.view.bytes();
      if (!bytes.ok()) return bytes.error();
      if (copy.ok() && *bytes > 0) std::memcpy(copy->view().data, tensor.view.data, *bytes);
    }
    if (!copy.ok()) return std::move(copy).error();
    copies.push_back({tensor.name, copy->view(), copy->lease()});
  }
  return copies;
}

std::string difference_of(std::span<const NamedTensor> found,
                          std::span<const NamedTensor> expected) {
  if (found.size() != expected.size()) {
    return "expected " + std::to_string(expected.size()) + " outputs, got " +
           std::to_string(found.size());
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (found[i].name != expected[i].name)
      return "expected output " + in_quotes(expected[i].name) + ", got " + in_quotes(found[i].name);
    const std::string difference = different_tensor(found[i].view, expected[i].view);
    if (!difference.empty()) return "output " + in_quotes(expected[i].name) + ": " + difference;
  }
  return {};
}

}  // namespace millrace::cli
