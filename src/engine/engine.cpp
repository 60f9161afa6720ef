#include <millrace/engine.h>

#include <sched.h>

#include <algorithm>
#include <future>
#include <thread>

#include "backends/backend.h"
#include "base/log.h"
#include "base/model_name.h"
#include "base/text.h"
#include "base/try.h"
#include "device/transfer.h"
#include "engine/copy_pool.h"
#include "engine/device_state.h"
#include "engine/ensemble.h"
#include "engine/model_state.h"
#include "engine/sign_of_life.h"
#include "engine/waiting_caller.h"

namespace millrace {
namespace {

constexpr int kMostLanes = 256;
constexpr int kMostSlots = 8;
/// Short batches of a GPU end every few microseconds; the threads that answer them look so long for
/// the next, as the drivers do.
constexpr Duration kCallbackSpin = std::chrono::microseconds(20);

Duration callback_spin(const EngineOptions& options) {
  return options.wait != WaitMode::block && options.cpu_threads >= 4 ? kCallbackSpin
                                                                     : Duration::zero();
}

bool has_gpus(const DeviceSet& set) {
  return std::any_of(set.devices().begin(), set.devices().end(),
                     [](DeviceRef device) { return device->id().kind == DeviceKind::cuda; });
}

int usable_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(CPU_COUNT(&set), 1);
  return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
}

Result<void> check_range(const char* what, std::int64_t value, std::int64_t low,
                         std::int64_t high) {
  if (value >= low && value <= high) return {};
  return Error{ErrorCode::invalid_argument,
               concat(what, " is ", value, ", expected ", low, " to ", high)};
}

Result<void> check(const EngineOptions& options) {
  MILLRACE_TRY(check_range("callback_threads", options.callback_threads, 1, 1024));
  MILLRACE_TRY(check_range("max_batches_in_flight", options.max_batches_in_flight, 0, 1 << 20));
  MILLRACE_TRY(check_range("sample_every", options.sample_every, 0, 1 << 30));
  MILLRACE_TRY(check_range("cpu_threads", options.cpu_threads, 0, 4096));
  if (options.shutdown_timeout >= Duration::zero()) return {};
  return Error{ErrorCode::invalid_argument, "shutdown_timeout is negative"};
}

Result<void> check(const ModelConfig& config) {
  const auto invalid = [&config](const auto&... pieces) {
    return Error{ErrorCode::invalid_argument, concat("model \"", config.name, "\": ", pieces...)};
  };
  if (config.name.empty()) {
    return Error{ErrorCode::invalid_argument, "a model needs a name or a path"};
  }
  if (config.lanes < 0 || config.lanes > kMostLanes) {
    return invalid("lanes is ", config.lanes, ", expected 0 (automatic) to ", kMostLanes);
  }
  if (config.slots < 1 || config.slots > kMostSlots) {
    return invalid("slots is ", config.slots, ", expected 1 to ", kMostSlots);
  }
  if (!(config.weight > 0) || !(config.weight < 1e9)) {
    return invalid("weight is ", config.weight, ", expected a positive number");
  }
  if (config.limits.max_requests == 0)
    return invalid("limits.max_requests is 0, expected 1 or more");
  if (config.limits.max_bytes == 0) return invalid("limits.max_bytes is 0, expected 1 or more");
  if (config.limits.default_timeout < Duration::zero())
    return invalid("limits.default_timeout is negative");
  if (config.batching.max_delay < Duration::zero())
    return invalid("batching.max_delay is negative");
  if (config.hang_timeout < Duration::zero()) return invalid("hang_timeout is negative");
  return {};
}

/// What an engine runs on unless it is told: all GPUs that a backend can use, and a host device for
/// the models that need one.
std::vector<std::string> default_devices() {
  std::vector<std::string> names;
  const std::vector<BackendInfo> infos = backend_infos();
  const bool gpu_backend = std::any_of(infos.begin(), infos.end(), [](const BackendInfo& info) {
    return info.usable && info.name == "tensorrt";
  });
  const int gpus = gpu_backend ? cuda_status().visible_gpus : 0;
  names.reserve(static_cast<std::size_t>(gpus) + 1);
  for (int i = 0; i < gpus; ++i) names.push_back(to_string(DeviceId::cuda(i)));
  names.push_back(to_string(DeviceId::host(0)));
  return names;
}

ModelSpec spec_of(const ModelConfig& config, int cpu_threads) {
  ModelSpec spec;
  spec.name = config.name;
  spec.path = config.path;
  spec.content = config.content;
  spec.options = config.options;
  spec.plugins = config.plugins;
  spec.max_items = config.batching.max_items;
  spec.lanes = config.lanes;
  spec.cpu_threads = cpu_threads;
  return spec;
}

/// What lanes that still hang may touch when their engine goes; see DeviceState::stop.
struct Graveyard {
  std::mutex mutex;
  std::vector<std::unique_ptr<DeviceState>> devices;
  std::vector<DeviceSet> sets;
  std::vector<std::shared_ptr<void>> engines;

