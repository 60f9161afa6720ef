// millrace run: a model over files.
#include <algorithm>
#include <deque>
#include <filesystem>
#include <memory>

#include "cli/model_arguments.h"
#include "cli/print.h"
#include "cli/run_inputs.h"
#include "cli/run_outputs.h"
#include "cli/scores.h"
#include "cli/verbs.h"
#include "io/labels.h"
#include "io/npz.h"
#include "io/output_file.h"

namespace millrace::cli {
namespace {

namespace fs = std::filesystem;

// Rows of arrays that are printed; of pictures all are.
constexpr std::int64_t kMostRows = 20;
constexpr std::int64_t kDefaultTop = 3;

struct Options {
  ModelArguments model;
  InputArguments input;
  std::string output;
  std::string format;
  std::string labels;
  std::string trace;
  std::int64_t top = 0;
  bool json = false;
};

struct Answer {
  std::int64_t first = 0;  // item
  std::int64_t items = 1;
  Response response;
};

// Whether an output of an answer has a row for each of its items.
bool has_rows(const TensorView& view, const Answer& answer) {
  return view.shape.rank() > 0 && view.shape[0] == answer.items;
}

// Tells which outputs are scores of classes, and what the best ones of an item are.
class Scores {
 public:
  Scores(std::vector<std::string> labels, std::int64_t top)
      : labels_(std::move(labels)), top_(top) {}

  [[nodiscard]] const NamedTensor* find(const Answer& answer) const {
    for (const NamedTensor& output : answer.response.outputs) {
      const TensorView& view = output.view;
      if (!may_be_scores(view.type, view.shape) || view.shape[0] != answer.items) continue;
      const bool labelled = static_cast<std::int64_t>(labels_.size()) == view.shape[1];
      if (top_ > 0 || labelled || are_probabilities(view)) return &output;
    }
    return nullptr;
  }
  [[nodiscard]] std::vector<Guess> best(const NamedTensor& scores, std::int64_t row) const {
    return best_guesses(scores.view, row * scores.view.shape[1], scores.view.shape[1],
                        top_ > 0 ? top_ : kDefaultTop);
  }
  [[nodiscard]] Json json(const NamedTensor& scores, std::int64_t row) const {
    Json out = Json::array();
    for (const Guess& guess : best(scores, row)) {
      out.push_back({{"label", label_of(labels_, guess.label)},
                     {"class", guess.label},
                     {"score", guess.score}});
    }
    return out;
  }
  [[nodiscard]] std::string text(const NamedTensor& scores, std::int64_t row) const {
    const bool shares = are_probabilities(scores.view);
    std::string out;
    for (const Guess& guess : best(scores, row)) {
      const std::string score =
          shares ? padded_left(format_percent(guess.score), 6) : format_value(guess.score);
      const std::string label = label_of(labels_, guess.label);
      if (out.empty()) {
        out = inked(Ink::bold, label) + " " + score;
      } else {
        out.append("   ").append(inked(Ink::dim, std::string(label).append(" ").append(score)));
      }
    }
    return out;
  }

 private:
  std::vector<std::string> labels_;
  std::int64_t top_;
};

// One JSON object for each item.
Json line_json(const Answer& answer, std::int64_t row, const Inputs& inputs, const Scores& scores) {
  Json outputs = Json::object();
  for (const NamedTensor& output : answer.response.outputs) {
    outputs[output.name] = values_json(output.view, has_rows(output.view, answer) ? row : -1);
  }
  Json line = {{"item", inputs.item_name(answer.first + row)}, {"outputs", std::move(outputs)}};
  if (const NamedTensor* found = scores.find(answer)) line["top"] = scores.json(*found, row);
  return line;
}

// Takes the answers in order and gives them their form.
class Writer {
 public:
  Writer(const Options& options, const Inputs& inputs, const ModelInfo& model, Scores scores)
      : options_(options), inputs_(inputs), scores_(std::move(scores)) {
    for (const TensorInfo& output : model.outputs) {
      summaries_.emplace_back(output.name, output.type);
      collectors_.emplace_back(output.name);
    }
    for (std::int64_t item = 0; item < std::min<std::int64_t>(inputs.items, 10000); ++item) {
      name_columns_ =
          std::clamp(columns_of(inputs.item_name(item)), name_columns_, std::size_t{40});
    }
  }

