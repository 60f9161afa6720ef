#include "engine/device_state.h"

#include <sys/prctl.h>

#include <algorithm>
#include <future>

#include "base/log.h"
#include "base/text.h"
#include "device/annotate.h"
#include "device/host/host_device.h"
#include "device/host/host_queue.h"
#include "engine/waiting_caller.h"

namespace millrace {
namespace {

/// What a sample costs the driver, some 15 us, is then under 1% of its time.
constexpr Duration kSamplesApart = std::chrono::milliseconds(2);
constexpr Duration kFaultCheckEvery = std::chrono::milliseconds(10);
constexpr Duration kSpinAfterWork = std::chrono::microseconds(50);
constexpr Duration kShortestLead = std::chrono::microseconds(20);
/// Of a batch's time, what a lane may wait to stay in step.
constexpr int kStepShare = 32;
constexpr Duration kLongestLead = std::chrono::milliseconds(2);
/// Between devices that share the host's memory a move is nothing but a read.
constexpr MoveCost kHostMove{std::chrono::microseconds(5), 5e9};

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

std::uint64_t nanoseconds(Duration duration) {
  return static_cast<std::uint64_t>(std::max<Duration::rep>(duration.count(), 0));
}

/// `free_at` as PlanState publishes it. A lane that should have been free by now has shown its
/// estimate wrong by that much: as much again is to be expected.
Duration expected_wait(TimePoint free_at, TimePoint now) {
  if (free_at == TimePoint{}) return Duration::zero();
  return free_at > now ? free_at - now : now - free_at;
}

Duration smoothed(Duration known, Duration measured) { return known + (measured - known) / 8; }

}  // namespace

void TimelineRing::add(BatchTimeline timeline) {
  std::lock_guard lock(mutex_);
  if (ring_.size() < capacity_) {
    ring_.push_back(std::move(timeline));
  } else {
    ring_[next_ % capacity_] = std::move(timeline);
  }
  ++next_;
}

std::vector<BatchTimeline> TimelineRing::copy() const {
  std::lock_guard lock(mutex_);
  std::vector<BatchTimeline> copy = ring_;
  if (!copy.empty() && next_ > copy.size()) {
    std::rotate(copy.begin(), copy.begin() + static_cast<std::ptrdiff_t>(next_ % copy.size()),
                copy.end());
  }
  return copy;
}

// ------------------------------------------------------------------------------------------- life,
// commands

DeviceState::DeviceState(DeviceRef device, const EngineOptions& options, FaultBoard& faults,
                         Executor& executor, TimelineRing& timelines)
    : device_(device),
      options_(options),
      faults_(faults),
      executor_(executor),
      timelines_(timelines),
      ledger_(*device),
      pool_(*device, MemoryKind::device),
      pinned_pool_(*device, MemoryKind::pinned),
      host_(as_host(device)),
      inline_(device->id().kind == DeviceKind::host &&
              (options.wait == WaitMode::automatic || options.wait == WaitMode::block)),
      callers_may_spin_(device->id().kind == DeviceKind::cuda && options.wait != WaitMode::block &&
                        options.cpu_threads >= 4),
      loader_("mr-loader-" + std::to_string(device->id().index)),
      delivery_(executor) {
  start_annotations();
  if (options.on_fault) {
    reporter_ = std::make_unique<TaskThread>("mr-fault-" + std::to_string(device->id().index));
  }
  if (inline_) {
    waker_.redirect([](void* self) noexcept { static_cast<DeviceState*>(self)->drive(); }, this);
  }
  loader_.post([device] { device->place_this_thread(); });
  driver_ = Thread("mr-driver-" + std::to_string(device->id().index), [this] { loop(); });
}

DeviceState::~DeviceState() { stop(); }

bool DeviceState::stop() {
  if (driver_.joinable()) {
    if (reporter_) reporter_->call([] {});  // it may still ask the loader and the driver for things
    loader_.call([] {});  // what it still prepares may have something to say to the driver
    stop_.store(true, std::memory_order_release);
    wake_driver_thread();
    driver_.join();
    for (const auto& plan : hung_) {
      for (const auto& lane : plan->lanes) {
        if (!lane->quarantined) continue;
        if (lane->thread) {
          lane->thread->abandon();  // it may be inside the lane, and goes on with it some day
        } else {
          lane->lane->abandon();
        }
      }
    }
  }
  return !hung_.empty();
}

void DeviceState::wake_driver_thread() noexcept { (inline_ ? sleeper_ : waker_).wake(); }

void DeviceState::wake_before(TimePoint deadline) noexcept {
  if (deadline.time_since_epoch().count() < sleeps_until_.load(std::memory_order_seq_cst)) {
    waker_.wake();
  }
}

void DeviceState::on_driver(const std::function<void()>& command) {
  std::promise<void> done;
  {
    std::lock_guard lock(mutex_);
    commands_.push_back([&] {
      command();
      done.set_value();
    });
    has_commands_.store(true, std::memory_order_seq_cst);
  }
  waker_.wake();
  done.get_future().wait();
}

bool DeviceState::gives_sign_of_life() {
  const bool overdue = sign_is_due_.exchange(true, std::memory_order_acq_rel);
  if (!overdue) {
    std::lock_guard lock(mutex_);
    commands_.push_back([this] { sign_is_due_.store(false, std::memory_order_release); });
    has_commands_.store(true, std::memory_order_seq_cst);
  }
  wake_driver_thread();
  return !overdue;
}

bool DeviceState::run_commands() {
  if (!has_commands_.load(std::memory_order_acquire)) return false;
  std::vector<std::function<void()>> commands;
  {
    std::lock_guard lock(mutex_);
    commands.swap(commands_);
    has_commands_.store(false, std::memory_order_release);
  }
  for (const auto& command : commands) command();
  return true;
}

void DeviceState::publish(PlanState& plan) {
  on_driver([&] {
    plans_.push_back(&plan);
    if (const std::optional<Error> error = fault()) give_up_lost(plan, *error);
  });
}

bool DeviceState::retire(std::unique_ptr<PlanState>& plan) {
  bool idle = true;
  on_driver([&] {
    std::erase(plans_, plan.get());
    for (const auto& lane : plan->lanes) idle = idle && lane->in_flight.empty();
    if (!idle) hung_.push_back(std::move(plan));
  });
  return idle;
}

void DeviceState::give_up_on(PlanState& plan) {
  on_driver([&] {
    for (const auto& lane : plan.lanes) {
      if (!lane->in_flight.empty() && !lane->quarantined) {
        give_up(plan, *lane, hang_error(plan, *lane));
      }
    }
  });
}

void DeviceState::loop() {
  device_->place_this_thread();
  prctl(PR_SET_TIMERSLACK,
        1000);  // nanoseconds: batching delays are of the order of the default slack
  while (!stop_.load(std::memory_order_acquire)) {
    drive();
    if (spins()) continue;
    const Duration::rep due = due_.load(std::memory_order_seq_cst);
    thread_wakes_at_.store(due, std::memory_order_seq_cst);
    if (due_.load(std::memory_order_seq_cst) < due) continue;
    (inline_ ? sleeper_ : waker_).wait_until(TimePoint(Duration(due)));
  }
}

/// Drives until there is no news, or leaves it to whoever drives already. That one looks at `news_`
/// again after it has let go of `driving_`, so news of a thread that found it taken is not lost.
void DeviceState::drive() noexcept {
  news_.store(true, std::memory_order_seq_cst);
  for (int round = 0; news_.load(std::memory_order_seq_cst); ++round) {
    if (driving_.exchange(true, std::memory_order_seq_cst)) return;
    if (round > 0) HelpingHand::pass_on();  // what was launched waits no longer
    news_.store(false, std::memory_order_seq_cst);
    const Duration::rep due = drive_once().time_since_epoch().count();
    due_.store(due, std::memory_order_seq_cst);
    driving_.store(false, std::memory_order_seq_cst);
    // The driver thread must not sleep past the time at which something is due.
    if (inline_ && due < thread_wakes_at_.load(std::memory_order_seq_cst)) sleeper_.wake();
  }
}

TimePoint DeviceState::drive_once() {
  sleeps_until_.store(TimePoint::min().time_since_epoch().count(), std::memory_order_relaxed);
  for (PlanState* plan : plans_) {
    plan->wake_at_items.store(INT64_MAX, std::memory_order_relaxed);
  }
  for (;;) {
    bool worked = run_commands();
    now_ = Clock::now();
    look_again_ = TimePoint::max();
    worked |= complete_finished();
    check_faults();
    check_overdue();
    expire_requests();
    worked |= launch_ready();
    if (lost()) pass_on();
    if (worked) last_work_ = now_;
    if (spins()) return TimePoint::min();
    const TimePoint until = arm_wakes();
    sleeps_until_.store(until.time_since_epoch().count(), std::memory_order_seq_cst);
    if (something_to_do(until)) continue;
    ask_for_wakes();
    return until;
  }
}

// ------------------------------------------------------------------------------------------------
// completion

bool DeviceState::complete_finished() {
  bool any = false;
  const auto look_at = [&](PlanState& plan) {
    for (auto& lane : plan.lanes) {
      // Of a lost device all is answered, and what its streams may touch is held for ever.
      while (!lost() && !lane->in_flight.empty() && lane->in_flight.front()->finished(now_)) {
        complete(plan, *lane, *lane->in_flight.front());
        any = true;
      }
    }
  };
  for (PlanState* plan : plans_) look_at(*plan);
  if (!hung_.empty()) {
    for (auto& plan : hung_) look_at(*plan);
    bury_hung();
  }
  return any;
}

void DeviceState::complete(PlanState& plan, LaneState& lane, BatchSlot& slot) {
  const Annotation completing(plan.name(), ": complete batch ", slot.number);
  now_ = Clock::now();
  // Once a device is lost, what the others have done counts only if their streams say so.
  const bool suspect = faults_.any() || (host_ && host_->broken()) ||
                       (slot.status.failed() && slot.status.error().code == ErrorCode::gpu_fault);
  if (suspect && !slot.given_up) {
    if (std::optional<Error> fault = fault_of(lane)) {
      // Not over, whatever the word says: it was written because the stream takes no work.
      slot.word->store(slot.expected - 1, std::memory_order_relaxed);
      return lose_device(*std::move(fault));
    }
  }
  lane.in_flight.pop_front();
  if (lane.in_flight.empty()) plan.figures->busy_lanes.fetch_sub(1, std::memory_order_relaxed);
  lane.last_progress = now_;
  lane.terminating = false;
  lane.idle_from = now_;
  for (const BatchSlot* behind : lane.in_flight) lane.idle_from += behind->estimate;
  // Before the answers: who is answered may submit again at once, and must find the lane free.
  publish_load(plan);
  if (slot.given_up) {
    slot.given_up = false;
    slot.requests.clear();
    slot.held.clear();
  } else {
    --in_flight_;
    --plan.in_flight;
    plan.figures->running.fetch_sub(1, std::memory_order_relaxed);
    read_times(slot);
    account(plan, lane, slot, now_);
    answer_batch(plan, lane, slot, now_);
  }
  for (Lease& lease : slot.input_leases) lease.reset();
  for (Lease& lease : slot.output_leases) lease.reset();
  for (Lease& lease : slot.host_leases) lease.reset();
  if (lane.quarantined && lane.in_flight.empty()) quarantine_over(plan, lane);
}

void DeviceState::read_times(BatchSlot& slot) {
  slot.times.reset();
  if (!slot.sampled || slot.status.failed()) return;  // a batch that failed may have skipped some
  const Result<TimePoint> started = slot.started.ref().time();
  const Result<TimePoint> copied_in = slot.copied_in.ref().time();
  const Result<TimePoint> computed = slot.computed.ref().time();
  const Result<TimePoint> copied_out = slot.copied_out.ref().time();
  if (started && copied_in && computed && copied_out) {
    slot.times = BatchSlot::DeviceTimes{*started, *copied_in, *computed, *copied_out};
  }
}

void DeviceState::account(PlanState& plan, LaneState& lane, BatchSlot& slot, TimePoint now) {
  TimePoint started = std::max(slot.staged, lane.last_end);
  TimePoint ended = now;
  PlanState::Figures& figures = *plan.figures;
  if (slot.times) {
    started = slot.times->started;
    ended = slot.times->copied_out;
    // Until the driver is quick again after a stall, its own lag must not look like work to come.
    if (slot.lane_was_idle) {
      plan.lead =
          std::clamp(smoothed(plan.lead, 2 * (started - slot.picked)), kShortestLead, kLongestLead);
    }
  }
  lane.last_end = ended;
  const Duration took = std::max(ended - started, Duration::zero());
  plan.times.learn(slot.items, took);
  plan.virtual_time += seconds(took - slot.estimate) / plan.model->config().weight;
  figures.device_time.fetch_add(took.count(), std::memory_order_relaxed);
  figures.batches.fetch_add(1, std::memory_order_relaxed);
  if (slot.key != kEager) figures.prepared.fetch_add(1, std::memory_order_relaxed);
  if (slot.bound_in_place) figures.in_place.fetch_add(1, std::memory_order_relaxed);
  if (slot.eager) {
    figures.eager[static_cast<std::size_t>(*slot.eager)].fetch_add(1, std::memory_order_relaxed);
  }
  figures.batch_items.record_alone(static_cast<std::uint64_t>(slot.items));
}

Response DeviceState::response_for(const PlanState& plan, const BatchSlot& slot,
                                   RequestState& request, std::int64_t first_item) const {
  Response response;
  response.id = std::move(request.request.id);
  response.device = device_->id();
  response.lane = slot.lane->index;
  response.batch_items = slot.items;
  response.times = {request.submitted, slot.picked, slot.staged, now_};
  const auto& infos = plan.plan_info().outputs;
  const bool whole = slot.requests.size() == 1 && slot.items == slot.run_items;
  const bool apart = device_->separate_memory();
  const auto add = [&](std::size_t i, RequestedOutput* wanted) {
    NamedTensor& output = response.outputs.emplace_back();
    output.name = infos[i].name;
    const bool stays = wanted && wanted->placement == OutputPlacement::device;
    const bool copied = apart && !stays;
    const TensorView& all = copied                     ? slot.host_results[i]
                            : slot.outputs[i].allocate ? slot.outputs[i].view
                                                       : slot.results[i];
    output.view = whole || infos[i].batch_axis != 0 ? all : slice(all, first_item, request.items);
    if (wanted && wanted->placement == OutputPlacement::target) {
      output.view.data = wanted->target.data;
      output.view.device = wanted->target.device;
      output.lease = std::move(wanted->lease);
      return;
    }
    output.view.device = stays ? device_->id() : DeviceId::host_memory();
    output.lease = copied ? slot.host_leases[i] : slot.output_leases[i];
  };
  if (request.wanted.empty()) {
    for (std::size_t i = 0; i < infos.size(); ++i) add(i, nullptr);
  } else {
    for (std::size_t k = 0; k < request.wanted.size(); ++k) {
      add(request.wanted[k], &request.request.outputs[k]);
    }
  }
  return response;
}

/// Late outputs say their shape only now: one that does not have the batch's items cannot be shared
/// out.
static std::optional<Error> check_late_shapes(const PlanState& plan, const BatchSlot& slot) {
  for (std::size_t i = 0; i < slot.outputs.size(); ++i) {
    const TensorInfo& info = plan.plan_info().outputs[i];
    const TensorView& view = slot.outputs[i].view;
    if (!slot.outputs[i].allocate || info.batch_axis != 0) continue;
    if (view.shape.rank() > 0 && view.shape[0] == slot.run_items) continue;
    if (slot.requests.size() == 1 && slot.items == slot.run_items) continue;
    return Error{
        ErrorCode::internal,
        concat("output \"", info.name, "\" came out as ", view.shape, " for a batch of ",
               slot.run_items, " items, so it cannot be shared out; set batching.max_items to 1")};
  }
  return std::nullopt;
}

static void count_succeeded(const PlanState& plan, const BatchSlot& slot) {
  std::uint64_t moved = 0;
  for (const RequestState* request : slot.requests) {
    moved += request->location != 0 && request->location != plan.location ? 1 : 0;
  }
  PlanState::Figures& figures = *plan.figures;
  figures.requests.fetch_add(slot.requests.size(), std::memory_order_relaxed);
  figures.items.fetch_add(static_cast<std::uint64_t>(slot.items), std::memory_order_relaxed);
  if (moved > 0) figures.moved.fetch_add(moved, std::memory_order_relaxed);
}

void DeviceState::answer_batch(PlanState& plan, LaneState& lane, BatchSlot& slot, TimePoint ended) {
  ModelState& model = *plan.model;
  PlanState::Figures& figures = *plan.figures;
  std::optional<Error> error;
  if (slot.status.failed()) {
    error = slot.status.error();
  } else {
    error = check_late_shapes(plan, slot);
  }
  if (error) {
    error->message =
        concat("model \"", model.config().name, "\" on ", device_->id(), ": ", error->message);
  }
  const auto record = [&figures](Phase phase, Duration took, std::uint64_t times) {
    figures.phases[static_cast<std::size_t>(phase)].record_alone(nanoseconds(took), times);
  };
  const int count = static_cast<int>(slot.requests.size());
  if (slot.times && !error) {
    const auto weight = static_cast<std::uint64_t>(count);
    const auto& [started, copied_in, computed, copied_out] = *slot.times;
    record(Phase::stage, started - slot.picked, weight);
    record(Phase::copy_in, copied_in - started, weight);
    record(Phase::compute, computed - copied_in, weight);
    record(Phase::copy_out, copied_out - computed, weight);
    record(Phase::complete, ended - copied_out, weight);
  }
  // Before the answers: who has them all finds all timelines.
  if (timelines_.on()) trace(plan, slot, count, error.has_value(), ended);
  if (!error) count_succeeded(plan, slot);
  std::int64_t first_item = 0;
  for (RequestState* request : slot.requests) {
    const std::int64_t items = request->items;
    record(Phase::queue, slot.picked - request->submitted, 1);
    record(Phase::total, ended - request->submitted, 1);
    if (error) {
      request->release_tensors();
      model.answer(*request, *error, delivery_);
    } else {
      Response response = response_for(plan, slot, *request, first_item);
      request->release_tensors();
      model.answer(*request, std::move(response), delivery_);
    }
    first_item += items;
  }
  slot.requests.clear();
  delivery_.flush(model.delivery_key());
  if (error && error->scope == Scope::process) {
    log_error(error->message, "; the process should be restarted");
  }
  (void)lane;
}

void DeviceState::trace(const PlanState& plan, const BatchSlot& slot, int requests, bool failed,
                        TimePoint completed) {
  BatchTimeline timeline;
  timeline.model = plan.model->config().name;
  timeline.device = device_->id();
  timeline.lane = slot.lane->index;
  timeline.slot = slot.index;
  timeline.batch = slot.number;
  timeline.items = slot.items;
  timeline.requests = requests;
  timeline.failed = failed;
  timeline.submitted = slot.submitted;
  timeline.picked = slot.picked;
  timeline.staged = slot.staged;
  timeline.completed = completed;
  if (slot.times && !failed) {
    timeline.started = slot.times->started;
    timeline.copied_in = slot.times->copied_in;
    timeline.computed = slot.times->computed;
    timeline.copied_out = slot.times->copied_out;
  }
  timelines_.add(std::move(timeline));
}

// ----------------------------------------------------------------------------------------------------
// faults

void DeviceState::check_overdue() {
  for (PlanState* plan : plans_) {
    const Duration limit = plan->model->config().hang_timeout;
    if (limit <= Duration::zero()) continue;
    for (auto& lane : plan->lanes) {
      if (lane->in_flight.empty() || lane->quarantined) continue;
      const Duration grace = lane->terminating
                                 ? std::max<Duration>(limit / 4, std::chrono::seconds(1))
                                 : Duration::zero();
      const TimePoint overdue = lane->last_progress + limit + grace;
      if (now_ < overdue) {
        look_again_ = std::min(look_again_, overdue);
        continue;
      }
      if (!lane->terminating && lane->traits.terminable && lane->lane->terminate()) {
        lane->terminating = true;
        log_warning("model \"", plan->model->config().name, "\" on ", device_->id(), ", lane ",
                    lane->index, ": a batch did not finish within ", format_duration(limit),
                    "; ending it");
        look_again_ = std::min(look_again_, now_ + std::chrono::seconds(1));
        continue;
      }
      give_up(*plan, *lane, hang_error(*plan, *lane));
    }
  }
}

Error DeviceState::hang_error(const PlanState& plan, const LaneState& lane) const {
  const ModelConfig& config = plan.model->config();
  return {ErrorCode::unavailable,
          concat("model \"", config.name, "\" on ", device_->id(), ": lane ", lane.index,
                 " did not finish a batch within ", format_duration(config.hang_timeout),
                 " (hang_timeout); the lane is quarantined and its buffers are held until its "
                 "stream passes"),
          Scope::model};
}

/// A device that fails writes no word any more: its streams are asked now and then. Host devices
/// say it by themselves.
void DeviceState::check_faults() {
  if (lost() || in_flight_ == 0) return;
  if (host_) {
    if (!host_->broken()) return;
  } else {
    look_again_ = std::min(look_again_, next_fault_check_);
    if (now_ < next_fault_check_) return;
    next_fault_check_ = now_ + kFaultCheckEvery;
    look_again_ = std::min(look_again_, next_fault_check_);
  }
  for (const PlanState* plan : plans_) {
    for (const auto& lane : plan->lanes) {
      if (lane->in_flight.empty()) continue;
      if (std::optional<Error> fault = fault_of(*lane)) return lose_device(*std::move(fault));
    }
  }
}

std::optional<Error> DeviceState::fault_of(const LaneState& lane) const {
  Result<bool> idle = lane.lane->stream().query();
  if (idle) return std::nullopt;
  return std::move(idle).error();
}

/// From here on nothing goes to the device. What it holds is answered, and so is what waits with
/// its data on it; what else waits is for the other devices, if they may.
void DeviceState::lose_device(Error fault) {
  fault.code = ErrorCode::gpu_fault;
  fault.scope = Scope::process;
  fault.message = concat(device_->id(), " failed: ", fault.message,
                         "; nothing more runs on it, and the process should be restarted");
  log_error(fault.message);
  const DeviceFault report{device_->id(), fault};
  faults_.add(report);
  lost_.store(true, std::memory_order_seq_cst);
  for (PlanState* plan : plans_) give_up_lost(*plan, fault);
  if (options_.on_fault) {
    // Neither the driver nor the loader: it may unload models, which needs both.
    reporter_->post([this, report] {
      try {
        options_.on_fault(report);
      } catch (const std::exception& error) {
        log_error("on_fault threw: ", error.what());
      }
    });
  }
}

void DeviceState::report_loss(const Error& fault) {
  on_driver([&] {
    if (!lost()) lose_device(fault);
  });
}

/// Who submits wakes one device: if it was this one, the others do not know of the work.
void DeviceState::pass_on() const {
  for (const PlanState* plan : plans_) {
    if (plan->model->queue().items() == 0) continue;
    for (PlanState* other : plan->model->plans()) {
      if (!other->device().lost()) other->device().wake_driver_thread();
    }
  }
}

void DeviceState::give_up_lost(PlanState& plan, const Error& fault) {
  for (const auto& lane : plan.lanes) {
    if (!lane->quarantined) give_up(plan, *lane, fault);
  }
  if (options_.others_take_over) {
    plan.model->fail_waiting_at(plan.location, fault);
  } else {
    plan.model->stop(fault);
  }
}

void DeviceState::give_up(PlanState& plan, LaneState& lane, const Error& error) {
  ModelState& model = *plan.model;
  if (!lost()) log_error(error.message);
  lane.quarantined = true;
  for (BatchSlot* slot : lane.in_flight) {
    slot->given_up = true;
    for (RequestState* request : slot->requests) {
      Lease engines = Lease::adopt(request);
      slot->held.push_back(engines);
      (void)engines.release();
      model.answer(*request, error, delivery_);
    }
    delivery_.flush(model.delivery_key());
    --in_flight_;
    --plan.in_flight;
    plan.figures->running.fetch_sub(1, std::memory_order_relaxed);
  }
  publish_load(plan);
  if (!plan.usable.load(std::memory_order_acquire)) model.no_lane_left(error);
}

void DeviceState::quarantine_over(PlanState& plan, LaneState& lane) {
  lane.quarantined = false;
  if (std::find(plans_.begin(), plans_.end(), &plan) == plans_.end()) return;  // unloaded meanwhile
  log_warning("model \"", plan.model->config().name, "\" on ", device_->id(), ": lane ", lane.index,
              " passed after all and is back in use");
  publish_load(plan);
  plan.model->lane_back();
}

void DeviceState::bury_hung() {
  for (auto plan = hung_.begin(); plan != hung_.end();) {
    const bool passed = std::all_of((*plan)->lanes.begin(), (*plan)->lanes.end(),
                                    [](const auto& lane) { return lane->in_flight.empty(); });
    if (!passed) {
      ++plan;
      continue;
    }
    std::shared_ptr<PlanState> last(std::move(*plan));
    plan = hung_.erase(plan);
    loader_.post([last = std::move(last)]() mutable { last.reset(); });
  }
}

void DeviceState::expire_requests() {
  for (PlanState* plan : plans_) {
    if (plan->model->queue().next_deadline() > now_) continue;
    plan->model->expire(now_, delivery_);
    delivery_.flush(plan->model->delivery_key());
  }
}

// -------------------------------------------------------------------------------------------------
// launching

/// Lanes that are at the same place of the same model share what they read, its weights above all:
/// ResNet-50 on an H200, batches of 8 that stay there, ran 4 to 9% faster on 8 lanes in step. They
/// stay in step when they are launched in the order of the last time, for which a lane that was
/// early waits a moment. Not where copies are to overlap with runs.
bool DeviceState::waits_for_step(const PlanState& plan, const LaneState& lane) {
  if (host_ || lane.thread) return false;
  const BatchSlot* const last = lane.last_slot;
  if (!last || last->leaves_device || !lane.in_flight.empty()) return false;
  const TimePoint until = lane.last_progress + last->estimate / kStepShare;
  if (now_ >= until) return false;
  const bool early = std::any_of(plan.lanes.begin(), plan.lanes.end(), [last](const auto& other) {
    if (other->in_flight.empty() || other->quarantined) return false;
    const BatchSlot& front = *other->in_flight.front();
    return front.number < last->number && !front.leaves_device && front.items == last->items;
  });
  if (early) look_again_ = std::min(look_again_, until);
  return early;
}

LaneState* DeviceState::best_lane(PlanState& plan) {
  LaneState* best = nullptr;
  for (auto& lane : plan.lanes) {
    if (lane->quarantined || lane->terminating || lane->in_flight.size() >= lane->slots.size()) {
      continue;
    }
    if (waits_for_step(plan, *lane)) continue;
    if (!best) {
      best = lane.get();
      continue;
    }
    // An idle lane before a busy one; of idle ones the last used, whose memory is warm; of busy
    // ones the first to be free.
    const bool idle = lane->in_flight.empty();
    const bool best_idle = best->in_flight.empty();
    if (idle != best_idle
            ? idle
            : (idle ? lane->last_used > best->last_used : lane->idle_from < best->idle_from)) {
      best = lane.get();
    }
  }
  return best;
}

PullQuery DeviceState::query_for(PlanState& plan, const LaneState& lane) {
  PullQuery query;
  query.puller = device_->id();
  query.now = now_;
  query.lane_idle_from = lane.in_flight.empty() ? now_ : lane.idle_from;
  query.lead = plan.lead;
  if (inline_ && !lane.in_flight.empty()) {
    // The stream that finishes the batch in front drives at once: nothing is gained by being early.
    query.lane_idle_from = TimePoint::max();
    query.lead = Duration::zero();
  }
  query.batch_time = plan.times.estimate(plan.max_items());
  loads_.clear();
  if (plan.model->plans().size() > 1) {
    for (const PlanState* other : plan.model->plans()) {
      const TimePoint free_at{Duration(other->free_at.load(std::memory_order_relaxed))};
      const DeviceState& there = const_cast<PlanState*>(other)->device();
      const DeviceId id = there.device_->id();
      loads_.push_back({id, other->usable.load(std::memory_order_relaxed),
                        expected_wait(free_at, now_), move_cost(id), there.lost()});
    }
  }
  query.loads = loads_;
  return query;
}

MoveCost DeviceState::move_cost(DeviceId from) const noexcept {
  for (const auto& [device, cost] : move_costs_) {
    if (device == from) return cost;
  }
  return kHostMove;
}

bool DeviceState::launch_ready() {
  bool any = false;
  const int cap = options_.max_batches_in_flight;
  for (;;) {
    if (cap > 0 && in_flight_ >= cap) return any;
    // Plans with work and a lane; what the fair share needs is only looked up when they compete.
    ready_plans_.clear();
    for (PlanState* plan : plans_) {
      plan->items_seen = plan->model->queue().items();
      if (plan->items_seen > 0 && best_lane(*plan)) ready_plans_.push_back(plan);
      if (plan->items_seen == 0 && plan->in_flight == 0) plan->active = false;
    }
    PlanState* chosen = ready_plans_.size() == 1 ? ready_plans_.front() : nullptr;
    if (ready_plans_.size() > 1) {
      ready_.clear();
      std::size_t kept = 0;
      for (PlanState* plan : ready_plans_) {
        const PullAnswer offer = plan->model->queue().peek(query_for(*plan, *best_lane(*plan)));
        if (offer.requests == 0) {
          plan->items_seen = offer.seen_items;
          look_again_ = std::min(look_again_, offer.wait_until);
          continue;
        }
        if (!plan->active) plan->virtual_time = std::max(plan->virtual_time, virtual_clock_);
        ready_plans_[kept++] = plan;
        ready_.push_back(
            {plan->model->config().priority_class, offer.earliest_deadline, plan->virtual_time});
      }
      const PlanChoice choice = next_plan(ready_, {in_flight_, cap});
      if (choice.plan) chosen = ready_plans_[*choice.plan];
    }
    if (!chosen) return any;
    if (launch_from(*chosen)) {
      any = true;
    } else if (ready_plans_.size() == 1) {
      return any;
    }  // else what was offered was taken meanwhile: the others may still go
  }
}

namespace {

struct FreeLane {
  PlanState& plan;
  const LaneState& lane;

