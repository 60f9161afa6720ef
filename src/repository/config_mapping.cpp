#include "repository/config_mapping.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "base/try.h"
#include "io/fields.h"

namespace millrace {
namespace {

constexpr std::int64_t kMostItems = 1 << 20;
constexpr std::uint64_t kMostMicroseconds = 86'400'000'000;  // a day
constexpr std::uint64_t kMostLevels = 1'000'000;
constexpr int kMostLanes = 256;
constexpr std::string_view kOurs = "millrace.";
constexpr std::string_view kOption = "millrace.option.";

struct FormatName {
  std::string_view name;
  ModelFormat format;
};
constexpr std::array kPlatforms = {FormatName{"onnxruntime_onnx", ModelFormat::onnx},
                                   FormatName{"tensorrt_plan", ModelFormat::tensorrt},
                                   FormatName{"ensemble", ModelFormat::ensemble},
                                   FormatName{"reference", ModelFormat::reference}};
constexpr std::array kBackends = {FormatName{"onnxruntime", ModelFormat::onnx},
                                  FormatName{"tensorrt", ModelFormat::tensorrt},
                                  FormatName{"reference", ModelFormat::reference}};

using Lanes = std::vector<std::pair<DeviceId, int>>;  // for each device

/// Maps one configuration; a class, so that its pieces share what they read and write.
class Mapper {
 public:
  Mapper(const ConfigText& text, const ModelFiles& files, std::span<const DeviceId> devices)
      : text_(text), config_(text.config()), files_(files), devices_(devices) {}

  Result<ConfigMapping> run() {
    MILLRACE_ASSIGN(out_.fields, stated_fields(text_));
    out_.hints = hints_of(out_.fields);
    MILLRACE_TRY(map_format());
    MILLRACE_TRY(map_file());
    MILLRACE_TRY(map_batching());
    MILLRACE_TRY(map_queue());
    MILLRACE_TRY(map_instances());
    MILLRACE_TRY(map_operations());
    MILLRACE_TRY(map_parameters());
    MILLRACE_TRY(map_ensemble());
    MILLRACE_ASSIGN(out_.warm_ups, map_warm_ups(text_));
    return std::move(out_);
  }

 private:
  template <class... Pieces>
  [[nodiscard]] Error refuse(std::string_view path, const Pieces&... pieces) const {
    return text_.error(path, pieces...);
  }
  Result<Duration> microseconds(std::string_view path, std::uint64_t value) const;
  template <std::size_t kCount>
  Result<ModelFormat> format_named(std::string_view path, const std::string& name,
                                   const std::array<FormatName, kCount>& known) const;

  Result<void> map_format();
  Result<void> map_file();
  Result<void> map_batching();
  Result<void> map_queue();
  Result<RequestPolicy::Level> map_level(const std::string& path,
                                         const inference::ModelQueuePolicy& policy);
  Result<void> map_instances();
  Result<void> add_instances(const std::string& path, const inference::ModelInstanceGroup& group,
                             Lanes& lanes);
  Result<void> map_operations();
  Result<void> map_parameters();
  Result<void> map_parameter(const std::string& name, const std::string& value);
  Result<void> map_ensemble();

