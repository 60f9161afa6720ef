// millrace demo: the digits model over its held-out images.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include <millrace/version.h>

#include "cli/model_arguments.h"
#include "cli/print.h"
#include "cli/scores.h"
#include "cli/verbs.h"
#include "io/labels.h"
#include "io/npz.h"

namespace millrace::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kSamples = 6;
constexpr std::int64_t kGuesses = 3;

struct Options {
  ModelArguments model;
  std::string path;
  std::string labels;
  double seconds = 2;
  int in_flight = 64;
  bool json = false;
};

Error failure(ErrorCode code, std::string message) { return {code, std::move(message)}; }

// The example's folder: named, or in the repository that holds this program, or below the current folder.
Result<std::string> find_example(const std::string& named) {
  if (!named.empty()) return named;
  const fs::path example = fs::path("examples") / "digits";
  std::error_code error;
  std::vector<fs::path> places;
  for (fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path(); folder.has_relative_path();
       folder = folder.parent_path()) {
    places.push_back(folder / example);
  }
  places.push_back(example);
  for (const fs::path& place : places) {
    if (fs::is_regular_file(place / "millrace.json", error)) return place.string();
  }
  return failure(ErrorCode::not_found,
                 "cannot find examples/digits above this program or in the current folder; name it with --path");
}

// The images with what they really show.
struct HeldOut {
  Tensor images;
  std::vector<std::int64_t> labels;
  std::string labels_from;

  [[nodiscard]] std::int64_t count() const { return images.shape()[0]; }
};

Result<Tensor> array_of(const std::string& path, std::string_view name) {
  Result<std::vector<NamedArray>> arrays = read_npz(path);
  if (!arrays.ok()) return std::move(arrays).error();
  for (NamedArray& array : *arrays) {
    if (array.name == name) return Tensor(array.view, std::move(array.lease));
  }
  return failure(ErrorCode::invalid_argument, path + ": expected an array " + in_quotes(name) + "; it has none");
}

Result<HeldOut> read_held_out(const std::string& images, const std::string& labels) {
  HeldOut out;
  Result<Tensor> pixels = array_of(images, "images");
  if (!pixels.ok()) return std::move(pixels).error();
  Result<Tensor> truth = array_of(labels, "labels");
  if (!truth.ok()) return std::move(truth).error();
  if (pixels->type() != DataType::fp32 || !matches(pixels->shape(), {kDynamic, 1, 8, 8}) || pixels->shape()[0] == 0) {
    return failure(ErrorCode::invalid_argument, images + ": expected \"images\" to be FP32 [N,1,8,8] with N of at least 1, got " +
                                                    std::string(to_string(pixels->type())) + " " + to_string(pixels->shape()));
  }
  if (truth->type() != DataType::int64 || truth->shape() != Shape{pixels->shape()[0]}) {
    return failure(ErrorCode::invalid_argument, labels + ": expected \"labels\" to be INT64 [" + std::to_string(pixels->shape()[0]) +
                                                    "], got " + std::string(to_string(truth->type())) + " " + to_string(truth->shape()));
  }
  out.images = std::move(*pixels);
  const auto* values = truth->as<std::int64_t>();
  out.labels.assign(values, values + out.count());
  out.labels_from = labels;
  return out;
}

// What the model said to an image when it saw it first.
struct Answer {
  std::vector<Guess> guesses;
};

// One stretch of requests with so many in flight.
struct Stretch {
  int in_flight = 0;
  std::uint64_t answers = 0;
  double seconds = 0;
  Histogram latency;  // nanoseconds
  ModelStatistics statistics;
  std::map<std::string, std::uint64_t> by_device;
  std::set<std::pair<std::string, int>> lanes;

  [[nodiscard]] double rate() const { return seconds > 0 ? static_cast<double>(answers) / seconds : 0; }
};

class Runner {
 public:
  Runner(const Model& model, const HeldOut& data) : model_(model), data_(data), answers_(static_cast<std::size_t>(data.count())) {}

