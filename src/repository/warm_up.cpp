#include "repository/warm_up.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "base/try.h"
#include "repository/config_completion.h"

namespace millrace {
namespace {

constexpr std::uint32_t kMostCount = 100'000;
constexpr std::size_t kMostBytes = std::size_t{4} << 30;

Result<WarmUp::Input> map_input(const ConfigText& text, const std::string& path,
                                const std::string& name, const inference::ModelWarmup::Input& in) {
  WarmUp::Input out;
  out.type = in.data_type();
  out.dims.assign(in.dims().begin(), in.dims().end());
  const auto refuse = [&](const auto&... pieces) {
    return text.error(path, "input ", quote(name), ": ", pieces...);
  };
  const auto positive = [](std::int64_t size) { return size >= 0; };
  if (!std::all_of(out.dims.begin(), out.dims.end(), positive)) {
    return refuse("expected dims without free ones, got [", join(out.dims, ","), "]");
  }
  switch (in.input_data_type_case()) {
    case inference::ModelWarmup::Input::kZeroData:
      return out;
    case inference::ModelWarmup::Input::kRandomData:
      out.data = WarmUp::Data::random;
      return out;
    case inference::ModelWarmup::Input::kInputDataFile:
      out.data = WarmUp::Data::file;
      out.file = in.input_data_file();
      if (stays_inside(out.file)) return out;
      return refuse("expected a file in the model's folder \"warmup\", got ", quote(out.file));
    case inference::ModelWarmup::Input::INPUT_DATA_TYPE_NOT_SET:
      break;
  }
  return refuse("expected one of zero_data, random_data and input_data_file");
}

/// Rows as the protocol has them: 4 bytes of length, little-endian, and the bytes.
Result<Tensor> strings_of(std::string_view raw, const Shape& shape, const auto& refuse) {
  std::vector<std::string_view> values;
  while (!raw.empty()) {
    std::uint32_t length = 0;
    if (raw.size() < sizeof length) return refuse("ends within a length");
    std::memcpy(&length, raw.data(), sizeof length);
    raw.remove_prefix(sizeof length);
    if (raw.size() < length) return refuse("ends within an element");
    values.push_back(raw.substr(0, length));
    raw.remove_prefix(length);
  }
  MILLRACE_ASSIGN(const std::int64_t count, element_count(shape));
  if (static_cast<std::int64_t>(values.size()) != count) {
    return refuse("expected ", count, " elements, got ", values.size());
  }
  return Tensor::of_strings(values, shape);
}

void fill_random(DataType type, std::byte* data, std::size_t bytes) {
  std::mt19937 random(1);
  if (type == DataType::fp32 || type == DataType::fp64) {
    std::uniform_real_distribution<double> unit(0, 1);
    for (std::size_t at = 0; at < bytes; at += size_of(type)) {
      const double value = unit(random);
      const auto single = static_cast<float>(value);
      if (type == DataType::fp64) std::memcpy(data + at, &value, sizeof value);
      if (type == DataType::fp32) std::memcpy(data + at, &single, sizeof single);
    }
    return;
  }
  // Small numbers whatever the type: of booleans 0 and 1, of half floats next to zero.
  const unsigned most = type == DataType::boolean ? 1 : 127;
  for (std::size_t at = 0; at < bytes; at += size_of(type)) {
    std::memset(data + at, 0, size_of(type));
    data[at] = static_cast<std::byte>(random() % (most + 1));
  }
}

/// Makes the tensors of one warm-up.
class Maker {
 public:
  Maker(const WarmUp& warm_up, bool apart, const ConfigText& text, const ModelFiles& files)
      : warm_up_(warm_up), apart_(apart), text_(text), files_(files) {}

  Result<Tensor> make(const TensorInfo& info) const {
    const auto refuse = [&](const auto&... pieces) {
      return text_.error(warm_up_.path, "input ", quote(info.name), ": ", pieces...);
    };
    const auto at = warm_up_.inputs.find(info.name);
    if (at == warm_up_.inputs.end()) return refuse("is missing");
    const WarmUp::Input& input = at->second;
    if (input.type != inference::TYPE_INVALID && !same_type(input.type, info.type)) {
      return refuse("is ", info.type, " in the model, got ", inference::DataType_Name(input.type));
    }
    std::vector<std::int64_t> sizes = input.dims;
    if (apart_) sizes.insert(sizes.begin(), warm_up_.items);
    const Result<Shape> shape = Shape::from(sizes);
    if (!shape) return refuse(shape.error().message);
    if (info.type == DataType::bytes) return texts(input, *shape, refuse);
    return numbers(info.type, input, *shape, refuse);
  }