  const ConfigText& text_;
  const inference::ModelConfig& config_;
  const ModelFiles& files_;
  std::span<const DeviceId> devices_;
  ConfigMapping out_;
};

Result<Duration> Mapper::microseconds(std::string_view path, std::uint64_t value) const {
  if (value <= kMostMicroseconds) return Duration(std::chrono::microseconds(value));
  return refuse(path, "expected at most ", kMostMicroseconds, " (a day), got ", value);
}

template <std::size_t kCount>
Result<ModelFormat> Mapper::format_named(std::string_view path, const std::string& name,
                                         const std::array<FormatName, kCount>& known) const {
  std::string names;
  for (const FormatName& entry : known) {
    if (entry.name == name) return entry.format;
    names += concat(names.empty() ? "" : ", ", entry.name);
  }
  return Error{ErrorCode::unsupported,
               concat(text_.where(path), ": ", path, ": expected one of ", names, "; got ",
                      quote(name), ", which Millrace does not run")};
}

Result<void> Mapper::map_format() {
  ModelFormat platform = ModelFormat::automatic;
  if (!config_.platform().empty()) {
    MILLRACE_ASSIGN(platform, format_named("platform", config_.platform(), kPlatforms));
  }
  out_.format = platform;
  if (!config_.backend().empty()) {
    MILLRACE_ASSIGN(out_.format, format_named("backend", config_.backend(), kBackends));
    if (platform != ModelFormat::automatic && platform != out_.format) {
      return refuse("backend", quote(config_.backend()), " does not go with the platform ",
                    quote(config_.platform()));
    }
  }
  const bool ensemble = config_.has_ensemble_scheduling();
  if (ensemble && out_.format == ModelFormat::automatic) out_.format = ModelFormat::ensemble;
  if (ensemble != (out_.format == ModelFormat::ensemble)) {
    return ensemble ? refuse("ensemble_scheduling",
                             "goes with the platform \"ensemble\" alone; the model states another")
                    : refuse("platform", "\"ensemble\" needs ensemble_scheduling with its steps");
  }
  if (out_.format == ModelFormat::tensorrt) out_.engine.backend = "tensorrt";
  if (out_.format == ModelFormat::reference) out_.engine.backend = "reference";
  return {};
}

Result<void> Mapper::map_file() {
  const std::string& name = config_.default_model_filename();
  if (name.empty()) return {};
  if (!stays_inside(name)) {
    return refuse("default_model_filename", "expected a path within the version's folder, got ",
                  quote(name));
  }
  out_.model_file = name;
  return {};
}

Result<void> Mapper::map_batching() {
  const std::int64_t most = config_.max_batch_size();
  if (most < 0 || most > kMostItems) {
    return refuse("max_batch_size", "expected 0 (no batch axis) to ", kMostItems, ", got ", most);
  }
  BatchPolicy& batching = out_.engine.batching;
  batching.max_items = most;
  if (!config_.has_dynamic_batching()) return {};
  const inference::ModelDynamicBatching& dynamic = config_.dynamic_batching();
  for (int i = 0; i < dynamic.preferred_batch_size_size(); ++i) {
    const std::string path = concat("dynamic_batching.preferred_batch_size[", i, "]");
    const std::int64_t size = dynamic.preferred_batch_size(i);
    if (size < 1) return refuse(path, "expected a size of at least 1, got ", size);
    if (text_.states_max_batch_size() && size > most) {
      return refuse(path, "expected a size up to max_batch_size (", most, "), got ", size);
    }
    batching.preferred_items.push_back(size);
  }
  std::vector<std::int64_t>& sizes = batching.preferred_items;
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  if (most == 0 && !sizes.empty()) batching.max_items = sizes.back();  // it was not stated
  MILLRACE_ASSIGN(batching.max_delay, microseconds("dynamic_batching.max_queue_delay_microseconds",
                                                   dynamic.max_queue_delay_microseconds()));
  batching.preserve_order = dynamic.preserve_ordering();
  return {};
}

Result<RequestPolicy::Level> Mapper::map_level(const std::string& path,
                                               const inference::ModelQueuePolicy& policy) {
  RequestPolicy::Level level;
  MILLRACE_ASSIGN(level.timeout, microseconds(path + ".default_timeout_microseconds",
                                              policy.default_timeout_microseconds()));
  level.may_be_overridden = policy.allow_timeout_override();
  if (policy.timeout_action() == inference::ModelQueuePolicy::DELAY) {
    out_.hints.push_back(concat(text_.where(path), ": ", path,
                                ": DELAY is not used: requests keep their place in the queue, "
                                "and no timeout applies"));
    level.timeout = Duration::zero();
    level.may_be_overridden = false;
  }
  return level;
}

Result<void> Mapper::map_queue() {
  if (!config_.has_dynamic_batching()) return {};
  const inference::ModelDynamicBatching& dynamic = config_.dynamic_batching();
  RequestPolicy& requests = out_.requests;
  const std::uint64_t levels = dynamic.priority_levels();
  const std::uint64_t standard = dynamic.default_priority_level();
  if (levels > kMostLevels) {
    return refuse("dynamic_batching.priority_levels", "expected at most ", kMostLevels, ", got ",
                  levels);
  }
  if (levels > 0 && (standard == 0 || standard > levels)) {
    return refuse("dynamic_batching.default_priority_level", "expected 1 to priority_levels (",
                  levels, "), got ", standard);
  }
  if (levels == 0 && standard > 0) {
    return refuse("dynamic_batching.default_priority_level",
                  "expected priority_levels as well; it is 0");
  }
  requests.priority_levels = levels;
  requests.default_level = standard;
  if (dynamic.has_default_queue_policy()) {
    const inference::ModelQueuePolicy& policy = dynamic.default_queue_policy();
    MILLRACE_ASSIGN(requests.by_default,
                    map_level("dynamic_batching.default_queue_policy", policy));
    if (policy.max_queue_size() > 0) out_.engine.limits.max_requests = policy.max_queue_size();
  }
  for (const auto& [level, policy] : dynamic.priority_queue_policy()) {
    const std::string path = "dynamic_batching.priority_queue_policy";
    if (level == 0 || level > levels) {
      return refuse(path, "expected levels of 1 to priority_levels (", levels, "), got ", level);
    }
    MILLRACE_ASSIGN(requests.levels[level], map_level(path, policy));
    if (policy.max_queue_size() == 0) continue;
    out_.hints.push_back(concat(text_.where(path), ": ", path,
                                ": max_queue_size is not used: all levels share one queue, bounded "
                                "by default_queue_policy"));
  }
  return {};
}

Result<void> Mapper::add_instances(const std::string& path,
                                   const inference::ModelInstanceGroup& group, Lanes& lanes) {
  if (group.count() < 0 || group.count() > kMostLanes) {
    return refuse(path + ".count", "expected 1 to ", kMostLanes, ", got ", group.count());
  }
  const int count = std::max(group.count(), 1);
  std::vector<DeviceId> on;
  const bool cpu = group.kind() == inference::ModelInstanceGroup::KIND_CPU;
  if (cpu && group.gpus_size() > 0) {
    return refuse(path + ".gpus", "expected none with KIND_CPU");
  }
  for (const int gpu : group.gpus()) {
    const DeviceId id = DeviceId::cuda(gpu);
    if (std::find(devices_.begin(), devices_.end(), id) == devices_.end()) {
      return refuse(path + ".gpus", "the engine has no GPU ", gpu, "; it has ",
                    join(devices_, ", "));
    }
    on.push_back(id);
  }
  const bool any = group.kind() == inference::ModelInstanceGroup::KIND_AUTO ||
                   group.kind() == inference::ModelInstanceGroup::KIND_MODEL;
  if (on.empty() && any) {
    out_.engine.lanes = std::max(out_.engine.lanes, count);
    return {};
  }
  const DeviceKind kind = cpu ? DeviceKind::host : DeviceKind::cuda;
  for (const DeviceId id : devices_) {
    if (group.gpus_size() == 0 && id.kind == kind) on.push_back(id);
  }
  if (on.empty()) {
    return refuse(
        path + ".kind",
        cpu ? "KIND_CPU, and the engine has no host device" : "KIND_GPU, and the engine has no GPU",
        "; it has ", join(devices_, ", "));
  }
  for (const DeviceId id : on) {
    const auto at = std::find_if(lanes.begin(), lanes.end(),
                                 [id](const auto& entry) { return entry.first == id; });
    if (at == lanes.end()) {
      lanes.emplace_back(id, count);
    } else {
      at->second += count;
    }
  }
  return {};
}

Result<void> Mapper::map_instances() {
  Lanes lanes;
  for (int i = 0; i < config_.instance_group_size(); ++i) {
    MILLRACE_TRY(
        add_instances(concat("instance_group[", i, "]"), config_.instance_group(i), lanes));
  }
  if (lanes.empty()) return {};
  if (out_.engine.lanes > 0) {
    return refuse("instance_group", "a group without devices beside one with: name them in both");
  }
  for (const auto& [id, count] : lanes) {
    out_.engine.devices.push_back(id);
    out_.engine.lanes = std::max(out_.engine.lanes, count);
  }
  for (const auto& [id, count] : lanes) {
    if (count == out_.engine.lanes) continue;
    out_.hints.push_back(concat(text_.where("instance_group"), ": instance_group: ", id, " gets ",
                                out_.engine.lanes, " instances instead of ", count,
                                ": all devices of a model have as many"));
  }
  return {};
}

Result<void> Mapper::map_operations() {
  const auto& names = config_.model_operations().op_library_filename();
  for (int i = 0; i < names.size(); ++i) {
    const std::string path = concat("model_operations.op_library_filename[", i, "]");
    if (!stays_inside(names[i])) {
      return refuse(path, "expected a path within the model's folder, got ", quote(names[i]));
    }
    out_.engine.plugins.push_back(files_.path(names[i]));
  }
  return {};
}

Result<void> Mapper::map_parameters() {
  // In the order of their names, so that errors do not depend on how a map is kept.
  std::map<std::string, std::string> sorted;
  for (const auto& [name, value] : config_.parameters()) sorted[name] = value.string_value();
  std::vector<std::string> others;
  for (const auto& [name, value] : sorted) {
    const bool model = name == "model" && out_.format == ModelFormat::reference;
    if (model || name.starts_with(kOurs)) {
      MILLRACE_TRY(map_parameter(name, value));
    } else {
      others.push_back(quote(name));
    }
  }
  if (!others.empty()) {
    out_.hints.push_back(concat(text_.where("parameters"), ": parameters: ", join(others, ", "),
                                ": kept for clients to read, and not used; what Millrace reads "
                                "begins with \"millrace.\""));
  }
  return {};
}

Result<void> Mapper::map_parameter(const std::string& name, const std::string& value) {
  constexpr std::array<std::string_view, 10> kKnown = {
      "millrace.backend", "millrace.devices",         "millrace.evict",   "millrace.hang_timeout",
      "millrace.lanes",   "millrace.max_queue_bytes", "millrace.option.", "millrace.priority_class",
      "millrace.slots",   "millrace.weight"};
  const std::string where = concat(text_.where("parameters"), ": parameters: ", name);
  ModelConfig& engine = out_.engine;
  if (name == "model") {
    if (!value.starts_with("reference:")) {
      return refuse("parameters", name, ": expected \"reference:KIND?option=value\", got ",
                    quote(value));
    }
    engine.path = value;
  } else if (name.starts_with(kOption) && name.size() > kOption.size()) {
    engine.options[name.substr(kOption.size())] = value;
  } else if (name == "millrace.backend") {
    engine.backend = value;
  } else if (name == "millrace.devices") {
    engine.devices.clear();
    std::string_view rest = value;
    while (!rest.empty()) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      Result<DeviceId> id = parse_device_id(trimmed(rest.substr(0, comma)));
      if (!id) return refuse("parameters", name, ": ", id.error().message);
      engine.devices.push_back(*id);
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
  } else if (name == "millrace.evict") {
    if (value != "yes" && value != "no") {
      return refuse("parameters", name, ": expected \"yes\" or \"no\", got ", quote(value));
    }
    out_.evictable = value == "yes";
  } else if (name == "millrace.hang_timeout") {
    MILLRACE_ASSIGN(engine.hang_timeout, parse_duration(value, where));
  } else if (name == "millrace.lanes") {
    MILLRACE_ASSIGN(const std::int64_t lanes, parse_integer(value, where, 1, kMostLanes));
    engine.lanes = static_cast<int>(lanes);
  } else if (name == "millrace.slots") {
    MILLRACE_ASSIGN(const std::int64_t slots, parse_integer(value, where, 1, 8));
    engine.slots = static_cast<int>(slots);
  } else if (name == "millrace.priority_class") {
    MILLRACE_ASSIGN(const std::int64_t level, parse_integer(value, where, -1'000'000, 1'000'000));
    engine.priority_class = static_cast<int>(level);
  } else if (name == "millrace.weight") {
    MILLRACE_ASSIGN(engine.weight, parse_number(value, where));
    if (!(engine.weight > 0) || engine.weight > 1e6) {
      return refuse("parameters", name, ": expected a number above 0 and up to 1e6, got ",
                    quote(value));
    }
  } else if (name == "millrace.max_queue_bytes") {
    MILLRACE_ASSIGN(engine.limits.max_bytes, parse_bytes(value, where));
    if (engine.limits.max_bytes == 0) {
      return refuse("parameters", name, ": expected at least 1 byte");
    }
  } else {
    return refuse("parameters", unknown_field(name, kKnown));
  }
  return {};
}

Result<void> Mapper::map_ensemble() {
  if (out_.format != ModelFormat::ensemble) return {};
  const inference::ModelEnsembling& ensemble = config_.ensemble_scheduling();
  if (ensemble.step_size() == 0) {
    return refuse("ensemble_scheduling", "expected at least one step");
  }
  for (int i = 0; i < ensemble.step_size(); ++i) {
    const inference::ModelEnsembling::Step& step = ensemble.step(i);
    const std::string path = concat("ensemble_scheduling.step[", i, "]");
    if (step.model_name().empty()) return refuse(path + ".model_name", "expected a model");
    if (step.model_version() < -1) {
      return refuse(path + ".model_version", "expected a version, or -1 for the latest; got ",
                    step.model_version());
    }
    EnsemblePart part;
    part.model = step.model_name();
    part.version = step.model_version() > 0 ? step.model_version() : -1;
    part.step.inputs.insert(step.input_map().begin(), step.input_map().end());
    part.step.outputs.insert(step.output_map().begin(), step.output_map().end());
    out_.parts.push_back(std::move(part));
  }
  if (config_.output().empty()) {
    return refuse("output", "expected the ensemble's outputs by name");
  }
  for (const inference::ModelOutput& output : config_.output()) {
    out_.engine.ensemble_outputs.push_back(output.name());
  }
  return {};
}

}  // namespace

Result<ConfigMapping> map_config(const ConfigText& text, const ModelFiles& files,
                                 std::span<const DeviceId> devices) {
  return Mapper(text, files, devices).run();
}

Result<std::vector<std::int64_t>> choose_versions(const ConfigText& text,
                                                  const std::vector<std::int64_t>& there) {
  const inference::ModelVersionPolicy& policy = text.config().version_policy();
  if (policy.has_all()) return there;
  if (policy.has_specific()) {
    std::vector<std::int64_t> wanted(policy.specific().versions().begin(),
                                     policy.specific().versions().end());
    std::sort(wanted.begin(), wanted.end());
    wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
    if (wanted.empty()) return text.error("version_policy.specific", "expected versions");
    for (const std::int64_t version : wanted) {
      if (std::find(there.begin(), there.end(), version) != there.end()) continue;
      return text.error("version_policy.specific.versions", "there is no version ", version,
                        "; there are: ", join(there, ", "));
    }
    return wanted;
  }
  const std::size_t count = std::max<std::size_t>(policy.latest().num_versions(), 1);
  if (there.size() <= count) return there;
  return std::vector(there.end() - static_cast<std::ptrdiff_t>(count), there.end());
}

}  // namespace millrace
