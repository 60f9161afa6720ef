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
#include "device/annotate.h"
#include "device/cuda/cuda_error.h"
#include "device/cuda/current_device.h"

namespace millrace::tensorrt {
namespace {

constexpr std::size_t kMostPrepared = 1024;

/// Other things that go on may have made it shrink.
std::size_t grown(std::size_t before, std::size_t after) {
  return after > before ? after - before : 0;
}

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
  MILLRACE_ASSIGN(lane->nothing_, shared.device()->allocate(1, MemoryKind::device));
  MILLRACE_ASSIGN(lane->run_count_, RunCounter::make(*shared.device(), lane->stream_.ref()));
  MILLRACE_ASSIGN(lane->shared_activations_, shared.shared_activations());
  if (!lane->shared_activations_) {
    MILLRACE_ASSIGN(lane->activations_,
                    shared.device()->allocate(shared.activation_bytes(), MemoryKind::device));
  }
  lane->memory_.activation_bytes = lane->activations_.bytes();
  MILLRACE_TRY(lane->add_eager_contexts());
  for (const Binding& output : shared.outputs()) {
    lane->late_.push_back(output.data_dependent ? std::make_unique<LateOutput>() : nullptr);
  }
  return std::unique_ptr<Lane>(std::move(lane));
}

Result<void> TensorrtLane::add_eager_contexts() {
  const std::size_t before = engine_->taken_bytes();
  for (std::size_t profile = 0; profile < engine_->profiles().size(); ++profile) {
    MILLRACE_ASSIGN(Context context, new_context(static_cast<int>(profile), stream_));
    eager_.push_back(std::move(context));
  }
  eager_shapes_.resize(eager_.size());
  memory_.context_bytes += grown(before, engine_->taken_bytes());
  return {};
}

TensorrtLane::~TensorrtLane() {
  if (engine_) log_cuda(cudaSetDevice(engine_->device()->id().index), "cudaSetDevice");
}

void TensorrtLane::abandon() noexcept {
  // The device may still run with all of it.
  keep_forever(std::move(prepared_), std::move(callers_), std::move(eager_), std::move(late_),
               engine_);
  (void)activations_.release();
  (void)nothing_.release();
  run_count_.abandon();
  stream_.abandon();
  loader_stream_.abandon();
}

LaneTraits TensorrtLane::traits() const {
  LaneTraits traits;
  traits.enqueue_blocks = engine_->data_dependent();
  traits.wants_prepare = !traits.enqueue_blocks && !engine_->host_inputs();
  traits.fixed_addresses = traits.wants_prepare && engine_->graphs();
  traits.prepares_any_address = true;
  traits.wants_graphs = engine_->graphs();
  traits.avoids_eager = engine_->options().graphs == Graphs::on;
  return traits;
}

const std::atomic<std::uint64_t>* TensorrtLane::run_count(ShapeKey key) const {
  if (key == kEager || !prepared_[static_cast<std::size_t>(key)]->counted) return nullptr;
  return run_count_.value();
}

std::string_view TensorrtLane::not_captured(ShapeKey key) const {
  if (!engine_->graphs() || prepared_[static_cast<std::size_t>(key)]->graph) return {};
  return why_not_captured_;
}

void TensorrtLane::give_activations(nvinfer1::IExecutionContext& context) const {
  void* const data = shared_activations_ ? shared_activations_->data() : activations_.data();
  if (!data) return;
  context.setDeviceMemoryV2(data, static_cast<std::int64_t>(engine_->activation_bytes()));
}

Result<TensorrtLane::Context> TensorrtLane::new_context(int profile, StreamRef stream) {
  MILLRACE_TRY(check_cuda(cudaSetDevice(engine_->device()->id().index), "cudaSetDevice"));
  MILLRACE_ASSIGN(Context context,
                  engine_->new_context(profile, static_cast<cudaStream_t>(stream.native_handle())));
  MILLRACE_TRY(stream.synchronize());
  give_activations(*context);
  return context;
}

/// What the host reads, it reads now: the values decide on shapes.
Result<void> TensorrtLane::set_host_values(nvinfer1::IExecutionContext& context,
                                           const BatchIo& io) {
  const auto p = static_cast<std::size_t>(engine_->profile_for(io.inputs));
  const Profile& profile = engine_->profiles()[p];
  for (std::size_t i = 0; i < io.inputs.size(); ++i) {
    const Binding& input = engine_->inputs()[i];
    if (!input.on_host) continue;
    const std::vector<std::int64_t> values = values_of(io.inputs[i]);
    for (std::size_t k = 0; k < values.size() && k < profile.least[i].size(); ++k) {
      if (values[k] >= profile.least[i][k] && values[k] <= profile.most[i][k]) continue;
      return Error{ErrorCode::invalid_argument,
                   concat("input ", quote(input.name), ": expected values from [",
                          join(profile.least[i], ","), "] to [", join(profile.most[i], ","),
                          "], which the engine was built for, got [", join(values, ","), "]")};
    }
    if (!context.setTensorAddress(input.name.c_str(), io.inputs[i].data)) {
      return engine_->error(ErrorCode::internal,
                            concat("input ", quote(input.name), " cannot be bound"));
    }
  }
  if (context.inferShapes(0, nullptr) == 0) return {};
  return engine_->error(ErrorCode::invalid_argument, "these values do not fit together");
}

Result<void> TensorrtLane::set_shapes(nvinfer1::IExecutionContext& context, const BatchIo& io) {
  for (std::size_t i = 0; i < io.inputs.size(); ++i) {
    const Binding& input = engine_->inputs()[i];
    if (input.on_host) continue;
    MILLRACE_ASSIGN(const nvinfer1::Dims dims, dims_of(io.inputs[i].shape));
    if (!context.setInputShape(input.name.c_str(), dims)) {
      return engine_->error(
          ErrorCode::invalid_argument,
          concat("input ", quote(input.name), " cannot have the shape ", io.inputs[i].shape));
    }
  }
  return engine_->host_inputs() ? set_host_values(context, io) : Result<void>();
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
    void* const data = slot.view.data ? slot.view.data : nothing_.data();
    if (context.setTensorAddress(binding.name.c_str(), data)) return {};
  }
  return engine_->error(ErrorCode::internal,
                        concat("output ", quote(binding.name), " cannot be bound"));
}