 private:
  Result<Tensor> texts(const WarmUp::Input& input, const Shape& shape, const auto& refuse) const {
    if (input.data == WarmUp::Data::file) {
      MILLRACE_ASSIGN(const std::string raw, files_.read("warmup/" + input.file, kMostBytes));
      return strings_of(raw, shape, refuse);
    }
    MILLRACE_ASSIGN(const std::int64_t count, element_count(shape));
    if (count > static_cast<std::int64_t>(kMostBytes / 64)) return refuse("is too large");
    const std::string_view value = input.data == WarmUp::Data::random ? "random" : "";
    return Tensor::of_strings(std::vector(static_cast<std::size_t>(count), value), shape);
  }

  Result<Tensor> numbers(DataType type, const WarmUp::Input& input, const Shape& shape,
                         const auto& refuse) const {
    MILLRACE_ASSIGN(const std::size_t bytes, byte_count(type, shape));
    if (bytes > kMostBytes) {
      return refuse("takes ", format_bytes(bytes), ", expected at most ", format_bytes(kMostBytes));
    }
    MILLRACE_ASSIGN(Tensor tensor, Tensor::allocate(type, shape));
    auto* data = static_cast<std::byte*>(tensor.view().data);
    if (input.data == WarmUp::Data::zero) {
      std::memset(data, 0, bytes);
    } else if (input.data == WarmUp::Data::random) {
      fill_random(type, data, bytes);
    } else {
      MILLRACE_ASSIGN(const std::string raw, files_.read("warmup/" + input.file, kMostBytes));
      if (raw.size() != bytes) {
        return refuse("expected ", bytes, " bytes in ", quote(input.file), ", got ", raw.size());
      }
      std::memcpy(data, raw.data(), bytes);
    }
    return tensor;
  }

  const WarmUp& warm_up_;
  const bool apart_;
  const ConfigText& text_;
  const ModelFiles& files_;
};

}  // namespace

Result<std::vector<WarmUp>> map_warm_ups(const ConfigText& text) {
  std::vector<WarmUp> out;
  const inference::ModelConfig& config = text.config();
  for (int i = 0; i < config.model_warmup_size(); ++i) {
    const inference::ModelWarmup& stated = config.model_warmup(i);
    WarmUp& warm_up = out.emplace_back();
    warm_up.path = concat("model_warmup[", i, "]");
    warm_up.items = std::max<std::int64_t>(stated.batch_size(), 1);
    const bool known = text.states_max_batch_size();
    if (known && warm_up.items > std::max(config.max_batch_size(), 1)) {
      return text.error(warm_up.path + ".batch_size", "expected at most max_batch_size (",
                        config.max_batch_size(), "), got ", warm_up.items);
    }
    if (stated.count() > kMostCount) {
      return text.error(warm_up.path + ".count", "expected at most ", kMostCount, ", got ",
                        stated.count());
    }
    warm_up.count = std::max(static_cast<int>(stated.count()), 1);
    for (const auto& [name, input] : stated.inputs()) {
      MILLRACE_ASSIGN(warm_up.inputs[name], map_input(text, warm_up.path, name, input));
    }
  }
  return out;
}

Result<void> run_warm_up(const WarmUp& warm_up, const Model& model, bool apart,
                         const ConfigText& text, const ModelFiles& files) {
  const Maker maker(warm_up, apart, text, files);
  std::vector<Tensor> tensors;
  for (const TensorInfo& info : model.info().inputs) {
    MILLRACE_ASSIGN(tensors.emplace_back(), maker.make(info));
  }
  for (const auto& [name, input] : warm_up.inputs) {
    const auto& infos = model.info().inputs;
    const bool known = std::any_of(infos.begin(), infos.end(),
                                   [&](const auto& info) { return info.name == name; });
    if (!known) return text.error(warm_up.path, "the model has no input ", quote(name));
  }
  for (int i = 0; i < warm_up.count; ++i) {
    Request request;
    for (std::size_t k = 0; k < tensors.size(); ++k) {
      request.inputs.push_back(
          {model.info().inputs[k].name, tensors[k].view(), tensors[k].lease()});
    }
    Result<Response> answer = model.infer(std::move(request));
    if (!answer) {
      return Error{answer.error().code, concat(text.where(warm_up.path), ": ", warm_up.path, ": ",
                                               answer.error().message)};
    }
  }
  return {};
}

}  // namespace millrace
