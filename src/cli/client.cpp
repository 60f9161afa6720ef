// millrace client: asks a server, over either protocol.
#include "client/client.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>

#include "base/text.h"
#include "base/try.h"
#include "cli/bench_inputs.h"
#include "cli/bench_measure.h"
#include "cli/print.h"
#include "cli/run_inputs.h"
#include "cli/run_outputs.h"
#include "cli/verbs.h"
#include "io/npz.h"

namespace millrace::cli {
namespace {

using client::Client;

struct Options {
  std::string url;
  std::string action;
  client::ModelName model;
  client::ClientOptions client;
  InputArguments input;
  std::int64_t items = 1;
  double timeout_s = 0;
  std::string id;
  std::string output;
  std::string config;
  bool unload_dependents = false;
  std::int64_t count = 0;
  bool json = false;
};

constexpr std::string_view kRandom = "random";

void add_fact(std::string& out, std::string_view name, const std::string& value) {
  out += "  " + padded(name, 12) + printable(value) + "\n";
}

Result<int> health(const Options& options, Client& server) {
  MILLRACE_ASSIGN(const bool live, server.live());
  MILLRACE_ASSIGN(const bool ready,
                  options.model.name.empty() ? server.ready() : server.model_ready(options.model));
  if (options.json) {
    print_json({{"live", live}, {"ready", ready}});
  } else {
    print(concat("  live   ", live ? "yes" : "no", "\n  ready  ", ready ? "yes" : "no", "\n"));
  }
  return live && ready ? kFine : kFailed;
}

Json tensors_json(const std::vector<TensorInfo>& tensors) {
  Json out = Json::array();
  for (const TensorInfo& tensor : tensors) {
    out.push_back({{"name", tensor.name},
                   {"datatype", to_string(tensor.type)},
                   {"shape", std::vector(tensor.shape.begin(), tensor.shape.end())}});
  }
  return out;
}

Result<int> model_metadata(const Options& options, Client& server) {
  MILLRACE_ASSIGN(const server::ModelMetadata model, server.model_metadata(options.model));
  if (options.json) {
    print_json({{"name", model.name},
                {"versions", model.versions},
                {"platform", model.platform},
                {"inputs", tensors_json(model.inputs)},
                {"outputs", tensors_json(model.outputs)}});
    return kFine;
  }
  std::string out;
  add_fact(out, "model", model.name);
  add_fact(out, "versions", join(model.versions, ", "));
  add_fact(out, "platform", model.platform);
  Table table({"", "name", "type", "shape"});
  for (const TensorInfo& t : model.inputs)
    table.add({"input", printable(t.name), std::string(to_string(t.type)), to_string(t.shape)});
  for (const TensorInfo& t : model.outputs)
    table.add({"output", printable(t.name), std::string(to_string(t.type)), to_string(t.shape)});
  print(out + table.text());
  return kFine;
}

Result<int> metadata(const Options& options, Client& server) {
  if (!options.model.name.empty()) return model_metadata(options, server);
  MILLRACE_ASSIGN(const server::ServerMetadata about, server.metadata());
  if (options.json) {
    print_json(
        {{"name", about.name}, {"version", about.version}, {"extensions", about.extensions}});
    return kFine;
  }
  std::string out;
  add_fact(out, "server", about.name);
  add_fact(out, "version", about.version);
  add_fact(out, "extensions", join(about.extensions, ", "));
  print(out);
  return kFine;
}

Result<int> models(const Options& options, Client& server) {
  MILLRACE_ASSIGN(const std::vector<RepositoryEntry> entries, server.repository_index(false));
  if (options.json) {
    Json out = Json::array();
    for (const RepositoryEntry& entry : entries) {
      out.push_back({{"name", entry.name},
                     {"version", entry.version},
                     {"state", entry.state},
                     {"reason", entry.reason}});
    }
    print_json(out);
    return kFine;
  }
  Table table({"model", "version", "state", "reason"});
  for (const RepositoryEntry& entry : entries) {
    table.add({printable(entry.name), printable(entry.version), printable(entry.state),
               printable(entry.reason)});
  }
  print(table.text());
  return kFine;
}

// ------------------------------------------------------------------------------------------------
// infer

// What is asked, one request after another.
struct Work {
  Inputs files;
  std::optional<BenchInputs> random;