  // Makes the folder and opens the files, so that it shows early when they cannot be written.
  Result<void> open() {
    if (options_.output.empty()) return {};
    std::error_code error;
    fs::create_directories(options_.output, error);
    if (error)
      return Error{ErrorCode::unavailable,
                   "cannot make the folder " + in_quotes(options_.output) + ": " + error.message()};
    if (options_.format != "jsonl") return {};
    Result<OutputFile> file = OutputFile::create(path("outputs.jsonl"));
    if (!file.ok()) return std::move(file).error();
    lines_ = std::make_unique<OutputFile>(std::move(*file));
    return {};
  }

  Result<void> add(const Answer& answer, Progress& progress) {
    for (std::size_t i = 0; i < answer.response.outputs.size(); ++i) {
      const TensorView& view = answer.response.outputs[i].view;
      summaries_[i].add(view);
      if (!keeps_arrays()) continue;
      Result<void> kept = collectors_[i].add(view);
      if (!kept.ok()) return kept;
    }
    if (options_.format == "jsonl") return add_lines(answer, progress);
    if (options_.json)
      add_results(answer);
    else
      add_rows(answer, progress);
    return {};
  }

  Result<void> finish(double seconds, const Histogram& latency, const OpenModel& open) {
    if (lines_) {
      Result<void> written = lines_->commit();
      if (!written.ok()) return written;
      files_.push_back(path("outputs.jsonl"));
    }
    if (keeps_arrays()) {
      Result<void> written = write_arrays();
      if (!written.ok()) return written;
    }
    if (options_.json)
      print_json(summary(seconds, latency, open));
    else if (options_.format != "jsonl" || lines_)
      print(footer(seconds, open));
    return {};
  }

 private:
  [[nodiscard]] std::string path(std::string_view name) const {
    return (fs::path(options_.output) / name).string();
  }
  [[nodiscard]] bool keeps_arrays() const { return options_.format == "npz"; }

  Result<void> add_lines(const Answer& answer, Progress& progress) {
    for (std::int64_t row = 0; row < answer.items; ++row) {
      const std::string line = line_json(answer, row, inputs_, scores_)
                                   .dump(-1, ' ', false, Json::error_handler_t::replace) +
                               "\n";
      if (!lines_) {
        progress.clear();
        print(line);
        continue;
      }
      Result<void> written = lines_->write(line);
      if (!written.ok()) return written;
    }
    return {};
  }

  void add_rows(const Answer& answer, Progress& progress) {
    const NamedTensor* found = scores_.find(answer);
    if (!found) return;
    for (std::int64_t row = 0; row < answer.items; ++row) {
      if (!inputs_.pictures && rows_ >= kMostRows) return;
      ++rows_;
      progress.clear();
      print("  " + padded(printable(inputs_.item_name(answer.first + row)), name_columns_) + "  " +
            scores_.text(*found, row) + "\n");
    }
  }

  void add_results(const Answer& answer) {
    const NamedTensor* found = scores_.find(answer);
    if (!found) return;
    for (std::int64_t row = 0; row < answer.items; ++row) {
      results_.push_back(
          {{"item", inputs_.item_name(answer.first + row)}, {"top", scores_.json(*found, row)}});
    }
  }

  Result<void> write_arrays() {
    std::vector<NamedTensor> arrays;
    for (const OutputCollector& collector : collectors_) {
      Result<std::vector<NamedTensor>> more = collector.arrays();
      if (!more.ok()) return std::move(more).error();
      for (NamedTensor& array : *more) arrays.push_back(std::move(array));
    }
    Result<void> written = write_npz(arrays, path("outputs.npz"));
    if (written.ok()) files_.push_back(path("outputs.npz"));
    return written;
  }