  static bool suits(const void* context, const RequestState& request) {
    const auto& self = *static_cast<const FreeLane*>(context);
    return self.plan.prepared_on(self.lane, request);
  }
};

}  // namespace

bool DeviceState::launch_from(PlanState& plan) {
  LaneState& found = *best_lane(plan);
  BatchSlot& first = *found.free_slot();
  now_ = Clock::now();
  plan.forget_lookup();
  PullQuery query = query_for(plan, found);
  const FreeLane free{plan, found};
  if (plan.searches()) {
    query.suits_lane = &FreeLane::suits;
    query.suits_context = &free;
  }
  const PullAnswer pulled = plan.model->queue().take(query, first.requests);
  if (pulled.requests == 0) {
    plan.items_seen = pulled.seen_items;  // another device's driver may have been first
    look_again_ = std::min(look_again_, pulled.wait_until);
    return false;
  }
  if (query.suits_lane) plan.count_search(pulled.suited);
  LaneState& lane = *plan.lane_for(first.requests, &found);
  BatchSlot& slot = &lane == &found ? first : *lane.free_slot();
  if (&slot != &first) slot.requests.swap(first.requests);
  slot.items = pulled.items;
  launch(plan, lane, slot, now_);
  // What is left may be for a lane of another device.
  if (plan.model->plans().size() > 1 && plan.model->queue().items() > 0) {
    for (PlanState* other : plan.model->plans()) {
      if (other != &plan &&
          other->wake_at_items.load(std::memory_order_relaxed) <= plan.model->queue().items()) {
        other->wake_at_items.store(INT64_MAX, std::memory_order_relaxed);
        other->device().wake_driver_thread();
        break;
      }
    }
  }
  return true;
}

/// Host events cost next to nothing. On a GPU each is a node in the stream and a question to the
/// driver: of very short batches fewer are enough.
bool DeviceState::samples(std::uint64_t number, TimePoint now) noexcept {
  if (device_->id().kind == DeviceKind::host || timelines_.on()) return true;
  if (options_.sample_every == 0 || now < next_sample_) return false;
  if (number % static_cast<std::uint64_t>(options_.sample_every) != 0) return false;
  if (options_.sample_every > 1) next_sample_ = now + kSamplesApart;
  return true;
}

/// How long the stream will be at work on the batch, where that can be told: who launches short
/// ones may as well do the work. See docs/design/driving.md.
Duration DeviceState::work_of(const PlanState& plan, const LaneState& lane,
                              const BatchSlot& slot) const noexcept {
  const bool told =
      inline_ && lane.traits.only_computes && plan.inputs_fixed() && plan.times.knows(slot.items);
  return told ? slot.estimate : Duration::max();
}

void DeviceState::launch(PlanState& plan, LaneState& lane, BatchSlot& slot, TimePoint now) {
  slot.number = timelines_.next_number();
  // Host events cost next to nothing; on a GPU each is a node in the stream.
  slot.sampled = samples(slot.number, now);
  slot.picked = now;
  slot.submitted = slot.requests.front()->submitted;
  slot.estimate = plan.times.estimate(slot.items);
  slot.lane_was_idle = lane.in_flight.empty();
  ++slot.expected;
  slot.run_count = nullptr;
  slot.asks_event = false;
  if (slot.lane_was_idle) lane.last_progress = now;
  const Duration hang_timeout = plan.model->config().hang_timeout;
  if (hang_timeout > Duration::zero()) {
    look_again_ = std::min(look_again_, lane.last_progress + hang_timeout);
  }
  lane.idle_from = std::max(lane.idle_from, now) + slot.estimate;
  for (RequestState* request : slot.requests) {
    if (request->may_spin) {
      request->expected_end.store(lane.idle_from.time_since_epoch().count(),
                                  std::memory_order_relaxed);
    }
  }
  lane.last_used = now;
  lane.last_slot = &slot;
  lane.in_flight.push_back(&slot);
  if (!plan.active) {
    plan.active = true;
    plan.virtual_time = std::max(plan.virtual_time, virtual_clock_);
  }
  virtual_clock_ = std::max(virtual_clock_, plan.virtual_time);
  plan.virtual_time += seconds(slot.estimate) / plan.model->config().weight;
  ++plan.in_flight;
  ++in_flight_;
  plan.figures->running.fetch_add(1, std::memory_order_relaxed);
  if (slot.lane_was_idle) plan.figures->busy_lanes.fetch_add(1, std::memory_order_relaxed);
  publish_load(plan);
  if (lane.thread) {
    lane.thread->post([&plan, &slot] { plan.stage(slot); });
  } else {
    std::optional<HeldWakes> one_wake_for_all;
    if (host_) {
      const bool own =
          inline_ && lane.traits.only_computes && WaitingCaller::waits_for(slot.requests);
      one_wake_for_all.emplace(work_of(plan, lane, slot), own);
    }
    plan.stage(slot);
  }
}

void DeviceState::publish_load(PlanState& plan) {
  bool usable = false;
  TimePoint free_at = TimePoint::max();
  for (const auto& lane : plan.lanes) {
    if (lane->quarantined) continue;
    usable = true;
    free_at = std::min(free_at, lane->in_flight.empty() ? TimePoint{} : lane->idle_from);
  }
  plan.free_at.store(free_at.time_since_epoch().count(), std::memory_order_relaxed);
  plan.usable.store(usable, std::memory_order_release);
}

// ---------------------------------------------------------------------------------------------------
// waiting

/// Says to submitters what is worth waking this driver for, and returns when it must wake by
/// itself.
TimePoint DeviceState::arm_wakes() {
  TimePoint until = look_again_;
  const bool capped =
      options_.max_batches_in_flight > 0 && in_flight_ >= options_.max_batches_in_flight;
  for (PlanState* plan : plans_) {
    until = std::min(until, plan->model->queue().next_deadline());
    const LaneState* lane = capped ? nullptr : best_lane(*plan);
    std::int64_t at = INT64_MAX;
    if (lane) {
      const std::int64_t seen = plan->items_seen;
      const auto& preferred = plan->batching().preferred_items;
      const auto next = std::upper_bound(preferred.begin(), preferred.end(), seen);
      const std::int64_t full = next == preferred.end() ? plan->max_items() : *next;
      const TimePoint idle_soon = lane->in_flight.empty() ? TimePoint::min()
                                  : inline_               ? TimePoint::max()
                                                          : lane->idle_from - plan->lead;
      if (seen > 0) {
        at = std::max(full, seen + 1);
      } else if (idle_soon <= now_) {
        at = 1;
      } else {
        at = full;
        until = std::min(until, idle_soon);
      }
    }
    plan->wake_at_items.store(at, std::memory_order_seq_cst);
  }
  return until;
}

bool DeviceState::something_to_do(TimePoint until) const {
  if (has_commands_.load(std::memory_order_seq_cst)) return true;
  for (const PlanState* plan : plans_) {
    ModelQueue& queue = plan->model->queue();
    const std::int64_t items = queue.items();
    const std::int64_t wake_at = plan->wake_at_items.load(std::memory_order_relaxed);
    if (items >= wake_at) return true;
    if (queue.full() && items != plan->items_seen && wake_at != INT64_MAX) return true;
    if (queue.next_deadline() < until) return true;
  }
  return false;
}

/// Devices whose streams cannot wake a thread do it for the oldest batch of each lane.
void DeviceState::ask_for_wakes() {
  if (device_->id().kind == DeviceKind::host || lost()) return;
  for (PlanState* plan : plans_) {
    for (auto& lane : plan->lanes) {
      if (lane->in_flight.empty()) continue;
      (void)device_->wake_after(lane->in_flight.front()->done.ref(), waker_);
    }
  }
}

bool DeviceState::spins() const noexcept {
  if (inline_) return false;
  WaitMode mode = options_.wait;
  if (mode == WaitMode::automatic) mode = WaitMode::hybrid;
  return mode == WaitMode::spin ||
         (mode == WaitMode::hybrid && (in_flight_ > 0 || now_ - last_work_ < kSpinAfterWork));
}

}  // namespace millrace
