#include "engine/model_state.h"

#include <algorithm>
#include <thread>

#include "base/text.h"
#include "base/try.h"
#include "engine/copy_pool.h"
#include "engine/device_state.h"
#include "engine/ensemble.h"
#include "engine/plan_state.h"
#include "engine/waiting_caller.h"
#include "tensor/layout.h"

namespace millrace {
namespace {

const TensorInfo* find_tensor(const std::vector<TensorInfo>& tensors, std::string_view name) {
  const auto at = std::find_if(tensors.begin(), tensors.end(),
                               [name](const TensorInfo& info) { return info.name == name; });
  return at == tensors.end() ? nullptr : &*at;
}

std::string names_of(const std::vector<TensorInfo>& tensors) {
  std::string names;
  for (const TensorInfo& info : tensors) {
    if (!names.empty()) names += ", ";
    names += '"' + info.name + '"';
  }
  return names;
}

std::string pattern_text(const TensorInfo& info) {
  std::string text = "[";
  for (std::size_t i = 0; i < info.shape.rank(); ++i) {
    if (i > 0) text += ',';
    if (static_cast<int>(i) == info.batch_axis) {
      text += 'N';
    } else {
      text += info.shape[i] == kDynamic ? std::string("?") : std::to_string(info.shape[i]);
    }
  }
  return concat(text, "] ", to_string(info.type));
}

Error bad_input(const std::string& model, const TensorInfo& info, const TensorView& found) {
  return {ErrorCode::invalid_argument,
          concat("model \"", model, "\", input \"", info.name, "\": expected ", pattern_text(info),
                 ", got ", found.shape, " ", to_string(found.type), "; see \"millrace inspect\"")};
}

/// Mixes the dimensions that a request may choose into a key (splitmix64's finalizer).
std::uint64_t mixed(std::uint64_t key, std::int64_t dimension) {
  std::uint64_t x = key + 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(dimension);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

ModelState::ModelState(ModelConfig config, ModelInfo info, Executor& executor,
                       std::vector<DeviceId> devices)
    : config_(std::move(config)),
      info_(std::move(info)),
      executor_(executor),
      queue_(config_.name, config_.limits, config_.batching, std::move(devices)),
      order_key_(std::hash<std::string>()(config_.name)) {}

ModelState::~ModelState() = default;

void ModelState::set_plans(std::vector<PlanState*> plans, std::span<const DeviceRef> devices,
                           CopyPool& copies) {
  plans_ = std::move(plans);
  devices_ = devices;
  copies_ = &copies;
  for (PlanState* plan : plans_) {
    figures_.push_back(plan->figures);
    plan->location = figures_.size();
    if (!staging_ && plan->device().device()->separate_memory()) staging_ = &plan->device();
  }
}

void ModelState::set_ensemble(std::unique_ptr<Ensemble> ensemble) {
  ensemble_ = std::move(ensemble);
}

// --------------------------------------------------------------------------------------------
// validation

Result<void> ModelState::validate_inputs(Request& request, RequestState& state) const {
  const std::vector<TensorInfo>& infos = info_.inputs;
  if (request.inputs.size() != infos.size()) {
    return Error{ErrorCode::invalid_argument,
                 concat("model \"", config_.name, "\": expected ", infos.size(), " inputs (",
                        names_of(infos), "), got ", request.inputs.size())};
  }
  std::int64_t items = -1;
  std::uint64_t key = 0;
  std::size_t total_bytes = 0;
  for (std::size_t i = 0; i < infos.size(); ++i) {
    const TensorInfo& info = infos[i];
    if (request.inputs[i].name != info.name) {  // bring the inputs into the model's order
      std::size_t at = i + 1;
      while (at < infos.size() && request.inputs[at].name != info.name) ++at;
      if (at == infos.size()) {
        std::string given;
        for (const NamedTensor& input : request.inputs) given += " \"" + input.name + '"';
        return Error{ErrorCode::invalid_argument,
                     concat("model \"", config_.name, "\": expected an input \"", info.name,
                            "\", got", given, "; the model's inputs are ", names_of(infos))};
      }
      std::swap(request.inputs[i], request.inputs[at]);
    }
    NamedTensor& input = request.inputs[i];
    TensorView& view = input.view;
    if (!millrace::validate(view, input.name)) {  // again, for the words
      MILLRACE_TRY(millrace::validate(
          view, concat("model \"", config_.name, "\", input \"", input.name, '"')));
    }
    if (view.type != info.type || view.shape.rank() != info.shape.rank()) {
      return bad_input(config_.name, info, view);
    }
    for (std::size_t d = 0; d < view.shape.rank(); ++d) {
      const std::int64_t size = view.shape[d];
      if (static_cast<int>(d) == info.batch_axis) {
        if (items < 0) items = size;
        if (size != items) {
          return Error{ErrorCode::invalid_argument,
                       concat("model \"", config_.name, "\": ragged request: input \"",
                              infos[0].name, "\" has ", items, " items, input \"", info.name,
                              "\" has ", size, "; give every input the same number")};
        }
      } else if (info.shape[d] == kDynamic) {
        key = mixed(key, size);
      } else if (size != info.shape[d]) {
        return bad_input(config_.name, info, view);
      }
    }
    if (info.on_host) {
      if (!view.device.is_host_memory() && (staging_ || view.device.kind == DeviceKind::cuda)) {
        return Error{
            ErrorCode::invalid_argument,
            concat("model \"", config_.name, "\", input \"", input.name, "\" lies on ", view.device,
                   ": expected host memory, since the host reads its values")};
      }
      if (view.ready) MILLRACE_TRY(view.ready.synchronize());
      view.ready = {};
    }
    MILLRACE_TRY(check_memory(view, input.lease, input.name));
    if (!view.contiguous() && own_memory_of(view.device)) {
      if (Result<std::size_t> pieces = count_pieces(view); !pieces) {
        return Error{ErrorCode::unsupported,
                     concat("model \"", config_.name, "\", input \"", input.name, "\" on ",
                            view.device, ": ", pieces.error().message)};
      }
    }
    MILLRACE_ASSIGN(const std::size_t bytes, view.bytes());
    total_bytes += bytes;
    if (state.location == 0) state.location = queue_.location_of(view.device);
  }
  if (items == 0) {
    return Error{ErrorCode::invalid_argument,
                 concat("model \"", config_.name, "\": a request of 0 items; expected 1 to ",
                        info_.max_items)};
  }
  if (items > info_.max_items) {
    return Error{ErrorCode::invalid_argument,
                 concat("model \"", config_.name, "\": a request of ", items,
                        " items, but a batch holds at most ", info_.max_items,
                        "; split the request or raise batching.max_items")};
  }
  if (std::optional<Error> fault = fault_at(state.location)) return *std::move(fault);
  state.items = std::max<std::int64_t>(items, 1);
  state.shape_key = key;
  state.bytes = total_bytes;
  return {};
}

Result<void> ModelState::validate_outputs(Request& request, RequestState& state) const {
  for (const RequestedOutput& wanted : request.outputs) {
    const TensorInfo* info = find_tensor(info_.outputs, wanted.name);
    if (!info) {
      return Error{ErrorCode::invalid_argument,
                   concat("model \"", config_.name, "\": no output \"", wanted.name,
                          "\"; its outputs are ", names_of(info_.outputs))};
    }
    state.wanted.push_back(static_cast<std::size_t>(info - info_.outputs.data()));
    if (wanted.placement != OutputPlacement::target) continue;
    const TensorView& target = wanted.target;
    const auto refuse = [&](auto&&... why) {
      return Error{
          ErrorCode::invalid_argument,
          concat("model \"", config_.name, "\", target of output \"", wanted.name, "\": ", why...)};
    };
    if (info->type == DataType::bytes) return refuse("BYTES outputs cannot go into a target");
    if (!millrace::validate(target, wanted.name)) {
      MILLRACE_TRY(millrace::validate(
          target, concat("model \"", config_.name, "\", target of output \"", wanted.name, '"')));
    }
    if (target.type != info->type) {
      return refuse("expected ", to_string(info->type), ", got ", to_string(target.type));
    }
    if (!target.contiguous()) return refuse("must be contiguous");
    MILLRACE_TRY(check_memory(target, wanted.lease, wanted.name));
    if (state.location == 0) state.location = queue_.location_of(target.device);
    const std::size_t k = state.wanted.size() - 1;
    if (staging_ && !own_memory_of(target.device)) {
      MILLRACE_ASSIGN(const std::size_t room, target.bytes());
      if (!staging()->device()->pinned(target.data, room)) {
        if (k >= 64) return refuse("pageable memory is supported for the first 64 outputs only");
        state.pageable_targets |= std::uint64_t{1} << k;
      }
    }
    if (const auto one = item_bytes(*info)) {
      const std::size_t needed = *one * static_cast<std::size_t>(state.items);
      MILLRACE_ASSIGN(const std::size_t room, target.bytes());
      if (room < needed) return refuse("expected at least ", needed, " bytes, got ", room);
    }
  }
  return {};
}

/// The device that memory "on `device`" belongs to; null for memory that is the host's, as that of
/// most host devices is.
DeviceRef ModelState::own_memory_of(DeviceId device) const noexcept {
  if (device.is_host_memory()) return nullptr;
  const auto at = std::find_if(devices_.begin(), devices_.end(),
                               [device](DeviceRef each) { return each->id() == device; });
  return at != devices_.end() && (*at)->separate_memory() ? *at : nullptr;
}

/// Memory with a lease is taken at its word. What is only borrowed is looked up, so that memory
/// which its owner has freed is an error and not a fault of the device.
Result<void> ModelState::check_memory(const TensorView& view, const Lease& lease,
                                      std::string_view what) const {
  if (view.device.is_host_memory() || !copies_) return {};
  const auto refuse = [&](const auto&... why) {
    return Error{ErrorCode::invalid_argument,
                 concat("model \"", config_.name, "\", tensor \"", what, "\": ", why...)};
  };
  const DeviceRef device = own_memory_of(view.device);
  if (!device && view.device.kind != DeviceKind::host) {
    std::string known;
    for (DeviceRef each : devices_) known += concat(" ", each->id());
    return refuse("lies on ", view.device, ", which this engine does not use; it uses", known);
  }
  if (!device) return {};
  const bool reached = std::any_of(plans_.begin(), plans_.end(), [&view](PlanState* plan) {
    const DeviceRef own = plan->device().device();
    return own->separate_memory() || own->reaches(view.device);
  });
  if (!reached) {
    return refuse("lies on ", view.device,
                  ", which no device of the model reaches; bring it to the host first");
  }
  if (lease) return {};
  MILLRACE_ASSIGN(const std::int64_t elements, extent(view.shape, view.strides));
  const auto bytes = static_cast<std::size_t>(elements) * size_of(view.type);
  if (device->owns(view.data, bytes)) return {};
  return refuse("expected ", bytes, " bytes of memory on ", view.device,
                ", and they are not there: they were freed, lie elsewhere, or are fewer; give a "
                "lease that keeps them");
}

/// One whose memory is not lost, while there is one.
DeviceState* ModelState::staging() const noexcept {
  if (!staging_ || !staging_->lost()) return staging_;
  for (PlanState* plan : plans_) {
    DeviceState& device = plan->device();
    if (device.device()->separate_memory() && !device.lost()) return &device;
  }
  return staging_;
}

/// Inputs in pageable or strided host memory are brought into pinned blocks on the caller's own
/// thread: a device would copy them slower and make its driver wait. Those that are not ready yet
/// follow on the lane's stream: nobody waits for them here.
Result<void> ModelState::stage_input(NamedTensor& input, std::size_t index,
                                     RequestState& state) const {
  TensorView& view = input.view;
  const bool strided = !view.contiguous();
  if ((!strided && !staging_) || view.type == DataType::bytes || own_memory_of(view.device)) {
    return {};
  }
  MILLRACE_ASSIGN(const std::size_t bytes, view.bytes());
  if (bytes == 0) return {};
  DeviceState* const staging = this->staging();
  if (!strided && (!staging || staging->device()->pinned(view.data, bytes))) return {};

  TensorView copy = TensorView::of(view.type, nullptr, view.shape);
  Lease lease;
  if (staging) {
    MILLRACE_ASSIGN(Block block, staging->pinned_pool().take(bytes));
    copy.data = block.data;
    lease = std::move(block.lease);
  } else {
    MILLRACE_ASSIGN(const Tensor block, Tensor::allocate(view.type, view.shape));
    copy.data = block.view().data;
    lease = block.lease();
  }
  MILLRACE_ASSIGN(const bool ready, view.ready.query());
  if (!ready) {
    copy.ready = view.ready;
    state.late_inputs.push_back({index, view, std::move(input.lease)});
  } else if (strided) {
    copy_to_contiguous(view, copy.data);
  } else {
    copies_->copy(copy.data, view.data, bytes);
  }
  view = copy;
  input.lease = std::move(lease);
  return {};
}

Result<void> ModelState::stage_inputs(Request& request, RequestState& state) const {
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    MILLRACE_TRY(stage_input(request.inputs[i], i, state));
  }
  return {};
}

Result<void> ModelState::validate(Request& request, RequestState& state) const {
  if (request.sequence.id != 0) {
    return Error{ErrorCode::unsupported,
                 concat("model \"", config_.name, "\": sequences are not supported yet (sequence ",
                        request.sequence.id, ")")};
  }
  MILLRACE_TRY(validate_inputs(request, state));
  return validate_outputs(request, state);
}

// -------------------------------------------------------------------------------------------------
// submit

namespace {

struct CallGuard {
  ModelState& model;
  ~CallGuard() { model.finished_one(); }
};

/// Gives a request's count back unless somebody is to answer it.
class RequestGuard {
 public:
  explicit RequestGuard(ModelState& model) : model_(&model) {}
  RequestGuard(const RequestGuard&) = delete;
  RequestGuard& operator=(const RequestGuard&) = delete;
  ~RequestGuard() {
    if (model_) model_->finished_one();
  }
  void hand_over() noexcept { model_ = nullptr; }

