#include "cli/load_generator.h"

#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "cli/bench_windows.h"
#include "direct/machine.h"

namespace millrace::cli {
namespace {

constexpr std::size_t kMostContents = 256;
constexpr Duration kMostReferenceTime = std::chrono::seconds(1);
/// Of the open loop's requests that are due: answers come at the end.
constexpr int kMostInBurst = 64;
/// Large answers take long to compare, and callbacks wait meanwhile: then so many times as long
/// passes before the next is.
constexpr Duration kLongCheck = std::chrono::milliseconds(1);
constexpr int kPauseAfterLongCheck = 100;
constexpr std::size_t kOpenBuffers = 1024;
constexpr std::size_t kOpenBufferBytes = std::size_t{256} << 20;

std::uint64_t nanoseconds_between(TimePoint from, TimePoint to) {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(std::chrono::nanoseconds(to - from).count(), 0));
}

// The kernel may put a wake-up off by 50 us to save power; not for this thread.
void wake_on_time() noexcept { prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); }

// Inputs in memory of their own, and the right answer to them.
struct Load {
  std::vector<NamedTensor> inputs;
  const std::vector<NamedTensor>* expected = nullptr;
};

// Counts in several places, so that callbacks on several threads do not meet.
class Shards {
 public:
  template <class F>
  void with(F&& f) {
    Shard& shard = shards_[own_index()];
    const std::lock_guard lock(shard.mutex);
    f(shard.tally);
  }
  Tally take() {
    Tally all;
    for (Shard& shard : shards_) {
      Tally taken;
      {
        const std::lock_guard lock(shard.mutex);
        std::swap(taken, shard.tally);
      }
      all.merge(taken);
    }
    return all;
  }

 private:
  static constexpr std::size_t kShards = 16;
  struct alignas(64) Shard {
    std::mutex mutex;
    Tally tally;
  };
  static std::size_t own_index() noexcept {
    static std::atomic<std::size_t> next{0};
    thread_local const std::size_t index = next.fetch_add(1, std::memory_order_relaxed) % kShards;
    return index;
  }
  std::array<Shard, kShards> shards_;
};

}  // namespace

void Tally::merge(const Tally& other) {
  latency.merge(other.latency);
  lateness.merge(other.lateness);
  requests += other.requests;
  items += other.items;
  errors += other.errors;
  refused += other.refused;
  checked += other.checked;
}

// What callbacks touch: stays where it is until no request is in flight.
class LoadGenerator::State {
 public:
  State(std::unique_ptr<LoadTarget> target, const LoadOptions& options)
      : target_(std::move(target)), options_(options) {}

  Result<void> prepare(const BenchInputs& inputs);
  void start();
  Result<void> stop(Duration timeout);
  Tally take();
  std::string first_error() const {
    const std::lock_guard lock(error_mutex_);
    return first_error_;
  }
  LoadTarget& target() noexcept { return *target_; }
  int in_flight() const noexcept { return in_flight_.load(std::memory_order_acquire); }

 private:
  // One request, again and again.
  struct Context {
    State* state = nullptr;
    const Load* load = nullptr;
    std::vector<RequestedOutput> outputs;  // empty: all, to the host
    TimePoint sent;
    std::uint32_t sends = 0;
  };

  Result<std::size_t> make_references(const BenchInputs& inputs, std::size_t most);
  Request request_of(Context& context);
  bool due_for_check(Context& context, TimePoint now) const noexcept {
    return ++context.sends % static_cast<std::uint32_t>(options_.check_every) == 0 &&
           now.time_since_epoch().count() >= check_again_.load(std::memory_order_relaxed);
  }
  Result<void> check(const Context& context, Response& response);
  void send(Context& context);
  void called_back(Context& context, Result<Response> response);
  void count(Context& context, Result<Response>& response, TimePoint now);
  void fail(const std::string& message, bool refused = false);
  void fail(const Error& error);
  void block();
  void send_at_random_times();
  TimePoint wait_for(TimePoint due);
  Context* take_free();

