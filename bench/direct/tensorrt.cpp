#include "direct/tensorrt.h"

#include <NvInferRuntime.h>
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <link.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <utility>

namespace direct {
namespace {

using Clock = std::chrono::steady_clock;

// --- CUDA ---

void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(code) + " (" +
                           cudaGetErrorName(code) + ")");
}

template <auto Function>
struct Release {
  template <class T>
  void operator()(T* handle) const noexcept {
    (void)Function(handle);  // on the way out nobody is left to tell
  }
};
using Stream = std::unique_ptr<CUstream_st, Release<cudaStreamDestroy>>;
using Event = std::unique_ptr<CUevent_st, Release<cudaEventDestroy>>;
using Graph = std::unique_ptr<CUgraph_st, Release<cudaGraphDestroy>>;
using GraphExec = std::unique_ptr<CUgraphExec_st, Release<cudaGraphExecDestroy>>;
using DeviceMemory = std::unique_ptr<void, Release<cudaFree>>;
using PinnedMemory = std::unique_ptr<void, Release<cudaFreeHost>>;

DeviceMemory allocate_device(std::size_t bytes) {
  void* data = nullptr;
  check(cudaMalloc(&data, std::max<std::size_t>(bytes, 256)), "cudaMalloc");
  return DeviceMemory(data);
}

PinnedMemory allocate_pinned(std::size_t bytes) {
  void* data = nullptr;
  check(cudaHostAlloc(&data, std::max<std::size_t>(bytes, 256), cudaHostAllocMapped),
        "cudaHostAlloc");
  return PinnedMemory(data);
}

struct HostMemory {
  PinnedMemory pinned;
  std::vector<std::byte> pageable;
  std::byte* data = nullptr;
};

HostMemory allocate_host(std::size_t bytes, bool pageable) {
  HostMemory memory;
  if (pageable) {
    memory.pageable.resize(std::max<std::size_t>(bytes, 1));
    memory.data = memory.pageable.data();
  } else {
    memory.pinned = allocate_pinned(bytes);
    memory.data = static_cast<std::byte*>(memory.pinned.get());
  }
  return memory;
}

using WriteValue = CUresult (*)(CUstream, CUdeviceptr, cuuint64_t, unsigned int);

WriteValue find_write_value() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  check(cudaGetDriverEntryPointByVersion("cuStreamWriteValue64", &function, 12000,
                                         cudaEnableDefault, &found),
        "cudaGetDriverEntryPointByVersion");
  if (found != cudaDriverEntryPointSuccess || !function)
    throw std::runtime_error("the driver has no cuStreamWriteValue64; wait for events instead");
  return reinterpret_cast<WriteValue>(function);
}

// --- TensorRT ---

// TensorRT keeps the first logger of a process for everything, so it must outlive every loop.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const nvinfer1::AsciiChar* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      last_error() = message;
    } catch (const std::exception&) {
    }
  }
  static std::string& last_error() {
    thread_local std::string text;
    return text;
  }
};

Logger& logger() {
  static Logger* const only = new Logger;
  return *only;
}

[[noreturn]] void fail_tensorrt(const std::string& what) {
  const std::string why = std::exchange(Logger::last_error(), {});
  throw std::runtime_error(what + (why.empty() ? "" : ": " + why));
}

std::string loaded_library() {
  std::string found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* out) {
        const std::string_view name = info->dlpi_name;
        if (name.find("libnvinfer.so") == std::string_view::npos) return 0;
        *static_cast<std::string*>(out) = name;
        return 1;
      },
      &found);
  return found;
}

struct Library {
  using Version = std::int32_t (*)();
  using CreateRuntime = void* (*)(void*, std::int32_t);
  int version = 0;
  CreateRuntime create_runtime = nullptr;
};

Library open_library(std::string path) {
  if (path.empty()) path = loaded_library();
  if (path.empty()) path = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error(std::string("cannot open TensorRT: ") + dlerror());
  const auto version = reinterpret_cast<Library::Version>(dlsym(handle, "getInferLibVersion"));
  const auto create =
      reinterpret_cast<Library::CreateRuntime>(dlsym(handle, "createInferRuntime_INTERNAL"));
  if (!version || !create) throw std::runtime_error(path + " is no TensorRT runtime");
  const Library library{version(), create};
  if (library.version / 10000 != NV_TENSORRT_MAJOR)
    throw std::runtime_error("expected TensorRT " + std::to_string(NV_TENSORRT_MAJOR) + ", but " +
                             path + " says that it is version " + std::to_string(library.version));
  return library;
}

