// What a model is called, where it runs and how its requests are batched.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/request.h>
#include <millrace/statistics.h>

namespace millrace {

/// An input or output as the model declares it.
struct TensorInfo {
  std::string name;
  DataType type = DataType::fp32;
  /// With the batch axis, `kDynamic` where not fixed.
  Shape shape;
  /// The dimension that counts items: 0, or -1 when the tensor has none.
  int batch_axis = -1;
  /// Inputs: its values decide on shapes, and the host reads them when the batch is enqueued. They
  /// must lie in host memory; `submit` waits for their ready event.
  bool on_host = false;
};

struct BatchPolicy {
  /// The most items in a batch; 0: what the model allows, 32 where it sets no limit. 1 turns
  /// combining off.
  std::int64_t max_items = 0;
  /// Sizes worth waiting for within `max_delay`, ascending; the maximum always counts as one.
  std::vector<std::int64_t> preferred_items;
  /// How long the oldest waiting request may be held back for a fuller batch. Zero: never; batches
  /// then form only while all lanes are busy.
  Duration max_delay{};
  /// Answers are handed over in the order of submission.
  bool preserve_order = false;
};

struct QueueLimits {
  std::size_t max_requests = 65536;
  std::size_t max_bytes = std::size_t{1} << 30;  // of input tensors
  /// For requests without a deadline of their own; zero: none.
  Duration default_timeout{};
};

/// One model within an ensemble. Maps are from the model's tensor names to the ensemble's.
struct EnsembleStep {
  std::string model;
  std::map<std::string, std::string> inputs;
  std::map<std::string, std::string> outputs;
};

struct ModelConfig {
  /// Unique in the engine; empty: from the file's name.
  std::string name{};
  /// A model file, or "reference:KIND?option=value&..." for the built-in reference backend.
  std::string path{};
  /// The file's content instead, e.g. an ONNX model in memory; `path` is then only a name.
  std::shared_ptr<const std::string> content{};
  /// "auto", or a name from `backend_infos()`.
  std::string backend = "auto";
  /// Devices of the engine to run on; empty: all its GPUs where a backend can run the model there,
  /// else all its host devices.
  std::vector<DeviceId> devices{};
  /// Per device; 0: the backend's default for that device.
  int lanes = 0;
  /// Batches in flight per lane, 1 to 8.
  int slots = 2;
  BatchPolicy batching{};
  QueueLimits limits{};
  /// Between models of a device: a higher class goes first; within a class the earliest deadline,
  /// then the share of device time in proportion to `weight`.
  int priority_class = 0;
  double weight = 1.0;
  /// A batch on the device for longer than this is given up and its lane quarantined; zero: never.
  Duration hang_timeout = std::chrono::seconds(60);
  /// The backend's own settings, refused by name when it does not know them (docs/backends.md).
  std::map<std::string, std::string> options{};
  /// Shared libraries whose plug-ins the model uses. They are opened once and stay for good.
  /// A backend that takes none does not run a model that names some.
  std::vector<std::string> plugins{};
  /// Not empty: this is an ensemble of models loaded before; `path`, `backend`, lanes and batching
  /// do not apply. `ensemble_outputs` names the tensors that answer.
  std::vector<EnsembleStep> ensemble{};
  std::vector<std::string> ensemble_outputs{};
};

/// What a loaded model turned out to be.
struct ModelInfo {
  std::string name;
  std::string path;
  std::string backend;
  std::string backend_reason;  // why that one
  std::vector<TensorInfo> inputs;
  std::vector<TensorInfo> outputs;
  std::int64_t max_items = 1;
  struct Placement {
    DeviceId device;
    int lanes = 0;
    int slots = 0;
    bool lanes_share_weights = true;
    std::size_t weights_bytes = 0;  // once
    std::size_t lane_bytes = 0;     // for each lane: the sum of the next three
    std::size_t context_bytes = 0;  // what the library under the backend takes for it
    std::size_t activation_bytes = 0;
    std::size_t graph_bytes = 0;   // captured graphs, as measured when they were made
    std::size_t slot_bytes = 0;    // for each lane: input and output blocks
    std::size_t shared_bytes = 0;  // once: activations that the lanes use in turn
    int prepared_shapes = 0;       // per lane
    bool enqueue_blocks = false;
    /// Graphs were asked for, and these runs are none: why. Empty: all prepared runs are graphs, or
    /// none were asked for.
    std::string not_graphs;
  };
  std::vector<Placement> placements;
  /// Free text from the backend, name and value: producer, opset, ...
  std::vector<std::pair<std::string, std::string>> metadata;
};

class ModelState;

/// A loaded model: a lease on it. Copyable, safe to use from any thread. A model unloaded meanwhile
/// answers `unavailable`. Must not outlive the engine.
class Model {
 public:
  Model() noexcept = default;
  explicit operator bool() const noexcept { return state_ != nullptr; }
  [[nodiscard]] const ModelInfo& info() const noexcept;

  /// Validates, then queues. Errors come through the future: invalid_argument (names, types,
  /// shapes), queue_full at once when the queue has no room, deadline_exceeded, unavailable while
  /// unloading.
  [[nodiscard]] Future submit(Request request) const;
  /// The same with a callback. An error returned here means that the callback will not be called.
  Result<Ticket> submit(Request request, Callback callback) const;
  /// Submits and waits.
  [[nodiscard]] Result<Response> infer(Request request) const;

  /// A consistent-enough snapshot; never stops the work.
  [[nodiscard]] ModelStatistics statistics() const;

 private:
  friend class EngineAccess;
  explicit Model(std::shared_ptr<ModelState> state) noexcept : state_(std::move(state)) {}
  std::shared_ptr<ModelState> state_;
};

}  // namespace millrace
