#include "backends/onnxruntime/lane.h"

#include <array>
#include <cstring>
#include <exception>
#include <new>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "device/host/host_queue.h"

namespace millrace::onnxruntime {
namespace {

void report(const BatchIo& io, Error error) noexcept {
  if (io.status != nullptr) {
    io.status->fail(std::move(error));
  } else {
    log_error("a batch without a status failed: ", error.message);
  }
}

// The shape that an output will have, where the model fixes all but the number of items.
std::optional<Shape> known_shape(const TensorInfo& info, std::int64_t items) {
  Shape shape = info.shape;
  if (info.batch_axis >= 0) shape[static_cast<std::size_t>(info.batch_axis)] = items;
  if (is_dynamic(shape)) return std::nullopt;
  return shape;
}

Result<Shape> shape_of(const OrtValue& value, std::string_view title) {
  Owned<OrtTensorTypeAndShapeInfo> info;
  MILLRACE_TRY(check(api().GetTensorTypeAndShape(&value, made(info)), title));
  std::size_t rank = 0;
  MILLRACE_TRY(check(api().GetDimensionsCount(info.get(), &rank), title));
  if (rank > kMaxRank) {
    return Error{ErrorCode::unsupported, concat(title, ": an output came out with ", rank,
                                                " dimensions; at most ", kMaxRank, " can be used")};
  }
  std::array<std::int64_t, kMaxRank> dims{};
  MILLRACE_TRY(check(api().GetDimensions(info.get(), dims.data(), rank), title));
  return Shape::from({dims.data(), rank});
}

// Lanes whose run never ended: kept, and known to be kept, until the process ends.
void keep_forever(OnnxLane* lane) {
  static auto* const mutex = new std::mutex;
  static auto* const lanes = new std::vector<OnnxLane*>;
  const std::lock_guard lock(*mutex);
  lanes->push_back(lane);
}

}  // namespace

Result<std::unique_ptr<Lane>> OnnxLane::make(std::shared_ptr<Session> session, DeviceRef device,
                                             const LaneOptions& options) {
  std::unique_ptr<OnnxLane> lane(new OnnxLane(std::move(session)));
  const Session& its = *lane->session_;
  MILLRACE_TRY(check(api().CreateRunOptions(made(lane->run_options_)), its.title()));
  MILLRACE_TRY(
      check(api().RunOptionsSetRunTag(lane->run_options_.get(), its.name().c_str()), its.title()));
  lane->slots_.reserve(static_cast<std::size_t>(options.slots));
  lane->input_values_.resize(its.info().inputs.size());
  lane->output_values_.resize(its.info().outputs.size());
  StreamOptions stream;
  stream.priority = options.priority;
  stream.name = concat(its.name(), "/", options.index);
  MILLRACE_ASSIGN(lane->stream_, device->new_stream(stream));
  return std::unique_ptr<Lane>(std::move(lane));
}

LaneTraits OnnxLane::traits() const {
  LaneTraits traits;
  traits.terminable = true;
  traits.only_computes = true;
  return traits;
}

Result<ShapeKey> OnnxLane::prepare(const BatchIo& /*io*/) {
  return Error{ErrorCode::unsupported, concat(session_->title(), ": has no use for preparation")};
}

Result<void> OnnxLane::enqueue(ShapeKey key, const BatchIo& io) {
  if (key != kEager)
    return Error{ErrorCode::internal,
                 concat(session_->title(), ": there is no prepared run ", key)};
  for (const TensorView& input : io.inputs) {
    if (input.ready) MILLRACE_TRY(stream_.ref().wait(input.ready));
  }
  for (const OutputSlot& output : io.outputs) {
    if (output.view.ready) MILLRACE_TRY(stream_.ref().wait(output.view.ready));
  }
  MILLRACE_TRY(stream_.ref().run([this, &io] { execute(io); }));
  if (io.inputs_consumed) MILLRACE_TRY(stream_.ref().record(io.inputs_consumed));
  if (io.done) MILLRACE_TRY(stream_.ref().record(io.done));
  return {};
}

Result<void> OnnxLane::terminate() {
  const std::lock_guard lock(mutex_);
  if (!running_) return {};
  ended_.store(true);
  MILLRACE_TRY(check(api().RunOptionsSetTerminate(run_options_.get()), session_->title()));
  // An operator that never returns must not keep other models from running.
  session_->runtime().gate().wake(pass_);
  session_->runtime().gate().leave(pass_);
  return {};
}

void OnnxLane::abandon() noexcept {
  stream_.abandon();
  {
    const std::lock_guard lock(mutex_);
    ended_.store(true);
    (void)check(api().RunOptionsSetTerminate(run_options_.get()), session_->title());
  }
  session_->runtime().gate().wake(pass_);
  session_->runtime().gate().leave(pass_);
  keep_forever(this);
}

void OnnxLane::execute(const BatchIo& io) noexcept {
  const TimePoint begun = Clock::now();
  {
    const std::lock_guard lock(mutex_);
    running_ = true;
  }
  Result<void> result;
  try {
    result = run(io);
  } catch (const std::bad_alloc&) {
    result = Error{ErrorCode::out_of_memory, "out of memory while running a batch"};
  } catch (const std::exception& error) {
    result = Error{ErrorCode::internal, error.what()};
  }
  {
    const std::lock_guard lock(mutex_);
    running_ = false;
    if (ended_.exchange(false)) {
      (void)check(api().RunOptionsUnsetTerminate(run_options_.get()), session_->title());
      result = Error{ErrorCode::unavailable, concat(session_->title(), ": ended after ",
                                                    format_duration(Clock::now() - begun))};
    }
  }
  if (!result.ok()) report(io, std::move(result).error());
}

Result<void> OnnxLane::run(const BatchIo& io) {
  Slot& slot = slot_of(io);
  MILLRACE_TRY(bind_inputs(slot, io));
  MILLRACE_TRY(bind_outputs(slot, io));
  Gate& gate = session_->runtime().gate();
  if (HostQueue::on_helper()) {
    gate.squeeze_in(pass_);
  } else if (!gate.enter(pass_, ended_)) {
    return {};  // ended: the caller says so
  }
  OrtStatus* const status =
      api().Run(session_->get(), run_options_.get(), session_->input_names().data(),
                input_values_.data(), input_values_.size(), session_->output_names().data(),
                output_values_.size(), output_values_.data());
  gate.leave(pass_);
  const Result<void> ran = check(status, session_->title());
  // What the library allocated is ours to release, whatever happened.
  const Result<void> taken = take_outputs(slot, io);
  return ran.ok() ? taken : ran;
}

OnnxLane::Slot& OnnxLane::slot_of(const BatchIo& io) {
  const auto index = static_cast<std::size_t>(io.slot);
  if (index >= slots_.size()) slots_.resize(index + 1);
  Slot& slot = slots_[index];
  if (slot.inputs.empty()) {
    slot.inputs.resize(input_values_.size());
    slot.outputs.resize(output_values_.size());
  }
  return slot;
}

Result<void> OnnxLane::bind(Bound& bound, const TensorView& view) {
  if (bound.value && bound.data == view.data && bound.shape == view.shape) return {};
  static std::byte nothing[64];  // the library wants an address even for no elements
  MILLRACE_ASSIGN(const std::size_t bytes, byte_count(view.type, view.shape));
  bound.value.reset();
  MILLRACE_TRY(check(
      api().CreateTensorWithDataAsOrtValue(
          session_->runtime().cpu_memory(), view.data != nullptr ? view.data : nothing, bytes,
          view.shape.data(), view.shape.rank(), element_type_of(view.type), made(bound.value)),
      session_->title()));
  bound.data = view.data;
  bound.shape = view.shape;
  return {};
}

// The library's strings are its own: these are copied.
Result<void> OnnxLane::bind_strings(Bound& bound, const TensorView& view) {
  OrtAllocator* allocator = nullptr;
  MILLRACE_TRY(check(api().GetAllocatorWithDefaultOptions(&allocator), session_->title()));
  MILLRACE_ASSIGN(const std::int64_t count, element_count(view.shape));
  bound.value.reset();
  MILLRACE_TRY(
      check(api().CreateTensorAsOrtValue(allocator, view.shape.data(), view.shape.rank(),
                                         ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, made(bound.value)),
            session_->title()));
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const std::size_t length = view.offsets[i + 1] - view.offsets[i];
    char* buffer = nullptr;
    MILLRACE_TRY(
        check(api().GetResizedStringTensorElementBuffer(bound.value.get(), i, length, &buffer),
              session_->title()));
    if (length > 0)
      std::memcpy(buffer, static_cast<const char*>(view.data) + view.offsets[i], length);
  }
  return {};
}