struct Element {
  int onnx;  // as ONNX numbers its types
  std::size_t bytes;
};

std::optional<Element> element_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return Element{1, 4};
    case nvinfer1::DataType::kUINT8:
      return Element{2, 1};
    case nvinfer1::DataType::kINT8:
      return Element{3, 1};
    case nvinfer1::DataType::kINT32:
      return Element{6, 4};
    case nvinfer1::DataType::kINT64:
      return Element{7, 8};
    case nvinfer1::DataType::kBOOL:
      return Element{9, 1};
    case nvinfer1::DataType::kHALF:
      return Element{10, 2};
    case nvinfer1::DataType::kBF16:
      return Element{16, 2};
    case nvinfer1::DataType::kFP8:
      return Element{17, 1};
    default:
      return std::nullopt;
  }
}

using Shape = std::vector<std::int64_t>;

Shape shape_of(const nvinfer1::Dims& dims) {
  if (dims.nbDims < 0) return {-1};  // even the rank depends on what is computed
  return {dims.d, dims.d + dims.nbDims};
}

std::string text_of(const Shape& shape) {
  std::string text = "[";
  for (const std::int64_t size : shape)
    text += (text.size() > 1 ? "," : "") + (size < 0 ? "?" : std::to_string(size));
  return text + "]";
}

std::size_t elements_of(const Shape& shape) {
  std::size_t count = 1;
  for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
  return count;
}

bool is_known(const Shape& shape) {
  return std::none_of(shape.begin(), shape.end(), [](std::int64_t size) { return size < 0; });
}

class Plan final : public TensorrtPlan {
 public:
  Plan(const std::string& library, const std::string& path, int device) : device_(device) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read the plan " + path);
    const std::vector<char> content{std::istreambuf_iterator<char>(file), {}};
    const Library opened = open_library(library);
    version_ = opened.version;
    check(cudaSetDevice(device_), "cudaSetDevice");
    runtime_.reset(
        static_cast<nvinfer1::IRuntime*>(opened.create_runtime(&logger(), opened.version)));
    if (!runtime_) fail_tensorrt("cannot create the TensorRT runtime");
    engine_.reset(runtime_->deserializeCudaEngine(content.data(), content.size()));
    if (!engine_) fail_tensorrt("cannot load the plan " + path);
    read_tensors();
  }

  [[nodiscard]] std::vector<Tensor> inputs(std::int64_t items) const override {
    std::vector<Tensor> out;
    for (const std::string& name : inputs_) {
      const Element element = *element_of(engine_->getTensorDataType(name.c_str()));
      Tensor& tensor = out.emplace_back();
      tensor.name = name;
      tensor.element_type = element.onnx;
      tensor.shape = shape_of(engine_->getTensorShape(name.c_str()));
      if (!tensor.shape.empty() && tensor.shape[0] < 0) tensor.shape[0] = items;
      if (is_known(tensor.shape)) tensor.bytes = elements_of(tensor.shape) * element.bytes;
    }
    return out;
  }

  [[nodiscard]] int library_version() const override { return version_; }
  [[nodiscard]] int device() const { return device_; }
  [[nodiscard]] nvinfer1::ICudaEngine& engine() const { return *engine_; }
  [[nodiscard]] const std::vector<std::string>& input_names() const { return inputs_; }
  [[nodiscard]] const std::vector<std::string>& output_names() const { return outputs_; }

 private:
  void read_tensors() {
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* const name = engine_->getIOTensorName(i);
      const std::string quoted = "'" + std::string(name) + "'";
      if (engine_->getTensorLocation(name) != nvinfer1::TensorLocation::kDEVICE ||
          engine_->isShapeInferenceIO(name))
        throw std::runtime_error("tensor " + quoted + " is a shape tensor, which no loop here has");
      if (!element_of(engine_->getTensorDataType(name)))
        throw std::runtime_error("tensor " + quoted + " is of an element type that no loop here " +
                                 "has");
      if (engine_->getTensorVectorizedDim(name) != -1)
        throw std::runtime_error("tensor " + quoted + " is not in row-major order");
      const bool input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
      (input ? inputs_ : outputs_).emplace_back(name);
    }
  }

  const int device_;
  int version_ = 0;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<std::string> inputs_;
  std::vector<std::string> outputs_;
};

// --- The loop ---

// Where a tensor lies in its batch's block of memory. One block, so that all inputs go in one copy.
struct Place {
  std::string name;
  std::size_t offset = 0;
  std::size_t bytes = 0;
};