  static Graveyard& instance() {
    static auto* graveyard = new Graveyard;
    return *graveyard;
  }
};

}  // namespace

class EngineState {
 public:
  struct Entry {
    std::shared_ptr<ModelState> model;
    std::vector<std::unique_ptr<PlanState>> plans;
    bool loading = true;
    bool unloading = false;
  };
  /// What the devices refer to for as long as they live.
  struct Shared {
    Shared(EngineOptions given, bool gpus)
        : options(std::move(given)),
          executor(options.callback_threads, gpus ? callback_spin(options) : Duration::zero()),
          copies(CopyPool::helpers_for(options.cpu_threads)),
          timelines(options.trace_capacity) {}
    EngineOptions options;
    FaultBoard faults;
    Executor executor;
    CopyPool copies;
    TimelineRing timelines;
  };

  EngineState(EngineOptions options, DeviceSet set)
      : shared(std::make_shared<Shared>(std::move(options), has_gpus(set))),
        device_set(std::move(set)) {
    for (DeviceRef device : device_set.devices()) {
      devices.push_back(std::make_unique<DeviceState>(device, shared->options, shared->faults,
                                                      shared->executor, shared->timelines));
    }
    measure_transfers();
  }
  ~EngineState();

  Result<std::shared_ptr<ModelState>> load(ModelConfig config);
  Result<void> unload(const std::string& name, Duration timeout);
  std::shared_ptr<ModelState> find(const std::string& name);

  std::shared_ptr<Shared> shared;
  DeviceSet device_set;
  std::vector<std::unique_ptr<DeviceState>> devices;
  std::vector<std::vector<TransferCost>> transfers;  // to each device

  mutable std::mutex mutex;
  std::map<std::string, Entry> models;  // guarded by mutex

 private:
  void measure_transfers();
  Result<std::vector<DeviceState*>> usable_devices_for(const ModelConfig& config);
  Result<std::vector<DeviceState*>> devices_for(const ModelConfig& config);
  Result<std::vector<std::unique_ptr<PlanState>>> load_plans(const ModelConfig& config,
                                                             std::span<DeviceState* const> on);
  Result<std::shared_ptr<ModelState>> load_ensemble(ModelConfig config);
  bool retire(std::vector<std::unique_ptr<PlanState>>& plans);
  void publish(Entry& entry, std::shared_ptr<ModelState> model,
               std::vector<std::unique_ptr<PlanState>> plans);
};

namespace {

void destroy_on_loader(std::unique_ptr<PlanState> plan) {
  DeviceState& device = plan->device();
  device.loader().call([&plan] { plan.reset(); });
}

ModelInfo describe(const ModelConfig& config, std::span<const std::unique_ptr<PlanState>> plans) {
  ModelInfo info;
  const PlanState& first = *plans.front();
  info.name = config.name;
  info.path = config.path;
  info.backend = first.backend_name();
  info.backend_reason = first.backend_reason();
  info.inputs = first.plan_info().inputs;
  info.outputs = first.plan_info().outputs;
  info.max_items = first.max_items();
  info.metadata = first.plan_info().metadata;
  for (const auto& plan : plans) info.placements.push_back(plan->placement());
  return info;
}

}  // namespace

/// Between every two devices of a kind that have memory of their own; what cannot be measured keeps
/// what is usual.
void EngineState::measure_transfers() {
  transfers.resize(devices.size());
  for (std::size_t i = 0; i < devices.size(); ++i) {
    Device& to = *devices[i]->device();
    for (const auto& other : devices) {
      Device& from = *other->device();
      if (&from == &to || from.id().kind != to.id().kind) continue;
      if (!from.separate_memory() || !to.separate_memory()) continue;
      MoveCost cost;
      if (const Result<TransferSpeed> speed = measure_transfer(from, to)) {
        cost = {speed->latency, speed->bytes_per_second};
      } else {
        log_warning("moving data from ", from.id(), " to ", to.id(),
                    " could not be timed: ", speed.error().message);
      }
      devices[i]->set_move_cost(from.id(), cost);
      transfers[i].push_back({from.id(), cost.latency, cost.bytes_per_second});
    }
  }
}