Result<void> OnnxLane::bind_inputs(Slot& slot, const BatchIo& io) {
  for (std::size_t i = 0; i < io.inputs.size(); ++i) {
    const TensorView& view = io.inputs[i];
    MILLRACE_TRY(view.type == DataType::bytes ? bind_strings(slot.inputs[i], view)
                                              : bind(slot.inputs[i], view));
    input_values_[i] = slot.inputs[i].value.get();
  }
  return {};
}

Result<void> OnnxLane::bind_outputs(Slot& slot, const BatchIo& io) {
  const bool scalar = io.inputs.empty() || io.inputs[0].shape.empty();
  const std::int64_t items = scalar ? 1 : io.inputs[0].shape[0];
  for (std::size_t i = 0; i < io.outputs.size(); ++i) {
    OutputSlot& output = io.outputs[i];
    output_values_[i] = nullptr;
    if (output.view.type == DataType::bytes) continue;
    if (output.view.data == nullptr) {  // where the shape is known, allocate now and save a copy
      const std::optional<Shape> shape = known_shape(session_->info().outputs[i], items);
      if (!shape) continue;
      MILLRACE_ASSIGN(const std::size_t bytes, byte_count(output.view.type, *shape));
      MILLRACE_ASSIGN(output.view.data, output.allocate(output.view.type, *shape, bytes));
      output.view.shape = *shape;
    }
    MILLRACE_TRY(bind(slot.outputs[i], output.view));
    output_values_[i] = slot.outputs[i].value.get();
  }
  return {};
}

