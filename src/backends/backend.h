// What can execute a model. The engine knows backends only through this header.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/device.h>
#include <millrace/engine.h>
#include <millrace/model.h>
#include <millrace/tensor.h>

#include "device/ledger.h"

namespace millrace {

/// A model as a backend is asked to load it.
struct ModelSpec {
  std::string name;
  std::string path;
  std::shared_ptr<const std::string> content;  // null: read `path`
  std::map<std::string, std::string> options;  // the backend refuses those it does not know
  std::vector<std::string> plugins;            // libraries; none where the backend takes none
  std::int64_t max_items = 0;                  // asked for; 0: the backend's limit
  int lanes = 0;                               // asked for; 0: `PlanInfo::default_lanes`
  int cpu_threads = 1;                         // budget of this process for host compute
};

struct PlanInfo {
  std::vector<TensorInfo> inputs;
  std::vector<TensorInfo> outputs;
  /// The most items in a batch; 1 when the model has no batch axis; 0 when it sets no limit.
  std::int64_t max_items = 1;
  int default_lanes = 1;
  bool lanes_share_weights = true;
  /// Of every tensor's first byte; 0: that of its elements.
  std::size_t alignment = 0;
  std::vector<std::pair<std::string, std::string>> metadata;
};

/// Device memory in bytes, as far as it is known before lanes are made.
struct Footprint {
  std::size_t weights_bytes = 0;   // once per plan; reserved by `load` itself
  std::size_t lane_bytes = 0;      // for each lane
  std::size_t prepared_bytes = 0;  // for each prepared shape of each lane
  std::size_t shared_bytes = 0;    // once per plan, besides: what its lanes use in turn
};

/// Device memory in bytes that a lane holds, as measured.
struct LaneMemory {
  std::size_t context_bytes = 0;
  std::size_t activation_bytes = 0;
  std::size_t graph_bytes = 0;
  [[nodiscard]] std::size_t total() const noexcept {
    return context_bytes + activation_bytes + graph_bytes;
  }
  LaneMemory& operator+=(const LaneMemory& other) noexcept {
    context_bytes += other.context_bytes;
    activation_bytes += other.activation_bytes;
    graph_bytes += other.graph_bytes;
    return *this;
  }
  LaneMemory& operator/=(std::size_t lanes) noexcept {
    context_bytes /= lanes;
    activation_bytes /= lanes;
    graph_bytes /= lanes;
    return *this;
  }
};

struct LaneTraits {
  /// `enqueue` may block for as long as the batch runs: the engine gives the lane a thread.
  bool enqueue_blocks = false;
  /// `terminate` can end a running batch.
  bool terminable = false;
  /// Runs best, or only, as prepared: `prepare` is called for each slot and bucket of items.
  bool wants_prepare = false;
  /// Prepared runs use the addresses of `prepare` whatever `enqueue` is given.
  bool fixed_addresses = false;
  /// Unprepared batches are refused (otherwise they run eagerly).
  bool only_prepared = false;
  /// `prepare` may be called at any time, for any addresses, while other runs are enqueued.
  bool prepares_any_address = false;
  /// Graphs were asked for: runs that are none are counted, and why.
  bool wants_graphs = false;
  /// Pads up to a prepared size even where running eagerly would cost less.
  bool avoids_eager = false;
  /// On the stream a run only computes: it takes about as long as those like it took before. Any
  /// thread may do it then.
  bool only_computes = false;
};

struct LaneOptions {
  int index = 0;
  int slots = 2;
  int priority = 0;
};

/// Where an output goes. Exactly one of the two is given: `view` with data, or `allocate`.
struct OutputSlot {
  /// In: type, and the shape where it is known (for the items being run); data, or null. Out: data,
  /// offsets and the real shape.
  TensorView view;
  /// Called at most once per run, by any thread, when the size is known: memory for a tensor of
  /// that type and static shape on the plan's device. For BYTES `bytes_size` is the block's size;
  /// the memory returned has room for the offsets array first (element count + 1), then the block.
  /// Valid until the batch is over.
  std::function<Result<void*>(DataType type, const Shape& shape, std::size_t bytes_size)> allocate;
};

/// How an asynchronous run reports a failure that came after `enqueue` returned. Written before
/// `done` is reached, read after.
class BatchStatus {
 public:
  /// The first failure counts. Thread-safe.
  void fail(Error error) {
    if (!claimed_.test_and_set(std::memory_order_acq_rel)) {
      error_ = std::move(error);
      failed_.store(true, std::memory_order_release);
    }
  }
  [[nodiscard]] bool failed() const noexcept { return failed_.load(std::memory_order_acquire); }
  /// Only when failed.
  [[nodiscard]] const Error& error() const noexcept { return error_; }
  void reset() noexcept {
    claimed_.clear();
    failed_.store(false, std::memory_order_relaxed);
  }

