#include "backends/tensorrt/lane.h"

#include <algorithm>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include "backends/tensorrt/convert.h"
#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "device/cuda/cuda_error.h"

namespace millrace::tensorrt {
namespace {

constexpr std::size_t kMostPrepared = 1024;

template <class... Things>
void keep_forever(Things... things) {
  static std::mutex mutex;
  static auto* const kept = new std::vector<std::tuple<Things...>>;
  const std::lock_guard lock(mutex);
  kept->emplace_back(std::move(things)...);
}

}  // namespace

class TensorrtLane::LateOutput final : public nvinfer1::IOutputAllocator {
 public:
  void start(OutputSlot& slot) noexcept {
    slot_ = &slot;
    error_ = {};
    data_ = nullptr;
    bytes_ = 0;
    shape_ = {};
  }
  void* reallocateOutputAsync(const char*, void*, std::uint64_t size, std::uint64_t,
                              cudaStream_t) noexcept override {
    if (data_ && size <= bytes_) return data_;
    const auto unit = static_cast<std::int64_t>(size_of(slot_->view.type));
    const auto elements = (static_cast<std::int64_t>(size) + unit - 1) / unit;
    Result<void*> memory = slot_->allocate(slot_->view.type, Shape{elements}, 0);
    if (!memory) {
      error_ = std::move(memory).error();
      return nullptr;
    }
    data_ = *memory;
    bytes_ = size;
    return data_;
  }
  void* reallocateOutput(const char* name, void* current, std::uint64_t size,
                         std::uint64_t alignment) noexcept override {
    return reallocateOutputAsync(name, current, size, alignment, nullptr);
  }
  void notifyShape(const char*, const nvinfer1::Dims& dims) noexcept override {
    shape_ = shape_of(dims);
  }
  Result<void> finish() {
    if (!error_.message.empty()) return error_;
    slot_->view.data = data_;
    slot_->view.shape = shape_;
    return {};
  }