/// Without those that failed for good, unless it names them.
Result<std::vector<DeviceState*>> EngineState::usable_devices_for(const ModelConfig& config) {
  MILLRACE_ASSIGN(std::vector<DeviceState*> chosen, devices_for(config));
  std::optional<Error> fault;
  for (const DeviceState* device : chosen) {
    if (!fault) fault = device->fault();
  }
  if (!fault) return chosen;
  if (config.devices.empty()) std::erase_if(chosen, [](auto* device) { return device->lost(); });
  if (!config.devices.empty() || chosen.empty()) {
    fault->message = concat("model \"", config.name, "\" is not loaded: ", fault->message);
    return *std::move(fault);
  }
  return chosen;
}

Result<std::vector<DeviceState*>> EngineState::devices_for(const ModelConfig& config) {
  std::vector<DeviceState*> chosen;
  if (config.devices.empty()) {
    std::vector<DeviceState*> gpus;
    for (const auto& device : devices) {
      (device->device()->id().kind == DeviceKind::cuda ? gpus : chosen).push_back(device.get());
    }
    if (gpus.empty() || !config.ensemble.empty()) return chosen.empty() ? gpus : chosen;
    if (chosen.empty()) return gpus;
    const ModelSpec spec = spec_of(config, shared->options.cpu_threads);
    return choose_backend(config.backend, spec, gpus.front()->device()) ? gpus : chosen;
  }
  for (const DeviceId id : config.devices) {
    const auto at = std::find_if(devices.begin(), devices.end(),
                                 [id](const auto& device) { return device->device()->id() == id; });
    if (at == devices.end()) {
      std::string known;
      for (const auto& device : devices) known += " " + to_string(device->device()->id());
      return Error{ErrorCode::not_found, concat("model \"", config.name, "\": device ", id,
                                                " is not one of this engine's:", known)};
    }
    if (std::find(chosen.begin(), chosen.end(), at->get()) != chosen.end()) {
      return Error{ErrorCode::invalid_argument,
                   concat("model \"", config.name, "\": device ", id, " is named twice")};
    }
    chosen.push_back(at->get());
  }
  return chosen;
}

Result<std::vector<std::unique_ptr<PlanState>>> EngineState::load_plans(
    const ModelConfig& config, std::span<DeviceState* const> on) {
  const ModelSpec spec = spec_of(config, shared->options.cpu_threads);
  std::vector<std::unique_ptr<PlanState>> plans;
  std::vector<std::future<Result<void>>> loads;
  for (DeviceState* device : on) {
    plans.push_back(std::make_unique<PlanState>(*device, config));
    auto promise = std::make_shared<std::promise<Result<void>>>();
    loads.push_back(promise->get_future());
    device->loader().post([&spec, plan = plans.back().get(), promise] {
      try {
        promise->set_value(plan->load(spec));
      } catch (const std::exception& error) {
        promise->set_value(Error{ErrorCode::internal, concat("model \"", spec.name,
                                                             "\": loading threw: ", error.what())});
      }
    });
  }
  std::optional<Error> error;
  for (std::size_t i = 0; i < loads.size(); ++i) {
    Result<void> loaded = loads[i].get();
    if (loaded) continue;
    if (loaded.error().code == ErrorCode::gpu_fault && loaded.error().scope == Scope::process) {
      on[i]->report_loss(loaded.error());
    }
    if (!error) error = std::move(loaded).error();
  }
  if (!error) return plans;
  for (auto& plan : plans) destroy_on_loader(std::move(plan));
  if (error->message.find('"' + config.name + '"') == std::string::npos) {
    error->message = concat("model \"", config.name, "\": ", error->message);
  }
  return *std::move(error);
}

Result<std::shared_ptr<ModelState>> EngineState::load_ensemble(ModelConfig config) {
  MILLRACE_ASSIGN(Ensemble::Plan plan,
                  Ensemble::make(config, [this](const std::string& name) { return find(name); }));
  config.batching.max_items = plan.info.max_items;
  auto model = std::make_shared<ModelState>(std::move(config), std::move(plan.info),
                                            shared->executor, std::vector<DeviceId>());
  model->set_ensemble(std::move(plan.ensemble));
  return model;
}

