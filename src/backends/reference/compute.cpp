#include "backends/reference/compute.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/text.h"
#include "base/try.h"

namespace millrace::reference {
namespace {

bool copies(Kind kind) noexcept {
  return kind == Kind::identity || kind == Kind::busy || kind == Kind::fail || kind == Kind::hang;
}

int input_count(const Options& options) noexcept {
  return options.kind == Kind::add ? 2 : options.inputs;
}

// An item's shape with the first dimension before it.
Shape with_batch(const Options& options, const Shape& item) {
  if (!options.batched) return item;
  Shape shape = {kDynamic};
  for (const std::int64_t dim : item) shape.push_back(dim);
  return shape;
}

TensorInfo tensor_info(const Options& options, std::string name, DataType type, const Shape& item) {
  return {std::move(name), type, with_batch(options, item),
          options.batched && options.batch_axis ? 0 : -1};
}

std::string numbered(const Options& options, std::string_view name, int i) {
  return options.inputs == 1 ? std::string(name) : concat(name, i);
}

// The static shape of output `index`, for kinds that know it from the inputs.
Shape output_shape(const Options& options, std::span<const TensorView> inputs, std::size_t index) {
  if (options.kind == Kind::checksum) {
    return options.batched ? Shape{inputs[0].shape[0]} : Shape{};
  }
  return inputs[options.kind == Kind::add ? 0 : index].shape;
}

DataType output_type(const Options& options, std::size_t index) {
  if (options.kind == Kind::checksum) return DataType::uint32;
  if (options.kind == Kind::nonzero) return DataType::int64;
  return options.type_of(static_cast<int>(index));
}

// Memory for an output of that type and shape: what the slot has, or what it allocates.
Result<void*> memory_for(OutputSlot& slot, DataType type, const Shape& shape, std::size_t bytes) {
  // What was placed before the run may be being read: it is left alone.
  if (slot.view.data == nullptr || slot.view.type != type || slot.view.shape != shape ||
      !slot.view.strides.empty()) {
    slot.view.type = type;
    slot.view.shape = shape;
    slot.view.strides = {};
  }
  if (slot.view.data != nullptr) return slot.view.data;
  if (!slot.allocate) {
    return Error{ErrorCode::internal,
                 "an output of a reference model has neither memory nor allocate"};
  }
  MILLRACE_ASSIGN(void* memory, slot.allocate(type, shape, bytes));
  if (type == DataType::bytes) {
    MILLRACE_ASSIGN(const std::int64_t count, element_count(shape));
    slot.view.offsets = static_cast<const std::uint64_t*>(memory);
    slot.view.data = static_cast<std::uint64_t*>(memory) + count + 1;
    return memory;
  }
  slot.view.data = memory;
  return memory;
}

Result<void> copy_bytes(const TensorView& input, OutputSlot& slot) {
  MILLRACE_ASSIGN(const std::int64_t count, element_count(input.shape));
  const auto n = static_cast<std::size_t>(count);
  const std::uint64_t first = input.offsets[0];
  const std::size_t bytes = input.offsets[n] - first;
  if (slot.view.data != nullptr) {
    return Error{ErrorCode::internal, "a BYTES output of a reference model must be allocated late"};
  }
  MILLRACE_ASSIGN(void* memory, memory_for(slot, DataType::bytes, input.shape, bytes));
  auto* offsets = static_cast<std::uint64_t*>(memory);
  for (std::size_t i = 0; i <= n; ++i) offsets[i] = input.offsets[i] - first;
  if (bytes > 0)
    std::memcpy(slot.view.data, static_cast<const std::byte*>(input.data) + first, bytes);
  return {};
}

Result<void> copy_through(const TensorView& input, OutputSlot& slot) {
  if (input.type == DataType::bytes) return copy_bytes(input, slot);
  MILLRACE_ASSIGN(const std::size_t bytes, byte_count(input.type, input.shape));
  MILLRACE_ASSIGN(void* memory, memory_for(slot, input.type, input.shape, bytes));
  if (bytes > 0) std::memcpy(memory, input.data, bytes);
  return {};
}

// 16-bit floats, through 32 bits. Rounds to nearest, ties to even.

float from_bf16(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

std::uint16_t to_bf16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U)
    return static_cast<std::uint16_t>((bits >> 16) | 0x40U);  // NaN
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

float from_fp16(std::uint16_t bits) noexcept {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000U} << 16;
  const std::uint32_t rest = bits & 0x7fffU;
  if (rest >= 0x7c00U) return std::bit_cast<float>(sign | 0x7f800000U | ((rest & 0x3ffU) << 13));
  // Scaling by 2^112 corrects the exponent's bias, for subnormal numbers too.
  const float magnitude = std::bit_cast<float>(rest << 13) * 0x1p112F;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
}

std::uint16_t to_fp16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t rest = bits & 0x7fffffffU;
  if (rest > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);  // NaN
  if (rest >= 0x477ff000U)
    return static_cast<std::uint16_t>(sign | 0x7c00U);  // rounds to 2^16 or more
  if (rest < 0x38800000U) {  // subnormal: let the addition round at 2^-24
    const float shifted = std::bit_cast<float>(rest) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000U));
  }
  const std::uint32_t rounded = rest + 0xfffU + ((rest >> 13) & 1U) - 0x38000000U;
  return static_cast<std::uint16_t>(sign | (rounded >> 13));
}