struct Block {
  std::vector<Place> places;
  std::size_t bytes = 0;
  void add(std::string name, std::size_t size) {
    constexpr std::size_t kAlignment = 256;
    const std::size_t offset = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    places.push_back({std::move(name), offset, size});
    bytes = offset + size;
  }
};

double thread_cpu_s() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

class Tensorrt final : public TensorrtLoop {
 public:
  // By way of the other constructor, so that the destructor cleans up after what throws here.
  Tensorrt(const TensorrtSetup& setup, std::shared_ptr<Plan> plan)
      : Tensorrt(std::move(plan), setup) {
    check(cudaSetDevice(plan_->device()), "cudaSetDevice");
    if (uses_flags() && !setup_.naive) write_value_ = find_write_value();
    set_shapes();
    choose_profile();
    take_inputs();
    make_lanes();
    copy_batches();
    for (Lane& lane : lanes_) {
      for (Slot& slot : lane.slots) prepare(lane, slot);
    }
  }

  ~Tensorrt() override {
    (void)cudaSetDevice(plan_->device());
    for (const Lane& lane : lanes_) {
      if (lane.stream) (void)cudaStreamSynchronize(lane.stream.get());
    }
  }

  Figures run(double ramp_s, double seconds) override {
    Figures figures;
    cost_ = {};
    try {
      if (!broken_.empty()) throw std::runtime_error(broken_);
      check(cudaSetDevice(plan_->device()), "cudaSetDevice");
      drive(ramp_s, seconds, figures);
    } catch (const std::exception& what) {
      broken_ = what.what();
      figures.error = broken_;
    }
    return figures;
  }

  std::vector<std::string> run_once(std::size_t batch, std::string& error) override {
    std::vector<std::string> out;
    try {
      if (!broken_.empty()) throw std::runtime_error(broken_);
      check(cudaSetDevice(plan_->device()), "cudaSetDevice");
      run_batch(batch, out);
    } catch (const std::exception& what) {
      error = what.what();
      out.clear();
    }
    return out;
  }

  [[nodiscard]] HostCost host_cost() const override { return cost_; }

 private:
  struct Slot {
    std::size_t index = 0;  // among all slots
    DeviceMemory device_in;
    DeviceMemory device_out;
    HostMemory host_out;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    std::vector<GraphExec> graphs;
    std::size_t next = 0;  // batch, or graph where the graphs hold the inputs
    Event event;
    std::uint64_t* flag = nullptr;  // written by the GPU
    CUdeviceptr device_flag = 0;
    std::uint64_t awaited = 0;  // in the flag when the batch is done
    Clock::time_point launched;
  };

  struct Lane {
    Stream stream;
    DeviceMemory scratch;
    std::vector<Slot> slots;
    std::size_t next = 0;    // slot to launch
    std::size_t oldest = 0;  // slot to wait for
    std::size_t in_flight = 0;
  };

  Tensorrt(std::shared_ptr<Plan> plan, const TensorrtSetup& setup)
      : setup_(setup), plan_(std::move(plan)) {
    if (setup_.naive) {
      setup_.lanes = setup_.slots = 1;
      setup_.graphs = setup_.resident = false;
      setup_.pageable = true;
    }
  }

  [[nodiscard]] bool uses_flags() const {
    return setup_.wait == TensorrtWait::stream_flag || setup_.wait == TensorrtWait::graph_flag;
  }
  // What a captured graph reads is then fixed.
  [[nodiscard]] bool graphs_hold_inputs() const {
    return setup_.graphs && (setup_.resident || setup_.copies_in_graph);
  }
  [[nodiscard]] bool copies_outside() const { return !setup_.resident && !copies_captured(); }
  [[nodiscard]] bool copies_captured() const {
    return !setup_.resident && setup_.graphs && setup_.copies_in_graph;
  }
  [[nodiscard]] std::size_t all_slots() const {
    return static_cast<std::size_t>(setup_.lanes) * static_cast<std::size_t>(setup_.slots);
  }

  // --- Before it starts ---

  const Tensor& tensor_of(const std::vector<Tensor>& batch, const std::string& name) const {
    const auto found = std::find_if(batch.begin(), batch.end(),
                                    [&](const Tensor& tensor) { return tensor.name == name; });
    if (found == batch.end())
      throw std::runtime_error("expected a tensor for input '" + name + "', got none");
    return *found;
  }