  // Sends single images round and round, `in_flight` at a time, until the time is over and every image
  // has been answered at least `rounds` times.
  Result<Stretch> run(int in_flight, double seconds, int rounds, Progress& progress) {
    Stretch stretch;
    stretch.in_flight = in_flight;
    const ModelStatistics before = model_.statistics();
    const TimePoint start = Clock::now();
    const TimePoint end = start + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
    const std::int64_t least = data_.count() * rounds;
    std::deque<std::pair<std::int64_t, Future>> flying;
    std::int64_t sent = 0;
    while (true) {
      const bool more = sent < least || Clock::now() < end;
      if (more && static_cast<int>(flying.size()) < in_flight) {
        const std::int64_t image = sent++ % data_.count();
        flying.emplace_back(image, model_.submit(request_of(image)));
        continue;
      }
      if (flying.empty()) break;
      Result<void> taken = take(flying.front().first, flying.front().second.get(), stretch);
      if (!taken.ok()) return std::move(taken).error();
      flying.pop_front();
      progress.update(++done_);
    }
    stretch.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    stretch.statistics = difference(model_.statistics(), before);
    return stretch;
  }

  [[nodiscard]] const std::vector<Answer>& answers() const { return answers_; }
  [[nodiscard]] std::uint64_t changed() const { return changed_; }

 private:
  Request request_of(std::int64_t image) const {
    Request request;
    request.inputs.push_back({"images", slice(data_.images.view(), image, 1), data_.images.lease()});
    return request;
  }

  Result<void> take(std::int64_t image, Result<Response> response, Stretch& stretch) {
    if (!response.ok()) return std::move(response).error();
    const TensorView& scores = response->outputs[0].view;
    if (!may_be_scores(scores.type, scores.shape)) {
      return failure(ErrorCode::invalid_argument, "expected the model to answer with scores [1,C], got " +
                                                      std::string(to_string(scores.type)) + " " + to_string(scores.shape));
    }
    std::vector<Guess> guesses = best_guesses(scores, 0, kGuesses);
    Answer& first = answers_[static_cast<std::size_t>(image)];
    if (first.guesses.empty()) first.guesses = std::move(guesses);
    else if (first.guesses[0].label != guesses[0].label) ++changed_;
    ++stretch.answers;
    const auto latency = std::chrono::nanoseconds(response->times.completed - response->times.submitted);
    stretch.latency.record(static_cast<std::uint64_t>(std::max<std::int64_t>(latency.count(), 0)));
    ++stretch.by_device[to_string(response->device)];
    stretch.lanes.emplace(to_string(response->device), response->lane);
    return {};
  }

  const Model& model_;
  const HeldOut& data_;
  std::vector<Answer> answers_;
  std::uint64_t changed_ = 0;
  std::uint64_t done_ = 0;
};

// All that is shown, in whatever form.
struct Outcome {
  const OpenModel& open;
  const HeldOut& data;
  std::vector<std::string> names;  // of the classes
  std::vector<Answer> answers;
  std::uint64_t changed = 0;
  Stretch full;
  Stretch single;

  [[nodiscard]] bool right(std::int64_t image) const {
    const auto i = static_cast<std::size_t>(image);
    return answers[i].guesses[0].label == data.labels[i];
  }
  [[nodiscard]] std::int64_t correct() const {
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < data.count(); ++i) count += right(i) ? 1 : 0;
    return count;
  }
  [[nodiscard]] double accuracy() const { return static_cast<double>(correct()) / static_cast<double>(data.count()); }
};

// Three typical images (the first ones of three classes), those of which the model was least sure though
// right, and last one that it got wrong, where there is one.
std::vector<std::int64_t> pick_samples(const Outcome& outcome) {
  constexpr std::size_t kTypical = 3;
  std::vector<std::int64_t> right;
  std::vector<std::int64_t> wrong;
  for (std::int64_t i = 0; i < outcome.data.count(); ++i) (outcome.right(i) ? right : wrong).push_back(i);
  std::vector<std::int64_t> picked;
  std::set<std::int64_t> classes;
  for (const std::int64_t i : right) {
    if (picked.size() < kTypical && classes.insert(outcome.data.labels[static_cast<std::size_t>(i)]).second) picked.push_back(i);
  }
  const auto sureness = [&](std::int64_t i) { return outcome.answers[static_cast<std::size_t>(i)].guesses[0].score; };
  std::stable_sort(right.begin(), right.end(), [&](std::int64_t a, std::int64_t b) { return sureness(a) < sureness(b); });
  const std::size_t unsure = kSamples - std::min<std::size_t>(wrong.size(), 1);
  for (const std::int64_t i : right) {
    const bool there = std::find(picked.begin(), picked.end(), i) != picked.end();
    if (picked.size() < unsure && !there) picked.push_back(i);
  }
  for (const std::int64_t i : wrong) {
    if (picked.size() < kSamples) picked.push_back(i);
  }
  return picked;
}