template <class T, class Plus>
void add_all(const void* a, const void* b, void* sum, std::size_t count, Plus plus) {
  for (std::size_t i = 0; i < count; ++i) {
    T x, y;  // by memcpy: inputs bound in place need not be aligned
    std::memcpy(&x, static_cast<const std::byte*>(a) + i * sizeof(T), sizeof(T));
    std::memcpy(&y, static_cast<const std::byte*>(b) + i * sizeof(T), sizeof(T));
    const T z = plus(x, y);
    std::memcpy(static_cast<std::byte*>(sum) + i * sizeof(T), &z, sizeof(T));
  }
}

// Whole numbers wrap around, signed ones too.
template <class T>
void add_integers(const void* a, const void* b, void* sum, std::size_t count) {
  add_all<T>(a, b, sum, count, [](T x, T y) {
    return static_cast<T>(static_cast<std::uint64_t>(x) + static_cast<std::uint64_t>(y));
  });
}

Result<void> add(std::span<const TensorView> inputs, OutputSlot& slot) {
  const TensorView& a = inputs[0];
  const TensorView& b = inputs[1];
  if (a.shape != b.shape) {
    return Error{
        ErrorCode::invalid_argument,
        concat("expected inputs \"a\" and \"b\" of one shape, got ", a.shape, " and ", b.shape)};
  }
  MILLRACE_ASSIGN(const std::size_t bytes, byte_count(a.type, a.shape));
  MILLRACE_ASSIGN(void* sum, memory_for(slot, a.type, a.shape, bytes));
  const std::size_t n = bytes / size_of(a.type);
  switch (a.type) {
    case DataType::uint8:
    case DataType::int8:
      add_integers<std::uint8_t>(a.data, b.data, sum, n);
      break;
    case DataType::uint16:
    case DataType::int16:
      add_integers<std::uint16_t>(a.data, b.data, sum, n);
      break;
    case DataType::uint32:
    case DataType::int32:
      add_integers<std::uint32_t>(a.data, b.data, sum, n);
      break;
    case DataType::uint64:
    case DataType::int64:
      add_integers<std::uint64_t>(a.data, b.data, sum, n);
      break;
    case DataType::fp32:
      add_all<float>(a.data, b.data, sum, n, [](float x, float y) { return x + y; });
      break;
    case DataType::fp64:
      add_all<double>(a.data, b.data, sum, n, [](double x, double y) { return x + y; });
      break;
    case DataType::fp16:
      add_all<std::uint16_t>(a.data, b.data, sum, n, [](std::uint16_t x, std::uint16_t y) {
        return to_fp16(from_fp16(x) + from_fp16(y));
      });
      break;
    case DataType::bf16:
      add_all<std::uint16_t>(a.data, b.data, sum, n, [](std::uint16_t x, std::uint16_t y) {
        return to_bf16(from_bf16(x) + from_bf16(y));
      });
      break;
    default:
      return Error{ErrorCode::unsupported,
                   concat("the reference model \"add\" cannot add ", to_string(a.type))};
  }
  return {};
}

// The sum of the 32-bit words, little-endian, the last one filled up with zeros.
std::uint32_t sum_of_words(const std::byte* data, std::size_t bytes) noexcept {
  std::uint32_t sum = 0;
  const std::size_t words = bytes / 4;
  for (std::size_t i = 0; i < words; ++i) {
    std::uint32_t word;
    std::memcpy(&word, data + i * 4, 4);
    sum += word;
  }
  std::uint32_t last = 0;
  if (bytes % 4 != 0) std::memcpy(&last, data + words * 4, bytes % 4);
  return sum + last;
}

Result<void> checksum(const Options& options, std::span<const TensorView> inputs,
                      OutputSlot& slot) {
  const TensorView& input = inputs[0];
  const std::int64_t items = items_of(options, inputs);
  MILLRACE_ASSIGN(const std::int64_t elements, element_count(input.shape));
  const Shape shape = output_shape(options, inputs, 0);
  MILLRACE_ASSIGN(void* memory,
                  memory_for(slot, DataType::uint32, shape, static_cast<std::size_t>(items) * 4));
  auto* sums = static_cast<std::byte*>(memory);
  const std::size_t each = items == 0 ? 0 : static_cast<std::size_t>(elements / items);
  for (std::size_t item = 0; item < static_cast<std::size_t>(items); ++item) {
    std::uint32_t sum = 0;
    if (!options.no_read) {
      const auto* data = static_cast<const std::byte*>(input.data);
      std::size_t begin = item * each * size_of(input.type);
      std::size_t end = begin + each * size_of(input.type);
      if (input.type == DataType::bytes) {
        begin = input.offsets[item * each];
        end = input.offsets[(item + 1) * each];
      }
      sum = sum_of_words(data + begin, end - begin);
    }
    std::memcpy(sums + item * 4, &sum, 4);
  }
  return {};
}