  void set_shapes() {
    for (const Tensor& input : plan_->inputs(setup_.items)) {
      const Tensor& given = tensor_of(setup_.batches[0], input.name);
      Shape shape = input.shape;
      const Shape& asked = given.shape.empty() ? shape : given.shape;
      if (asked.size() != shape.size())
        throw std::runtime_error("input '" + input.name + "': expected shape " + text_of(shape) +
                                 ", got " + text_of(asked));
      for (std::size_t i = 0; i < shape.size(); ++i) {
        if (shape[i] < 0) shape[i] = asked[i];
      }
      if (!is_known(shape) || asked != shape)
        throw std::runtime_error("input '" + input.name + "': expected shape " + text_of(shape) +
                                 ", got " + text_of(asked));
      const std::size_t element =
          element_of(plan_->engine().getTensorDataType(input.name.c_str()))->bytes;
      inputs_.add(input.name, elements_of(shape) * element);
      shapes_.push_back(std::move(shape));
    }
    const bool batched = std::any_of(shapes_.begin(), shapes_.end(), [&](const Shape& shape) {
      return !shape.empty() && shape[0] == setup_.items;
    });
    if (!batched && setup_.items != 1)
      throw std::runtime_error("no input of the plan takes " + std::to_string(setup_.items) +
                               " items a batch");
  }

  // The one whose best shape is this one, else the first that admits it.
  void choose_profile() {
    std::optional<std::int32_t> admitting;
    for (std::int32_t i = 0; i < plan_->engine().getNbOptimizationProfiles(); ++i) {
      if (!within(i)) continue;
      if (!admitting) admitting = i;
      if (!is_best(i)) continue;
      admitting = i;
      break;
    }
    if (!admitting)
      throw std::runtime_error("no profile of the plan admits " + std::to_string(setup_.items) +
                               " items a batch");
    profile_ = *admitting;
  }

  [[nodiscard]] bool is_static(std::size_t input) const {
    return is_known(shape_of(plan_->engine().getTensorShape(inputs_.places[input].name.c_str())));
  }

  [[nodiscard]] Shape profile_shape(std::size_t input, std::int32_t profile,
                                    nvinfer1::OptProfileSelector which) const {
    return shape_of(
        plan_->engine().getProfileShape(inputs_.places[input].name.c_str(), profile, which));
  }

  [[nodiscard]] bool within(std::int32_t profile) const {
    for (std::size_t i = 0; i < shapes_.size(); ++i) {
      if (is_static(i)) continue;
      const Shape least = profile_shape(i, profile, nvinfer1::OptProfileSelector::kMIN);
      const Shape most = profile_shape(i, profile, nvinfer1::OptProfileSelector::kMAX);
      if (least.size() != shapes_[i].size() || most.size() != shapes_[i].size()) return false;
      for (std::size_t d = 0; d < shapes_[i].size(); ++d) {
        if (shapes_[i][d] < least[d] || shapes_[i][d] > most[d]) return false;
      }
    }
    return true;
  }

  [[nodiscard]] bool is_best(std::int32_t profile) const {
    for (std::size_t i = 0; i < shapes_.size(); ++i) {
      if (is_static(i)) continue;
      if (profile_shape(i, profile, nvinfer1::OptProfileSelector::kOPT) != shapes_[i]) return false;
    }
    return true;
  }