// Two columns for a pixel, from nothing to full ink.
std::string pixel(double share) {
  if (colours_on(stdout) && utf8_locale()) {
    const int gray = 232 + static_cast<int>(std::lround(share * 23));  // the 24 grays of a terminal
    return "\033[48;5;" + std::to_string(gray) + "m  \033[0m";
  }
  if (utf8_locale()) {
    constexpr const char* kShades[] = {"  ", "░░", "▒▒", "▓▓", "██"};
    return kShades[std::lround(share * 4)];
  }
  constexpr std::string_view kRamp = " .:-=+*#%@";
  return std::string(2, kRamp[static_cast<std::size_t>(std::lround(share * 9))]);
}

// An image and, beside it, what it is and what the model took it for: eight lines of equal width.
std::vector<std::string> drawn(const Outcome& outcome, std::int64_t image) {
  constexpr double kBrightest = 16;
  const auto i = static_cast<std::size_t>(image);
  const auto* pixels = outcome.data.images.as<const float>() + image * 64;
  const bool right = outcome.right(image);
  std::vector<std::string> beside(8);
  beside[0] = inked(Ink::bold, "label " + label_of(outcome.names, outcome.data.labels[i])) + "  " +
              inked(right ? Ink::green : Ink::red, right ? "right" : "wrong");
  std::size_t line = 2;
  for (const Guess& guess : outcome.answers[i].guesses) {
    const bool truth = guess.label == outcome.data.labels[i];
    beside[line++] = label_of(outcome.names, guess.label) + " " + inked(truth ? Ink::green : Ink::red, bar(guess.score, 10)) +
                     padded_left(format_percent(guess.score), 7);
  }
  std::vector<std::string> lines;
  for (std::size_t y = 0; y < 8; ++y) {
    std::string text;
    for (std::size_t x = 0; x < 8; ++x) {
      text += pixel(std::clamp(static_cast<double>(pixels[y * 8 + x]) / kBrightest, 0.0, 1.0));
    }
    lines.push_back(padded(text + "  " + beside[y], 38));
  }
  return lines;
}

std::string samples_text(const Outcome& outcome) {
  const std::vector<std::int64_t> picked = pick_samples(outcome);
  std::string out;
  for (std::size_t first = 0; first < picked.size(); first += 2) {
    const std::vector<std::string> left = drawn(outcome, picked[first]);
    const std::vector<std::string> right =
        first + 1 < picked.size() ? drawn(outcome, picked[first + 1]) : std::vector<std::string>(8);
    for (std::size_t y = 0; y < 8; ++y) {
      std::string line = "  " + left[y] + "  " + right[y];
      line.resize(line.find_last_not_of(' ') + 1);
      out += line + "\n";
    }
    out += "\n";
  }
  return out;
}

std::string backend_version(const std::string& name) {
  for (const BackendInfo& backend : backend_infos()) {
    if (backend.name == name) return backend.version;
  }
  return {};
}

std::string device_name(const Engine& engine, DeviceId id) {
  for (const DeviceRef device : engine.devices()) {
    if (device->id() == id) return device->info().name;
  }
  return {};
}

std::string speed_text(const Outcome& outcome) {
  Table table({"requests in flight", "images/s", "p50", "p90", "p99", "images in a batch"}, {1, 2, 3, 4, 5});
  for (const Stretch* stretch : {&outcome.full, &outcome.single}) {
    const auto quantile = [&](double q) {
      return format_time(std::chrono::nanoseconds(static_cast<std::int64_t>(stretch->latency.quantile(q))));
    };
    table.add({std::to_string(stretch->in_flight), format_rate(stretch->rate()), quantile(0.5), quantile(0.9), quantile(0.99),
               format_fixed(stretch->statistics.batch_items.mean(), 1)});
  }
  return table.text();
}