  [[nodiscard]] std::int64_t requests() const { return random ? 1 : files.requests(); }
};

Result<Work> open_work(const Options& options, const ModelInfo& info) {
  Work work;
  if (options.input.inputs == std::vector<std::string>{std::string(kRandom)}) {
    MILLRACE_ASSIGN(work.random, BenchInputs::open(info, {}, {}, 1));
    return work;
  }
  MILLRACE_ASSIGN(work.files, open_inputs(options.input, info, {}));
  return work;
}

Result<Request> request_of(const Options& options, const Work& work, std::int64_t number) {
  Request request;
  if (work.random) {
    MILLRACE_ASSIGN(const std::vector<NamedTensor> inputs, work.random->make(0, options.items));
    for (const NamedTensor& input : inputs) request.inputs.push_back(input);
  } else {
    MILLRACE_ASSIGN(request, work.files.request(number));
  }
  request.id = options.id;
  if (options.timeout_s > 0) {
    request.deadline = Clock::now() + std::chrono::duration_cast<Duration>(
                                          std::chrono::duration<double>(options.timeout_s));
  }
  return request;
}

// Outputs by name: a server may answer with fewer than its metadata states.
class Answers {
 public:
  Result<void> add(const Response& response) {
    for (const NamedTensor& output : response.outputs) {
      auto [found, added] = places_.try_emplace(output.name, summaries_.size());
      if (added) {
        summaries_.emplace_back(output.name, output.view.type);
        collectors_.emplace_back(output.name);
      }
      summaries_[found->second].add(output.view);
      MILLRACE_TRY(collectors_[found->second].add(output.view));
    }
    const std::chrono::nanoseconds time = response.times.completed - response.times.submitted;
    latency_.record(static_cast<std::uint64_t>(std::max<std::int64_t>(time.count(), 0)));
    return {};
  }
  Result<void> write(const std::string& folder) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) {
      return Error{ErrorCode::unavailable,
                   concat("cannot make the folder ", quote(folder), ": ", error.message())};
    }
    std::vector<NamedTensor> arrays;
    for (const OutputCollector& collector : collectors_) {
      MILLRACE_ASSIGN(const std::vector<NamedTensor> more, collector.arrays());
      arrays.insert(arrays.end(), more.begin(), more.end());
    }
    file_ = (std::filesystem::path(folder) / "outputs.npz").string();
    return write_npz(arrays, file_);
  }
  void show(const Options& options, std::int64_t requests) const {
    if (options.json) {
      Json outputs = Json::array();
      for (const OutputSummary& summary : summaries_) outputs.push_back(summary.json());
      Json json = {{"model", options.model.name},
                   {"requests", requests},
                   {"latency_us", latency_json(latency_)},
                   {"outputs", std::move(outputs)},
                   {"files", Json::array()}};
      if (!file_.empty()) json["files"].push_back(file_);
      return print_json(json);
    }
    Table table({"output", "type", "shape", "min", "mean", "max", "first values"}, {3, 4, 5});
    for (const OutputSummary& summary : summaries_) table.add(summary.row());
    std::string out = table.text() + "\n  " + format_count(static_cast<std::uint64_t>(requests)) +
                      (requests == 1 ? " request, " : " requests, ") +
                      format_time(std::chrono::nanoseconds(latency_.quantile(0.5))) + " (p50)\n";
    if (!file_.empty()) out += "  written: " + file_ + "\n";
    print(out);
  }

 private:
  std::map<std::string, std::size_t> places_;
  std::vector<OutputSummary> summaries_;
  std::vector<OutputCollector> collectors_;
  Histogram latency_;
  std::string file_;
};

Result<int> infer(const Options& options, Client& server) {
  if (options.input.inputs.empty())
    throw UsageError("infer: expected --input [NAME=]FILE, or --input random");
  MILLRACE_ASSIGN(const server::ModelMetadata about, server.model_metadata(options.model));
  ModelInfo info;
  info.name = options.model.name;
  info.inputs = about.inputs;
  info.outputs = about.outputs;
  info.max_items = options.items;
  MILLRACE_ASSIGN(const Work work, open_work(options, info));
  Answers answers;
  for (std::int64_t number = 0; number < work.requests(); ++number) {
    MILLRACE_ASSIGN(Request request, request_of(options, work, number));
    MILLRACE_ASSIGN(const Response response, server.infer(options.model, std::move(request)));
    MILLRACE_TRY(answers.add(response));
  }
  if (!options.output.empty()) MILLRACE_TRY(answers.write(options.output));
  answers.show(options, work.requests());
  return kFine;
}