Result<std::shared_ptr<ModelState>> EngineState::load(ModelConfig config) {
  if (config.name.empty()) config.name = name_from_path(config.path);
  MILLRACE_TRY(check(config));
  MILLRACE_ASSIGN(const std::vector<DeviceState*> on, usable_devices_for(config));
  {
    std::lock_guard lock(mutex);
    if (!models.try_emplace(config.name).second) {
      return Error{ErrorCode::invalid_argument,
                   concat("a model \"", config.name,
                          "\" is loaded already; unload it or choose another name")};
    }
  }
  const std::string name = config.name;
  const auto take_back = [&] {
    std::lock_guard lock(mutex);
    models.erase(name);
  };

  std::shared_ptr<ModelState> model;
  std::vector<std::unique_ptr<PlanState>> plans;
  if (!config.ensemble.empty()) {
    Result<std::shared_ptr<ModelState>> ensemble = load_ensemble(std::move(config));
    if (!ensemble) {
      take_back();
      return std::move(ensemble).error();
    }
    model = std::move(ensemble).value();
  } else {
    Result<std::vector<std::unique_ptr<PlanState>>> loaded = load_plans(config, on);
    if (!loaded) {
      take_back();
      return std::move(loaded).error();
    }
    plans = std::move(loaded).value();
    ModelInfo info = describe(config, plans);
    config.batching = plans.front()->batching();
    std::vector<DeviceId> ids;
    ids.reserve(on.size());
    for (DeviceState* device : on) ids.push_back(device->device()->id());
    model = std::make_shared<ModelState>(std::move(config), std::move(info), shared->executor,
                                         std::move(ids));
    std::vector<PlanState*> refs;
    for (auto& plan : plans) {
      plan->model = model.get();
      refs.push_back(plan.get());
    }
    model->set_plans(std::move(refs), device_set.devices(), shared->copies);
    for (auto& plan : plans) plan->device().publish(*plan);
  }
  std::lock_guard lock(mutex);
  Entry& entry = models[name];
  entry.model = model;
  entry.plans = std::move(plans);
  entry.loading = false;
  return model;
}

std::shared_ptr<ModelState> EngineState::find(const std::string& name) {
  std::lock_guard lock(mutex);
  const auto at = models.find(name);
  return at == models.end() || at->second.loading ? nullptr : at->second.model;
}

/// True when nothing hangs. No plan goes before every driver has let go of all: drivers look at
/// each other's plans of a model.
bool EngineState::retire(std::vector<std::unique_ptr<PlanState>>& plans) {
  std::vector<std::unique_ptr<PlanState>> idle;
  bool clean = true;
  for (auto& plan : plans) {
    DeviceState& device = plan->device();
    if (device.retire(plan)) {
      idle.push_back(std::move(plan));
    } else {
      clean = false;
    }
  }
  plans.clear();
  for (auto& plan : idle) destroy_on_loader(std::move(plan));
  return clean;
}

Result<void> EngineState::unload(const std::string& name, Duration timeout) {
  const TimePoint until = Clock::now() + timeout;
  std::shared_ptr<ModelState> model = find(name);
  if (!model) {
    return Error{ErrorCode::not_found, concat("no model \"", name, "\" is loaded")};
  }
  {
    std::lock_guard lock(mutex);
    for (const auto& [other, entry] : models) {
      if (entry.model && entry.model->ensemble() && entry.model->ensemble()->uses(*model)) {
        return Error{ErrorCode::unavailable,
                     concat("model \"", name, "\" is part of the ensemble \"", other,
                            "\"; unload that first")};
      }
    }
  }
  model->close({ErrorCode::unavailable, concat("model \"", name, "\" is being unloaded")});
  for (const auto& device : devices) device->waker().wake();  // held-back batches go now
  if (!model->wait_idle(until)) {
    return Error{ErrorCode::deadline_exceeded,
                 concat("model \"", name, "\" still has ", model->outstanding(),
                        " requests queued or running after ", format_duration(timeout),
                        "; it stays unloading: call again")};
  }
  std::vector<std::unique_ptr<PlanState>> plans;
  {
    std::lock_guard lock(mutex);
    const auto at = models.find(name);
    if (at == models.end() || at->second.model != model || at->second.unloading) {
      return Error{ErrorCode::not_found,
                   concat("model \"", name, "\" is being unloaded by another thread")};
    }
    at->second.unloading = true;
    plans = std::move(at->second.plans);
  }
  const bool clean = retire(plans);
  {
    std::lock_guard lock(mutex);
    models.erase(name);
  }
  if (clean) return {};
  return Error{ErrorCode::unavailable,
               concat("model \"", name,
                      "\" is gone, but a lane of it hangs; its memory is held until the "
                      "lane's stream passes"),
               Scope::model};
}