std::string phases_text(const Outcome& outcome) {
  const std::map<Phase, std::string_view> told = {
      {Phase::queue, "waiting for a free lane"},   {Phase::stage, "forming the batch, enqueueing it"},
      {Phase::copy_in, "inputs into the batch"},   {Phase::compute, "the model itself"},
      {Phase::copy_out, "outputs out of the batch"}, {Phase::complete, "handing the answers over"}};
  double whole = 0;
  for (const auto& [phase, text] : told) whole += outcome.full.statistics.phase(phase).mean();
  Table table({"phase", "mean", "share", "", ""}, {1, 2});
  for (const auto& [phase, text] : told) {
    const Histogram& times = outcome.full.statistics.phase(phase);
    if (times.count() == 0) continue;
    const double share = whole > 0 ? times.mean() / whole : 0;
    table.add({std::string(to_string(phase)), format_time(std::chrono::nanoseconds(std::llround(times.mean()))),
               format_percent(share), inked(Ink::cyan, bar(share, 16)), inked(Ink::dim, text)});
  }
  return table.text();
}

std::string where_text(const Outcome& outcome) {
  Table table({"device", "name", "backend", "lanes", "images", "batches"}, {3, 4, 5});
  const ModelInfo& info = outcome.open.model.info();
  for (const ModelInfo::Placement& placement : info.placements) {
    const std::string id = to_string(placement.device);
    const auto lanes = static_cast<std::size_t>(std::count_if(outcome.full.lanes.begin(), outcome.full.lanes.end(),
                                                              [&](const auto& lane) { return lane.first == id; }));
    const auto count = outcome.full.by_device.find(id);
    const bool alone = info.placements.size() == 1;
    table.add({id, device_name(outcome.open.engine, placement.device), info.backend + " " + backend_version(info.backend),
               std::to_string(lanes) + " of " + std::to_string(placement.lanes),
               format_count(count == outcome.full.by_device.end() ? 0 : count->second),
               alone ? format_count(outcome.full.statistics.batches) : "-"});
  }
  return table.text();
}

std::string title(std::string_view text) { return inked(Ink::bold, text) + "\n"; }

void print_outcome(const Outcome& outcome) {
  const std::string share = std::to_string(outcome.correct()) + " of " + std::to_string(outcome.data.count());
  std::string out = title("Millrace " + std::string(version()) + ": handwritten digits that the model has not seen before");
  out += "\n  accuracy  " + inked(Ink::bold, format_fixed(outcome.accuracy(), 4)) + "  (" + share + " images right)\n";
  out += "  speed     " + inked(Ink::bold, format_rate(outcome.full.rate())) + " images/s, each image a request of its own\n";
  if (outcome.changed > 0) {
    out += "  " + inked(Ink::red, format_count(outcome.changed) + " answers differ from the first one to the same image") + "\n";
  }
  out += "\n" + title("Speed and latency") + speed_text(outcome);
  out += "\n" + title("Where the time of a request goes (" + std::to_string(outcome.full.in_flight) + " in flight)") + phases_text(outcome);
  out += "\n" + title("What ran where (" + std::to_string(outcome.full.in_flight) + " in flight)") + where_text(outcome);
  out += "\n" + title("Six of the images: typical ones, the least certain, and one it got wrong if there is any") + "\n" + samples_text(outcome);
  print(out);
}

Json stretch_json(const Stretch& stretch) {
  Json phases = Json::object();
  for (std::size_t i = 0; i < kPhases; ++i) {
    phases[std::string(to_string(static_cast<Phase>(i)))] = latency_json(stretch.statistics.phases[i]);
  }
  Json devices = Json::object();
  for (const auto& [device, images] : stretch.by_device) devices[device] = images;
  return {{"in_flight", stretch.in_flight},
          {"answers", stretch.answers},
          {"seconds", stretch.seconds},
          {"images_per_s", stretch.rate()},
          {"latency_us", latency_json(stretch.latency)},
          {"phases_us", phases},
          {"batches", stretch.statistics.batches},
          {"batch_items", {{"mean", stretch.statistics.batch_items.mean()}, {"max", stretch.statistics.batch_items.max()}}},
          {"images_by_device", devices}};
}