// ------------------------------------------------------------------------------------------------
// load, unload, watch

Result<int> load(const Options& options, Client& server) {
  LoadParameters parameters;
  parameters.config = options.config;
  MILLRACE_TRY(server.load_model(options.model.name, parameters));
  print("  " + printable(options.model.name) + " is loaded\n");
  return kFine;
}

Result<int> unload(const Options& options, Client& server) {
  MILLRACE_TRY(server.unload_model(options.model.name, options.unload_dependents));
  print("  " + printable(options.model.name) + " is being unloaded\n");
  return kFine;
}

using Statistics = std::map<std::pair<std::string, std::string>, server::VersionStatistics>;

Result<Statistics> look(const Options& options, Client& server) {
  MILLRACE_ASSIGN(std::vector<server::VersionStatistics> all, server.statistics(options.model));
  Statistics found;
  for (server::VersionStatistics& each : all) {
    found.insert_or_assign({each.name, each.version}, std::move(each));
  }
  return found;
}

// What one version did in between; the same on both sides: since it was loaded.
struct Passed {
  double requests_per_s = 0;
  double items_per_s = 0;
  double failed_per_s = 0;
  double batch = 0;
  double total_us = 0;
  double queue_us = 0;
  double compute_us = 0;
};

Passed passed(const server::VersionStatistics& now, const server::VersionStatistics& before,
              double seconds) {
  const auto less = [](std::uint64_t a, std::uint64_t b) {
    return static_cast<double>(a > b ? a - b : 0);  // a version that was loaded again begins at 0
  };
  const auto mean_us = [&](const server::StatisticDuration& a, const server::StatisticDuration& b) {
    const double count = less(a.count, b.count);
    return count > 0 ? less(a.ns, b.ns) / 1000 / count : 0;
  };
  Passed out;
  out.requests_per_s = less(now.success.count, before.success.count) / seconds;
  out.items_per_s = less(now.inference_count, before.inference_count) / seconds;
  out.failed_per_s = less(now.fail.count, before.fail.count) / seconds;
  const double batches = less(now.execution_count, before.execution_count);
  out.batch = batches > 0 ? less(now.inference_count, before.inference_count) / batches : 0;
  out.total_us = mean_us(now.success, before.success);
  out.queue_us = mean_us(now.queue, before.queue);
  out.compute_us = mean_us(now.compute_infer, before.compute_infer);
  return out;
}

void show_watched(const Options& options, const Statistics& now, const Statistics& before,
                  double seconds) {
  Json json = Json::array();
  Table table({"model", "version", "requests/s", "items/s", "failed/s", "batch", "mean", "queue",
               "compute"},
              {2, 3, 4, 5, 6, 7, 8});
  const auto time = [](double us) {
    return format_time(std::chrono::nanoseconds(std::llround(us * 1000)));
  };
  for (const auto& [key, version] : now) {
    const auto earlier = before.find(key);
    const Passed row = passed(
        version, earlier == before.end() ? server::VersionStatistics() : earlier->second, seconds);
    json.push_back(
        {{"model", version.name},
         {"version", version.version},
         {"requests_per_s", row.requests_per_s},
         {"items_per_s", row.items_per_s},
         {"failed_per_s", row.failed_per_s},
         {"batch_items_mean", row.batch},
         {"mean_us",
          {{"total", row.total_us}, {"queue", row.queue_us}, {"compute", row.compute_us}}}});
    table.add({printable(version.name), printable(version.version), format_rate(row.requests_per_s),
               format_rate(row.items_per_s), format_rate(row.failed_per_s),
               format_fixed(row.batch, 1), time(row.total_us), time(row.queue_us),
               time(row.compute_us)});
  }
  print(options.json ? json.dump() + "\n" : table.text() + "\n");
}

Result<int> watch(const Options& options, Client& server) {
  const InterruptGuard guard;
  MILLRACE_ASSIGN(Statistics before, look(options, server));
  TimePoint since = Clock::now();
  for (std::int64_t shown = 0; options.count == 0 || shown < options.count; ++shown) {
    if (!sleep_unless_interrupted(std::chrono::seconds(1))) break;
    MILLRACE_ASSIGN(Statistics now, look(options, server));
    const TimePoint time = Clock::now();
    show_watched(options, now, before, std::chrono::duration<double>(time - since).count());
    (void)flush_printed();
    before = std::move(now);
    since = time;
  }
  return kFine;
}