  const std::unique_ptr<LoadTarget> target_;  // goes last
  const LoadOptions options_;
  std::vector<std::vector<NamedTensor>> references_;  // by content
  std::vector<Load> loads_;
  std::vector<Context> contexts_;
  Shards shards_;

  std::atomic<bool> running_{false};
  std::atomic<int> in_flight_{0};
  std::atomic<Duration::rep> check_again_{0};  // since the clock's start
  std::thread thread_;                         // of the blocking caller and of the open loop

  std::mutex free_mutex_;
  std::vector<Context*>
      parked_;  // guarded by free_mutex_: of an open loop free, of a closed loop refused
  std::vector<Context*> ready_;  // open loop: the sender's own

  mutable std::mutex error_mutex_;
  std::string first_error_;  // guarded by error_mutex_
};

// --------------------------------------------------------------------------------------------
// before it runs

Result<std::size_t> LoadGenerator::State::make_references(const BenchInputs& inputs,
                                                          std::size_t most) {
  const TimePoint start = Clock::now();
  while (references_.size() < most &&
         (references_.size() < 2 || Clock::now() - start < kMostReferenceTime)) {
    Result<std::vector<NamedTensor>> content =
        inputs.make(references_.size(), options_.request_items);
    if (!content.ok()) return std::move(content).error();
    Request request;
    for (const NamedTensor& input : *content) request.inputs.push_back(input);
    Result<Response> answer = target_->infer(std::move(request));
    if (!answer.ok()) return std::move(answer).error();
    Result<std::vector<NamedTensor>> copy =
        copy_of({answer->outputs.data(), answer->outputs.size()});
    if (!copy.ok()) return std::move(copy).error();
    references_.push_back(std::move(*copy));
  }
  return references_.size();
}

Result<void> LoadGenerator::State::prepare(const BenchInputs& inputs) {
  const bool open = options_.arrival == Arrival::poisson;
  const auto contexts = static_cast<std::size_t>(open ? options_.most_open : options_.concurrency);
  std::size_t buffers = contexts;
  if (open) {
    Result<std::vector<NamedTensor>> first = inputs.make(0, options_.request_items);
    if (!first.ok()) return std::move(first).error();
    buffers = std::clamp(kOpenBufferBytes / std::max<std::size_t>(bytes_of(*first), 1),
                         std::size_t{1}, kOpenBuffers);
  }
  Result<std::size_t> contents = make_references(
      inputs, std::min({kMostContents, buffers, inputs.distinct(options_.request_items)}));
  if (!contents.ok()) return std::move(contents).error();
  loads_.resize(buffers);
  for (std::size_t i = 0; i < buffers; ++i) {
    Result<std::vector<NamedTensor>> content = inputs.make(i % *contents, options_.request_items);
    if (!content.ok()) return std::move(content).error();
    Result<void> placed = target_->place(*content, i);
    if (!placed.ok()) return placed;
    loads_[i] = {std::move(*content), &references_[i % *contents]};
  }
  contexts_.resize(contexts);
  const auto stagger = static_cast<std::uint32_t>(options_.check_every);
  for (std::size_t i = 0; i < contexts; ++i) {
    contexts_[i] = {this, &loads_[i % buffers], {}, {}, static_cast<std::uint32_t>(i) % stagger};
  }
  for (Context& context : contexts_) {
    Result<std::vector<RequestedOutput>> placed =
        target_->place_outputs(context.load->inputs, options_.request_items);
    if (!placed.ok()) return std::move(placed).error();
    context.outputs = std::move(*placed);
  }
  parked_.reserve(contexts);
  ready_.reserve(contexts);
  return {};
}

// ------------------------------------------------------------------------------------------------
// one request

Request LoadGenerator::State::request_of(Context& context) {
  Request request;
  request.brief_callback = true;
  for (const NamedTensor& input : context.load->inputs) request.inputs.push_back(input);
  for (const RequestedOutput& output : context.outputs) request.outputs.push_back(output);
  return request;
}