Result<void> TensorrtLane::set_addresses(nvinfer1::IExecutionContext& context, const BatchIo& io) {
  for (std::size_t i = 0; i < io.inputs.size(); ++i) {
    const Binding& input = engine_->inputs()[i];
    if (input.on_host) continue;  // set with the shapes
    void* const data = io.inputs[i].data ? io.inputs[i].data : nothing_.data();
    if (!context.setTensorAddress(input.name.c_str(), data)) {
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
  // TensorRT has a CUDA runtime of its own, whose last error is not ours.
  for (const cudaError_t status : {cudaGetLastError(), cudaStreamQuery(stream)}) {
    Result<void> fault = check_cuda(status, "enqueueV3");
    if (!fault && fault.error().code == ErrorCode::gpu_fault) return fault;
  }
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
                  engine_->device()->allocate(engine_->activation_bytes(), MemoryKind::device));
  if (activations) {
    context.setDeviceMemoryV2(activations.data(), static_cast<std::int64_t>(activations.bytes()));
  }
  BatchIo own;
  own.inputs = inputs;
  own.outputs = outputs;
  MILLRACE_TRY(set_addresses(context, own));
  MILLRACE_TRY(run(context, static_cast<cudaStream_t>(loader_stream_.ref().native_handle())));
  MILLRACE_TRY(loader_stream_.ref().synchronize());
  give_activations(context);
  return {};
}

/// Whether what a graph does depends on host memory, which can only be the context's: it would be
/// another's by the time that the graph runs.
static Result<bool> reads_host_memory(cudaGraph_t graph) {
  std::size_t count = 0;
  MILLRACE_TRY(check_cuda(cudaGraphGetNodes(graph, nullptr, &count), "cudaGraphGetNodes"));
  std::vector<cudaGraphNode_t> nodes(count);
  MILLRACE_TRY(check_cuda(cudaGraphGetNodes(graph, nodes.data(), &count), "cudaGraphGetNodes"));
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type{};
    MILLRACE_TRY(check_cuda(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType"));
    if (type == cudaGraphNodeTypeKernel || type == cudaGraphNodeTypeMemset ||
        type == cudaGraphNodeTypeEmpty) {
      continue;
    }
    if (type != cudaGraphNodeTypeMemcpy) return true;
    cudaMemcpy3DParms copy{};
    MILLRACE_TRY(check_cuda(cudaGraphMemcpyNodeGetParams(node, &copy), "cudaGraphMemcpyNode"));
    if (copy.kind != cudaMemcpyDeviceToDevice) return true;
  }
  return false;
}

/// `counted`: the last thing that the graph does is to raise `run_count_`.
Result<TensorrtLane::Graph> TensorrtLane::capture(nvinfer1::IExecutionContext& context,
                                                  bool counted) {
  const Annotation capturing("capture ", engine_->name(), ", lane ", index_);
  auto* const stream = static_cast<cudaStream_t>(loader_stream_.ref().native_handle());
  MILLRACE_TRY(check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                          "cudaStreamBeginCapture"));
  Result<void> ran = run(context, stream);
  if (ran && counted) ran = run_count_.raise(stream);
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  const std::unique_ptr<CUgraph_st, decltype(&cudaGraphDestroy)> owned(graph, &cudaGraphDestroy);
  if (!ran) return ran.error();
  MILLRACE_TRY(check_cuda(ended, "cudaStreamEndCapture"));
  MILLRACE_ASSIGN(const bool reads_host, reads_host_memory(graph));
  graphs_read_host_ = graphs_read_host_ || reads_host;
  cudaGraphExec_t executable = nullptr;
  MILLRACE_TRY(check_cuda(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate"));
  Graph instantiated(executable);
  MILLRACE_TRY(check_cuda(cudaGraphUpload(executable, stream), "cudaGraphUpload"));
  MILLRACE_TRY(loader_stream_.ref().synchronize());
  return instantiated;
}

/// A context that has run once with these shapes, so that a run of it can be captured.
Result<TensorrtLane::Context> TensorrtLane::prepare_context(const BatchIo& io) {
  const int profile = engine_->profile_for(io.inputs);
  if (profile < 0) {
    return engine_->error(ErrorCode::invalid_argument,
                          concat("no profile of the engine takes the shape ", io.inputs[0].shape));
  }
  const std::size_t before = engine_->taken_bytes();
  MILLRACE_ASSIGN(Context context, new_context(profile, loader_stream_));
  MILLRACE_TRY(set_shapes(*context, io));
  MILLRACE_TRY(warm_up(*context, io));
  memory_.context_bytes += grown(before, engine_->taken_bytes());
  return context;
}

/// The context that graphs for callers' addresses in these shapes are captured from. They run one
/// after the other on the lane's stream, so that the device memory that a context has of its own
/// can serve them together; see `reads_host_memory` for what they cannot share. To make another
/// takes many times as long as to capture.
Result<nvinfer1::IExecutionContext*> TensorrtLane::callers_context(const BatchIo& io) {
  const auto same = [&io](const Callers& known) {
    return std::equal(known.inputs.begin(), known.inputs.end(), io.inputs.begin(), io.inputs.end(),
                      [](const Shape& a, const TensorView& b) { return a == b.shape; });
  };
  const auto known = std::find_if(callers_.begin(), callers_.end(), same);
  if (known != callers_.end()) return known->context.get();
  Callers made;
  for (const TensorView& input : io.inputs) made.inputs.push_back(input.shape);
  MILLRACE_ASSIGN(made.context, prepare_context(io));
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
  if (io.slot == kNoSlot && captures && !graphs_read_host_) {
    MILLRACE_ASSIGN(context, callers_context(io));
  } else {
    MILLRACE_ASSIGN(prepared->context, prepare_context(io));
    context = prepared->context.get();
  }
  MILLRACE_TRY(set_addresses(*context, io));
  if (captures) {
    const std::size_t before = engine_->taken_bytes();
    Result<Graph> graph = capture(*context, io.slot == kNoSlot);
    if (graph && graphs_read_host_ && !prepared->context) return prepare(io);
    if (graph) {
      prepared->graph = std::move(*graph);
      prepared->counted = io.slot == kNoSlot;
      memory_.graph_bytes += grown(before, engine_->taken_bytes());
    } else if (!prepared->context) {
      return std::move(graph).error();
    } else {
      capture_failed_ = true;
      why_not_captured_ = concat("capturing failed: ", graph.error().message);
      log_warning("model \"", engine_->name(), "\" on ", engine_->device()->id(), ", lane ", index_,
                  ": runs without CUDA graphs, since ", why_not_captured_);
      // What a capture that broke off has left in the context is not known.
      MILLRACE_ASSIGN(prepared->context, prepare_context(io));
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
  bool same = last.size() == io.inputs.size() && !engine_->host_inputs();
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

/// Enqueues what uses the activation memory.
template <class Enqueue>
Result<void> TensorrtLane::with_activations(Enqueue&& enqueue) {
  if (shared_activations_) return shared_activations_->take_turn(stream_, enqueue);
  return std::forward<Enqueue>(enqueue)();
}

Result<void> TensorrtLane::run_eagerly(ShapeKey key, const BatchIo& io) {
  nvinfer1::IExecutionContext* context = nullptr;
  if (key == kEager) {
    MILLRACE_ASSIGN(context, eager_context(io));
  } else {
    context = prepared_[static_cast<std::size_t>(key)]->context.get();
  }
  MILLRACE_TRY(set_addresses(*context, io));
  MILLRACE_TRY(with_activations([&] { return run(*context, native_); }));
  return finish_late_outputs(io);
}

Result<void> TensorrtLane::enqueue(ShapeKey key, const BatchIo& io) {
  MILLRACE_TRY(make_current(engine_->device()->id().index));
  for (const TensorView& input : io.inputs) {
    if (input.ready) MILLRACE_TRY(stream_.ref().wait(input.ready));
  }
  CUgraphExec_st* const graph =
      key == kEager ? nullptr : prepared_[static_cast<std::size_t>(key)]->graph.get();
  if (graph) {
    MILLRACE_TRY(with_activations(
        [&] { return check_cuda(cudaGraphLaunch(graph, native_), "cudaGraphLaunch"); }));
  } else {
    MILLRACE_TRY(run_eagerly(key, io));
  }
  if (io.inputs_consumed) MILLRACE_TRY(stream_.ref().record(io.inputs_consumed));
  if (io.done) MILLRACE_TRY(stream_.ref().record(io.done));
  return {};
}

}  // namespace millrace::tensorrt
