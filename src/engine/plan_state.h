// One model on one device: its lanes, their slots, and how a batch is put on one.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include <millrace/model.h>

#include "backends/backend.h"
#include "base/live_histogram.h"
#include "device/block_pool.h"
#include "device/ledger.h"
#include "engine/batching.h"
#include "engine/request_state.h"
#include "engine/task_thread.h"

namespace millrace {

class DeviceState;
class LaneState;
class ModelState;
class PlanState;

/// Where the tensors of a batch lie that could run on the caller's own memory: those of the inputs,
/// then those of the outputs (null: not the caller's).
struct AddressKey {
  static constexpr std::size_t kMost = 9;
  std::int64_t items = 0;
  std::array<void*, kMost> addresses{};
  friend bool operator==(const AddressKey&, const AddressKey&) = default;
};
struct AddressHash {
  std::size_t operator()(const AddressKey& key) const noexcept;
};

/// Runs prepared for one set of addresses.
struct InPlaceRuns {
  std::vector<ShapeKey> by_lane;  // kEager: none
  int misses = 0;                 // since the last one was asked for
  bool preparing = false;
};

/// Input and output blocks of a lane and the batch that they are leased to. Reused for batch after
/// batch without allocation.
class BatchSlot {
 public:
  LaneState* lane = nullptr;
  int index = 0;

  // The batch. Filled by the driver before staging.
  std::vector<RequestState*> requests;  // emptied when they are answered
  std::int64_t items = 0;
  std::uint64_t number = 0;  // counts per engine
  bool sampled = false;
  bool lane_was_idle = false;
  TimePoint submitted;  // of the oldest
  TimePoint picked;
  Duration estimate{};

  // Filled by staging, on the driver or the lane's own thread.
  std::int64_t run_items = 0;  // padded
  ShapeKey key = kEager;
  bool bound_in_place = false;
  bool in_place_run = false;         // `key` was prepared for the caller's addresses
  bool leaves_device = false;        // data comes from elsewhere, or goes there
  bool run_is_last = false;          // nothing is enqueued behind the run
  std::optional<EagerReason> eager;  // it was to be a graph and is none
  TimePoint staged;
  std::vector<TensorView> inputs;
  std::vector<OutputSlot> outputs;
  std::vector<Lease> input_leases;   // of gathered inputs taken from the pool
  std::vector<Lease> output_leases;  // per output
  std::vector<TensorView> results;   // per output: where the answers are, before slicing
  std::vector<void*> computed_at;    // per output: where the lane writes it; null: not known before
  // Where the device's memory is not the host's: the copies of the outputs in host memory, without
  // data for those that nobody wants there.
  std::vector<TensorView> host_results;
  std::vector<Lease> host_leases;
  std::vector<CopyPiece> pieces;
  std::size_t piece_bytes = 0;  // of all of them
  BatchIo io;
  BatchStatus status;

  // Completion: the stream writes `expected` into `word`; or the run is the lane's last work for
  // the batch and counts itself; or `done` is asked now and then. Which it is the driver has chosen
  // before it looks: on a lane with a thread of its own it is the word.
  std::atomic<std::uint64_t>* word = nullptr;
  std::uint64_t expected = 0;
  const std::atomic<std::uint64_t>* run_count = nullptr;  // null: `word` tells
  std::uint64_t run_number = 0;                           // reached when the run is over
  bool asks_event = false;
  TimePoint ask_again;
  TimePoint soon_over;
  Duration ask_every{};
  Event started, copied_in, computed, copied_out, done;
  /// Read once, when a sampled batch is over.
  struct DeviceTimes {
    TimePoint started, copied_in, computed, copied_out;
  };
  std::optional<DeviceTimes> times;

  // Fixed blocks, where shapes are known: one per input and, for lanes with fixed addresses, per
  // output.
  std::vector<Buffer> input_blocks;
  std::vector<Buffer> output_blocks;
  std::vector<ShapeKey> prepared;  // per PlanState::run_costs entry

  /// Requests answered with an error while the stream may still touch their memory.
  std::vector<Lease> held;
  bool given_up = false;

  [[nodiscard]] bool finished(TimePoint now) noexcept;
};

/// A lane as the driver sees it.
class LaneState {
 public:
  PlanState* plan = nullptr;
  int index = 0;
  std::unique_ptr<Lane> lane;
  LaneTraits traits;
  std::unique_ptr<TaskThread> thread;  // of lanes whose enqueue blocks
  std::vector<std::unique_ptr<BatchSlot>> slots;
  Buffer words;
  std::vector<RunCost> run_costs;  // ascending; empty when nothing is prepared
  /// What runs on the caller's inputs write to where the caller gives no memory. One for all, since
  /// the stream runs them one after the other.
  std::vector<Buffer> scratch_outputs;

  std::uint64_t counted_runs = 0;  // enqueued so far, of keys with a `Lane::run_count`

