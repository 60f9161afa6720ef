// millrace inspect FOLDER: what a folder of models holds, and what became of each configuration's
// fields.
#include <algorithm>
#include <filesystem>

#include <millrace/log.h>

#include "cli/inspect.h"
#include "cli/verbs.h"
#include "repository/model_files.h"
#include "repository/model_loader.h"
#include "repository/model_repository.h"

namespace millrace::cli {
namespace {

/// One model: what its files ask for, if they can be read, and what came of it.
struct Inspected {
  ModelPlace place;
  Result<ModelPlan> plan;
  std::vector<std::shared_ptr<const ServedModel>> served;
  std::vector<RepositoryEntry> entries;
};

Json field_json(const StatedField& stated) {
  return {{"field", stated.path},
          {"where", stated.where},
          {"value", stated.value},
          {"kind", to_string(stated.field->kind)},
          {"note", stated.field->note}};
}

std::string config_text(const inference::ModelConfig& config) {
  std::string out;
  google::protobuf::TextFormat::PrintToString(config, &out);
  return out;
}

Json inspected_json(const Inspected& model) {
  Json out = {{"name", model.place.name}, {"path", model.place.path}};
  out["fields"] = Json::array();
  out["hints"] = Json::array();
  if (model.plan.ok()) {
    for (const StatedField& stated : model.plan->mapping.fields) {
      out["fields"].push_back(field_json(stated));
    }
    for (const std::string& hint : model.plan->mapping.hints) out["hints"].push_back(hint);
  }
  out["versions"] = Json::array();
  for (const RepositoryEntry& entry : model.entries) {
    out["versions"].push_back(
        {{"version", entry.version}, {"state", entry.state}, {"reason", entry.reason}});
  }
  out["served"] = Json::array();
  for (const auto& served : model.served) {
    Json one = {{"version", served->version}};
    one.update(model_json(served->model.info()));
    one["config"] = config_text(*served->config);
    out["served"].push_back(std::move(one));
  }
  return out;
}

std::string inspected_text(const Inspected& model) {
  const auto line = [](std::string_view name, std::string_view value) {
    return "  " + padded(inked(Ink::dim, name), 15) + printable(value) + "\n";
  };
  std::string out = inked(Ink::bold, printable(model.place.name)) + "\n";
  out += line("path", model.place.path);
  if (model.plan.ok()) out += line("configuration", model.plan->text.source());
  for (const RepositoryEntry& entry : model.entries) {
    const std::string name = entry.version.empty() ? "state" : "version " + entry.version;
    out += line(name, entry.state + (entry.reason.empty() ? "" : ": " + entry.reason));
  }
  if (model.plan.ok() && !model.plan->mapping.fields.empty()) {
    Table table({"field", "value", "", "what becomes of it"});
    for (const StatedField& stated : model.plan->mapping.fields) {
      table.add({printable(stated.path), printable(stated.value),
                 std::string(to_string(stated.field->kind)), std::string(stated.field->note)});
    }
    out += "\n" + table.text();
  }
  for (const auto& served : model.served) {
    const ModelInfo& info = served->model.info();
    out += "\n" + line("version", served->version) +
           line("backend",
                info.backend + (info.backend_reason.empty() ? "" : ": " + info.backend_reason)) +
           line("batch", "max_batch_size " + std::to_string(served->config->max_batch_size())) +
           "\n" + model_text(info);
  }
  return out;
}

void refuse_other_arguments(const ModelArguments& arguments) {
  if (arguments.backend.empty() && arguments.options.empty() && arguments.plugins.empty() &&
      arguments.lanes == 0 && arguments.slots == 0 && arguments.batch == 0 &&
      !arguments.share_activations) {
    return;
  }
  throw UsageError(
      "of a folder of models, expected --devices and --json alone: everything else is "
      "for the configurations in it");
}

}  // namespace

bool holds_models(const std::string& argument) {
  std::error_code ignored;
  const std::filesystem::path path(argument);
  if (!std::filesystem::is_directory(path, ignored)) return false;
  if (std::filesystem::exists(path / "millrace.json", ignored)) return false;
  if (std::filesystem::exists(path / "saved_model.pb", ignored)) return false;
  const Result<std::vector<ModelPlace>> found = find_models(argument);
  return found.ok() && std::any_of(found->begin(), found->end(), [&](const ModelPlace& place) {
           if (!place.versions) return true;
           if (std::filesystem::exists(place.path + "/config.pbtxt", ignored)) return true;
           const Result<ModelFiles> files = ModelFiles::of_folder(place.path);
           return files.ok() && !files->versions().empty();
         });
}

Result<int> inspect_repository(const ModelArguments& arguments, bool json) {
  refuse_other_arguments(arguments);
  EngineOptions engine_options;
  engine_options.devices.devices = arguments.devices;
  Result<Engine> engine = Engine::create(std::move(engine_options));
  if (!engine.ok()) return std::move(engine).error();
  const Result<std::vector<ModelPlace>> places = find_models(arguments.model);
  if (!places.ok()) return places.error();
  RepositoryOptions options;
  options.folders = {arguments.model};
  const LogLevel level = log_level();
  set_log_level(LogLevel::error);  // what is warned of is in what is printed
  Result<std::unique_ptr<ModelRepository>> repository =
      ModelRepository::open(*engine, std::move(options));
  set_log_level(level);
  if (!repository.ok()) return std::move(repository).error();

  const std::vector<RepositoryEntry> index = (*repository)->index();
  Json models = Json::array();
  std::string text;
  for (const ModelPlace& place : *places) {
    Inspected model{place, plan_model(place, *engine), (*repository)->served(place.name), {}};
    std::copy_if(index.begin(), index.end(), std::back_inserter(model.entries),
                 [&place](const RepositoryEntry& entry) { return entry.name == place.name; });
    models.push_back(inspected_json(model));
    text += (text.empty() ? "" : "\n") + inspected_text(model);
  }
  if (json) print_json({{"models", models}});
  if (!json) print(text);
  return (*repository)->ready() ? kFine : kFailed;
}

}  // namespace millrace::cli