  [[nodiscard]] std::string footer(double seconds, const OpenModel& open) const {
    std::string out;
    if (rows_ > 0 && rows_ < inputs_.items) {
      out += "  ... and " + format_count(static_cast<std::uint64_t>(inputs_.items - rows_)) +
             " more (--format jsonl prints all)\n";
    }
    if (rows_ > 0) out += "\n";
    Table table({"output", "type", "shape", "min", "mean", "max", "first values"}, {3, 4, 5});
    for (const OutputSummary& summary : summaries_) table.add(summary.row());
    out += table.text() + "\n";
    const auto items = static_cast<std::uint64_t>(inputs_.items);
    std::string devices;
    for (const ModelInfo::Placement& placement : open.model.info().placements) {
      devices += (devices.empty() ? "" : ", ") + to_string(placement.device);
    }
    out += "  " + format_count(items) + (items == 1 ? " item" : " items") + " in " +
           format_time(std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9))) + " (" +
           format_rate(static_cast<double>(items) / seconds) + "/s)" +
           (devices.empty() ? "" : " on " + devices + " by " + open.model.info().backend) + "\n";
    for (const std::string& file : files_) out += "  written: " + file + "\n";
    return out;
  }

  [[nodiscard]] Json summary(double seconds, const Histogram& latency,
                             const OpenModel& open) const {
    const ModelInfo& info = open.model.info();
    Json devices = Json::array();
    for (const ModelInfo::Placement& placement : info.placements)
      devices.push_back(to_string(placement.device));
    Json outputs = Json::array();
    for (const OutputSummary& output : summaries_) outputs.push_back(output.json());
    return {{"model", info.name},
            {"backend", info.backend},
            {"devices", devices},
            {"items", inputs_.items},
            {"requests", inputs_.requests()},
            {"seconds", seconds},
            {"items_per_s", static_cast<double>(inputs_.items) / seconds},
            {"latency_us", latency_json(latency)},
            {"outputs", outputs},
            {"results", results_},
            {"files", files_}};
  }

  const Options& options_;
  const Inputs& inputs_;
  Scores scores_;
  std::vector<OutputSummary> summaries_;
  std::vector<OutputCollector> collectors_;
  std::unique_ptr<OutputFile> lines_;
  std::vector<std::string> files_;
  Json results_ = Json::array();
  std::int64_t rows_ = 0;
  std::size_t name_columns_ = 0;
};

// How many requests are kept in flight: enough that every slot of every lane has a batch and
// another waits, and no more than the model's queue takes.
std::size_t window_of(const OpenModel& open, const Inputs& inputs) {
  const ModelInfo& info = open.model.info();
  std::int64_t slots = 0;
  for (const ModelInfo::Placement& placement : info.placements) {
    slots += std::int64_t{placement.lanes} * placement.slots;
  }
  const std::int64_t items = 2 * std::max<std::int64_t>(slots, 1) * info.max_items;
  const auto wanted = std::clamp<std::int64_t>(items / inputs.items_per_request, 2, 1024);
  return std::min(static_cast<std::size_t>(wanted), open.file.config.limits.max_requests);
}

Result<void> run_all(const OpenModel& open, const Inputs& inputs, Writer& writer,
                     Progress& progress, Histogram& latency) {
  std::deque<Future> flying;
  const std::size_t window = window_of(open, inputs);
  std::int64_t sent = 0;
  for (std::int64_t taken = 0; taken < inputs.requests(); ++taken) {
    for (; sent < inputs.requests() && flying.size() < window; ++sent) {
      Result<Request> request = inputs.request(sent);
      if (!request.ok()) return std::move(request).error();
      flying.push_back(open.model.submit(std::move(*request)));
    }
    Result<Response> response = flying.front().get();
    flying.pop_front();
    if (!response.ok()) {
      Error error = std::move(response).error();
      if (inputs.items > 1)
        error.message = inputs.item_name(taken * inputs.items_per_request) + ": " + error.message;
      return error;
    }
    const std::chrono::nanoseconds time = response->times.completed - response->times.submitted;
    latency.record(static_cast<std::uint64_t>(std::max<std::int64_t>(time.count(), 0)));
    const Answer answer{taken * inputs.items_per_request, inputs.items_of(taken),
                        std::move(*response)};
    Result<void> added = writer.add(answer, progress);
    if (!added.ok()) return added;
    progress.update(static_cast<std::uint64_t>(answer.first + answer.items));
  }
  return {};
}

