#include "backends/reference/lane.h"

#include <algorithm>
#include <exception>
#include <new>

#include "backends/reference/compute.h"
#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "device/host/host_device.h"

namespace millrace::reference {
namespace {

using std::chrono::nanoseconds;

std::vector<Shape> shapes_of(std::span<const TensorView> inputs) {
  std::vector<Shape> shapes;
  for (const TensorView& input : inputs) shapes.push_back(input.shape);
  return shapes;
}

void report(const BatchIo& io, Error error) noexcept {
  if (io.status != nullptr) {
    io.status->fail(std::move(error));
  } else {
    log_error("a batch without a status failed: ", error.message);
  }
}

// Lanes whose work never ended: kept, and known to be kept, until the process ends.
void keep_forever(ReferenceLane* lane) {
  static auto* const mutex = new std::mutex;
  static auto* const lanes = new std::vector<ReferenceLane*>;
  const std::lock_guard lock(*mutex);
  lanes->push_back(lane);
}

}  // namespace

Duration Model::slowed(nanoseconds time) const noexcept {
  return nanoseconds(static_cast<std::int64_t>(static_cast<double>(time.count()) * slowness));
}

Model::Call Model::count_call() noexcept {
  const std::uint64_t number = calls.fetch_add(1, std::memory_order_relaxed) + 1;
  return {number, number == options.at || (options.every != 0 && number % options.every == 0)};
}

Error Model::error(ErrorCode code, std::string_view what) const {
  return {code,
          concat("model ", quote(name), " (reference ", to_string(options.kind), "): ", what)};
}

Result<std::unique_ptr<Lane>> ReferenceLane::make(const std::shared_ptr<Model>& model,
                                                  const LaneOptions& options) {
  const Options& asked = model->options;
  if (asked.fail_lane == options.index + 1) {
    return model->error(ErrorCode::internal, concat("lane ", options.index, " fails, as asked"));
  }
  std::unique_ptr<ReferenceLane> lane(new ReferenceLane(model));
  lane->prepared_.reserve(1024);
  const std::size_t bytes = asked.lane_bytes + (asked.share_weights ? 0 : asked.weights_bytes);
  MILLRACE_ASSIGN(lane->memory_, model->device->allocate(bytes, MemoryKind::device));
  StreamOptions stream;
  stream.priority = options.priority;
  stream.name = concat(model->name, "/", options.index);
  MILLRACE_ASSIGN(lane->stream_, model->device->new_stream(stream));
  if (asked.own_stream) {
    stream.name += "+";
    MILLRACE_ASSIGN(lane->own_stream_, model->device->new_stream(stream));
    MILLRACE_ASSIGN(lane->forked_, model->device->new_event(EventTiming::untimed));
    MILLRACE_ASSIGN(lane->joined_, model->device->new_event(EventTiming::untimed));
  }
  return std::unique_ptr<Lane>(std::move(lane));
}

LaneTraits ReferenceLane::traits() const {
  const Options& options = model_->options;
  LaneTraits traits;
  traits.enqueue_blocks = options.blocking;
  traits.terminable = options.terminable;
  traits.wants_prepare = options.wants_prepare || options.fixed_addresses ||
                         options.only_prepared || options.first_run_time > nanoseconds::zero();
  traits.fixed_addresses = options.fixed_addresses;
  traits.only_prepared = options.only_prepared;
  traits.prepares_any_address = true;
  traits.wants_graphs = options.graphs;
  traits.avoids_eager = options.avoids_eager;
  const bool sleeps = options.mode == BusyMode::sleep &&
                      options.batch_time + options.item_time > nanoseconds::zero();
  traits.only_computes = options.kind != Kind::hang && !sleeps && !options.blocking &&
                         !options.own_stream && options.first_run_time == nanoseconds::zero();
  return traits;
}

std::string_view ReferenceLane::not_captured(ShapeKey) const {
  return model_->options.not_captured ? "not captured, as asked" : "";
}

LaneMemory ReferenceLane::memory() const {
  const std::size_t prepared = prepared_count_.load(std::memory_order_acquire);
  return {memory_.bytes(), 0, prepared * model_->options.prepared_bytes};
}

Result<ShapeKey> ReferenceLane::prepare(const BatchIo& io) {
  const Options& options = model_->options;
  if (options.fail_prepare) return model_->error(ErrorCode::internal, "preparing fails, as asked");
  auto prepared = std::make_unique<Prepared>();
  prepared->lane = this;
  prepared->inputs.assign(io.inputs.begin(), io.inputs.end());
  for (const OutputSlot& output : io.outputs) {
    if (options.fixed_addresses && output.view.data == nullptr) {
      return model_->error(ErrorCode::invalid_argument,
                           "to prepare a run with fixed addresses, every output needs its memory");
    }
    prepared->outputs.push_back({output.view, nullptr});
  }
  MILLRACE_ASSIGN(prepared->memory,
                  model_->device->allocate(options.prepared_bytes, MemoryKind::device));
  const Duration time = model_->slowed(options.prepare_time + options.first_run_time);
  if (time > Duration::zero()) sleep_until(Clock::now() + time, nullptr);
  if (options.first_run_time > nanoseconds::zero()) (void)first_of_its_shapes(io.inputs);
  if (prepared_.size() == prepared_.capacity()) {  // the driver reads while this adds
    return model_->error(ErrorCode::unsupported, "no more runs can be prepared");
  }
  prepared_.push_back(std::move(prepared));
  prepared_count_.store(prepared_.size(), std::memory_order_release);
  return static_cast<ShapeKey>(prepared_.size() - 1);
}

Result<ReferenceLane::Prepared*> ReferenceLane::find(ShapeKey key, const BatchIo& io) const {
  if (key == kEager) {
    if (!model_->options.only_prepared) return nullptr;
    return model_->error(ErrorCode::unsupported,
                         concat("runs only as prepared, and nothing is prepared for input shape ",
                                io.inputs[0].shape));
  }
  if (key < 0 || static_cast<std::size_t>(key) >= prepared_count_.load(std::memory_order_acquire)) {
    return model_->error(ErrorCode::internal, concat("there is no prepared run ", key));
  }
  Prepared* const prepared = prepared_[static_cast<std::size_t>(key)].get();
  for (std::size_t i = 0; i < io.inputs.size(); ++i) {
    if (io.inputs[i].shape != prepared->inputs[i].shape) {
      return model_->error(ErrorCode::internal,
                           concat("run ", key, " was prepared for input shape ",
                                  prepared->inputs[i].shape, ", got ", io.inputs[i].shape));
    }
  }
  return prepared;
}

// A device with memory of its own reaches no other, and reads and writes whole elements.
Result<void> ReferenceLane::check_reach(const BatchIo& io) const {
  if (!model_->device->separate_memory()) return {};
  const HostMemory& memory = as_host(model_->device)->host_memory();
  const auto check = [&](const TensorView& view, const char* what, bool on_host) -> Result<void> {
    if (on_host && memory.holds(view.data, 1, MemoryKind::device)) {
      return model_->error(ErrorCode::internal, concat(what, " lies in the device's memory"));
    }
    if (on_host || view.type == DataType::bytes || view.data == nullptr) return {};
    MILLRACE_ASSIGN(const std::size_t bytes, view.bytes());
    if (!memory.holds(view.data, bytes, MemoryKind::device)) {
      return model_->error(ErrorCode::internal, concat(what, " lies outside the device's memory"));
    }
    if (reinterpret_cast<std::uintptr_t>(view.data) % size_of(view.type) == 0) return {};
    return model_->error(ErrorCode::internal, concat(what, " is not aligned"));
  };
  const bool last_on_host = model_->options.host_input;
  for (const TensorView& input : io.inputs) {
    MILLRACE_TRY(check(input, "an input", last_on_host && &input == &io.inputs.back()));
  }
  for (const OutputSlot& output : io.outputs) {
    MILLRACE_TRY(check(output.view, "an output", false));
  }
  return {};
}

Result<void> ReferenceLane::enqueue(ShapeKey key, const BatchIo& io) {
  const Options& options = model_->options;
  MILLRACE_TRY(check_reach(io));
  MILLRACE_ASSIGN(Prepared* const prepared, find(key, io));
  if (options.kind == Kind::fail && options.when == FailWhen::enqueue) {
    if (const Model::Call call = model_->count_call(); call.named) {
      Error error = model_->error(options.code, concat("call ", call.number, " fails, as asked"));
      error.scope = options.scope;
      return error;
    }
  }
  if (options.kind == Kind::hang && options.when == FailWhen::enqueue &&
      model_->count_call().named) {
    hang(nullptr);
  }
  if (sizes_known(options) && !(prepared != nullptr && options.fixed_addresses)) {
    for (std::size_t i = 0; i < io.outputs.size(); ++i) {
      if (io.outputs[i].view.data == nullptr)
        MILLRACE_TRY(place_output(options, io.inputs, io.outputs, i));
    }
  }
  if (own_stream_) {
    MILLRACE_TRY(stream_.ref().record(forked_));
    MILLRACE_TRY(own_stream_.ref().wait(forked_));
    MILLRACE_TRY(start(own_stream_, prepared, io));
    MILLRACE_TRY(own_stream_.ref().record(joined_));
    MILLRACE_TRY(stream_.ref().wait(joined_));
  } else {
    MILLRACE_TRY(start(stream_, prepared, io));
  }
  if (io.inputs_consumed) MILLRACE_TRY(stream_.ref().record(io.inputs_consumed));
  if (io.done) MILLRACE_TRY(stream_.ref().record(io.done));
  return {};
}

Result<void> ReferenceLane::start(StreamRef work, Prepared* prepared, const BatchIo& io) {
  for (const TensorView& input : io.inputs) {
    if (input.ready) MILLRACE_TRY(work.wait(input.ready));
  }
  for (const OutputSlot& output : io.outputs) {
    if (output.view.ready) MILLRACE_TRY(work.wait(output.view.ready));
  }
  if (model_->options.blocking) {
    MILLRACE_TRY(work.synchronize());
    execute(prepared, io);
    return {};
  }
  // Two pointers fit into a std::function without an allocation, three do not.
  if (prepared != nullptr)
    return work.run([prepared, &io] { prepared->lane->execute(prepared, io); });
  return work.run([this, &io] { execute(nullptr, io); });
}

void ReferenceLane::execute(Prepared* prepared, const BatchIo& io) noexcept {
  Interrupt* const interrupt = model_->options.terminable ? &interrupt_ : nullptr;
  TimePoint begun;
  if (interrupt != nullptr) {
    begun = Clock::now();
    interrupt->begin();
  }
  try {
    Result<void> result = imitate(prepared, io, interrupt);
    if (interrupt != nullptr && interrupt->finish()) {
      result = model_->error(ErrorCode::unavailable,
                             concat("ended after ", format_duration(Clock::now() - begun)));
    }
    if (result.ok()) result = compute_outputs(prepared, io);
    if (!result.ok()) report(io, std::move(result).error());
  } catch (const std::bad_alloc&) {
    report(io, {ErrorCode::out_of_memory, "out of memory in a reference model"});
  } catch (const std::exception& error) {
    report(io, {ErrorCode::internal, error.what()});
  }
}

Result<void> ReferenceLane::imitate(const Prepared* prepared, const BatchIo& io,
                                    Interrupt* interrupt) {
  const Options& options = model_->options;
  Model::Call call;
  const bool stumbles = options.kind == Kind::hang || options.kind == Kind::fail;
  if (stumbles && options.when == FailWhen::run) call = model_->count_call();
  if (options.kind == Kind::hang && call.named) hang(interrupt);
  nanoseconds time = options.batch_time + options.item_time * items_of(options, io.inputs);
  if (options.first_run_time > nanoseconds::zero() && prepared == nullptr &&
      first_of_its_shapes(io.inputs)) {
    time += options.first_run_time;
  }
  if (time > nanoseconds::zero()) {
    if (options.mode == BusyMode::sleep) {
      sleep_until(Clock::now() + model_->slowed(time), interrupt);
    } else {
      compute_for(model_->slowed(time), interrupt);
    }
  }
  if (options.kind == Kind::fail && call.named) {
    if (options.sticky) {
      const std::string reason = concat("call ", call.number, " breaks it, as asked");
      as_host(model_->device)->break_down(reason);
      return Error{ErrorCode::gpu_fault, reason, Scope::process};
    }
    Error error = model_->error(options.code, concat("call ", call.number, " fails, as asked"));
    error.scope = options.scope;
    return error;
  }
  return {};
}

Result<void> ReferenceLane::compute_outputs(Prepared* prepared, const BatchIo& io) {
  if (prepared == nullptr || !model_->options.fixed_addresses) {
    return compute(model_->options, io.inputs, io.outputs);
  }
  MILLRACE_TRY(compute(model_->options, prepared->inputs, prepared->outputs));
  for (std::size_t i = 0; i < io.outputs.size(); ++i)
    io.outputs[i].view = prepared->outputs[i].view;
  return {};
}

bool ReferenceLane::first_of_its_shapes(std::span<const TensorView> inputs) {
  std::vector<Shape> shapes = shapes_of(inputs);
  const std::lock_guard lock(mutex_);
  if (std::ranges::find(seen_, shapes) != seen_.end()) return false;
  seen_.push_back(std::move(shapes));
  return true;
}

Result<void> ReferenceLane::terminate() {
  if (!model_->options.terminable) return Lane::terminate();
  interrupt_.end();
  return {};
}

void ReferenceLane::abandon() noexcept {
  stream_.abandon();
  if (own_stream_) own_stream_.abandon();
  keep_forever(this);
}

}  // namespace millrace::reference