 private:
  OutputSlot* slot_ = nullptr;
  Error error_;
  void* data_ = nullptr;
  std::uint64_t bytes_ = 0;
  Shape shape_;
};

void TensorrtLane::GraphDeleter::operator()(CUgraphExec_st* graph) const noexcept {
  log_cuda(cudaGraphExecDestroy(graph), "cudaGraphExecDestroy");
}

TensorrtLane::TensorrtLane(std::shared_ptr<LoadedEngine> engine, int index)
    : engine_(std::move(engine)), index_(index) {}

Result<std::unique_ptr<Lane>> TensorrtLane::make(std::shared_ptr<LoadedEngine> engine,
                                                 const LaneOptions& options) {
  std::unique_ptr<TensorrtLane> lane(new TensorrtLane(std::move(engine), options.index));
  LoadedEngine& shared = *lane->engine_;
  StreamOptions stream;
  stream.priority = options.priority;
  stream.name = concat(shared.name(), "/", options.index);
  MILLRACE_ASSIGN(lane->stream_, shared.device()->new_stream(stream));
  stream.name += "+";
  MILLRACE_ASSIGN(lane->loader_stream_, shared.device()->new_stream(stream));
  lane->prepared_.reserve(kMostPrepared);
  lane->native_ = static_cast<cudaStream_t>(lane->stream_.ref().native_handle());
  MILLRACE_ASSIGN(lane->activations_,
                  shared.device()->allocate(shared.activation_bytes(), MemoryKind::device));
  for (std::size_t profile = 0; profile < shared.profiles().size(); ++profile) {
    MILLRACE_ASSIGN(Context context, lane->new_context(static_cast<int>(profile), lane->stream_));
    lane->eager_.push_back(std::move(context));
  }
  lane->eager_shapes_.resize(lane->eager_.size());
  for (const Binding& output : shared.outputs()) {
    lane->late_.push_back(output.data_dependent ? std::make_unique<LateOutput>() : nullptr);
  }
  return std::unique_ptr<Lane>(std::move(lane));
}

TensorrtLane::~TensorrtLane() {
  if (engine_) log_cuda(cudaSetDevice(engine_->device()->id().index), "cudaSetDevice");
}

void TensorrtLane::abandon() noexcept {
  // The device may still run with all of it.
  keep_forever(std::move(prepared_), std::move(callers_), std::move(eager_), std::move(late_),
               engine_);
  (void)activations_.release();
  stream_.abandon();
  loader_stream_.abandon();
}

LaneTraits TensorrtLane::traits() const {
  LaneTraits traits;
  traits.enqueue_blocks = engine_->data_dependent();
  traits.wants_prepare = !traits.enqueue_blocks;
  traits.fixed_addresses = traits.wants_prepare && engine_->graphs();
  traits.prepares_any_address = true;
  return traits;
}

Result<TensorrtLane::Context> TensorrtLane::new_context(int profile, StreamRef stream) {
  MILLRACE_TRY(check_cuda(cudaSetDevice(engine_->device()->id().index), "cudaSetDevice"));
  MILLRACE_ASSIGN(Context context,
                  engine_->new_context(profile, static_cast<cudaStream_t>(stream.native_handle())));
  MILLRACE_TRY(stream.synchronize());
  if (activations_) {
    context->setDeviceMemoryV2(activations_.data(),
                               static_cast<std::int64_t>(activations_.bytes()));
  }
  return context;
}

Result<void> TensorrtLane::set_shapes(nvinfer1::IExecutionContext& context, const BatchIo& io) {
  for (std::size_t i = 0; i < io.inputs.size(); ++i) {
    const Binding& input = engine_->inputs()[i];
    MILLRACE_ASSIGN(const nvinfer1::Dims dims, dims_of(io.inputs[i].shape));
    if (!context.setInputShape(input.name.c_str(), dims)) {
      return engine_->error(
          ErrorCode::invalid_argument,
          concat("input ", quote(input.name), " cannot have the shape ", io.inputs[i].shape));
    }
  }
  return {};
}

Result<void> TensorrtLane::place_output(nvinfer1::IExecutionContext& context, const BatchIo& io,
                                        std::size_t output) {
  const Binding& binding = engine_->outputs()[output];
  OutputSlot& slot = io.outputs[output];
  if (late_[output]) {
    late_[output]->start(slot);
    if (context.setOutputAllocator(binding.name.c_str(), late_[output].get())) return {};
  } else {
    if (!slot.view.data) {
      slot.view.shape = shape_of(context.getTensorShape(binding.name.c_str()));
      MILLRACE_ASSIGN(slot.view.data, slot.allocate(slot.view.type, slot.view.shape, 0));
    }
    if (context.setTensorAddress(binding.name.c_str(), slot.view.data)) return {};
  }
  return engine_->error(ErrorCode::internal,
                        concat("output ", quote(binding.name), " cannot be bound"));
}

Result<void> TensorrtLane::set_addresses(nvinfer1::IExecutionContext& context, const BatchIo& io) {
  for (std::size_t i = 0; i < io.inputs.size(); ++i) {
    const Binding& input = engine_->inputs()[i];
    if (!context.setTensorAddress(input.name.c_str(), io.inputs[i].data)) {
      return engine_->error(ErrorCode::internal,
                            concat("input ", quote(input.name), " cannot be bound"));
    }
  }
  for (std::size_t i = 0; i < io.outputs.size(); ++i) {
    MILLRACE_TRY(place_output(context, io, i));
  }
  return {};
}

Result<void> TensorrtLane::run(nvinfer1::IExecutionContext& context, cudaStream_t stream) {
  if (context.enqueueV3(stream)) return {};
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) MILLRACE_TRY(check_cuda(status, "enqueueV3"));
  return engine_->error(ErrorCode::internal, "a run was refused");
}