// A closed loop's request that is refused waits for the next `take`; an open loop's is over.
void LoadGenerator::State::send(Context& context) {
  Request request = request_of(context);
  if (options_.arrival == Arrival::poisson)
    request.intended = context.sent;
  else
    context.sent = Clock::now();
  const Result<void> sent =
      target_->submit(std::move(request), [&context](Result<Response> response, bool) {
        context.state->called_back(context, std::move(response));
      });
  if (sent.ok()) return;
  fail(sent.error());
  {
    const std::lock_guard lock(free_mutex_);
    parked_.push_back(&context);
  }
  in_flight_.fetch_sub(1, std::memory_order_acq_rel);
}

void LoadGenerator::State::called_back(Context& context, Result<Response> response) {
  count(context, response, Clock::now());
  if (options_.arrival == Arrival::callbacks) {
    if (running_.load(std::memory_order_relaxed)) return send(context);
  } else {
    const std::lock_guard lock(free_mutex_);
    parked_.push_back(&context);
  }
  in_flight_.fetch_sub(1, std::memory_order_acq_rel);
}

Result<void> LoadGenerator::State::check(const Context& context, Response& response) {
  const TimePoint start = Clock::now();
  Result<void> fetched = target_->fetch(response);
  if (!fetched.ok()) return fetched;
  const std::string difference =
      difference_of({response.outputs.data(), response.outputs.size()}, *context.load->expected);
  if (!difference.empty()) return Error{ErrorCode::internal, "a wrong answer: " + difference};
  const TimePoint end = Clock::now();
  if (end - start >= kLongCheck) {
    check_again_.store((end + kPauseAfterLongCheck * (end - start)).time_since_epoch().count(),
                       std::memory_order_relaxed);
  }
  return {};
}

void LoadGenerator::State::count(Context& context, Result<Response>& response, TimePoint now) {
  if (!response.ok()) return fail(response.error());
  const bool due = due_for_check(context, now);
  if (due) {
    const Result<void> right = check(context, *response);
    if (!right.ok()) return fail(right.error());
  }
  shards_.with([&](Tally& tally) {
    tally.latency.record(nanoseconds_between(context.sent, now));
    ++tally.requests;
    tally.items += static_cast<std::uint64_t>(options_.request_items);
    tally.checked += due ? 1 : 0;
  });
}

void LoadGenerator::State::fail(const std::string& message, bool refused) {
  shards_.with([refused](Tally& tally) {
    ++tally.errors;
    tally.refused += refused ? 1 : 0;
  });
  if (refused && !options_.refusals_fail) return;
  const std::lock_guard lock(error_mutex_);
  if (first_error_.empty()) first_error_ = message;
}

void LoadGenerator::State::fail(const Error& error) {
  fail(std::string(to_string(error.code)) + ": " + error.message,
       error.code == ErrorCode::queue_full);
}

// --------------------------------------------------------------------------------------------
// arrivals