EngineState::~EngineState() {
  std::map<std::string, Entry> all;
  {
    std::lock_guard lock(mutex);
    all.swap(models);
  }
  const Error gone{ErrorCode::cancelled, "the engine is shutting down"};
  for (auto& [name, entry] : all) {
    if (entry.model) entry.model->close(gone);
  }
  for (auto& [name, entry] : all) {
    if (entry.model) entry.model->fail_waiting(gone);
  }
  const TimePoint until = Clock::now() + shared->options.shutdown_timeout;
  for (auto& [name, entry] : all) {
    if (!entry.model || entry.model->wait_idle(until)) continue;
    for (auto& plan : entry.plans) plan->device().give_up_on(*plan);
  }
  for (auto& [name, entry] : all) {
    if (entry.model &&
        !entry.model->wait_idle(std::max(until, Clock::now() + std::chrono::seconds(1)))) {
      log_error("model \"", name, "\": ", entry.model->outstanding(),
                " requests are unanswered at shutdown: a callback does not return");
    }
  }
  for (auto& [name, entry] : all) retire(entry.plans);
  shared->executor.stop();  // its threads may still have a device to wake
  bool hung = false;
  Graveyard& graveyard = Graveyard::instance();
  for (auto& device : devices) {
    if (!device->stop()) continue;
    hung = true;
    std::lock_guard lock(graveyard.mutex);
    graveyard.devices.push_back(std::move(device));
  }
  devices.clear();
  if (hung) {
    std::lock_guard lock(graveyard.mutex);
    graveyard.sets.push_back(std::move(device_set));
    graveyard.engines.push_back(shared);
  }
}

// -------------------------------------------------------------------------------------------- the
// public API

/// What the public classes may do with the engine's own.
class EngineAccess {
 public:
  static Model model(std::shared_ptr<ModelState> state) { return Model(std::move(state)); }
  static Ticket ticket(Lease lease, RequestState* state) { return Ticket(std::move(lease), state); }
  static Future future(Lease lease, RequestState* state) {
    return Future(Ticket(std::move(lease), state));
  }
  static Future failed(Error error) {
    RequestState* state = RequestState::make();
    (void)state->claim(RequestState::Stage::answered);
    state->answer.emplace(std::move(error));
    state->fulfil();
    return future(Lease::adopt(state), state);
  }
  static EngineState& state(const Engine& engine) { return *engine.state_; }
};

bool drivers_respond(const Engine& engine) {
  bool all = true;
  for (const auto& device : EngineAccess::state(engine).devices) {
    all = device->gives_sign_of_life() && all;
  }
  return all;
}

Burst::Burst() noexcept : outermost_(DeferredWakes::begin_burst()) {}

Burst::~Burst() {
  if (outermost_) DeferredWakes::end_burst();
}

bool Ticket::cancel() noexcept {
  if (!state_ || !state_->claim(RequestState::Stage::withdrawn)) return false;
  return state_->model->cancel(*state_);
}

bool Future::ready() const noexcept { return ticket_.state_ && ticket_.state_->fulfilled(); }

void Future::wait() const noexcept { (void)wait_until(TimePoint::max()); }

bool Future::wait_until(TimePoint until) const noexcept {
  // A callback that waits must not wait for what it has put off itself.
  DeferredWakes::flush_to_wait();
  return ticket_.state_ && ticket_.state_->wait(until);
}

Result<Response> Future::get() {
  if (!ticket_.state_) {
    return Error{ErrorCode::invalid_argument,
                 "this future has no response (moved from, or read before)"};
  }
  wait();
  const Ticket ticket = std::exchange(ticket_, Ticket());
  return std::move(*ticket.state_->answer);
}

const ModelInfo& Model::info() const noexcept { return state_->info(); }

Future Model::submit(Request request) const {
  RequestState* state = nullptr;
  Result<Lease> lease = state_->submit(std::move(request), nullptr, &state);
  if (!lease) return EngineAccess::failed(std::move(lease).error());
  return EngineAccess::future(std::move(lease).value(), state);
}

