#include "cli/load_generator.h"

#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "cli/bench_windows.h"
#include "direct/machine.h"

namespace millrace::cli {
namespace {

constexpr std::size_t kMostContents = 256;
constexpr Duration kMostReferenceTime = std::chrono::seconds(1);
/// Large answers take long to compare, and callbacks wait meanwhile: then so many times as long
/// passes before the next is.
constexpr Duration kLongCheck = std::chrono::milliseconds(1);
constexpr int kPauseAfterLongCheck = 100;
constexpr int kOpenContexts =
    65536 + 1024;  // a full queue of the default size, and what is on the way
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
  checked += other.checked;
}

// What callbacks touch: stays where it is until no request is in flight.
class LoadGenerator::State {
 public:
  State(const Model& model, const LoadOptions& options) : model_(model), options_(options) {}

  Result<void> prepare(const BenchInputs& inputs);
  void start();
  Result<void> stop(Duration timeout);
  Tally take();
  std::string first_error() const {
    const std::lock_guard lock(error_mutex_);
    return first_error_;
  }
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

  Result<void> place(std::vector<NamedTensor>& inputs, std::size_t number);
  Result<void> place_outputs(Context& context);
  Result<void> fetch(Response& response);
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
  void fail(const std::string& message);
  void fail(const Error& error);
  void block();
  void send_at_random_times();
  TimePoint wait_for(TimePoint due);
  Context* take_free();

  const Model model_;
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
    Result<Response> answer = model_.infer(std::move(request));
    if (!answer.ok()) return std::move(answer).error();
    Result<std::vector<NamedTensor>> copy =
        copy_of({answer->outputs.data(), answer->outputs.size()});
    if (!copy.ok()) return std::move(copy).error();
    references_.push_back(std::move(*copy));
  }
  return references_.size();
}

namespace {

Result<void> copy_and_wait(DeviceRef device, void* target, const void* source, std::size_t bytes) {
  Result<Stream> stream = device->new_stream({});
  if (!stream.ok()) return std::move(stream).error();
  Result<void> copied = stream->ref().copy(target, source, bytes);
  return copied.ok() ? stream->ref().synchronize() : copied;
}

Result<Tensor> managed_tensor(DeviceRef device, const TensorView& like, std::size_t bytes) {
  Result<Buffer> buffer = device->allocate(std::max<std::size_t>(bytes, 1), MemoryKind::managed);
  if (!buffer.ok()) return std::move(buffer).error();
  void* const data = buffer->data();
  return Tensor(TensorView::of(like.type, data, like.shape),
                Lease::share(std::make_shared<Buffer>(std::move(*buffer))));
}

DeviceRef device_of(const Engine& engine, DeviceId id) {
  for (const DeviceRef device : engine.devices()) {
    if (device->id() == id) return device;
  }
  return nullptr;
}

}  // namespace

// Brings the inputs to where they are to lie: in turn to each device of the model.
Result<void> LoadGenerator::State::place(std::vector<NamedTensor>& inputs, std::size_t number) {
  const auto& placements = model_.info().placements;
  if (!options_.engine || placements.empty()) return {};
  const bool gpu = placements[0].device.kind == DeviceKind::cuda;
  const Place place =
      options_.place == Place::automatic ? (gpu ? Place::pinned : Place::pageable) : options_.place;
  if (place == Place::pageable) return {};
  const DeviceId runs_on = placements[number % placements.size()].device;
  DeviceId target;
  if (place == Place::device) target = options_.data_on.value_or(runs_on);
  for (NamedTensor& input : inputs) {
    if (input.view.type == DataType::bytes) continue;
    const Result<std::size_t> bytes = input.view.bytes();
    if (!bytes.ok()) return bytes.error();
    Result<Tensor> placed =
        place == Place::managed
            ? managed_tensor(device_of(*options_.engine, runs_on), input.view, *bytes)
            : options_.engine->new_tensor(input.view.type, input.view.shape, target);
    if (!placed.ok()) return std::move(placed).error();
    if (place != Place::device) {
      std::memcpy(placed->view().data, input.view.data, *bytes);
    } else {
      Result<void> copied = copy_and_wait(device_of(*options_.engine, target), placed->view().data,
                                          input.view.data, *bytes);
      if (!copied.ok()) return copied;
    }
    input.view = placed->view();
    input.lease = placed->lease();
  }
  return {};
}