/// Kernels are loaded by a first run, which must not be part of a capture. It runs on memory of its
/// own: what `io` names may be in use, or gone.
Result<void> TensorrtLane::warm_up(nvinfer1::IExecutionContext& context, const BatchIo& io) {
  std::vector<Buffer> buffers;
  const auto buffer_of = [&](const TensorView& view) -> Result<void*> {
    MILLRACE_ASSIGN(const std::size_t bytes, view.bytes());
    MILLRACE_ASSIGN(Buffer buffer, engine_->device()->allocate(std::max<std::size_t>(bytes, 1),
                                                               MemoryKind::device));
    MILLRACE_TRY(loader_stream_.ref().fill(buffer.data(), 0, buffer.bytes()));
    return buffers.emplace_back(std::move(buffer)).data();
  };
  std::vector<TensorView> inputs(io.inputs.begin(), io.inputs.end());
  std::vector<OutputSlot> outputs(io.outputs.size());
  for (TensorView& input : inputs) {
    MILLRACE_ASSIGN(input.data, buffer_of(input));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    outputs[i].view = io.outputs[i].view;
    MILLRACE_ASSIGN(outputs[i].view.data, buffer_of(outputs[i].view));
  }
  MILLRACE_ASSIGN(const Buffer activations,
                  engine_->device()->allocate(activations_.bytes(), MemoryKind::device));
  if (activations) {
    context.setDeviceMemoryV2(activations.data(), static_cast<std::int64_t>(activations.bytes()));
  }
  BatchIo own;
  own.inputs = inputs;
  own.outputs = outputs;
  MILLRACE_TRY(set_addresses(context, own));
  MILLRACE_TRY(run(context, static_cast<cudaStream_t>(loader_stream_.ref().native_handle())));
  MILLRACE_TRY(loader_stream_.ref().synchronize());
  if (activations_) {
    context.setDeviceMemoryV2(activations_.data(), static_cast<std::int64_t>(activations_.bytes()));
  }
  return {};
}