  void take_inputs() {
    const std::vector<Tensor> inputs = plan_->inputs(setup_.items);
    for (const std::vector<Tensor>& batch : setup_.batches) {
      HostMemory& memory = host_in_.emplace_back(allocate_host(inputs_.bytes, setup_.pageable));
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        const Place& place = inputs_.places[i];
        const Tensor& tensor = tensor_of(batch, place.name);
        if (tensor.element_type != 0 && tensor.element_type != inputs[i].element_type)
          throw std::runtime_error("input '" + place.name + "': expected elements of ONNX type " +
                                   std::to_string(inputs[i].element_type) + ", got " +
                                   std::to_string(tensor.element_type));
        if (tensor.bytes != place.bytes || (!tensor.data && tensor.bytes > 0))
          throw std::runtime_error("input '" + place.name + "': expected " +
                                   std::to_string(place.bytes) + " bytes, got " +
                                   std::to_string(tensor.data ? tensor.bytes : 0));
        if (place.bytes > 0) std::memcpy(memory.data + place.offset, tensor.data, place.bytes);
      }
    }
    setup_.batches.clear();
  }

  // To the GPU, for a resident loop.
  void copy_batches() {
    if (!setup_.resident) return;
    for (const HostMemory& batch : host_in_) {
      DeviceMemory& memory = resident_in_.emplace_back(allocate_device(inputs_.bytes));
      check(cudaMemcpy(memory.get(), batch.data, inputs_.bytes, cudaMemcpyHostToDevice),
            "cudaMemcpy");
    }
  }

  void make_lanes() {
    constexpr std::size_t kLine = 128;  // so that no two flags share a cache line
    flags_ = allocate_pinned(all_slots() * kLine);
    std::memset(flags_.get(), 0, all_slots() * kLine);
    void* device_flags = nullptr;
    check(cudaHostGetDevicePointer(&device_flags, flags_.get(), 0), "cudaHostGetDevicePointer");
    lanes_.resize(static_cast<std::size_t>(setup_.lanes));
    for (std::size_t l = 0; l < lanes_.size(); ++l) {
      Lane& lane = lanes_[l];
      make_stream(lane);
      lane.slots.resize(static_cast<std::size_t>(setup_.slots));
      for (std::size_t s = 0; s < lane.slots.size(); ++s) {
        Slot& slot = lane.slots[s];
        slot.index = s * lanes_.size() + l;
        const std::size_t offset = slot.index * kLine;
        slot.flag =
            reinterpret_cast<std::uint64_t*>(static_cast<std::byte*>(flags_.get()) + offset);
        slot.device_flag = reinterpret_cast<CUdeviceptr>(device_flags) + offset;
        make_context(lane, slot);
        make_buffers(slot);
      }
    }
  }

  void make_stream(Lane& lane) const {
    cudaStream_t stream = nullptr;
    // The naive loop's copies go through the default stream, which waits for ordinary streams only.
    check(cudaStreamCreateWithFlags(&stream,
                                    setup_.naive ? cudaStreamDefault : cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
    lane.stream.reset(stream);
    lane.scratch = allocate_device(static_cast<std::size_t>(scratch_bytes()));
  }

  [[nodiscard]] std::int64_t scratch_bytes() const {
    return std::max<std::int64_t>(plan_->engine().getDeviceMemorySizeForProfileV2(profile_), 256);
  }

  // The contexts of a lane run one after the other in its stream and share its scratch memory.
  void make_context(const Lane& lane, Slot& slot) {
    slot.context.reset(plan_->engine().createExecutionContext(
        nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
    if (!slot.context) fail_tensorrt("cannot create an execution context");
    slot.context->setDeviceMemoryV2(lane.scratch.get(), scratch_bytes());
    if (profile_ != 0 && !slot.context->setOptimizationProfileAsync(profile_, lane.stream.get()))
      fail_tensorrt("cannot use profile " + std::to_string(profile_));
    for (std::size_t i = 0; i < shapes_.size(); ++i) {
      const std::string& name = inputs_.places[i].name;
      nvinfer1::Dims dims{};
      dims.nbDims = static_cast<std::int32_t>(shapes_[i].size());
      std::copy(shapes_[i].begin(), shapes_[i].end(), dims.d);
      if (!slot.context->setInputShape(name.c_str(), dims))
        fail_tensorrt("input '" + name + "' cannot be of shape " + text_of(shapes_[i]));
    }
    if (slot.context->inferShapes(0, nullptr) != 0) fail_tensorrt("cannot infer the shapes");
    if (outputs_.places.empty()) place_outputs(*slot.context);
  }

  void place_outputs(const nvinfer1::IExecutionContext& context) {
    for (const std::string& name : plan_->output_names()) {
      const Shape shape = shape_of(context.getTensorShape(name.c_str()));
      if (!is_known(shape))
        throw std::runtime_error("output '" + name + "': expected a shape that follows from the " +
                                 "inputs' shapes, got " + text_of(shape));
      outputs_.add(name, elements_of(shape) *
                             element_of(plan_->engine().getTensorDataType(name.c_str()))->bytes);
    }
  }

  void make_buffers(Slot& slot) {
    if (!setup_.resident) {
      slot.device_in = allocate_device(inputs_.bytes);
      set_addresses(slot, inputs_, slot.device_in.get());
    }
    slot.device_out = allocate_device(outputs_.bytes);
    slot.host_out = allocate_host(outputs_.bytes, setup_.pageable);
    set_addresses(slot, outputs_, slot.device_out.get());
    if (uses_flags()) return;
    const bool blocking = setup_.wait == TensorrtWait::blocking_event;
    cudaEvent_t event = nullptr;
    check(
        cudaEventCreateWithFlags(
            &event, cudaEventDisableTiming | (blocking ? cudaEventBlockingSync : cudaEventDefault)),
        "cudaEventCreateWithFlags");
    slot.event.reset(event);
  }

  static void set_addresses(const Slot& slot, const Block& block, void* memory) {
    for (const Place& place : block.places) {
      if (!slot.context->setTensorAddress(place.name.c_str(),
                                          static_cast<std::byte*>(memory) + place.offset))
        fail_tensorrt("cannot set the address of '" + place.name + "'");
    }
  }

  // TensorRT wants a run before it is captured, and again with other addresses; the first runs load
  // kernels.
  void prepare(Lane& lane, Slot& slot) {
    slot.next = slot.index % host_in_.size();
    if (setup_.naive) return run_naively(lane, slot, slot.next);
    const std::size_t graphs =
        !setup_.graphs ? 0
        : graphs_hold_inputs()
            ? std::min(static_cast<std::size_t>(setup_.graphs_per_slot), host_in_.size())
            : 1;
    for (int i = 0; i < 2; ++i) put(lane, slot, slot.next);
    check(cudaStreamSynchronize(lane.stream.get()), "the first run");
    for (std::size_t i = 0; i < graphs; ++i) {
      const std::size_t batch = (slot.index + i * all_slots()) % host_in_.size();
      put(lane, slot, batch);
      check(cudaStreamSynchronize(lane.stream.get()), "the first run");
      slot.graphs.push_back(capture(lane, slot, batch));
    }
    if (graphs_hold_inputs()) slot.next = 0;
    for (const GraphExec& graph : slot.graphs)
      check(cudaGraphLaunch(graph.get(), lane.stream.get()), "cudaGraphLaunch");
    check(cudaStreamSynchronize(lane.stream.get()), "a graph's first run");
    std::atomic_ref(*slot.flag).store(0);  // graphs may have written it
  }

  [[nodiscard]] GraphExec capture(const Lane& lane, Slot& slot, std::size_t batch) const {
    check(cudaStreamBeginCapture(lane.stream.get(), cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture");
    std::string error;
    try {
      if (copies_captured()) copy_in(lane, slot, batch);
      infer(lane, slot, batch);
      if (copies_captured()) copy_out(lane, slot);
      if (setup_.wait == TensorrtWait::graph_flag) write_flag(lane, slot, 1);
    } catch (const std::exception& what) {
      error = what.what();
    }
    cudaGraph_t captured = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(lane.stream.get(), &captured);
    const Graph graph(captured);
    if (!error.empty()) throw std::runtime_error("cannot be captured in a graph: " + error);
    check(ended, "cudaStreamEndCapture");
    cudaGraphExec_t made = nullptr;
    check(cudaGraphInstantiate(&made, graph.get(), 0), "cudaGraphInstantiate");
    GraphExec exec(made);
    check(cudaGraphUpload(exec.get(), lane.stream.get()), "cudaGraphUpload");
    return exec;
  }

  // --- One batch ---

  void copy_in(const Lane& lane, const Slot& slot, std::size_t batch) const {
    check(cudaMemcpyAsync(slot.device_in.get(), host_in_[batch].data, inputs_.bytes,
                          cudaMemcpyHostToDevice, lane.stream.get()),
          "copy in");
  }

  void infer(const Lane& lane, const Slot& slot, std::size_t batch) const {
    if (setup_.resident) set_addresses(slot, inputs_, resident_in_[batch].get());
    if (!slot.context->enqueueV3(lane.stream.get())) fail_tensorrt("enqueueV3");
  }

  void copy_out(const Lane& lane, const Slot& slot) const {
    if (outputs_.bytes == 0) return;
    check(cudaMemcpyAsync(slot.host_out.data, slot.device_out.get(), outputs_.bytes,
                          cudaMemcpyDeviceToHost, lane.stream.get()),
          "copy out");
  }

  void write_flag(const Lane& lane, const Slot& slot, std::uint64_t value) const {
    const CUresult code = write_value_(lane.stream.get(), slot.device_flag, value, 0);
    if (code != CUDA_SUCCESS)
      throw std::runtime_error("cuStreamWriteValue64: error " +
                               std::to_string(static_cast<int>(code)));
  }

  // Without a graph.
  void put(const Lane& lane, const Slot& slot, std::size_t batch) const {
    if (!setup_.resident) copy_in(lane, slot, batch);
    infer(lane, slot, batch);
    if (!setup_.resident) copy_out(lane, slot);
  }

  void run_naively(const Lane& lane, const Slot& slot, std::size_t batch) const {
    for (const Place& place : inputs_.places)
      check(cudaMemcpy(static_cast<std::byte*>(slot.device_in.get()) + place.offset,
                       host_in_[batch].data + place.offset, place.bytes, cudaMemcpyHostToDevice),
            "copy in");
    if (!slot.context->enqueueV3(lane.stream.get())) fail_tensorrt("enqueueV3");
    for (const Place& place : outputs_.places)
      check(cudaMemcpy(slot.host_out.data + place.offset,
                       static_cast<const std::byte*>(slot.device_out.get()) + place.offset,
                       place.bytes, cudaMemcpyDeviceToHost),
            "copy out");
    check(cudaStreamSynchronize(lane.stream.get()), "cudaStreamSynchronize");
  }

  // --- The thread's loop ---

  void drive(double ramp_s, double seconds, Figures& figures) {
    using Seconds = std::chrono::duration<double>;
    auto now = Clock::now();
    const auto count_from = now + std::chrono::duration_cast<Clock::duration>(Seconds(ramp_s));
    const auto count_to =
        count_from + std::chrono::duration_cast<Clock::duration>(Seconds(seconds));
    // The window opens and closes with the end of a batch, so that it holds whole ones.
    enum class Phase { ramp, window, over } phase = Phase::ramp;
    Clock::time_point opened;
    double cpu_s = 0;
    std::size_t in_flight = 0;
    for (int s = 0; s < setup_.slots; ++s) {
      for (Lane& lane : lanes_) {
        launch_next(lane, now);
        ++in_flight;
        now = Clock::now();
      }
    }
    for (std::uint64_t idle_rounds = 0; in_flight > 0; ++idle_rounds) {
      for (Lane& lane : lanes_) {
        if (lane.in_flight == 0) continue;
        Slot& slot = lane.slots[lane.oldest];
        if (!is_done(lane, slot)) continue;
        now = Clock::now();
        idle_rounds = 0;
        --in_flight;
        --lane.in_flight;
        lane.oldest = lane.oldest + 1 == lane.slots.size() ? 0 : lane.oldest + 1;
        if (phase == Phase::window) {
          figures.latency.record(
              static_cast<std::uint64_t>(std::chrono::nanoseconds(now - slot.launched).count()));
          ++figures.requests;
          figures.items += static_cast<std::uint64_t>(setup_.items);
          if (now >= count_to) {
            phase = Phase::over;
            figures.seconds = Seconds(now - opened).count();
            cost_.cpu_s = thread_cpu_s() - cpu_s;
          }
        } else if (phase == Phase::ramp && now >= count_from) {
          phase = Phase::window;
          opened = now;
          cpu_s = thread_cpu_s();
        }
        if (phase == Phase::over) continue;
        launch_next(lane, now);
        ++in_flight;
        if (phase == Phase::window) cost_.launch_s += Seconds(Clock::now() - now).count();
      }
      // A stream that has failed writes no flag.
      if (idle_rounds % 65536 == 65535) check_streams();
    }
  }

  void check_streams() const {
    for (const Lane& lane : lanes_) {
      const cudaError_t code = cudaStreamQuery(lane.stream.get());
      if (code != cudaErrorNotReady) check(code, "a batch in flight");
    }
  }

  void launch_next(Lane& lane, Clock::time_point now) {
    Slot& slot = lane.slots[lane.next];
    lane.next = lane.next + 1 == lane.slots.size() ? 0 : lane.next + 1;
    ++lane.in_flight;
    slot.launched = now;
    const std::size_t turn = slot.next;
    const std::size_t turns = graphs_hold_inputs() ? slot.graphs.size() : host_in_.size();
    slot.next = turn + 1 == turns ? 0 : turn + 1;
    if (setup_.naive) return run_naively(lane, slot, turn);
    launch(lane, slot, turn, graphs_hold_inputs() ? turn : 0);
    signal(lane, slot);
  }

  void launch(const Lane& lane, Slot& slot, std::size_t batch, std::size_t graph) {
    if (!setup_.graphs) return put(lane, slot, batch);
    if (setup_.wait == TensorrtWait::graph_flag)
      std::atomic_ref(*slot.flag).store(0, std::memory_order_release);
    if (copies_outside()) copy_in(lane, slot, batch);
    check(cudaGraphLaunch(slot.graphs[graph].get(), lane.stream.get()), "cudaGraphLaunch");
    if (copies_outside()) copy_out(lane, slot);
  }

  void signal(const Lane& lane, Slot& slot) {
    switch (setup_.wait) {
      case TensorrtWait::stream_flag:
        write_flag(lane, slot, ++slot.awaited);
        return;
      case TensorrtWait::graph_flag:
        slot.awaited = 1;
        return;
      case TensorrtWait::event:
      case TensorrtWait::blocking_event:
        check(cudaEventRecord(slot.event.get(), lane.stream.get()), "cudaEventRecord");
        return;
      case TensorrtWait::stream_sync:
        return;
    }
  }

  [[nodiscard]] bool is_done(const Lane& lane, Slot& slot) const {
    if (setup_.naive) return true;
    switch (setup_.wait) {
      case TensorrtWait::stream_flag:
      case TensorrtWait::graph_flag:
        return std::atomic_ref(*slot.flag).load(std::memory_order_acquire) == slot.awaited;
      case TensorrtWait::event: {
        const cudaError_t code = cudaEventQuery(slot.event.get());
        if (code == cudaErrorNotReady) return false;
        check(code, "cudaEventQuery");
        return true;
      }
      case TensorrtWait::blocking_event:
        check(cudaEventSynchronize(slot.event.get()), "cudaEventSynchronize");
        return true;
      case TensorrtWait::stream_sync:
        check(cudaStreamSynchronize(lane.stream.get()), "cudaStreamSynchronize");
        return true;
    }
    return true;
  }

  void run_batch(std::size_t batch, std::vector<std::string>& out) {
    if (batch >= host_in_.size())
      throw std::runtime_error("expected one of " + std::to_string(host_in_.size()) +
                               " batches, got number " + std::to_string(batch));
    const std::size_t index = batch % all_slots();
    Lane& lane = lanes_[index % lanes_.size()];
    Slot& slot = lane.slots[index / lanes_.size()];
    // So that what an earlier batch left cannot pass for an answer.
    std::memset(slot.host_out.data, 0xA5, outputs_.bytes);
    check(cudaMemsetAsync(slot.device_out.get(), 0xA5, outputs_.bytes, lane.stream.get()),
          "cudaMemsetAsync");
    const std::size_t graph = graphs_hold_inputs() ? batch / all_slots() : 0;
    if (setup_.naive)
      run_naively(lane, slot, batch);
    else if (graph < slot.graphs.size())
      launch(lane, slot, batch, graph);
    else
      put(lane, slot, batch);
    check(cudaStreamSynchronize(lane.stream.get()), "cudaStreamSynchronize");
    if (setup_.resident)
      check(cudaMemcpy(slot.host_out.data, slot.device_out.get(), outputs_.bytes,
                       cudaMemcpyDeviceToHost),
            "copy out");
    for (const Place& place : outputs_.places)
      out.emplace_back(reinterpret_cast<const char*>(slot.host_out.data) + place.offset,
                       place.bytes);
  }

  TensorrtSetup setup_;  // its batches only until they are copied
  const std::shared_ptr<Plan> plan_;
  WriteValue write_value_ = nullptr;
  std::int32_t profile_ = 0;
  std::vector<Shape> shapes_;  // of the inputs
  Block inputs_;
  Block outputs_;
  std::vector<HostMemory> host_in_;  // read by all slots
  std::vector<DeviceMemory> resident_in_;
  PinnedMemory flags_;
  std::vector<Lane> lanes_;
  HostCost cost_;
  std::string broken_;  // what ended a run: work may still be under way
};

void check_setup(const TensorrtSetup& setup) {
  const auto expect = [](bool holds, const char* what) {
    if (!holds) throw std::runtime_error(what);
  };
  expect(!setup.batches.empty(), "expected at least one batch to run, got none");
  expect(setup.lanes >= 1 && setup.slots >= 1 && setup.graphs_per_slot >= 1 && setup.items >= 1,
         "expected at least one lane, slot, graph a slot and item a batch");
  expect(!setup.graphs || setup.resident || !setup.copies_in_graph || !setup.pageable,
         "copies in a graph need pinned memory");
  expect(setup.wait != TensorrtWait::graph_flag || (setup.graphs && !setup.naive),
         "a flag written by a graph needs graphs");
  expect(setup.wait != TensorrtWait::graph_flag || setup.resident || setup.copies_in_graph,
         "a flag written by a graph needs the copies in the graph");
}

std::shared_ptr<Plan> plan_of(const TensorrtSetup& setup) {
  if (setup.opened) return std::static_pointer_cast<Plan>(setup.opened);
  return std::make_shared<Plan>(setup.library, setup.plan, setup.device);
}

}  // namespace

std::shared_ptr<TensorrtPlan> open_tensorrt_plan(const std::string& library,
                                                 const std::string& plan, int device,
                                                 std::string& error) {
  try {
    return std::make_shared<Plan>(library, plan, device);
  } catch (const std::exception& what) {
    error = what.what();
    return nullptr;
  }
}

std::unique_ptr<TensorrtLoop> make_tensorrt_loop(const TensorrtSetup& setup, std::string& error) {
  try {
    check_setup(setup);
    return std::make_unique<Tensorrt>(setup, plan_of(setup));
  } catch (const std::exception& what) {
    error = what.what();
    return nullptr;
  }
}

}  // namespace direct
