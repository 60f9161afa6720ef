#include "repository/model_loader.h"

#include <algorithm>

#include "base/log.h"
#include "base/try.h"
#include "io/labels.h"
#include "repository/config.h"
#include "repository/config_completion.h"

namespace millrace {
namespace {

constexpr std::string_view kConfigName = "config.pbtxt";
constexpr std::size_t kMostConfigBytes = std::size_t{1} << 20;
constexpr std::size_t kMostLabelBytes = std::size_t{64} << 20;

std::vector<DeviceId> devices_of(const Engine& engine) {
  std::vector<DeviceId> out;
  for (DeviceRef device : engine.devices()) out.push_back(device->id());
  return out;
}

/// Names of files that hold a model, by format, in a version's folder.
std::vector<std::string> usual_files(ModelFormat format) {
  switch (format) {
    case ModelFormat::onnx:
      return {"model.onnx", "model.ort"};
    case ModelFormat::tensorrt:
      return {"model.plan", "model.engine", "model.onnx"};
    case ModelFormat::reference:
      return {"model.reference.json"};
    case ModelFormat::automatic:
      return {"model.plan", "model.engine", "model.onnx", "model.ort", "model.reference.json"};
    case ModelFormat::ensemble:
      break;
  }
  return {};
}

/// The model's file within the model's folder; empty where it needs none.
Result<std::string> find_file(const ModelPlan& plan, std::int64_t version) {
  const ConfigMapping& mapping = plan.mapping;
  if (mapping.format == ModelFormat::ensemble || !mapping.engine.path.empty()) return "";
  const std::string folder = std::to_string(version);
  const auto missing = [&](const auto&... pieces) {
    return Error{ErrorCode::not_found,
                 concat("model ", quote(plan.name), ", version ", version, ": ", pieces...)};
  };
  if (!mapping.model_file.empty()) {
    std::string path = folder + "/" + mapping.model_file;
    if (plan.files.has(path)) return path;
    return missing("there is no file ", quote(plan.files.path(path)),
                   ", which default_model_filename names");
  }
  const std::vector<std::string> usual = usual_files(mapping.format);
  std::vector<std::string> found;
  for (const std::string& name : usual) {
    if (plan.files.has(concat(folder, "/", name))) found.push_back(name);
  }
  // A TensorRT engine may lie beside what it was built from.
  const bool one = found.size() == 1 || mapping.format == ModelFormat::tensorrt;
  if (!found.empty() && one) return folder + "/" + found.front();
  if (found.empty()) {
    return missing("expected ", join(usual, " or "), " in ", quote(plan.files.path(folder)));
  }
  return missing("more than one model in ", quote(plan.files.path(folder)), " (", join(found, ", "),
                 "): name one by default_model_filename");
}

Result<ModelPlan> finish_plan(ModelPlan plan, const Engine& engine) {
  const std::vector<DeviceId> devices = devices_of(engine);
  MILLRACE_ASSIGN(plan.mapping, map_config(plan.text, plan.files, devices));
  const std::string& stated = plan.text.config().name();
  if (!stated.empty() && stated != plan.name) {
    return plan.text.error("name", "expected ", quote(plan.name),
                           ", as the model's folder is called, got ", quote(stated));
  }
  std::vector<std::int64_t> there = plan.files.versions();
  // Without a folder of a version: where no file is needed, and a file in the model's own folder.
  const bool no_file =
      plan.mapping.format == ModelFormat::ensemble || !plan.mapping.engine.path.empty();
  if (there.empty() && no_file) there = {1};
  if (there.empty()) {
    return Error{ErrorCode::not_found,
                 concat("model ", quote(plan.name), " has no version: expected a folder such as ",
                        quote(plan.files.path("1")), " with a model in it")};
  }
  MILLRACE_ASSIGN(plan.versions, choose_versions(plan.text, there));
  return plan;
}

/// A model of the command line's kind.
Result<ModelPlan> plan_single(const ModelPlace& place) {
  std::string stamp = fingerprint_of(place);  // first: what changes while it is read is seen later
  MILLRACE_ASSIGN(ModelFile file, read_model(place.path));
  ModelPlan plan{place.name,      ConfigText::none(place.path), {}, {}, {1}, file.labels,
                 std::move(stamp)};
  plan.mapping.engine = std::move(file.config);
  std::vector<EnsembleStep> steps = std::move(plan.mapping.engine.ensemble);
  plan.mapping.engine.ensemble.clear();
  for (EnsembleStep& step : steps) {
    plan.mapping.parts.push_back({step.model, -1, std::move(step)});
    plan.mapping.format = ModelFormat::ensemble;
  }
  return plan;
}

Result<std::map<std::string, std::vector<std::string>>> read_all_labels(
    const ModelPlan& plan, const inference::ModelConfig& config) {
  std::map<std::string, std::vector<std::string>> out;
  for (int i = 0; i < config.output_size(); ++i) {
    const inference::ModelOutput& output = config.output(i);
    if (!plan.labels.empty()) {
      MILLRACE_ASSIGN(out[output.name()], read_labels(plan.labels));
      continue;
    }
    if (output.label_filename().empty()) continue;
    const std::string path = concat("output[", i, "].label_filename");
    if (!stays_inside(output.label_filename())) {
      return plan.text.error(path, "expected a path within the model's folder, got ",
                             quote(output.label_filename()));
    }
    Result<std::string> text = plan.files.read(output.label_filename(), kMostLabelBytes);
    if (!text) return plan.text.error(path, text.error().message);
    MILLRACE_ASSIGN(out[output.name()],
                    parse_labels(*text, plan.files.path(output.label_filename())));
  }
  return out;
}

/// What the engine is to load for a version.
Result<ModelConfig> engine_config(const ModelPlan& plan, std::int64_t version,
                                  std::string engine_name, std::vector<EnsembleStep> steps,
                                  std::string& file) {
  ModelConfig config = plan.mapping.engine;
  config.name = std::move(engine_name);
  config.ensemble = std::move(steps);
  MILLRACE_ASSIGN(file, find_file(plan, version));
  if (file.empty()) return config;
  config.path = plan.files.path(file);
  config.content = plan.files.content(file);
  return config;
}

void drop(Engine& engine, EngineModel& model) {
  model.served.model = {};
  if (const Result<void> unloaded = engine.unload(model.engine_name); !unloaded) {
    log_warning(unloaded.error().message);
  }
}

/// Whether the configuration says so without the model being looked at.
bool states_no_batches(const ConfigText& text) {
  return text.states_max_batch_size() && text.config().max_batch_size() == 0;
}

/// Loads into the engine, without a batch axis where the configuration says that there is none.
Result<EngineModel> load_model(Engine& engine, const ModelPlan& plan, ModelConfig config) {
  EngineModel out;
  out.engine_name = config.name;
  const auto load = [&]() -> Result<void> {
    Result<Model> loaded = engine.load(config);
    if (loaded) {
      out.served.model = std::move(*loaded);
      return {};
    }
    if (loaded.error().message.find("batching.max_items") == std::string::npos) {
      return std::move(loaded).error();
    }
    return plan.text.error("max_batch_size", loaded.error().message);
  };
  if (config.ensemble.empty() && states_no_batches(plan.text)) config.options["batch_axis"] = "off";
  MILLRACE_TRY(load());
  const ModelInfo& info = out.served.model.info();
  if (!config.ensemble.empty() || !batched(info) || !states_whole_shapes(plan.text, info)) {
    return out;
  }
  drop(engine, out);
  config.options["batch_axis"] = "off";
  MILLRACE_TRY(load());
  return out;
}

/// Completes and warms what was loaded.
Result<void> finish_model(EngineModel& model, const ModelPlan& plan, std::int64_t version,
                          const std::string& file) {
  ServedModel& served = model.served;
  const ModelInfo& info = served.model.info();
  MILLRACE_ASSIGN(inference::ModelConfig completed,
                  complete_config(plan.text, info, plan.name, file));
  MILLRACE_ASSIGN(served.labels, read_all_labels(plan, completed));
  const auto& stated = plan.text.config().output();
  if (!stated.empty() && static_cast<std::size_t>(stated.size()) < info.outputs.size()) {
    for (const auto& output : stated) served.default_outputs.push_back(output.name());
  }
  const bool apart = completed.max_batch_size() > 0;
  for (const WarmUp& warm_up : plan.mapping.warm_ups) {
    MILLRACE_TRY(run_warm_up(warm_up, served.model, apart, plan.text, plan.files));
  }
  served.name = plan.name;
  served.version = std::to_string(version);
  served.requests = plan.mapping.requests;
  served.config = std::make_shared<const inference::ModelConfig>(std::move(completed));
  return {};
}

}  // namespace

Result<ModelPlan> plan_model(const ModelPlace& place, const Engine& engine) {
  return plan_model(place, {}, engine);
}

Result<ModelPlan> plan_model(const ModelPlace& place, const LoadParameters& sent,
                             const Engine& engine) {
  if (!place.versions && sent.config.empty() && sent.files.empty()) return plan_single(place);
  if (!sent.files.empty() && sent.config.empty()) {
    return Error{ErrorCode::invalid_argument,
                 concat("model ", quote(place.name),
                        ": files came with the request and no configuration: give both")};
  }
  if (place.path.empty() && sent.files.empty()) {
    return Error{ErrorCode::not_found,
                 concat("there is no model ", quote(place.name), " in the repository")};
  }
  ModelPlan plan{place.name, ConfigText::none(place.path), {}, {}, {}, {}, sent.config};
  if (sent.files.empty()) {
    MILLRACE_ASSIGN(plan.files, ModelFiles::of_folder(place.path));
  } else {
    MILLRACE_ASSIGN(plan.files, ModelFiles::of_contents(sent.files));
  }
  if (!sent.config.empty()) {
    MILLRACE_ASSIGN(plan.text, ConfigText::parse_json(
                                   sent.config, concat("the configuration of ", quote(place.name),
                                                       " that came with the request")));
  } else if (plan.files.has(kConfigName)) {
    MILLRACE_ASSIGN(const std::string text, plan.files.read(kConfigName, kMostConfigBytes));
    MILLRACE_ASSIGN(plan.text, ConfigText::parse(text, plan.files.path(kConfigName)));
  }
  return finish_plan(std::move(plan), engine);
}

std::string fingerprint(const ModelPlan& plan, std::int64_t version) {
  return concat(plan.stamp, "\n", plan.files.fingerprint(version));
}

Result<EngineModel> load_version(Engine& engine, const ModelPlan& plan, std::int64_t version,
                                 std::string engine_name, std::vector<EnsembleStep> steps) {
  std::string file;
  MILLRACE_ASSIGN(ModelConfig config,
                  engine_config(plan, version, std::move(engine_name), std::move(steps), file));
  MILLRACE_ASSIGN(EngineModel out, load_model(engine, plan, std::move(config)));
  const std::string file_name = file.substr(file.find('/') + 1);
  Result<void> finished = finish_model(out, plan, version, file_name);
  if (finished) return out;
  drop(engine, out);
  return std::move(finished).error();
}

}  // namespace millrace
