// The engine: devices, the models loaded on them, and the threads that keep both busy.
//
//   auto engine = millrace::Engine::create();
//   auto model = engine->load({.path = "digits.onnx"});
//   millrace::Request request;
//   request.inputs.push_back({"images", millrace::TensorView::of(pixels, {1, 1, 8, 8}), {}});
//   auto answer = model->infer(std::move(request));
//   const float* p = answer->outputs[0].view.as<float>();
//
// Every function may be called from any thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/device.h>
#include <millrace/model.h>

namespace millrace {

/// How a driver waits while it has nothing to do.
enum class WaitMode : std::uint8_t {
  automatic,  // block on host devices, hybrid on GPUs
  hybrid,     // spin while work is in flight and 50 us after, then block
  spin,
  block,
};

/// A device that failed for good (a GPU after an illegal address, say): nothing runs on it any
/// more.
struct DeviceFault {
  DeviceId device;
  Error error;  // Scope::process: only a new process gets the device back
};

struct EngineOptions {
  /// Without names: all GPUs that a backend of this machine can use, and host:0 for models that
  /// need the host.
  DeviceSetOptions devices{};
  WaitMode wait = WaitMode::automatic;
  /// Threads that run callers' callbacks.
  int callback_threads = 1;
  /// Batches that may be in flight on a device over all its models; 0: no cap but that of the
  /// slots. A cap is what makes weights and priority classes bite where models do not contend
  /// otherwise.
  int max_batches_in_flight = 0;
  /// Device times are taken of one batch in this many, on GPUs of at most one in 2 ms; 1: of all;
  /// 0: of none, except on host devices.
  int sample_every = 16;
  /// How many timelines are kept for `timelines()`; 0: none.
  std::size_t trace_capacity = 0;
  /// CPU threads for models that compute on the host; 0: the processors usable by this process.
  int cpu_threads = 0;
  /// How long the destructor waits for work in flight before it gives up on it.
  Duration shutdown_timeout = std::chrono::seconds(10);
  /// When a device fails for good: whether requests that have not started run on the other devices
  /// of their model. If not, all that wait for that model are answered with the fault. Off, since
  /// CUDA was seen to fail all GPUs of a process together (docs/design/lost_devices.md).
  bool others_take_over = false;
  /// Called once for each device that fails for good, on a thread of its own, which may block and
  /// may unload models, but must not end the engine: the process should finish what it can and be
  /// restarted. See also `Engine::faults`.
  std::function<void(const DeviceFault&)> on_fault{};
};

struct MemoryHolder {
  std::string holder;  // "model \"digits\"", ...
  std::size_t bytes = 0;
};

/// What moving data from another device costs, as measured when the engine started.
struct TransferCost {
  DeviceId from;
  Duration latency{};
  double bytes_per_second = 0;
};

struct DeviceReport {
  DeviceInfo info;
  MemoryInfo memory;
  std::vector<MemoryHolder> held;  // by the ledger
  /// From every other device of the engine, where both have memory of their own.
  std::vector<TransferCost> transfers;
  std::optional<Error> fault;  // it failed for good
};

/// A backend compiled into this program and whether it can be used here.
struct BackendInfo {
  std::string name;
  bool usable = false;
  std::string version;  // of the library under it, when usable
  std::string reason;   // why not, naming the files looked for and how to get them
};
/// Best first, the order in which "auto" tries them.
[[nodiscard]] std::vector<BackendInfo> backend_infos();

class EngineState;

class Engine {
 public:
  /// Errors: as DeviceSet::open; invalid_argument for counts out of range.
  [[nodiscard]] static Result<Engine> create(EngineOptions options = {});
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  /// Refuses new work, answers what is queued with `cancelled`, waits for what is in flight.
  ~Engine();

  /// Loads, warms and publishes; returns when the model can run on all its devices. Other models go
  /// on meanwhile. On any error the engine is as it was before. Errors: not_found (file, device,
  /// backend), invalid_argument (configuration, name in use, corrupt file), out_of_memory (needed,
  /// free, held by whom), unsupported; gpu_fault for a device that failed for good.
  [[nodiscard]] Result<Model> load(ModelConfig config);
  /// Refuses new requests, lets queued and running ones finish, frees the model. Errors: not_found;
  /// deadline_exceeded when it is not empty by then (it stays unloading: call again);
  /// unavailable when a lane hangs: the model is gone from the engine, what the lane may
  /// still touch is kept until its stream passes.
  Result<void> unload(std::string_view name, Duration timeout = std::chrono::seconds(30));
  [[nodiscard]] Result<Model> find(std::string_view name) const;
  [[nodiscard]] std::vector<std::string> model_names() const;
  /// Waits until no request is queued or running. Errors: deadline_exceeded.
  Result<void> drain(Duration timeout);

  /// New memory of that type and static shape, uninitialized, from a pool: on `device`, or (host
  /// memory) such that the engine's devices read and write it without a staging copy. For inputs,
  /// and for targets of outputs. Not for BYTES. Errors: not_found for a device that is not the
  /// engine's, invalid_argument, out_of_memory.
  [[nodiscard]] Result<Tensor> new_tensor(DataType type, const Shape& shape,
                                          DeviceId device = DeviceId::host_memory()) const;

  [[nodiscard]] std::span<const DeviceRef> devices() const noexcept;
  [[nodiscard]] std::vector<DeviceReport> device_reports() const;
  /// The devices that failed for good. Not empty: the process asks to be restarted.
  [[nodiscard]] std::vector<DeviceFault> faults() const;
  /// The latest `trace_capacity` batches, oldest first.
  [[nodiscard]] std::vector<BatchTimeline> timelines() const;

 private:
  friend class EngineAccess;
  explicit Engine(std::unique_ptr<EngineState> state) noexcept;
  std::unique_ptr<EngineState> state_;
};

}  // namespace millrace