Result<TensorrtLane::Graph> TensorrtLane::capture(nvinfer1::IExecutionContext& context) {
  auto* const stream = static_cast<cudaStream_t>(loader_stream_.ref().native_handle());
  MILLRACE_TRY(check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                          "cudaStreamBeginCapture"));
  const Result<void> ran = run(context, stream);
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  const std::unique_ptr<CUgraph_st, decltype(&cudaGraphDestroy)> owned(graph, &cudaGraphDestroy);
  if (!ran) return ran.error();
  MILLRACE_TRY(check_cuda(ended, "cudaStreamEndCapture"));
  cudaGraphExec_t executable = nullptr;
  MILLRACE_TRY(check_cuda(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate"));
  Graph instantiated(executable);
  MILLRACE_TRY(check_cuda(cudaGraphUpload(executable, stream), "cudaGraphUpload"));
  MILLRACE_TRY(loader_stream_.ref().synchronize());
  return instantiated;
}

/// Made for these shapes, and warm.
Result<TensorrtLane::Context> TensorrtLane::prepared_context(const BatchIo& io) {
  const int profile = engine_->profile_for(io.inputs);
  if (profile < 0) {
    return engine_->error(ErrorCode::invalid_argument,
                          concat("no profile of the engine takes the shape ", io.inputs[0].shape));
  }
  MILLRACE_ASSIGN(Context context, new_context(profile, loader_stream_));
  MILLRACE_TRY(set_shapes(*context, io));
  MILLRACE_TRY(warm_up(*context, io));
  return context;
}

Result<nvinfer1::IExecutionContext*> TensorrtLane::callers_context(const BatchIo& io) {
  const auto same = [&io](const Callers& known) {
    return std::equal(known.inputs.begin(), known.inputs.end(), io.inputs.begin(), io.inputs.end(),
                      [](const Shape& a, const TensorView& b) { return a == b.shape; });
  };
  const auto known = std::find_if(callers_.begin(), callers_.end(), same);
  if (known != callers_.end()) return known->context.get();
  Callers made;
  for (const TensorView& input : io.inputs) made.inputs.push_back(input.shape);
  MILLRACE_ASSIGN(made.context, prepared_context(io));
  return callers_.emplace_back(std::move(made)).context.get();
}

Result<ShapeKey> TensorrtLane::prepare(const BatchIo& io) {
  if (prepared_.size() == kMostPrepared) {
    return Error{ErrorCode::unsupported,
                 concat("a lane holds at most ", kMostPrepared, " prepared runs")};
  }
  const bool captures = engine_->graphs() && !capture_failed_;
  auto prepared = std::make_unique<Prepared>();
  nvinfer1::IExecutionContext* context = nullptr;
  if (captures && io.slot == kNoSlot) {
    MILLRACE_ASSIGN(context, callers_context(io));
  } else {
    MILLRACE_ASSIGN(prepared->context, prepared_context(io));
    context = prepared->context.get();
  }
  MILLRACE_TRY(set_addresses(*context, io));
  if (captures) {
    Result<Graph> graph = capture(*context);
    if (graph) {
      prepared->graph = std::move(*graph);
    } else if (io.slot == kNoSlot) {
      return std::move(graph).error();
    } else {
      capture_failed_ = true;
      log_warning(
          "model \"", engine_->name(), "\" on ", engine_->device()->id(), ", lane ", index_,
          ": runs without CUDA graphs, since capturing one failed: ", graph.error().message);
    }
  }
  prepared_.push_back(std::move(prepared));
  return static_cast<ShapeKey>(prepared_.size() - 1);
}

Result<nvinfer1::IExecutionContext*> TensorrtLane::eager_context(const BatchIo& io) {
  const int profile = engine_->profile_for(io.inputs);
  if (profile < 0) {
    return engine_->error(ErrorCode::invalid_argument,
                          concat("no profile of the engine takes the shape ", io.inputs[0].shape));
  }
  const auto p = static_cast<std::size_t>(profile);
  std::vector<Shape>& last = eager_shapes_[p];
  bool same = last.size() == io.inputs.size();
  for (std::size_t i = 0; same && i < last.size(); ++i) same = last[i] == io.inputs[i].shape;
  if (!same) {
    last.clear();
    MILLRACE_TRY(set_shapes(*eager_[p], io));
    for (const TensorView& input : io.inputs) last.push_back(input.shape);
  }
  return eager_[p].get();
}

Result<void> TensorrtLane::finish_late_outputs(const BatchIo& io) {
  if (!engine_->data_dependent()) return {};
  MILLRACE_TRY(stream_.ref().synchronize());
  for (std::size_t i = 0; i < io.outputs.size(); ++i) {
    if (late_[i]) MILLRACE_TRY(late_[i]->finish());
  }
  return {};
}

Result<void> TensorrtLane::enqueue(ShapeKey key, const BatchIo& io) {
  MILLRACE_TRY(check_cuda(cudaSetDevice(engine_->device()->id().index), "cudaSetDevice"));
  for (const TensorView& input : io.inputs) {
    if (input.ready) MILLRACE_TRY(stream_.ref().wait(input.ready));
  }
  const Prepared* prepared =
      key == kEager ? nullptr : prepared_[static_cast<std::size_t>(key)].get();
  if (prepared && prepared->graph) {
    MILLRACE_TRY(check_cuda(cudaGraphLaunch(prepared->graph.get(), native_), "cudaGraphLaunch"));
  } else {
    nvinfer1::IExecutionContext* context = nullptr;
    if (key == kEager) {
      MILLRACE_ASSIGN(context, eager_context(io));
    } else {
      context = prepared->context.get();
    }
    MILLRACE_TRY(set_addresses(*context, io));
    MILLRACE_TRY(run(*context, native_));
    MILLRACE_TRY(finish_late_outputs(io));
  }
  if (io.inputs_consumed) MILLRACE_TRY(stream_.ref().record(io.inputs_consumed));
  if (io.done) MILLRACE_TRY(stream_.ref().record(io.done));
  return {};
}

}  // namespace millrace::tensorrt