Result<Ticket> Model::submit(Request request, Callback callback) const {
  if (!callback) {
    return Error{ErrorCode::invalid_argument, "submit: the callback is empty"};
  }
  RequestState* state = nullptr;
  MILLRACE_ASSIGN(Lease lease, state_->submit(std::move(request), std::move(callback), &state));
  return EngineAccess::ticket(std::move(lease), state);
}

Result<Response> Model::infer(Request request) const {
  WaitingCaller caller;
  Future answer = submit(std::move(request));
  caller.help();
  return answer.get();
}

ModelStatistics Model::statistics() const { return state_->statistics(); }

Engine::Engine(std::unique_ptr<EngineState> state) noexcept : state_(std::move(state)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Result<Engine> Engine::create(EngineOptions options) {
  MILLRACE_TRY(check(options));
  if (options.cpu_threads == 0) options.cpu_threads = usable_processors();
  if (options.devices.devices.empty()) options.devices.devices = default_devices();
  MILLRACE_ASSIGN(DeviceSet devices, DeviceSet::open(options.devices));
  return Engine(std::make_unique<EngineState>(std::move(options), std::move(devices)));
}

Result<Model> Engine::load(ModelConfig config) {
  MILLRACE_ASSIGN(std::shared_ptr<ModelState> model, state_->load(std::move(config)));
  return EngineAccess::model(std::move(model));
}

Result<void> Engine::unload(std::string_view name, Duration timeout) {
  return state_->unload(std::string(name), timeout);
}

Result<Model> Engine::find(std::string_view name) const {
  if (std::shared_ptr<ModelState> model = state_->find(std::string(name))) {
    return EngineAccess::model(std::move(model));
  }
  return Error{ErrorCode::not_found, concat("no model \"", name, "\" is loaded")};
}

std::vector<std::string> Engine::model_names() const {
  std::lock_guard lock(state_->mutex);
  std::vector<std::string> names;
  for (const auto& [name, entry] : state_->models) {
    if (!entry.loading) names.push_back(name);
  }
  return names;
}

Result<void> Engine::drain(Duration timeout) {
  const TimePoint until = Clock::now() + timeout;
  for (const std::string& name : model_names()) {
    const std::shared_ptr<ModelState> model = state_->find(name);
    if (model && !model->wait_idle(until)) {
      return Error{ErrorCode::deadline_exceeded,
                   concat("model \"", name, "\" still has ", model->outstanding(),
                          " requests queued or running after ", format_duration(timeout))};
    }
  }
  return {};
}

Result<Tensor> Engine::new_tensor(DataType type, const Shape& shape, DeviceId device) const {
  if (type == DataType::bytes) {
    return Error{ErrorCode::invalid_argument, "new_tensor: not for BYTES; see Tensor::of_strings"};
  }
  MILLRACE_ASSIGN(const std::size_t bytes, byte_count(type, shape));
  DeviceState* at = nullptr;
  for (const auto& state : state_->devices) {
    // Any device's pinned memory will do; best that of one with memory of its own.
    if (device.is_host_memory() && state->lost()) continue;
    const bool fits = device.is_host_memory() ? !at || state->device()->separate_memory()
                                              : state->device()->id() == device;
    if (fits) at = state.get();
  }
  if (!at) {
    return Error{ErrorCode::not_found, concat("device ", device, " is not one of this engine's")};
  }
  if (std::optional<Error> fault = at->fault()) return *std::move(fault);
  BlockPool& pool = device.is_host_memory() ? at->pinned_pool() : at->pool();
  MILLRACE_ASSIGN(Block block, pool.take(std::max<std::size_t>(bytes, 1)));
  return Tensor(TensorView::of(type, block.data, shape, device), std::move(block.lease));
}

std::span<const DeviceRef> Engine::devices() const noexcept { return state_->device_set.devices(); }

std::vector<DeviceReport> Engine::device_reports() const {
  std::vector<DeviceReport> reports;
  for (std::size_t i = 0; i < state_->devices.size(); ++i) {
    DeviceState& device = *state_->devices[i];
    reports.push_back({device.device()->info(), device.device()->memory(), device.ledger().held(),
                       state_->transfers[i], device.fault()});
  }
  return reports;
}

std::vector<DeviceFault> Engine::faults() const { return state_->shared->faults.all(); }

std::vector<BatchTimeline> Engine::timelines() const { return state_->shared->timelines.copy(); }

}  // namespace millrace