void print_outcome_json(const Outcome& outcome) {
  const ModelInfo& info = outcome.open.model.info();
  Json placements = Json::array();
  for (const ModelInfo::Placement& placement : info.placements) {
    placements.push_back({{"device", to_string(placement.device)},
                          {"name", device_name(outcome.open.engine, placement.device)},
                          {"lanes", placement.lanes},
                          {"slots", placement.slots}});
  }
  Json samples = Json::array();
  for (const std::int64_t image : pick_samples(outcome)) {
    const auto i = static_cast<std::size_t>(image);
    Json guesses = Json::array();
    for (const Guess& guess : outcome.answers[i].guesses) {
      guesses.push_back({{"label", label_of(outcome.names, guess.label)}, {"probability", guess.score}});
    }
    samples.push_back({{"image", image}, {"label", label_of(outcome.names, outcome.data.labels[i])}, {"guesses", guesses}});
  }
  print_json({{"model", info.name},
              {"path", info.path},
              {"backend", info.backend},
              {"backend_version", backend_version(info.backend)},
              {"labels_from", outcome.data.labels_from},
              {"images", outcome.data.count()},
              {"correct", outcome.correct()},
              {"accuracy", outcome.accuracy()},
              {"answers_that_changed", outcome.changed},
              {"ran_on", placements},
              {"runs", Json::array({stretch_json(outcome.full), stretch_json(outcome.single)})},
              {"samples", samples}});
}

Result<int> run(const Options& options) {
  Result<std::string> folder = find_example(options.path);
  if (!folder.ok()) return std::move(folder).error();
  const std::string images = (fs::path(*folder) / "held_out.npz").string();
  Result<HeldOut> data = read_held_out(images, options.labels.empty() ? images : options.labels);
  if (!data.ok()) return std::move(data).error();
  ModelArguments arguments = options.model;
  arguments.model = *folder;
  Result<OpenModel> open = open_model(arguments);
  if (!open.ok()) return std::move(open).error();
  Result<std::vector<std::string>> names = std::vector<std::string>{};
  if (!open->file.labels.empty()) names = read_labels(open->file.labels);
  if (!names.ok()) return std::move(names).error();

  Progress progress("running", 0, "images");
  Runner runner(open->model, *data);
  constexpr double kSingleShare = 0.25;
  Result<Stretch> full = runner.run(options.in_flight, options.seconds * (1 - kSingleShare), 1, progress);
  if (!full.ok()) return std::move(full).error();
  Result<Stretch> single = runner.run(1, options.seconds * kSingleShare, 0, progress);
  if (!single.ok()) return std::move(single).error();
  progress.clear();

  const Outcome outcome{*open, *data, std::move(*names), runner.answers(), runner.changed(), std::move(*full), std::move(*single)};
  if (options.json) print_outcome_json(outcome);
  else print_outcome(outcome);
  return kFine;
}

}  // namespace

void add_demo(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("demo", "Runs the digits example: accuracy, speed, and a look at some images");
  verb->add_option("--path", options->path, "The example's folder (default: found beside this program)")->type_name("DIR");
  verb->add_option("--labels", options->labels, "An .npz file whose \"labels\" count as the truth")->type_name("FILE");
  verb->add_option("--duration", options->seconds, "How long to run (default: 2)")->check(CLI::Range(0.1, 3600.0))->type_name("SECONDS");
  verb->add_option("--in-flight", options->in_flight, "Requests in flight (default: 64)")->check(CLI::Range(1, 65536))->type_name("N");
  verb->add_option("--devices", options->model.devices, "Devices to run on (default: all GPUs, else host)")->delimiter(',')->type_name("LIST");
  verb->add_option("--backend", options->model.backend, "What runs the model")->type_name("NAME");
  add_lane_arguments(*verb, options->model);
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([options, &context] { context.action = [options] { return run(*options); }; });
}

}  // namespace millrace::cli