  // The driver's.
  std::deque<BatchSlot*> in_flight;  // oldest first
  TimePoint last_progress;
  TimePoint idle_from;  // expected
  TimePoint last_used;
  const BatchSlot* last_slot = nullptr;  // of the batch launched last
  TimePoint last_end;                    // of the last batch, on the device
  bool quarantined = false;
  bool terminating = false;

  LaneState() = default;
  LaneState(const LaneState&) = delete;
  LaneState& operator=(const LaneState&) = delete;
  /// Blocks while its stream still works: on an error of loading, or right after it, slots are
  /// still being filled.
  ~LaneState() {
    if (lane) (void)lane->stream().synchronize();
  }

  [[nodiscard]] BatchSlot* free_slot() noexcept;
};

/// What the driver learns of how long things take, by size of batch.
class BatchTimes {
 public:
  void learn(std::int64_t items, Duration time) noexcept;
  /// Zero when nothing is known.
  [[nodiscard]] Duration estimate(std::int64_t items) const noexcept;
  /// Whether a batch of about that size was seen.
  [[nodiscard]] bool knows(std::int64_t items) const noexcept;

 private:
  std::array<double, 32> seconds_{};  // per power of two of items; 0: unknown
};

/// Written by whoever drives the device, read by anyone.
struct PlanFigures {
  std::array<LiveHistogram, kPhases> phases;
  LiveHistogram batch_items;
  std::atomic<std::uint64_t> batches{0}, prepared{0}, in_place{0};
  std::atomic<std::uint64_t> running{0}, busy_lanes{0};
  std::array<std::atomic<std::uint64_t>, kEagerReasons> eager{};
  std::atomic<std::uint64_t> requests{0}, items{0}, moved{0};  // of batches that succeeded
  std::atomic<Duration::rep> device_time{0};
};

class PlanState {
 public:
  PlanState(DeviceState& device, const ModelConfig& config);
  ~PlanState();

  /// Slow, on the loader: admission, weights, lanes, slots, warm runs. On an error nothing stays
  /// behind.
  Result<void> load(const ModelSpec& spec);

  [[nodiscard]] DeviceState& device() noexcept { return device_; }
  [[nodiscard]] const Plan& plan() const noexcept { return *plan_; }
  [[nodiscard]] const PlanInfo& plan_info() const noexcept { return plan_->info(); }
  [[nodiscard]] ModelInfo::Placement placement() const;
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const std::string& backend_name() const noexcept { return backend_name_; }
  [[nodiscard]] const std::string& backend_reason() const noexcept { return backend_reason_; }
  [[nodiscard]] const BatchPolicy& batching() const noexcept { return batching_; }
  [[nodiscard]] std::int64_t max_items() const noexcept { return batching_.max_items; }
  /// Whether batches of the same number of items do the same work, but for what their values ask.
  [[nodiscard]] bool inputs_fixed() const noexcept { return inputs_fixed_; }

  /// Enqueues the slot's batch on its lane. Errors go into the slot's status; its word is always
  /// written in the end. On the driver, or on the lane's thread where its enqueue blocks.
  void stage(BatchSlot& slot);

  /// A lane with room that is prepared for the very addresses of these requests, else `fallback`.
  /// The driver's.
  [[nodiscard]] LaneState* lane_for(std::span<RequestState* const> requests, LaneState* fallback);
  /// Whether to look for a request that suits a lane: some lane is prepared for somebody's own
  /// memory, and the last searches were not all in vain. Ask once for each batch.
  [[nodiscard]] bool searches() noexcept { return in_place_count_ > 0 && --searches_paused_ < 0; }
  void count_search(bool found) noexcept;
  /// Whether `lane` is prepared for where this request's data lies.
  [[nodiscard]] bool prepared_on(const LaneState& lane, const RequestState& request);
  /// Requests may have gone since the last launch: what was found out about one counts no more.
  void forget_lookup() noexcept { lookup_.request = nullptr; }

  // Set once when published.
  ModelState* model = nullptr;
  std::size_t location = 0;  // of its device's data in the model's queue

  // The driver's.
  double virtual_time = 0;
  bool active = false;
  int in_flight = 0;
  BatchTimes times;
  Duration lead = std::chrono::microseconds(50);
  std::int64_t items_seen = 0;  // in the queue at the last look

  // Written by the driver, read by submitters and by other drivers.
  /// A queue that holds this many items is worth waking the driver for.
  std::atomic<std::int64_t> wake_at_items{INT64_MAX};
  std::atomic<Duration::rep> free_at{0};
  std::atomic<bool> usable{true};

  // Shared with the model, whose statistics may be read after the plan is gone.
  using Figures = PlanFigures;
  std::shared_ptr<Figures> figures = std::make_shared<Figures>();

