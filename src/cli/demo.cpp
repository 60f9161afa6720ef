// millrace demo: the digits model over its held-out images.
#include <algorithm>
#include <deque>
#include <filesystem>
#include <memory>

#include "cli/demo_outcome.h"
#include "cli/scores.h"
#include "cli/verbs.h"
#include "io/labels.h"
#include "io/npz.h"

namespace millrace::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kGuesses = 3;  // kept of each answer

struct Options {
  ModelArguments model;
  std::string path;
  std::string labels;
  double seconds = 2;
  int in_flight = 64;
  bool json = false;
};

Error failure(ErrorCode code, std::string message) { return {code, std::move(message)}; }

// The example's folder: named, or in the repository that holds this program, or below the current
// folder.
Result<std::string> find_example(const std::string& named) {
  if (!named.empty()) return named;
  const fs::path example = fs::path("examples") / "digits";
  std::error_code error;
  std::vector<fs::path> places;
  for (fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
       folder.has_relative_path(); folder = folder.parent_path()) {
    places.push_back(folder / example);
  }
  places.push_back(example);
  for (const fs::path& place : places) {
    if (fs::is_regular_file(place / "millrace.json", error)) return place.string();
  }
  return failure(ErrorCode::not_found,
                 "cannot find examples/digits above this program or in the current folder; name it "
                 "with --path");
}

Result<Tensor> array_of(const std::string& path, std::string_view name) {
  Result<std::vector<NamedArray>> arrays = read_npz(path);
  if (!arrays.ok()) return std::move(arrays).error();
  for (NamedArray& array : *arrays) {
    if (array.name == name) return Tensor(array.view, std::move(array.lease));
  }
  return failure(ErrorCode::invalid_argument,
                 path + ": expected an array " + in_quotes(name) + "; it has none");
}

Result<HeldOut> read_held_out(const std::string& images, const std::string& labels) {
  HeldOut out;
  Result<Tensor> pixels = array_of(images, "images");
  if (!pixels.ok()) return std::move(pixels).error();
  Result<Tensor> truth = array_of(labels, "labels");
  if (!truth.ok()) return std::move(truth).error();
  if (pixels->type() != DataType::fp32 || !matches(pixels->shape(), {kDynamic, 1, 8, 8}) ||
      pixels->shape()[0] == 0) {
    return failure(ErrorCode::invalid_argument,
                   images +
                       ": expected \"images\" to be FP32 [N,1,8,8] with N of at least 1, got " +
                       std::string(to_string(pixels->type())) + " " + to_string(pixels->shape()));
  }
  if (truth->type() != DataType::int64 || truth->shape() != Shape{pixels->shape()[0]}) {
    return failure(ErrorCode::invalid_argument, labels + ": expected \"labels\" to be INT64 [" +
                                                    std::to_string(pixels->shape()[0]) + "], got " +
                                                    std::string(to_string(truth->type())) + " " +
                                                    to_string(truth->shape()));
  }
  out.images = std::move(*pixels);
  const auto* values = truth->as<std::int64_t>();
  out.labels.assign(values, values + out.count());
  out.labels_from = labels;
  return out;
}

class Runner {
 public:
  Runner(const Model& model, const HeldOut& data)
      : model_(model), data_(data), answers_(static_cast<std::size_t>(data.count())) {}

  // Sends single images round and round, `in_flight` at a time, until the time is over and every
  // image has been answered at least `rounds` times.
  Result<Stretch> run(int in_flight, double seconds, int rounds, Progress& progress) {
    Stretch stretch;
    stretch.in_flight = in_flight;
    const ModelStatistics before = model_.statistics();
    const TimePoint start = Clock::now();
    const TimePoint end =
        start + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
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
    request.inputs.push_back(
        {"images", slice(data_.images.view(), image, 1), data_.images.lease()});
    return request;
  }

  Result<void> take(std::int64_t image, Result<Response> response, Stretch& stretch) {
    if (!response.ok()) return std::move(response).error();
    const TensorView& scores = response->outputs[0].view;
    if (!may_be_scores(scores.type, scores.shape)) {
      return failure(ErrorCode::invalid_argument,
                     "expected the model to answer with scores [1,C], got " +
                         std::string(to_string(scores.type)) + " " + to_string(scores.shape));
    }
    std::vector<Guess> guesses = best_guesses(scores, 0, scores.shape[1], kGuesses);
    Answer& first = answers_[static_cast<std::size_t>(image)];
    if (first.guesses.empty())
      first.guesses = std::move(guesses);
    else if (first.guesses[0].label != guesses[0].label)
      ++changed_;
    ++stretch.answers;
    const auto latency =
        std::chrono::nanoseconds(response->times.completed - response->times.submitted);
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
  const std::size_t room = open->file.config.limits.max_requests;
  const int in_flight =
      static_cast<int>(std::min<std::size_t>(room, static_cast<std::size_t>(options.in_flight)));
  Result<Stretch> full = runner.run(in_flight, options.seconds * (1 - kSingleShare), 1, progress);
  if (!full.ok()) return std::move(full).error();
  Result<Stretch> single = runner.run(1, options.seconds * kSingleShare, 0, progress);
  if (!single.ok()) return std::move(single).error();
  progress.clear();

  const Outcome outcome{*open,
                        *data,
                        std::move(*names),
                        runner.answers(),
                        runner.changed(),
                        std::move(*full),
                        std::move(*single)};
  if (options.json)
    print_outcome_json(outcome);
  else
    print_outcome(outcome);
  return kFine;
}

}  // namespace

void add_demo(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand(
      "demo", "Runs the digits example: accuracy, speed, and a look at some images");
  verb->add_option("--path", options->path,
                   "The example's folder (default: found beside this program)")
      ->type_name("DIR");
  verb->add_option("--labels", options->labels, "An .npz file whose \"labels\" count as the truth")
      ->type_name("FILE");
  verb->add_option("--duration", options->seconds, "How long to run (default: 2)")
      ->check(CLI::Range(0.1, 3600.0))
      ->type_name("SECONDS");
  verb->add_option("--in-flight", options->in_flight, "Requests in flight (default: 64)")
      ->check(CLI::Range(1, 65536))
      ->type_name("N");
  verb->add_option("--devices", options->model.devices,
                   "Devices to run on (default: all GPUs, else host)")
      ->delimiter(',')
      ->type_name("LIST");
  verb->add_option("--backend", options->model.backend, "What runs the model")->type_name("NAME");
  add_lane_arguments(*verb, options->model);
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([options, &context] { context.action = [options] { return run(*options); }; });
}

}  // namespace millrace::cli