// Whether an element differs from zero; of a floating number the sign does not matter.
bool is_zero(DataType type, const std::byte* element) noexcept {
  const std::size_t size = size_of(type);
  const bool is_float = type == DataType::fp16 || type == DataType::bf16 ||
                        type == DataType::fp32 || type == DataType::fp64 ||
                        type == DataType::fp8_e4m3 || type == DataType::fp8_e5m2;
  for (std::size_t i = 0; i < size; ++i) {
    const std::byte mask = is_float && i + 1 == size ? std::byte{0x7f} : std::byte{0xff};
    if ((element[i] & mask) != std::byte{0}) return false;
  }
  return true;
}

// Row i: the positions of item i's elements other than zero, then -1 up to the longest row's
// length.
Result<void> nonzero(const Options& options, std::span<const TensorView> inputs, OutputSlot& slot) {
  const TensorView& input = inputs[0];
  const std::int64_t items = items_of(options, inputs);
  MILLRACE_ASSIGN(const std::int64_t elements, element_count(input.shape));
  const std::size_t each = items == 0 ? 0 : static_cast<std::size_t>(elements / items);
  const std::size_t size = size_of(input.type);
  std::vector<std::vector<std::int64_t>> rows(static_cast<std::size_t>(items));
  std::size_t longest = 0;
  for (std::size_t item = 0; item < rows.size(); ++item) {
    const auto* data = static_cast<const std::byte*>(input.data) + item * each * size;
    for (std::size_t i = 0; i < each; ++i) {
      if (!is_zero(input.type, data + i * size)) rows[item].push_back(static_cast<std::int64_t>(i));
    }
    longest = std::max(longest, rows[item].size());
  }
  Shape shape;
  if (options.batched) shape.push_back(items);
  shape.push_back(static_cast<std::int64_t>(longest));
  MILLRACE_ASSIGN(void* memory, memory_for(slot, DataType::int64, shape,
                                           rows.size() * longest * sizeof(std::int64_t)));
  auto* out = static_cast<std::byte*>(memory);
  for (auto& row : rows) {
    row.resize(longest, -1);
    if (longest > 0) std::memcpy(out, row.data(), longest * sizeof(std::int64_t));
    out += longest * sizeof(std::int64_t);
  }
  return {};
}

}  // namespace

std::vector<TensorInfo> inputs_of(const Options& options) {
  std::vector<TensorInfo> infos;
  for (int i = 0; i < input_count(options); ++i) {
    std::string name =
        options.kind == Kind::add ? std::string(i == 0 ? "a" : "b") : numbered(options, "input", i);
    infos.push_back(tensor_info(options, std::move(name), options.type_of(i), options.shape));
  }
  infos.back().on_host = options.host_input;
  return infos;
}

std::vector<TensorInfo> outputs_of(const Options& options) {
  Shape item = options.shape;
  if (options.output_sized_late) std::fill(&item[0], &item[0] + item.rank(), kDynamic);
  switch (options.kind) {
    case Kind::add:
      return {tensor_info(options, "sum", options.type_of(0), item)};
    case Kind::checksum:
      return {tensor_info(options, "checksum", DataType::uint32, {})};
    case Kind::nonzero:
      return {tensor_info(options, "indices", DataType::int64, {kDynamic})};
    default:
      break;
  }
  std::vector<TensorInfo> infos;
  infos.reserve(static_cast<std::size_t>(options.inputs));
  for (int i = 0; i < options.inputs; ++i) {
    infos.push_back(tensor_info(options, numbered(options, "output", i), options.type_of(i), item));
  }
  return infos;
}

bool sizes_known(const Options& options) noexcept {
  if (options.output_sized_late || options.kind == Kind::nonzero) return false;
  return !copies(options.kind) ||
         std::ranges::find(options.types, DataType::bytes) == options.types.end();
}

std::int64_t items_of(const Options& options, std::span<const TensorView> inputs) noexcept {
  return options.batched ? inputs[0].shape[0] : 1;
}

Result<void> place_output(const Options& options, std::span<const TensorView> inputs,
                          std::span<OutputSlot> outputs, std::size_t index) {
  const DataType type = output_type(options, index);
  const Shape shape = output_shape(options, inputs, index);
  MILLRACE_ASSIGN(const std::size_t bytes, byte_count(type, shape));
  MILLRACE_TRY(memory_for(outputs[index], type, shape, bytes));
  return {};
}

Result<void> compute(const Options& options, std::span<const TensorView> inputs,
                     std::span<OutputSlot> outputs) {
  switch (options.kind) {
    case Kind::add:
      return add(inputs, outputs[0]);
    case Kind::checksum:
      return checksum(options, inputs, outputs[0]);
    case Kind::nonzero:
      return nonzero(options, inputs, outputs[0]);
    default:
      break;
  }
  for (std::size_t i = 0; i < outputs.size(); ++i)
    MILLRACE_TRY(copy_through(inputs[i], outputs[i]));
  return {};
}

}  // namespace millrace::reference
