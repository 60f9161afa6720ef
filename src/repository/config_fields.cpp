#include "repository/config_fields.h"

#include <algorithm>
#include <array>

#include "base/text.h"
#include "base/try.h"

namespace millrace {
namespace {

namespace protobuf = google::protobuf;
using enum FieldKind;

constexpr std::size_t kLongestValue = 60;

constexpr ConfigField kFields[] = {
    {"name", supported, "must be the name of the model's folder"},
    {"platform", supported,
     "the format of the model's file; what runs it follows from the device. Others than "
     "onnxruntime_onnx, tensorrt_plan, ensemble and reference are refused"},
    {"backend", supported, "likewise: onnxruntime, tensorrt, reference"},
    {"runtime", hint, "each backend has one implementation here"},
    {"default_model_filename", supported, "within the version's folder"},
    {"cc_model_filenames", hint,
     "default_model_filename counts on every GPU; an ONNX file gets an engine for each GPU model "
     "by "
     "itself"},
    {"version_policy", supported, "latest, all or specific; the latest one by default"},
    {"max_batch_size", supported,
     "the most items in a batch; dims are then without the batch axis. 0: dims are whole"},
    {"input.name", supported, "must be an input of the model"},
    {"input.data_type", supported, "must be the model's; completed when left out"},
    {"input.dims", supported, "must fit the model's; completed when left out"},
    {"input.format", hint, "the model's own shape says how it is laid out; nothing is converted"},
    {"input.reshape", refused, "state the shape that the model has"},
    {"input.is_shape_tensor", supported, "must be so in the model"},
    {"input.allow_ragged_batch", refused, "requests of one shape are batched together; pad them"},
    {"input.optional", refused, "every input is needed; give it in each request"},
    {"input.is_non_linear_format_io", refused, "build the engine with linear inputs"},
    {"output.name", supported,
     "must be an output of the model. Those stated answer when a request names none"},
    {"output.data_type", supported, "must be the model's; completed when left out"},
    {"output.dims", supported, "must fit the model's; completed when left out"},
    {"output.reshape", refused, "state the shape that the model has"},
    {"output.label_filename", supported, "names of classes, one a line, in the model's folder"},
    {"output.is_shape_tensor", refused, "build the engine with outputs on the device"},
    {"output.is_non_linear_format_io", refused, "build the engine with linear outputs"},
    {"batch_input", refused, "give the tensor as an input of the request"},
    {"batch_output", refused, "the model's outputs are split by the batch axis only"},
    {"dynamic_batching.preferred_batch_size", supported, "sizes worth waiting for"},
    {"dynamic_batching.max_queue_delay_microseconds", supported,
     "how long a request may wait for a fuller batch"},
    {"dynamic_batching.preserve_ordering", supported, "answers in the order of the requests"},
    {"dynamic_batching.priority_levels", supported, "level 1 is the most urgent"},
    {"dynamic_batching.default_priority_level", supported, "of requests that name none"},
    {"dynamic_batching.default_queue_policy.timeout_action", supported,
     "REJECT. With DELAY there are no timeouts: requests keep their place"},
    {"dynamic_batching.default_queue_policy.default_timeout_microseconds", supported,
     "how long a request may wait"},
    {"dynamic_batching.default_queue_policy.allow_timeout_override", supported,
     "whether a request may ask for a shorter one"},
    {"dynamic_batching.default_queue_policy.max_queue_size", supported,
     "the most requests that wait"},
    {"dynamic_batching.priority_queue_policy", supported,
     "timeouts by level. Its max_queue_size is a hint: all levels share one queue"},
    {"sequence_batching", refused, "models with state between requests are not supported yet"},
    {"ensemble_scheduling.step.model_name", supported, "a model of this repository"},
    {"ensemble_scheduling.step.model_version", supported, "-1: the latest one served"},
    {"ensemble_scheduling.step.input_map", supported, "from the model's names to the ensemble's"},
    {"ensemble_scheduling.step.output_map", supported, "likewise"},
    {"ensemble_scheduling.step.model_namespace", refused,
     "names are unique over all folders here; leave it out"},
    {"ensemble_scheduling.max_inflight_requests", hint,
     "requests within an ensemble wait in the queues of its models, which are bounded"},
    {"instance_group.name", supported, "a label"},
    {"instance_group.kind", supported,
     "KIND_GPU: all GPUs, or `gpus`; KIND_CPU: host devices; others: where the model can run"},
    {"instance_group.count", supported, "lanes on each of the devices"},
    {"instance_group.gpus", supported, "GPUs by index"},
    {"instance_group.rate_limiter", hint,
     "devices are shared by measured time: see the parameters millrace.weight and "
     "millrace.priority_class"},
    {"instance_group.secondary_devices", hint, "the GPU itself computes everything"},
    {"instance_group.profile", hint,
     "the profile of an engine is chosen by the number of items in each batch"},
    {"instance_group.passive", hint, "all instances take requests"},
    {"instance_group.host_policy", hint,
     "threads of a GPU are placed near it without being told to"},
    {"optimization.graph", hint,
     "models are optimized fully; the parameter millrace.option.graph_optimization says otherwise "
     "for ONNX models on the CPU"},
    {"optimization.priority", hint, "see the parameter millrace.priority_class"},
    {"optimization.cuda", hint,
     "runs are captured in CUDA graphs where that was measured to be cheaper; see the parameter "
     "millrace.option.graphs"},
    {"optimization.execution_accelerators", hint,
     "ONNX models run by TensorRT on GPUs and by ONNX Runtime on the CPU; see the parameter "
     "millrace.option.precision"},
    {"optimization.input_pinned_memory", hint, "inputs for GPUs are always received in it"},
    {"optimization.output_pinned_memory", hint, "outputs of GPUs are always sent from it"},
    {"optimization.gather_kernel_buffer_threshold", hint,
     "inputs are gathered by one piece of work in any case"},
    {"optimization.eager_batching", hint, "the next batch is prepared while one runs in any case"},
    {"metric_tags", hint, "metrics carry the names of the model and its version"},
    {"model_metrics", hint, "the buckets of histograms are the same for all models"},
    {"parameters", supported,
     "those that begin with \"millrace.\" are read, see below; others are kept for clients to "
     "read, with a warning"},
    {"model_warmup", supported,
     "run before the version takes requests: zeros, random data, or a file in the folder warmup"},
    {"model_operations", supported, "libraries with TensorRT plug-ins, in the model's folder"},
    {"model_transaction_policy.decoupled", refused, "a request has one answer"},
    {"model_repository_agents", refused, "prepare the model's files before serving them"},
    {"response_cache.enable", refused, "answers are not kept"},
};

const ConfigField* find_field(std::string_view path) {
  const auto* at = std::find_if(std::begin(kFields), std::end(kFields),
                                [path](const ConfigField& field) { return field.path == path; });
  return at == std::end(kFields) ? nullptr : at;
}

/// One field's value, or one element's of a repeated one, on one line.
std::string shown_value(const protobuf::Message& message, const protobuf::FieldDescriptor* field) {
  protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  printer.SetUseShortRepeatedPrimitives(true);
  std::string out;
  if (field->is_repeated()) {
    const int count = message.GetReflection()->FieldSize(message, field);
    for (int i = 0; i < count && out.size() <= kLongestValue; ++i) {
      std::string one;
      printer.PrintFieldValueToString(message, field, i, &one);
      out += concat(i == 0 ? "" : ", ", trimmed(one));
    }
  } else {
    printer.PrintFieldValueToString(message, field, -1, &out);
    out = std::string(trimmed(out));
  }
  if (out.size() > kLongestValue) out = out.substr(0, kLongestValue) + "...";
  return out;
}

/// Walks what is stated below one message.
class Walk {
 public:
  explicit Walk(const ConfigText& text) : text_(text) {}