void LoadGenerator::State::block() {
  Context& context = contexts_[0];
  while (running_.load(std::memory_order_relaxed)) {
    context.sent = Clock::now();
    Result<Response> response = target_->infer(request_of(context));
    count(context, response, Clock::now());
    if (!response.ok()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// Sleeps, and on machines with cores to spare spins through the last 50 us. Returns the time.
TimePoint LoadGenerator::State::wait_for(TimePoint due) {
  static const Duration spin =
      direct::usable_cores() > 4 ? std::chrono::microseconds(50) : Duration::zero();
  constexpr Duration kMostSleep = std::chrono::milliseconds(20);  // so that `stop` is heard
  for (;;) {
    const TimePoint now = Clock::now();
    if (now >= due || !running_.load(std::memory_order_relaxed)) return now;
    if (due - now > spin) std::this_thread::sleep_until(std::min(due - spin, now + kMostSleep));
  }
}

LoadGenerator::State::Context* LoadGenerator::State::take_free() {
  if (ready_.empty()) {
    const std::lock_guard lock(free_mutex_);
    ready_.swap(parked_);
  }
  if (ready_.empty()) return nullptr;
  Context* context = ready_.back();
  ready_.pop_back();
  return context;
}

// Late or not, each request counts from the time at which it was meant to go, and none is left out.
void LoadGenerator::State::send_at_random_times() {
  wake_on_time();
  PoissonArrivals arrivals(options_.rate, options_.seed);
  std::optional<Burst> burst;  // of those that are due
  int in_burst = 0;
  for (TimePoint due = Clock::now() + arrivals.next();; due += arrivals.next()) {
    if (in_burst == kMostInBurst || Clock::now() < due) {
      burst.reset();
      in_burst = 0;
    }
    const TimePoint now = wait_for(due);
    if (!burst) burst.emplace();
    ++in_burst;
    if (!running_.load(std::memory_order_relaxed)) return;
    Context* context = take_free();
    if (!context) {
      fail("not sent: " + std::to_string(contexts_.size()) + " requests are in flight already");
      continue;
    }
    shards_.with([&](Tally& tally) { tally.lateness.record(nanoseconds_between(due, now)); });
    context->sent = due;
    in_flight_.fetch_add(1, std::memory_order_acq_rel);
    send(*context);
  }
}

void LoadGenerator::State::start() {
  running_.store(true);
  parked_.clear();
  ready_.clear();
  switch (options_.arrival) {
    case Arrival::callbacks:
      in_flight_.store(static_cast<int>(contexts_.size()));
      for (Context& context : contexts_) send(context);
      break;
    case Arrival::blocking:
      thread_ = std::thread([this] { block(); });
      break;
    case Arrival::poisson:
      for (Context& context : contexts_) ready_.push_back(&context);
      thread_ = std::thread([this] { send_at_random_times(); });
      break;
  }
}

Tally LoadGenerator::State::take() {
  if (options_.arrival == Arrival::callbacks && running_.load()) {
    std::vector<Context*> refused;
    {
      const std::lock_guard lock(free_mutex_);
      refused.swap(parked_);
      parked_.reserve(contexts_.size());
    }
    for (Context* context : refused) {
      in_flight_.fetch_add(1, std::memory_order_acq_rel);
      send(*context);
    }
  }
  return shards_.take();
}

Result<void> LoadGenerator::State::stop(Duration timeout) {
  running_.store(false);
  if (thread_.joinable()) thread_.join();
  const TimePoint until = Clock::now() + timeout;
  while (in_flight() > 0) {
    if (Clock::now() >= until) {
      return Error{ErrorCode::deadline_exceeded,
                   std::to_string(in_flight()) + " requests have not been answered " +
                       std::to_string(timeout / std::chrono::seconds(1)) +
                       " s after the last one was sent"};
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return {};
}

// -------------------------------------------------------------------------------------------- the
// handle

LoadGenerator::LoadGenerator(std::unique_ptr<State> state) : state_(std::move(state)) {}

LoadGenerator::~LoadGenerator() {
  // Callbacks of a model that hangs may still come: what they touch is left to the process.
  if (!state_->stop(std::chrono::seconds(10)).ok()) (void)state_.release();
}

Result<std::unique_ptr<LoadGenerator>> LoadGenerator::make(const Model& model,
                                                           const BenchInputs& inputs,
                                                           const LoadOptions& options) {
  return make(engine_target(model, options.engine, options.place, options.data_on), inputs,
              options);
}

Result<std::unique_ptr<LoadGenerator>> LoadGenerator::make(std::unique_ptr<LoadTarget> target,
                                                           const BenchInputs& inputs,
                                                           const LoadOptions& options) {
  auto state = std::make_unique<State>(std::move(target), options);
  Result<void> prepared = state->prepare(inputs);
  if (!prepared.ok()) return std::move(prepared).error();
  return std::unique_ptr<LoadGenerator>(new LoadGenerator(std::move(state)));
}

void LoadGenerator::start() { state_->start(); }
Tally LoadGenerator::take() { return state_->take(); }
Result<void> LoadGenerator::stop(Duration timeout) { return state_->stop(timeout); }
std::string LoadGenerator::first_error() const { return state_->first_error(); }
LoadTarget& LoadGenerator::target() noexcept { return state_->target(); }
int LoadGenerator::in_flight() const noexcept { return state_->in_flight(); }

}  // namespace millrace::cli
