// What a model's neighbours on a device cost it: its latency alone and beside one whose enqueue
// blocks, one that is loaded and unloaded all the time, and one that hangs, measured in turn.
#include <atomic>
#include <functional>
#include <vector>

#include "support.h"

namespace {

using namespace millrace;

ModelConfig config_of(std::string name, std::string path) {
  ModelConfig config;
  config.name = std::move(name);
  config.path = std::move(path);
  config.batching.max_items = 4;
  return config;
}

// Something that troubles the device between `start` and `stop`.
class Neighbour {
 public:
  virtual ~Neighbour() = default;
  virtual void start() = 0;
  virtual void stop() = 0;
};

class Blocking final : public Neighbour {
 public:
  explicit Blocking(Engine& engine) {
    model_ = bench::value_or_die(
        engine.load(config_of("blocking", "reference:busy?mode=sleep&batch_us=100000&blocking=1")));
    cli::LoadOptions options;
    options.concurrency = 8;
    load_ = bench::load_on(model_, options);
  }
  void start() override { load_->start(); }
  void stop() override { bench::ok_or_die(load_->stop()); }

 private:
  Model model_;
  std::unique_ptr<cli::LoadGenerator> load_;
};

class Loading final : public Neighbour {
 public:
  explicit Loading(Engine& engine) : engine_(engine) {}
  void start() override {
    running_ = true;
    thread_ = std::thread([this] {
      while (running_) {
        bench::value_or_die(engine_.load(config_of(
            "loading", "reference:identity?load_us=100000&wants_prepare=1&prepare_us=20000")));
        bench::ok_or_die(engine_.unload("loading"));
        ++loads_;
      }
    });
  }
  void stop() override {
    running_ = false;
    thread_.join();
    if (loads_ == 0) bench::die("nothing was loaded");
  }

 private:
  Engine& engine_;
  std::atomic<bool> running_{false};
  std::atomic<int> loads_{0};
  std::thread thread_;
};

// Its first batch never ends; the engine gives it up in the middle of the window.
class Hanging final : public Neighbour {
 public:
  explicit Hanging(Engine& engine) : engine_(engine) {}
  void start() override {
    ModelConfig config = config_of("hanging", "reference:hang?at=1");
    config.hang_timeout = std::chrono::milliseconds(300);
    model_ = bench::value_or_die(engine_.load(config));
    Request request;
    request.inputs.push_back(
        {model_.info().inputs[0].name, TensorView::of(item_.data(), {1, 16}), {}});
    answer_ = model_.submit(std::move(request));
  }
  void stop() override {
    const Result<Response> answer = answer_.get();
    if (answer.ok()) bench::die("the model that hangs has answered");
    const Result<void> gone = engine_.unload("hanging", std::chrono::seconds(5));
    if (gone.ok() || gone.error().code != ErrorCode::unavailable)
      bench::die("unloading a model that hangs did not say so");
  }

 private:
  Engine& engine_;
  Model model_;
  Future answer_;
  std::vector<float> item_ = std::vector<float>(16, 1.0F);
};

bench::Json measure_beside(const std::string& name,
                           const std::function<std::unique_ptr<Neighbour>(Engine&)>& make,
                           double seconds, int rounds) {
  EngineOptions engine_options;
  engine_options.devices.devices = {"host:0"};
  engine_options.shutdown_timeout = std::chrono::seconds(1);
  Engine engine = bench::value_or_die(Engine::create(engine_options));
  const Model model = bench::value_or_die(
      engine.load(config_of("measured", "reference:busy?mode=sleep&batch_us=2000")));
  cli::LoadOptions options;
  options.concurrency = 8;
  const auto load = bench::load_on(model, options);
  const std::unique_ptr<Neighbour> neighbour = make(engine);
  Histogram alone;
  Histogram beside;
  std::vector<double> ratios;
  bench::Json samples = bench::Json::array();
  load->start();
  for (int round = 0; round < rounds; ++round) {
    const bench::Window quiet = bench::count_for(*load, 0.05, seconds);
    neighbour->start();
    const bench::Window loud = bench::count_for(*load, 0.05, seconds);
    neighbour->stop();
    alone.merge(quiet.tally.latency);
    beside.merge(loud.tally.latency);
    const auto p99 = [](const bench::Window& window) {
      return static_cast<double>(window.tally.latency.quantile(0.99)) / 1000;
    };
    ratios.push_back(p99(loud) / p99(quiet));
    samples.push_back({{"alone_p99_us", p99(quiet)}, {"beside_p99_us", p99(loud)}});
  }
  bench::ok_or_die(load->stop());
  const cli::Spread spread = cli::spread_of(ratios);
  return {{"neighbour", name},
          {"alone_us", cli::latency_json(alone)},
          {"beside_us", cli::latency_json(beside)},
          {"p99_ratio", spread.median},
          {"p99_ratio_min", spread.min},
          {"p99_ratio_max", spread.max},
          {"samples", samples}};
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 1;
  int rounds = 9;
  return bench::run(
      argc, argv, "Measures what troublesome neighbours on a device cost another model's latency.",
      [&](CLI::App& app) {
        app.add_option("--seconds", seconds, "Length of a window (default: 1)")
            ->check(CLI::Range(0.4, 3600.0));
        app.add_option("--rounds", rounds, "Pairs of windows for each neighbour (default: 9)")
            ->check(CLI::Range(1, 1000));
      },
      [&] {
        bench::Json json = bench::Json::array();
        json.push_back(measure_beside(
            "blocks for 100 ms in enqueue", [](Engine& e) { return std::make_unique<Blocking>(e); },
            seconds, rounds));
        json.push_back(measure_beside(
            "is loaded and unloaded", [](Engine& e) { return std::make_unique<Loading>(e); },
            seconds, rounds));
        json.push_back(measure_beside(
            "hangs", [](Engine& e) { return std::make_unique<Hanging>(e); }, seconds, rounds));
        return bench::Json{{"model", "reference:busy?mode=sleep&batch_us=2000"},
                           {"neighbours", json}};
      });
}