 private:
  Result<void> try_load(const ModelSpec& spec);
  [[nodiscard]] Result<void> check_types() const;
  Result<void> settle_batching();
  Result<void> check_batch_bytes() const;
  Result<void> make_lanes(int lanes, int slots);
  [[nodiscard]] std::size_t scratch_bytes() const;
  [[nodiscard]] std::size_t lane_bytes(const LaneState& lane) const;
  Result<void> reserve_measured();
  [[nodiscard]] std::map<std::size_t, std::size_t, std::greater<>> answer_blocks() const;
  void fill_pools();
  Result<void> make_slot(LaneState& lane, int index);
  Result<void> prepare(LaneState& lane);
  Result<void> prepare_slot(LaneState& lane, BatchSlot& slot, std::span<const std::int64_t> sizes);
  Result<Duration> time_run(LaneState& lane, BatchSlot& slot, ShapeKey key, std::int64_t items);
  void fixed_io(BatchSlot& slot, std::int64_t items);
  [[nodiscard]] std::size_t slot_bytes() const;

  struct Lookup {
    const RequestState* request = nullptr;
    std::optional<AddressKey> key;  // nothing: it cannot run in place
    InPlaceRuns* runs = nullptr;    // null: none are known
  };
  const Lookup& look_up(std::span<RequestState* const> requests);
  [[nodiscard]] std::optional<AddressKey> address_key(
      std::span<RequestState* const> requests) const;
  bool choose_in_place(BatchSlot& slot);
  [[nodiscard]] bool lies_here(const BatchSlot& slot) const;
  [[nodiscard]] bool gathers_from(const TensorView& view) const;
  void prepare_in_place(LaneState& lane, const AddressKey& key);
  Result<ShapeKey> prepare_for(LaneState& lane, const AddressKey& key);
  Result<void> try_stage(BatchSlot& slot);
  void choose_run(BatchSlot& slot);
  void choose_prepared(BatchSlot& slot);
  [[nodiscard]] static std::optional<EagerReason> why_eager(const BatchSlot& slot);
  [[nodiscard]] std::string why_no_graphs() const;
  Result<void> stage_input(BatchSlot& slot, std::size_t input, StreamRef stream);
  Result<void> await_input(const RequestState& request, std::size_t input, StreamRef stream) const;
  [[nodiscard]] bool reached_by_device(DeviceId other) const;
  [[nodiscard]] Result<void> check_reach(const TensorView& view) const;
  Result<void> copy_from_afar(const TensorView& source, void* target, StreamRef stream) const;
  Result<void> gather_bytes(BatchSlot& slot, std::size_t input, StreamRef stream);
  Result<void> place_outputs(BatchSlot& slot);
  Result<void> place_outputs_apart(BatchSlot& slot);
  Result<void> scatter(BatchSlot& slot, StreamRef stream);
  Result<void> scatter_apart(BatchSlot& slot, StreamRef stream);
  [[nodiscard]] const TensorView* sole_target(const RequestState& only, std::size_t output) const;
  [[nodiscard]] const TensorView* only_target(std::span<RequestState* const> requests,
                                              std::size_t output) const;
  void copy_pageable_targets(BatchSlot& slot) const;
  [[nodiscard]] Result<void> check_room(std::size_t output, const TensorView& part,
                                        const TensorView& target) const;
  void copy_late_targets(BatchSlot& slot);
  Result<void*> allocate_late(BatchSlot& slot, std::size_t output, DataType type,
                              const Shape& shape, std::size_t bytes_size);
  [[nodiscard]] bool aligned_for_plan(const TensorView& view) const;
  [[nodiscard]] bool binds_in_place(const BatchSlot& slot, const TensorView& view) const;

  DeviceState& device_;
  const bool apart_;        // the device's memory is not the host's
  const bool asks_events_;  // see BatchSlot::asks_event
  const std::string name_;
  const ModelConfig config_;
  BatchPolicy batching_;
  std::string backend_name_;
  std::string backend_reason_;
  Reservation reservation_;         // lanes and slots; the weights' is the plan's. The loader's
  std::size_t prepared_bytes_ = 0;  // of one prepared run, as measured. The loader's
  bool runs_in_place_ = false;
  bool inputs_fixed_ = false;       // but for the number of items
  int searches_paused_ = 0;         // the driver's
  int searches_in_vain_ = 0;        // the driver's
  std::size_t in_place_count_ = 0;  // the driver's
  std::unordered_map<AddressKey, InPlaceRuns, AddressHash> in_place_;  // the driver's
  Lookup lookup_;                                                      // the driver's
  std::unique_ptr<Plan> plan_;

 public:
  std::vector<std::unique_ptr<LaneState>> lanes;  // the driver's; must go before the plan
};

/// Bytes of one item of a tensor whose other dimensions are known; nothing for BYTES and where a
/// dimension is dynamic.
[[nodiscard]] std::optional<std::size_t> item_bytes(const TensorInfo& info);
/// `info.shape` with the batch axis, if any, set to `items`.
[[nodiscard]] Shape shape_for(const TensorInfo& info, std::int64_t items);

}  // namespace millrace