Result<void> OnnxLane::take_outputs(Slot& slot, const BatchIo& io) {
  Result<void> result;
  for (std::size_t i = 0; i < io.outputs.size(); ++i) {
    if (output_values_[i] == nullptr || output_values_[i] == slot.outputs[i].value.get()) continue;
    const Owned<OrtValue> value(output_values_[i]);
    output_values_[i] = nullptr;
    if (result.ok()) result = take_output(i, *value, io.outputs[i]);
  }
  return result;
}

Result<void> OnnxLane::take_output(std::size_t index, const OrtValue& value, OutputSlot& slot) {
  MILLRACE_ASSIGN(const Shape shape, shape_of(value, session_->title()));
  const DataType type = session_->info().outputs[index].type;
  slot.view.type = type;
  slot.view.shape = shape;
  if (type == DataType::bytes) return take_strings(value, shape, slot);
  MILLRACE_ASSIGN(const std::size_t bytes, byte_count(type, shape));
  MILLRACE_ASSIGN(slot.view.data, slot.allocate(type, shape, bytes));
  const void* data = nullptr;
  MILLRACE_TRY(
      check(api().GetTensorMutableData(const_cast<OrtValue*>(&value), const_cast<void**>(&data)),
            session_->title()));
  if (bytes > 0) std::memcpy(slot.view.data, data, bytes);
  return {};
}

Result<void> OnnxLane::take_strings(const OrtValue& value, const Shape& shape, OutputSlot& slot) {
  static_assert(sizeof(std::size_t) == sizeof(std::uint64_t));
  MILLRACE_ASSIGN(const std::int64_t count, element_count(shape));
  const auto n = static_cast<std::size_t>(count);
  std::size_t bytes = 0;
  MILLRACE_TRY(check(api().GetStringTensorDataLength(&value, &bytes), session_->title()));
  MILLRACE_ASSIGN(void* memory, slot.allocate(DataType::bytes, shape, bytes));
  auto* const offsets = static_cast<std::size_t*>(memory);
  char* const block = reinterpret_cast<char*>(offsets + n + 1);
  MILLRACE_TRY(
      check(api().GetStringTensorContent(&value, block, bytes, offsets, n), session_->title()));
  offsets[n] = bytes;
  slot.view.offsets = static_cast<const std::uint64_t*>(memory);
  slot.view.data = block;
  return {};
}

}  // namespace millrace::onnxruntime