  /// `plain`: the path without indices.
  Result<void> message(const protobuf::Message& message, const std::string& plain,
                       const std::string& path) {
    std::vector<const protobuf::FieldDescriptor*> set;
    message.GetReflection()->ListFields(message, &set);
    for (const protobuf::FieldDescriptor* field : set) {
      const std::string dot = plain.empty() ? "" : ".";
      MILLRACE_TRY(one(message, field, plain + dot + field->name(), path + dot + field->name()));
    }
    return {};
  }
  std::vector<StatedField> take() { return std::move(out_); }

 private:
  Result<void> one(const protobuf::Message& message, const protobuf::FieldDescriptor* field,
                   const std::string& plain, const std::string& path) {
    const ConfigField* entry = find_field(plain);
    if (!entry && field->message_type()) return below(message, field, plain, path);
    if (!entry || entry->kind == refused) {
      return Error{ErrorCode::unsupported,
                   concat(text_.where(path), ": ", path, ": not supported: ",
                          entry ? entry->note : "this field is not known to Millrace")};
    }
    out_.push_back({path, text_.where(path), shown_value(message, field), entry});
    return {};
  }

  Result<void> below(const protobuf::Message& message, const protobuf::FieldDescriptor* field,
                     const std::string& plain, const std::string& path) {
    const protobuf::Reflection& reflection = *message.GetReflection();
    if (!field->is_repeated()) {
      return this->message(reflection.GetMessage(message, field), plain, path);
    }
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      MILLRACE_TRY(this->message(reflection.GetRepeatedMessage(message, field, i), plain,
                                 concat(path, "[", i, "]")));
    }
    return {};
  }

  const ConfigText& text_;
  std::vector<StatedField> out_;
};

}  // namespace

std::string_view to_string(FieldKind kind) noexcept {
  constexpr std::array<std::string_view, 3> kNames = {"supported", "hint", "refused"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::span<const ConfigField> config_fields() noexcept { return kFields; }

Result<std::vector<StatedField>> stated_fields(const ConfigText& text) {
  Walk walk(text);
  MILLRACE_TRY(walk.message(text.config(), "", ""));
  return walk.take();
}

std::vector<std::string> hints_of(const std::vector<StatedField>& fields) {
  std::vector<std::string> out;
  std::vector<const ConfigField*> seen;
  for (const StatedField& stated : fields) {
    if (stated.field->kind != hint) continue;
    if (std::find(seen.begin(), seen.end(), stated.field) != seen.end()) continue;
    seen.push_back(stated.field);
    out.push_back(concat(stated.where, ": ", stated.path, " is not used: ", stated.field->note));
  }
  return out;
}

}  // namespace millrace
