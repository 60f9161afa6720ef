#include "repository/config_completion.h"

#include <algorithm>
#include <array>

#include "base/try.h"

namespace millrace {
namespace {

struct TypePair {
  inference::DataType stated;
  DataType model;
};
constexpr std::array kTypes = {
    TypePair{inference::TYPE_BOOL, DataType::boolean},
    TypePair{inference::TYPE_UINT8, DataType::uint8},
    TypePair{inference::TYPE_UINT16, DataType::uint16},
    TypePair{inference::TYPE_UINT32, DataType::uint32},
    TypePair{inference::TYPE_UINT64, DataType::uint64},
    TypePair{inference::TYPE_INT8, DataType::int8},
    TypePair{inference::TYPE_INT16, DataType::int16},
    TypePair{inference::TYPE_INT32, DataType::int32},
    TypePair{inference::TYPE_INT64, DataType::int64},
    TypePair{inference::TYPE_FP16, DataType::fp16},
    TypePair{inference::TYPE_BF16, DataType::bf16},
    TypePair{inference::TYPE_FP32, DataType::fp32},
    TypePair{inference::TYPE_FP64, DataType::fp64},
    TypePair{inference::TYPE_STRING, DataType::bytes},
};

/// A shape as the configuration states it: without the batch axis where that is apart.
std::vector<std::int64_t> dims_of(const TensorInfo& info, bool apart) {
  std::vector<std::int64_t> dims;
  for (std::size_t i = 0; i < info.shape.rank(); ++i) {
    if (apart && static_cast<int>(i) == info.batch_axis) continue;
    dims.push_back(info.shape[i]);
  }
  return dims;
}

std::string text_of(const std::vector<std::int64_t>& dims) {
  return concat("[", join(dims, ","), "]");
}

/// -1 on either side fits anything: the model takes what it takes.
bool fits(const auto& stated, const std::vector<std::int64_t>& model) {
  return std::equal(stated.begin(), stated.end(), model.begin(), model.end(),
                    [](std::int64_t a, std::int64_t b) { return a == b || a == -1 || b == -1; });
}

const TensorInfo* find_tensor(const std::vector<TensorInfo>& tensors, const std::string& name) {
  const auto at = std::find_if(tensors.begin(), tensors.end(),
                               [&name](const TensorInfo& info) { return info.name == name; });
  return at == tensors.end() ? nullptr : &*at;
}

std::string names_of(const std::vector<TensorInfo>& tensors) {
  std::string out;
  for (const TensorInfo& tensor : tensors) {
    out += concat(out.empty() ? "" : ", ", quote(tensor.name));
  }
  return out;
}

/// Completes "input" or "output".
template <class Tensor>
Result<void> complete_tensors(const ConfigText& text, std::string_view field,
                              const std::vector<TensorInfo>& model, bool apart,
                              google::protobuf::RepeatedPtrField<Tensor>& tensors) {
  for (int i = 0; i < tensors.size(); ++i) {
    Tensor& tensor = tensors[i];
    const std::string path = concat(field, "[", i, "]");
    for (int k = 0; k < i; ++k) {
      if (tensors[k].name() == tensor.name()) {
        return text.error(path + ".name", quote(tensor.name()), " is there twice");
      }
    }
    const TensorInfo* info = find_tensor(model, tensor.name());
    if (!info) {
      return text.error(path + ".name", "the model has no ", field, " ", quote(tensor.name()),
                        "; it has ", names_of(model));
    }
    if (tensor.data_type() == inference::TYPE_INVALID) {
      tensor.set_data_type(to_config_type(info->type));
    } else if (!same_type(tensor.data_type(), info->type)) {
      return text.error(path + ".data_type", quote(tensor.name()), " is ", info->type,
                        " in the model, got ", inference::DataType_Name(tensor.data_type()));
    }
    const std::vector<std::int64_t> dims = dims_of(*info, apart);
    if (tensor.dims().empty()) {
      tensor.mutable_dims()->Add(dims.begin(), dims.end());
    } else if (!fits(tensor.dims(), dims)) {
      return text.error(
          path + ".dims", quote(tensor.name()), " is ", text_of(dims), " in the model",
          apart ? " (without the batch axis, since max_batch_size is not 0)" : "", ", got ",
          text_of(std::vector<std::int64_t>(tensor.dims().begin(), tensor.dims().end())));
    }
  }
  return {};
}

template <class Tensor>
void add_missing(const std::vector<TensorInfo>& model, bool apart,
                 google::protobuf::RepeatedPtrField<Tensor>& tensors) {
  for (const TensorInfo& info : model) {
    const bool there = std::any_of(tensors.begin(), tensors.end(), [&info](const Tensor& tensor) {
      return tensor.name() == info.name;
    });
    if (there) continue;
    Tensor& tensor = *tensors.Add();
    tensor.set_name(info.name);
    tensor.set_data_type(to_config_type(info.type));
    const std::vector<std::int64_t> dims = dims_of(info, apart);
    tensor.mutable_dims()->Add(dims.begin(), dims.end());
  }
}

Result<void> complete_shape_tensors(
    const ConfigText& text, const ModelInfo& info,
    google::protobuf::RepeatedPtrField<inference::ModelInput>& inputs) {
  for (int i = 0; i < inputs.size(); ++i) {
    const TensorInfo* found = find_tensor(info.inputs, inputs[i].name());
    if (inputs[i].is_shape_tensor() && !(found && found->on_host)) {
      return text.error(concat("input[", i, "].is_shape_tensor"), quote(inputs[i].name()),
                        " is none in the model");
    }
    inputs[i].set_is_shape_tensor(found && found->on_host);
  }
  return {};
}

void complete_backend(const ModelInfo& info, inference::ModelConfig& config) {
  struct Names {
    std::string_view engine, platform, backend;
  };
  constexpr std::array<Names, 4> kNames = {Names{"onnxruntime", "onnxruntime_onnx", "onnxruntime"},
                                           Names{"tensorrt", "tensorrt_plan", "tensorrt"},
                                           Names{"reference", "reference", "reference"},
                                           Names{"ensemble", "ensemble", ""}};
  for (const Names& names : kNames) {
    if (names.engine != info.backend) continue;
    if (config.platform().empty()) config.set_platform(std::string(names.platform));
    if (config.backend().empty()) config.set_backend(std::string(names.backend));
  }
}

void complete_instances(const ModelInfo& info, inference::ModelConfig& config) {
  if (config.instance_group_size() > 0) return;
  for (std::size_t i = 0; i < info.placements.size(); ++i) {
    const ModelInfo::Placement& placement = info.placements[i];
    inference::ModelInstanceGroup& group = *config.add_instance_group();
    group.set_name(concat(config.name(), "_", i));
    group.set_count(placement.lanes);
    if (placement.device.kind == DeviceKind::cuda) {
      group.set_kind(inference::ModelInstanceGroup::KIND_GPU);
      group.add_gpus(placement.device.index);
    } else {
      group.set_kind(inference::ModelInstanceGroup::KIND_CPU);
    }
  }
}

}  // namespace

inference::DataType to_config_type(DataType type) noexcept {
  for (const TypePair& pair : kTypes) {
    if (pair.model == type) return pair.stated;
  }
  return inference::TYPE_INVALID;
}

bool same_type(inference::DataType stated, DataType model) noexcept {
  return stated != inference::TYPE_INVALID && to_config_type(model) == stated;
}

bool batched(const ModelInfo& info) {
  const auto has_axis = [](const TensorInfo& tensor) { return tensor.batch_axis == 0; };
  return !info.inputs.empty() && std::all_of(info.inputs.begin(), info.inputs.end(), has_axis) &&
         std::all_of(info.outputs.begin(), info.outputs.end(), has_axis);
}

bool states_whole_shapes(const ConfigText& text, const ModelInfo& info) {
  if (text.states_max_batch_size()) return text.config().max_batch_size() == 0;
  const auto whole = [](const auto& stated, const std::vector<TensorInfo>& model) {
    return std::any_of(stated.begin(), stated.end(), [&model](const auto& tensor) {
      const TensorInfo* found = find_tensor(model, tensor.name());
      return found && !tensor.dims().empty() &&
             static_cast<std::size_t>(tensor.dims_size()) == found->shape.rank();
    });
  };
  return whole(text.config().input(), info.inputs) || whole(text.config().output(), info.outputs);
}

Result<inference::ModelConfig> complete_config(const ConfigText& text, const ModelInfo& info,
                                               const std::string& name, const std::string& file) {
  inference::ModelConfig config = text.config();
  if (!config.name().empty() && config.name() != name) {
    return text.error("name", "expected ", quote(name), ", as the model's folder is called, got ",
                      quote(config.name()));
  }
  config.set_name(name);
  const bool axis = batched(info);
  if (config.max_batch_size() > 0 && !axis) {
    return text.error("max_batch_size", "is ", config.max_batch_size(),
                      ", and the model has no batch axis: the first dimension of its inputs and "
                      "outputs is not free. Set it to 0 and state dims whole");
  }
  const bool apart = axis && !states_whole_shapes(text, info);
  if (apart && config.max_batch_size() == 0) {
    config.set_max_batch_size(static_cast<std::int32_t>(info.max_items));
    if (config.scheduling_choice_case() == inference::ModelConfig::SCHEDULING_CHOICE_NOT_SET) {
      config.mutable_dynamic_batching();
    }
  }
  MILLRACE_TRY(complete_tensors(text, "input", info.inputs, apart, *config.mutable_input()));
  MILLRACE_TRY(complete_tensors(text, "output", info.outputs, apart, *config.mutable_output()));
  add_missing(info.inputs, apart, *config.mutable_input());
  MILLRACE_TRY(complete_shape_tensors(text, info, *config.mutable_input()));
  if (config.output().empty()) add_missing(info.outputs, apart, *config.mutable_output());
  complete_backend(info, config);
  complete_instances(info, config);
  if (config.default_model_filename().empty()) config.set_default_model_filename(file);
  if (config.version_policy().policy_choice_case() ==
      inference::ModelVersionPolicy::POLICY_CHOICE_NOT_SET) {
    config.mutable_version_policy()->mutable_latest()->set_num_versions(1);
  }
  return config;
}

}  // namespace millrace