Result<std::vector<std::string>> labels_of(const Options& options, const ModelFile& file) {
  const std::string& path = options.labels.empty() ? file.labels : options.labels;
  if (path.empty()) return std::vector<std::string>{};
  return read_labels(path);
}

Result<int> run(Options options) {
  if (options.format.empty()) options.format = options.output.empty() ? "table" : "npz";
  if (options.format == "npz" && options.output.empty())
    throw UsageError("--format npz needs a folder: --output DIR");
  if (options.json && options.format == "jsonl" && options.output.empty()) {
    throw UsageError(
        "--json and --format jsonl both print to standard output; add --output DIR for the lines");
  }
  EngineOptions engine;
  if (!options.trace.empty()) {
    engine.trace_capacity = std::size_t{1} << 16;
    engine.sample_every = 1;
  }
  Result<OpenModel> open = open_model(options.model, engine);
  if (!open.ok()) return std::move(open).error();
  Result<std::vector<std::string>> labels = labels_of(options, open->file);
  if (!labels.ok()) return std::move(labels).error();
  Result<Inputs> inputs = open_inputs(options.input, open->model.info(), open->file.preprocess);
  if (!inputs.ok()) return std::move(inputs).error();

  Writer writer(options, *inputs, open->model.info(), Scores(std::move(*labels), options.top));
  Result<void> done = writer.open();
  if (!done.ok()) return std::move(done).error();
  Histogram latency;
  const TimePoint start = Clock::now();
  {
    Progress progress("running", static_cast<std::uint64_t>(inputs->items),
                      inputs->pictures ? "images" : "items");
    done = run_all(*open, *inputs, writer, progress, latency);
  }
  if (!done.ok()) return std::move(done).error();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  done = writer.finish(seconds, latency, *open);
  if (done.ok() && !options.trace.empty())
    done = write_chrome_trace(open->engine.timelines(), options.trace);
  if (done.ok()) done = check_faults(open->engine);
  if (!done.ok()) return std::move(done).error();
  return kFine;
}

}  // namespace

void add_run(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      app.add_subcommand("run", "Runs a model over files: arrays, pictures, folders of pictures");
  add_model_arguments(*verb, options->model);
  verb->add_option("--input,-i", options->input.inputs,
                   "name=FILE: .npy, .npz (its arrays named like inputs), .png, .jpg, or a folder "
                   "of pictures")
      ->required()
      ->type_name("NAME=FILE")
      ->take_all();
  verb->add_option("--output,-o", options->output, "Write the outputs into this folder")
      ->type_name("DIR");
  verb->add_option("--format", options->format, "table, jsonl, or npz (default with --output)")
      ->check(CLI::IsMember({"table", "npz", "jsonl"}))
      ->type_name("FORMAT");
  verb->add_option("--top", options->top, "Show this many best classes of outputs [N,C]")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1000000}))
      ->type_name("K");
  verb->add_option("--labels", options->labels,
                   "Names of the classes, one a line (default: the configuration's)")
      ->type_name("FILE");
  verb->add_option("--preprocess", options->input.preprocess,
                   "How pictures become inputs: resize=8x8,channels=gray,scale=1/255,...")
      ->type_name("TEXT");
  add_lane_arguments(*verb, options->model);
  verb->add_option("--trace", options->trace,
                   "Write every batch's timeline for Perfetto or chrome://tracing")
      ->type_name("FILE");
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([options, &context] { context.action = [options] { return run(*options); }; });
}

}  // namespace millrace::cli
