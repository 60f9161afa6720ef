// millrace inspect: what a model is, and what it would cost to run it here.
#include "cli/inspect.h"

#include <algorithm>
#include <memory>

#include "cli/model_arguments.h"
#include "cli/print.h"
#include "cli/verbs.h"
#include "io/labels.h"

namespace millrace::cli {
namespace {

struct Options {
  ModelArguments model;
  bool json = false;
};

std::string_view choose(bool yes, std::string_view a, std::string_view b) { return yes ? a : b; }

Json tensors_json(const std::vector<TensorInfo>& tensors) {
  Json out = Json::array();
  for (const TensorInfo& tensor : tensors) {
    Json shape = Json::array();
    for (const std::int64_t size : tensor.shape) shape.push_back(size);
    out.push_back({{"name", tensor.name},
                   {"type", to_string(tensor.type)},
                   {"shape", shape},
                   {"batch_axis", tensor.batch_axis},
                   {"on_host", tensor.on_host}});
  }
  return out;
}

Json placement_json(const ModelInfo::Placement& placement) {
  const auto lanes = static_cast<std::size_t>(placement.lanes);
  const std::size_t weights = placement.lanes_share_weights ? 1 : lanes;
  return {{"device", to_string(placement.device)},
          {"lanes", placement.lanes},
          {"slots", placement.slots},
          {"lanes_share_weights", placement.lanes_share_weights},
          {"weights_bytes", placement.weights_bytes},
          {"lane_bytes", placement.lane_bytes},
          {"context_bytes", placement.context_bytes},
          {"activation_bytes", placement.activation_bytes},
          {"graph_bytes", placement.graph_bytes},
          {"slot_bytes", placement.slot_bytes},
          {"shared_bytes", placement.shared_bytes},
          {"total_bytes", weights * placement.weights_bytes + placement.shared_bytes +
                              lanes * (placement.lane_bytes + placement.slot_bytes)},
          {"prepared_shapes", placement.prepared_shapes},
          {"enqueue_blocks", placement.enqueue_blocks},
          {"not_graphs", placement.not_graphs}};
}

Json preprocess_json(const PreprocessPlan& plan) {
  constexpr const char* kChannels[] = {"gray", "rgb", "bgr"};
  const auto channels = static_cast<std::size_t>(plan.channel_count());
  Json out = {{"layout", choose(plan.layout == PixelLayout::nchw, "NCHW", "NHWC")},
              {"channels", kChannels[static_cast<std::size_t>(plan.channels)]},
              {"scale", plan.scale},
              {"mean", std::vector<double>(plan.mean, plan.mean + channels)},
              {"std", std::vector<double>(plan.std, plan.std + channels)},
              {"filter", choose(plan.filter == ResizeFilter::bilinear, "bilinear", "nearest")}};
  if (plan.size.height > 0) out["resize"] = {plan.size.height, plan.size.width};
  return out;
}

// How images become inputs, for those inputs of which the configuration says so.
Result<Json> preprocesses_json(const OpenModel& open) {
  Json out = Json::object();
  for (const auto& [name, stated] : open.file.preprocess) {
    const TensorInfo* input = nullptr;
    for (const TensorInfo& candidate : open.model.info().inputs) {
      if (candidate.name == name) input = &candidate;
    }
    if (!input) {
      return Error{
          ErrorCode::invalid_argument,
          open.file.configuration + ": preprocess: the model has no input " + in_quotes(name)};
    }
    Result<PreprocessPlan> plan = plan_preprocess(stated, *input);
    if (!plan.ok()) return std::move(plan).error();
    out[name] = preprocess_json(*plan);
  }
  return out;
}

std::string shape_text(const TensorInfo& tensor) {
  std::string text = "[";
  for (std::size_t i = 0; i < tensor.shape.rank(); ++i) {
    if (i > 0) text += ",";
    const bool items = static_cast<int>(i) == tensor.batch_axis && tensor.shape[i] == kDynamic;
    text += items ? "N" : tensor.shape[i] == kDynamic ? "?" : std::to_string(tensor.shape[i]);
  }
  return text + "]";
}

std::string tensors_text(std::string_view title, const std::vector<TensorInfo>& tensors) {
  Table table({std::string(title), "type", "shape"});
  for (const TensorInfo& tensor : tensors) {
    table.add({printable(tensor.name), std::string(to_string(tensor.type)),
               shape_text(tensor) + (tensor.on_host ? "  in host memory: a shape" : "")});
  }
  return table.text();
}

// What the memory of a lane is made of, and why it has no graphs.
std::string lane_text(const ModelInfo::Placement& placement) {
  std::string out;
  if (placement.activation_bytes + placement.graph_bytes + placement.shared_bytes > 0) {
    out = "  A lane on " + to_string(placement.device) + ": contexts " +
          format_bytes(placement.context_bytes) + ", activations " +
          format_bytes(placement.activation_bytes) + ", slots " +
          format_bytes(placement.slot_bytes) + ", graphs " + format_bytes(placement.graph_bytes) +
          ".\n";
  }
  if (placement.shared_bytes > 0) {
    out += "  All its lanes use " + format_bytes(placement.shared_bytes) +
           " of activations in turn.\n";
  }
  if (!placement.not_graphs.empty()) {
    out += "  No CUDA graphs on " + to_string(placement.device) + ": " +
           printable(placement.not_graphs) + ".\n";
  }
  return out;
}

std::string placements_text(const ModelInfo& info) {
  Table table({"device", "lanes", "slots", "weights", "per lane", "slots' blocks", "in all",
               "prepared", "enqueue"},
              {1, 2, 3, 4, 5, 6, 7});
  for (const ModelInfo::Placement& placement : info.placements) {
    table.add(
        {to_string(placement.device), std::to_string(placement.lanes),
         std::to_string(placement.slots),
         format_bytes(placement.weights_bytes) + (placement.lanes_share_weights ? "" : " a lane"),
         format_bytes(placement.lane_bytes), format_bytes(placement.slot_bytes) + " a lane",
         format_bytes(placement_json(placement)["total_bytes"].get<std::uint64_t>()),
         std::to_string(placement.prepared_shapes),
         placement.enqueue_blocks ? "blocks" : "asynchronous"});
  }
  std::string out = table.text();
  for (const ModelInfo::Placement& placement : info.placements) out += lane_text(placement);
  return out;
}

// "images: resized to 8x8 (bilinear), gray, NCHW, pixels * 0.0627451".
std::string preprocess_text(const std::string& input, const Json& plan) {
  std::string out = "for " + input + ": ";
  if (plan.contains("resize")) {
    out += "resized to " + plan["resize"][0].dump() + "x" + plan["resize"][1].dump() + " (" +
           plan["filter"].get<std::string>() + "), ";
  }
  out += plan["channels"].get<std::string>() + ", " + plan["layout"].get<std::string>() + ", ";
  std::string value = "pixels * " + format_value(plan["scale"].get<double>());
  const auto all = [&](const char* name, double expected) {
    return std::all_of(plan[name].begin(), plan[name].end(),
                       [&](const Json& n) { return n.get<double>() == expected; });
  };
  if (!all("mean", 0)) value += " - " + plan["mean"].dump();
  if (!all("std", 1)) value = "(" + value + ") / " + plan["std"].dump();
  return out + value;
}

}  // namespace

std::string model_text(const ModelInfo& info) {
  std::string out =
      tensors_text("input", info.inputs) + "\n" + tensors_text("output", info.outputs);
  if (!info.placements.empty()) {
    bool shared = true;
    for (const ModelInfo::Placement& placement : info.placements)
      shared = shared && placement.lanes_share_weights;
    out += "\n" + placements_text(info) + "  The lanes of a device " +
           std::string(choose(shared, "share one set of weights.\n",
                              "do not share weights: each has its own.\n"));
  }
  return out;
}

Json model_json(const ModelInfo& info) {
  Json placements = Json::array();
  for (const ModelInfo::Placement& placement : info.placements)
    placements.push_back(placement_json(placement));
  return {{"backend", info.backend},
          {"backend_reason", info.backend_reason},
          {"inputs", tensors_json(info.inputs)},
          {"outputs", tensors_json(info.outputs)},
          {"max_items", info.max_items},
          {"placements", placements}};
}

namespace {

void print_text(const OpenModel& open, const Json& preprocess, std::size_t labels) {
  const ModelInfo& info = open.model.info();
  const auto line = [](std::string_view name, std::string_view value) {
    return "  " + padded(inked(Ink::dim, name), 15) + printable(value) + "\n";
  };
  std::string out = inked(Ink::bold, printable(info.name)) + "\n";
  if (!info.path.empty()) out += line("file", info.path);
  if (!open.file.configuration.empty()) out += line("configuration", open.file.configuration);
  if (!info.backend.empty())
    out += line("backend",
                info.backend + (info.backend_reason.empty() ? "" : ": " + info.backend_reason));
  out += line("batch", "up to " + std::to_string(info.max_items) +
                           (info.max_items == 1 ? " item" : " items"));
  if (labels > 0) out += line("labels", std::to_string(labels) + " in " + open.file.labels);
  for (const auto& [input, plan] : preprocess.items())
    out += line("pictures", preprocess_text(input, plan));
  out += "\n" + model_text(info);
  if (!info.metadata.empty()) {
    Table table({"metadata", ""});
    for (const auto& [name, value] : info.metadata) table.add({printable(name), printable(value)});
    out += "\n" + table.text();
  }
  print(out);
}

Result<int> run(const Options& options) {
  if (holds_models(options.model.model)) return inspect_repository(options.model, options.json);
  Result<OpenModel> open = open_model(options.model);
  if (!open.ok()) return std::move(open).error();
  Result<Json> preprocess = preprocesses_json(*open);
  if (!preprocess.ok()) return std::move(preprocess).error();
  std::size_t labels = 0;
  if (!open->file.labels.empty()) {
    Result<std::vector<std::string>> names = read_labels(open->file.labels);
    if (!names.ok()) return std::move(names).error();
    labels = names->size();
  }
  if (!options.json) {
    print_text(*open, *preprocess, labels);
    return kFine;
  }
  const ModelInfo& info = open->model.info();
  Json metadata = Json::object();
  for (const auto& [name, value] : info.metadata) metadata[name] = value;
  Json out = {
      {"name", info.name}, {"path", info.path}, {"configuration", open->file.configuration}};
  out.update(model_json(info));
  out.update(Json{{"labels", labels}, {"preprocess", *preprocess}, {"metadata", metadata}});
  print_json(out);
  return kFine;
}

}  // namespace

void add_inspect(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("inspect",
                                      "Shows a model's inputs, outputs, backend, and what it takes "
                                      "in memory; of a folder of models, "
                                      "what became of their configurations");
  add_model_arguments(*verb, options->model);
  add_lane_arguments(*verb, options->model);
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([options, &context] { context.action = [options] { return run(*options); }; });
}

}  // namespace millrace::cli
