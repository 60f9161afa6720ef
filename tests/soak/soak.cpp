#include "tests/soak/soak.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <random>
#include <thread>

#include "base/try.h"
#include "cli/bench_inputs.h"
#include "cli/bench_measure.h"

namespace millrace::soak {
namespace {

constexpr std::size_t kContents = 4;  // of each size

/// Inputs and what the model makes of them.
struct Case {
  std::vector<NamedTensor> inputs;
  std::vector<NamedTensor> expected;

  [[nodiscard]] Request request() const {
    Request request;
    for (const NamedTensor& input : inputs) request.inputs.push_back(input);
    return request;
  }
};

Result<std::vector<Case>> cases_of(const Model& model, std::int64_t most_items,
                                   std::uint64_t seed) {
  MILLRACE_ASSIGN(const cli::BenchInputs inputs,
                  cli::BenchInputs::open(model.info(), {}, {}, seed));
  std::vector<Case> cases;
  for (std::int64_t items = 1; items <= std::min(most_items, model.info().max_items); ++items) {
    for (std::size_t k = 0; k < kContents; ++k) {
      Case& made = cases.emplace_back();
      MILLRACE_ASSIGN(made.inputs, inputs.make(k, items));
      MILLRACE_ASSIGN(const Response answer, model.infer(made.request()));
      MILLRACE_ASSIGN(made.expected, cli::copy_of({answer.outputs.data(), answer.outputs.size()}));
    }
  }
  return cases;
}

std::int64_t median(std::vector<std::int64_t> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Of the last quarter of the samples less the first.
std::int64_t growth(const std::vector<std::int64_t>& samples) {
  const auto quarter = static_cast<std::ptrdiff_t>(std::max<std::size_t>(samples.size() / 4, 1));
  if (samples.size() < 2) return 0;
  return median({samples.end() - quarter, samples.end()}) -
         median({samples.begin(), samples.begin() + quarter});
}

class Soak {
 public:
  explicit Soak(const Options& options) : options_(options) {}

  Result<Report> run();

 private:
  [[nodiscard]] bool over() const noexcept { return stop_.load(std::memory_order_relaxed); }
  void call(unsigned number);
  void judge(const Case& sent, const Result<Response>& answer, bool may_be_refused);
  void wrong(const std::string& why);
  void reload();
  void probe();
  void watch_memory();

  const Options& options_;
  std::unique_ptr<Engine> engine_;
  Model stays_;
  std::vector<Case> staying_, coming_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> loading_{false};
  std::atomic<std::uint64_t> loads_begun_{0};

  std::mutex mutex_;
  Report report_;               // guarded by mutex_ while threads run
  std::optional<Error> error_;  // guarded by mutex_
};

void Soak::wrong(const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (report_.wrong++ == 0) report_.first_wrong = why;
}

void Soak::judge(const Case& sent, const Result<Response>& answer, bool may_be_refused) {
  if (answer.ok()) {
    const std::string difference =
        cli::difference_of({answer->outputs.data(), answer->outputs.size()}, sent.expected);
    if (!difference.empty()) return wrong("a wrong answer: " + difference);
    const std::lock_guard lock(mutex_);
    ++report_.right;
    return;
  }
  const ErrorCode code = answer.error().code;
  const bool refused = may_be_refused && code == ErrorCode::unavailable;
  if (code != ErrorCode::cancelled && code != ErrorCode::deadline_exceeded && !refused) {
    return wrong(answer.error().message);
  }
  const std::lock_guard lock(mutex_);
  ++(code == ErrorCode::cancelled ? report_.cancelled
     : refused                    ? report_.refused
                                  : report_.expired);
}

/// Some requests in flight at a time, of either model.
void Soak::call(unsigned number) {
  std::mt19937_64 random(options_.seed * 1000 + number);
  while (!over()) {
    struct Sent {
      const Case* what;
      bool comes;
      Future future;
    };
    std::vector<Sent> sent;
    const std::size_t count = 1 + random() % 16;
    for (std::size_t i = 0; i < count; ++i) {
      const bool comes = random() % 3 == 0;
      Result<Model> model = comes ? engine_->find(options_.comes.name) : stays_;
      if (!model.ok()) continue;  // just unloaded
      const std::vector<Case>& cases = comes ? coming_ : staying_;
      const Case& chosen = cases[random() % cases.size()];
      Request request = chosen.request();
      if (random() % 10 == 0) {
        request.deadline = Clock::now() + std::chrono::microseconds(random() % 5000);
      }
      sent.push_back({&chosen, comes, model->submit(std::move(request))});
      if (random() % 10 == 0) (void)sent[random() % sent.size()].future.cancel();
    }
    for (Sent& each : sent) judge(*each.what, each.future.get(), each.comes);
  }
}

void Soak::reload() {
  while (!over()) {
    const TimePoint start = Clock::now();
    Result<void> done = engine_->unload(options_.comes.name);
    if (done.ok()) {
      loads_begun_.fetch_add(1);
      loading_.store(true);
      const Result<Model> loaded = engine_->load(options_.comes);
      loading_.store(false);
      if (!loaded.ok()) done = loaded.error();
    }
    {
      const std::lock_guard lock(mutex_);
      if (!done.ok()) {
        if (!error_) error_ = done.error();
        stop_.store(true);
        return;
      }
      ++report_.loads;
    }
    // Half of the time nothing is loaded.
    std::this_thread::sleep_for(std::min<Duration>(Clock::now() - start, std::chrono::seconds(2)));
  }
}

void Soak::probe() {
  std::vector<std::int64_t> usual;
  Duration longest{}, during{};
  const Case& one = staying_.front();
  while (!over()) {
    const std::uint64_t loads = loads_begun_.load();
    const bool loading = loading_.load();
    const TimePoint start = Clock::now();
    const Result<Response> answer = stays_.infer(one.request());
    const Duration took = Clock::now() - start;
    judge(one, answer, false);
    if (loading || loading_.load() || loads_begun_.load() != loads) {
      during = std::max(during, took);
    } else {
      longest = std::max(longest, took);
      if (usual.size() < 1'000'000) usual.push_back(took.count());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const std::lock_guard lock(mutex_);
  report_.usual = Duration(median(std::move(usual)));
  report_.longest = longest;
  report_.longest_during_a_load = during;
}

/// Until the time is over.
void Soak::watch_memory() {
  const TimePoint start = Clock::now();
  const Duration every = std::clamp<Duration>(options_.time / 200, std::chrono::milliseconds(5),
                                              std::chrono::seconds(1));
  std::vector<std::int64_t> host;
  std::vector<std::vector<std::int64_t>> devices(engine_->devices().size());
  while (!over() && Clock::now() - start < options_.time) {
    std::this_thread::sleep_for(every);
    if (Clock::now() - start < options_.warm_up) continue;
    host.push_back(static_cast<std::int64_t>(cli::resident_bytes()));
    for (std::size_t i = 0; i < devices.size(); ++i) {
      // What the device has used up, by whomever: a library's own memory counts too.
      const MemoryInfo memory = engine_->devices()[i]->memory();
      devices[i].push_back(static_cast<std::int64_t>(memory.limit_bytes - memory.free_bytes));
    }
  }
  const std::lock_guard lock(mutex_);
  report_.host_growth_bytes = growth(host);
  for (std::size_t i = 0; i < devices.size(); ++i) {
    report_.device_growth.push_back({engine_->devices()[i]->id(), growth(devices[i])});
  }
}

Result<Report> Soak::run() {
  MILLRACE_ASSIGN(Engine engine, Engine::create(options_.engine));
  engine_ = std::make_unique<Engine>(std::move(engine));
  MILLRACE_ASSIGN(stays_, engine_->load(options_.stays));
  MILLRACE_ASSIGN(const Model comes, engine_->load(options_.comes));
  MILLRACE_ASSIGN(staying_, cases_of(stays_, options_.most_items, options_.seed));
  MILLRACE_ASSIGN(coming_, cases_of(comes, options_.most_items, options_.seed + 1));
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(options_.callers) + 2);
  for (int i = 0; i < options_.callers; ++i) {
    threads.emplace_back([this, i] { call(static_cast<unsigned>(i)); });
  }
  threads.emplace_back([this] { reload(); });
  threads.emplace_back([this] { probe(); });
  watch_memory();
  stop_.store(true);
  for (std::thread& thread : threads) thread.join();
  if (error_) return *error_;
  return report_;
}

}  // namespace

Result<Report> run(const Options& options) { return Soak(options).run(); }

}  // namespace millrace::soak