 private:
  std::atomic_flag claimed_ = ATOMIC_FLAG_INIT;
  std::atomic<bool> failed_{false};
  Error error_;
};

/// Instead of a slot: tensors that callers brought.
inline constexpr int kNoSlot = -1;

/// The tensors of one run. It and all it points to stay valid until `done` is reached.
struct BatchIo {
  /// In the order of PlanInfo::inputs; contiguous; the lane's stream must wait for each one's ready
  /// event (if any).
  std::span<const TensorView> inputs;
  std::span<OutputSlot> outputs;
  /// Recorded by the lane on its stream; either may be null.
  EventRef inputs_consumed;
  EventRef done;
  BatchStatus* status = nullptr;
  /// Whose blocks they are; `kNoSlot`, to `prepare` alone, where one lane may see very many.
  int slot = 0;
};

/// Names a prepared run of a lane; `kEager` runs without.
using ShapeKey = int;
inline constexpr ShapeKey kEager = -1;

/// One stream's worth of a plan. Used by one thread at a time: the loader until published, then the
/// driver (or the lane's own thread where `enqueue_blocks`). `terminate` may be called by another
/// thread.
class Lane {
 public:
  /// Waits for nothing: the engine destroys a lane only once its stream is idle, or abandons it.
  virtual ~Lane() = default;
  virtual StreamRef stream() const = 0;
  virtual LaneTraits traits() const = 0;
  /// Slow: first run, tuning, capture, for exactly these shapes and addresses. Only the loader
  /// calls it. Does not touch the memory that `io` names where the traits say
  /// `prepares_any_address`; elsewhere it may run once on it.
  virtual Result<ShapeKey> prepare(const BatchIo& io) = 0;
  /// Enqueues one run on `stream()`. An error returned means that nothing was enqueued (and neither
  /// event recorded).
  virtual Result<void> enqueue(ShapeKey key, const BatchIo& io) = 0;
  /// Why the prepared run is no graph though graphs were asked for; empty: it is one. The text
  /// lives as long as the lane. Of keys that `prepare` has returned.
  virtual std::string_view not_captured(ShapeKey) const { return {}; }
  /// A number that the stream raises by one at the end of each run of that key, so that nothing
  /// needs to be enqueued behind it to learn that it is over; null for keys whose runs do not. One
  /// for all that do; it lives as long as the lane.
  virtual const std::atomic<std::uint64_t>* run_count(ShapeKey) const { return nullptr; }
  /// What it holds now. Of whoever calls `prepare`.
  virtual LaneMemory memory() const { return {}; }
  /// Ends a running batch soon, with an error in its status. Errors: unsupported.
  virtual Result<void> terminate() {
    return Error{ErrorCode::unsupported, "this lane cannot end a running batch"};
  }
  /// Called instead of destruction when the stream never became idle: leave everything that the
  /// device may touch alive.
  virtual void abandon() noexcept = 0;
};

/// One model loaded on one device. Thread-safe where const; `new_lane` on the loader only. Lanes
/// must not outlive it.
class Plan {
 public:
  virtual ~Plan() = default;
  virtual const PlanInfo& info() const = 0;
  virtual Footprint footprint() const = 0;
  virtual Result<std::unique_ptr<Lane>> new_lane(const LaneOptions& options) = 0;
};

/// Whether a backend can run a model, and why (not).
struct Support {
  bool supported = false;
  std::string reason;
};

struct Backend {
  std::string_view name;  // also the value of --backend
  BackendInfo (*info)();
  /// Looks at the name, the first bytes and the device; does not load. Must not throw.
  Support (*supports)(const ModelSpec&, DeviceRef);
  /// Slow; on a loader. Reserves the weights in `ledger` before it allocates them.
  Result<std::unique_ptr<Plan>> (*load)(const ModelSpec&, DeviceRef, MemoryLedger&);
  bool takes_plugins = false;
};

/// The one explicit list, best first.
[[nodiscard]] std::span<const Backend> backends() noexcept;

struct BackendChoice {
  const Backend* backend = nullptr;
  std::string reason;
};
/// `requested`: "auto" or a name. Errors: not_found for an unknown name (lists the known),
/// unsupported with every backend's reason.
[[nodiscard]] Result<BackendChoice> choose_backend(std::string_view requested, const ModelSpec&,
                                                   DeviceRef);

}  // namespace millrace