// ------------------------------------------------------------------------------------------------

struct Action {
  Result<int> (*run)(const Options& options, Client& server);
  enum class Model : std::uint8_t { none, may, must } model;
};

const std::map<std::string, Action>& actions() {
  static const std::map<std::string, Action> known = {
      {"health", {health, Action::Model::may}},  {"metadata", {metadata, Action::Model::may}},
      {"models", {models, Action::Model::none}}, {"infer", {infer, Action::Model::must}},
      {"load", {load, Action::Model::must}},     {"unload", {unload, Action::Model::must}},
      {"watch", {watch, Action::Model::may}},
  };
  return known;
}

Result<int> run(const Options& options) {
  const Action& action = actions().at(options.action);
  if (action.model == Action::Model::must && options.model.name.empty())
    throw UsageError(options.action + ": expected the name of a model");
  if (action.model == Action::Model::none && !options.model.name.empty())
    throw UsageError(options.action + " takes no model");
  MILLRACE_ASSIGN(const std::unique_ptr<Client> server,
                  Client::connect(options.url, options.client));
  return action.run(options, *server);
}

constexpr const char* kFooter =
    "health [MODEL]    whether it is live and ready; exit code 1 where it is not\n"
    "metadata [MODEL]  what the server, or the model, says of itself\n"
    "models            the repository's index\n"
    "infer MODEL       puts files, or random data, through a model\n"
    "load MODEL        loads it, or again where its files changed\n"
    "unload MODEL\n"
    "watch [MODEL]     once a second, what the models did";

}  // namespace

void add_client(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("client", "Asks a server, over HTTP or gRPC");
  verb->add_option("URL", options->url, "http://HOST:PORT, https://, grpc:// or grpcs://")
      ->required();
  std::vector<std::string> names;
  for (const auto& [name, action] : actions()) names.push_back(name);
  verb->add_option("ACTION", options->action, join(names, ", "))
      ->required()
      ->check(CLI::IsMember(names))
      ->type_name("");
  verb->add_option("MODEL", options->model.name, "As the server names it");
  verb->add_option("--model-version", options->model.version, "Default: the server's choice")
      ->type_name("V");
  verb->add_option("--input,-i", options->input.inputs,
                   "Of infer: [NAME=]FILE (.npy, .npz, pictures, a folder of pictures), or random")
      ->type_name("FILE")
      ->take_all();
  verb->add_option("--preprocess", options->input.preprocess,
                   "How pictures become inputs: resize=8x8,channels=gray,scale=1/255,...")
      ->type_name("TEXT");
  verb->add_option("--items", options->items, "Of infer: most items in a request (default: 1)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->type_name("N");
  verb->add_option("--timeout", options->timeout_s, "Of infer: a deadline for each, in seconds")
      ->check(CLI::PositiveNumber)
      ->type_name("S");
  verb->add_option("--id", options->id, "Of infer: sent with each")->type_name("TEXT");
  verb->add_option("--output,-o", options->output, "Of infer: write the outputs into this folder")
      ->type_name("DIR");
  verb->add_option("--config", options->config, "Of load: a configuration as JSON, for the file's")
      ->type_name("JSON");
  verb->add_flag("--unload-dependents", options->unload_dependents,
                 "Of unload: the models of an ensemble too");
  verb->add_option("--count", options->count, "Of watch: so many times (default: until Ctrl-C)")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  verb->add_option("--token", options->client.token, "Bearer token")->type_name("TEXT");
  verb->add_option("--tls-ca", options->client.tls.authorities,
                   "Who signs the server's certificate (PEM)")
      ->type_name("FILE");
  verb->add_option("--tls-cert", options->client.tls.certificate, "Of this client (PEM)")
      ->type_name("FILE");
  verb->add_option("--tls-key", options->client.tls.key, "Of this client (PEM)")->type_name("FILE");
  verb->add_flag("--json", options->json, "Print JSON");
  verb->footer(kFooter);
  verb->callback([options, &context] { context.action = [options] { return run(*options); }; });
}

}  // namespace millrace::cli