 private:
  ModelState* model_;
};

}  // namespace

Result<Lease> ModelState::submit(Request request, Callback callback, RequestState** out) {
  // One for the request and one for this call, which goes on after the request may have been
  // answered. First of all: until then the model may be unloaded, plans and all.
  outstanding_.fetch_add(2, std::memory_order_acq_rel);
  const CallGuard call{*this};
  RequestGuard counted(*this);
  if (!open_.load(std::memory_order_acquire)) {
    std::lock_guard lock(mutex_);
    return no_lane_ ? *no_lane_ : closed_reason_;
  }
  RequestState* state = RequestState::make();
  Lease engines = Lease::adopt(state);
  if (Result<void> valid = validate(request, *state); !valid) return std::move(valid).error();
  const TimePoint now = Clock::now();
  state->submitted = request.intended.value_or(now);
  if (request.deadline) {
    state->deadline = *request.deadline;
  } else if (config_.limits.default_timeout > Duration::zero()) {
    state->deadline = now + config_.limits.default_timeout;
  }
  if (state->deadline <= now) {
    counters_.expired.fetch_add(1, std::memory_order_relaxed);
    return Error{ErrorCode::deadline_exceeded,
                 concat("model \"", config_.name, "\": the request's deadline had passed ",
                        format_duration(now - state->deadline), " before it was submitted")};
  }
  if (copies_) MILLRACE_TRY(stage_inputs(request, *state));
  state->model = this;
  WaitingCaller::submits(*state);
  state->request = std::move(request);
  state->callback = std::move(callback);
  state->may_spin = staging_ && staging_->callers_may_spin();
  Lease callers = engines;
  *out = state;
  if (ensemble_) {
    counted.hand_over();
    (void)state->claim(RequestState::Stage::running);
    (void)ensemble_->start(std::move(engines), *state);
    return callers;
  }
  Result<void> queued = queue_.push(*state, [&] {
    if (!config_.batching.preserve_order) return;
    std::lock_guard lock(order_mutex_);
    in_order_.push_back(state);
  });
  if (!queued) {
    counters_.rejected.fetch_add(1, std::memory_order_relaxed);
    return std::move(queued).error();
  }
  counted.hand_over();
  (void)engines.release();  // now the queue's: whoever answers adopts it again
  // The device may have been lost after the look at it in `validate` and before the request was to
  // be found in the queue.
  if (const std::optional<Error> fault = fault_at(state->location)) {
    fail_waiting_at(state->location, *fault);
    return callers;
  }
  wake_a_driver(*state);
  return callers;
}

void ModelState::wake_a_driver(const RequestState& state) {
  const std::int64_t items = queue_.full() ? INT64_MAX - 1 : queue_.items();
  const auto wake_if_wanted = [items](PlanState& plan) {
    if (items < plan.wake_at_items.load(std::memory_order_seq_cst)) return false;
    Waker& waker = plan.device().waker();
    if (DeferredWakes::put_off(waker)) return true;
    if (plan.wake_at_items.exchange(INT64_MAX, std::memory_order_acq_rel) == INT64_MAX) {
      return false;
    }
    waker.wake();
    return true;
  };
  bool woken = state.location > 0 && wake_if_wanted(*plans_[state.location - 1]);
  for (PlanState* plan : plans_) {
    if (woken) break;
    woken = wake_if_wanted(*plan);
  }
  if (state.deadline == TimePoint::max()) return;
  for (PlanState* plan : plans_) plan->device().wake_before(state.deadline);
}

bool ModelState::cancel(RequestState& state) noexcept {
  outstanding_.fetch_add(1, std::memory_order_acq_rel);  // this call: nothing goes before it ends
  queue_.remove(state);
  // A driver that looked at the queue meanwhile has counted on the request.
  for (PlanState* plan : plans_) plan->device().waker().wake();
  state.release_tensors();
  {
    Delivery delivery(executor_);
    answer(state,
           Error{ErrorCode::cancelled, concat("model \"", config_.name,
                                              "\": the request was cancelled before it started")},
           delivery);
  }
  finished_one();
  return true;
}

// ------------------------------------------------------------------------------------------------
// answers

void ModelState::count(const RequestState& state, const Result<Response>& answer) {
  const auto add = [](std::atomic<std::uint64_t>& counter, std::uint64_t amount) {
    counter.fetch_add(amount, std::memory_order_relaxed);
  };
  if (answer.ok()) {
    add(counters_.succeeded, 1);
    add(counters_.items, static_cast<std::uint64_t>(state.items));
    if (ensemble_) {
      total_.record(static_cast<std::uint64_t>(
          std::max<Duration::rep>((Clock::now() - state.submitted).count(), 0)));
    }
  } else if (answer.error().code == ErrorCode::cancelled) {
    add(counters_.cancelled, 1);
  } else if (answer.error().code == ErrorCode::deadline_exceeded) {
    add(counters_.expired, 1);
  } else {
    add(counters_.failed, 1);
  }
}

void ModelState::answer(RequestState& state, Result<Response> answer, Delivery& delivery) {
  count(state, answer);
  state.answer.emplace(std::move(answer));
  if (!config_.batching.preserve_order || ensemble_) {
    hand_over(state, delivery);
    return;
  }
  std::lock_guard lock(order_mutex_);
  state.order_ready = true;
  while (!in_order_.empty() && in_order_.front()->order_ready) {
    RequestState* next = in_order_.front();
    in_order_.pop_front();
    hand_over(*next, delivery);
  }
  delivery.flush(order_key_);
}

void ModelState::hand_over(RequestState& state, Delivery& delivery) {
  state.stage.store(RequestState::Stage::answered, std::memory_order_release);
  if (state.callback) {
    delivery.add(state);
    return;
  }
  const Lease engines = Lease::adopt(&state);
  state.fulfil();
  finished_one();
}

void ModelState::fail_waiting(const Error& error) {
  std::vector<RequestState*> waiting;
  queue_.take_all(waiting);
  answer_all(waiting, error);
}

void ModelState::fail_waiting_at(std::size_t location, const Error& error) {
  std::vector<RequestState*> waiting;
  queue_.take_location(location, waiting);
  answer_all(waiting, error);
}

void ModelState::stop(const Error& error) {
  close(error);
  fail_waiting(error);
}

std::optional<Error> ModelState::fault_at(std::size_t location) const {
  if (location == 0 || !plans_[location - 1]->device().lost()) return std::nullopt;
  return plans_[location - 1]->device().fault();
}

void ModelState::answer_all(std::span<RequestState* const> waiting, const Error& error) {
  Delivery delivery(executor_);
  for (RequestState* state : waiting) {
    state->release_tensors();
    answer(*state, error, delivery);
  }
}

void ModelState::expire(TimePoint now, Delivery& delivery) {
  std::vector<RequestState*> expired;
  queue_.take_expired(now, expired);
  for (RequestState* state : expired) {
    state->release_tensors();
    answer(*state,
           Error{ErrorCode::deadline_exceeded,
                 concat("model \"", config_.name, "\": the deadline passed after ",
                        format_duration(now - state->submitted), " in the queue")},
           delivery);
  }
}

void ModelState::close(Error reason) {
  std::lock_guard lock(mutex_);
  queue_.close(reason);
  closed_reason_ = std::move(reason);
  open_.store(false, std::memory_order_release);
}

bool ModelState::wait_idle(TimePoint until) {
  while (outstanding() > 0) {
    if (Clock::now() >= until) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

void ModelState::no_lane_left(const Error& reason) {
  {
    std::lock_guard lock(
        mutex_);  // over the look as well: a lane may just be coming back on another device
    for (PlanState* plan : plans_) {
      if (plan->usable.load(std::memory_order_acquire)) return;
    }
    queue_.close(reason);
    if (!no_lane_) no_lane_ = reason;
    open_.store(false, std::memory_order_release);
  }
  fail_waiting(reason);
}

void ModelState::lane_back() {
  std::lock_guard lock(mutex_);
  if (!no_lane_) return;
  no_lane_.reset();
  if (!closed_reason_.message.empty()) return;
  queue_.reopen();
  open_.store(true, std::memory_order_release);
}

ModelStatistics ModelState::statistics() const {
  ModelStatistics statistics;
  const auto read = [](const auto& counter) { return counter.load(std::memory_order_relaxed); };
  statistics.succeeded = read(counters_.succeeded);
  statistics.failed = read(counters_.failed);
  statistics.rejected = read(counters_.rejected);
  statistics.expired = read(counters_.expired);
  statistics.cancelled = read(counters_.cancelled);
  statistics.items = read(counters_.items);
  statistics.requests = statistics.succeeded + statistics.failed + statistics.rejected +
                        statistics.expired + statistics.cancelled;
  statistics.queued_requests = queue_.requests();
  statistics.queued_bytes = queue_.bytes();
  for (const std::shared_ptr<const PlanFigures>& kept : figures_) {
    const PlanFigures& figures = *kept;
    for (std::size_t i = 0; i < kPhases; ++i) {
      statistics.phases[i].merge(figures.phases[i].snapshot());
    }
    statistics.batch_items.merge(figures.batch_items.snapshot());
    statistics.batches += read(figures.batches);
    statistics.prepared_batches += read(figures.prepared);
    for (std::size_t i = 0; i < kEagerReasons; ++i) {
      statistics.eager_batches[i] += read(figures.eager[i]);
    }
    statistics.bound_in_place += read(figures.in_place);
    statistics.running_batches += read(figures.running);
    statistics.busy_lanes += read(figures.busy_lanes);
    statistics.device_time += Duration(read(figures.device_time));
    DeviceStatistics& device = statistics.devices.emplace_back();
    device.device = info_.placements[statistics.devices.size() - 1].device;
    device.requests = read(figures.requests);
    device.items = read(figures.items);
    device.batches = read(figures.batches);
    device.moved_requests = read(figures.moved);
    device.device_time = Duration(read(figures.device_time));
    device.total.merge(figures.phases[static_cast<std::size_t>(Phase::total)].snapshot());
  }
  if (ensemble_) {
    statistics.phases[static_cast<std::size_t>(Phase::total)].merge(total_.snapshot());
  }
  return statistics;
}

}  // namespace millrace