// Outputs of a request whose inputs lie on a device stay there: in memory of the request's own
// where their size is known.
Result<void> LoadGenerator::State::place_outputs(Context& context) {
  if (!options_.engine || options_.place != Place::device) return {};
  for (const TensorInfo& output : model_.info().outputs) {
    RequestedOutput wanted{output.name, OutputPlacement::device, {}, {}};
    Shape shape = output.shape;
    if (output.batch_axis >= 0) {
      shape[static_cast<std::size_t>(output.batch_axis)] = options_.request_items;
    }
    if (!options_.data_on && byte_count(output.type, shape).ok()) {
      Result<Tensor> target =
          options_.engine->new_tensor(output.type, shape, context.load->inputs[0].view.device);
      if (!target.ok()) return std::move(target).error();
      wanted = {output.name, OutputPlacement::target, target->view(), target->lease()};
    }
    context.outputs.push_back(std::move(wanted));
  }
  return {};
}

// Brings outputs that stayed on a device to the host, to be compared.
Result<void> LoadGenerator::State::fetch(Response& response) {
  for (NamedTensor& output : response.outputs) {
    if (output.view.device.is_host_memory()) continue;
    const Result<std::size_t> bytes = output.view.bytes();
    if (!bytes.ok()) return bytes.error();
    Result<Tensor> copy = options_.engine->new_tensor(output.view.type, output.view.shape);
    if (!copy.ok()) return std::move(copy).error();
    Result<void> copied = copy_and_wait(device_of(*options_.engine, output.view.device),
                                        copy->view().data, output.view.data, *bytes);
    if (!copied.ok()) return copied;
    output.view = copy->view();
    output.lease = copy->lease();
  }
  return {};
}

Result<void> LoadGenerator::State::prepare(const BenchInputs& inputs) {
  const bool open = options_.arrival == Arrival::poisson;
  const auto contexts = static_cast<std::size_t>(open ? kOpenContexts : options_.concurrency);
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
    Result<void> placed = place(*content, i);
    if (!placed.ok()) return placed;
    loads_[i] = {std::move(*content), &references_[i % *contents]};
  }
  contexts_.resize(contexts);
  const auto stagger = static_cast<std::uint32_t>(options_.check_every);
  for (std::size_t i = 0; i < contexts; ++i) {
    contexts_[i] = {this, &loads_[i % buffers], {}, {}, static_cast<std::uint32_t>(i) % stagger};
  }
  for (Context& context : contexts_) {
    Result<void> placed = place_outputs(context);
    if (!placed.ok()) return placed;
  }
  parked_.reserve(contexts);
  ready_.reserve(contexts);
  return {};
}

// ------------------------------------------------------------------------------------------------
// one request

Request LoadGenerator::State::request_of(Context& context) {
  Request request;
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
  Result<Ticket> ticket =
      model_.submit(std::move(request), [&context](Result<Response> response, bool) {
        context.state->called_back(context, std::move(response));
      });
  if (ticket.ok()) return;
  fail(ticket.error());
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
  Result<void> fetched = fetch(response);
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

void LoadGenerator::State::fail(const std::string& message) {
  shards_.with([](Tally& tally) { ++tally.errors; });
  const std::lock_guard lock(error_mutex_);
  if (first_error_.empty()) first_error_ = message;
}

void LoadGenerator::State::fail(const Error& error) {
  fail(std::string(to_string(error.code)) + ": " + error.message);
}

// --------------------------------------------------------------------------------------------
// arrivals

void LoadGenerator::State::block() {
  Context& context = contexts_[0];
  while (running_.load(std::memory_order_relaxed)) {
    context.sent = Clock::now();
    Result<Response> response = model_.infer(request_of(context));
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
  for (TimePoint due = Clock::now() + arrivals.next();; due += arrivals.next()) {
    const TimePoint now = wait_for(due);
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
  auto state = std::make_unique<State>(model, options);
  Result<void> prepared = state->prepare(inputs);
  if (!prepared.ok()) return std::move(prepared).error();
  return std::unique_ptr<LoadGenerator>(new LoadGenerator(std::move(state)));
}

void LoadGenerator::start() { state_->start(); }
Tally LoadGenerator::take() { return state_->take(); }
Result<void> LoadGenerator::stop(Duration timeout) { return state_->stop(timeout); }
std::string LoadGenerator::first_error() const { return state_->first_error(); }
int LoadGenerator::in_flight() const noexcept { return state_->in_flight(); }

}  // namespace millrace::cli
