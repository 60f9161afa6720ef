// One device of the engine: its driver, its loader, its memory.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include <millrace/engine.h>

#include "base/thread.h"
#include "device/block_pool.h"
#include "device/ledger.h"
#include "engine/faults.h"
#include "engine/model_state.h"
#include "engine/plan_state.h"
#include "engine/share.h"
#include "engine/task_thread.h"

namespace millrace {

class HostDevice;

/// The latest timelines of an engine, and the numbers of its batches.
class TimelineRing {
 public:
  explicit TimelineRing(std::size_t capacity) : capacity_(capacity) {}
  [[nodiscard]] bool on() const noexcept { return capacity_ > 0; }
  [[nodiscard]] std::uint64_t next_number() noexcept {
    return numbers_.fetch_add(1, std::memory_order_relaxed);
  }
  void add(BatchTimeline timeline);
  [[nodiscard]] std::vector<BatchTimeline> copy() const;

 private:
  const std::size_t capacity_;
  mutable std::mutex mutex_;
  std::vector<BatchTimeline> ring_;
  std::size_t next_ = 0;
  std::atomic<std::uint64_t> numbers_{0};
};

/// Driving a device means to complete what has finished, to form batches and to enqueue them. One
/// thread does it at a time, and nothing in it loads, allocates device memory, captures, copies
/// payload or waits for a stream.
///
/// On a GPU that thread is always the driver thread. On a host device, where waking a thread costs
/// as much as the work, it is whoever has news: the caller that submits, the stream that finishes a
/// batch; the driver thread then only keeps the time (delays, deadlines, hangs). See
/// docs/design/driving.md.
class DeviceState {
 public:
  /// `options`, `faults` and what follows outlive it.
  DeviceState(DeviceRef device, const EngineOptions& options, FaultBoard& faults,
              Executor& executor, TimelineRing& timelines);
  ~DeviceState();
  /// Stops the driver; all plans must have been retired. Returns whether lanes still hang: then
  /// this object and its device must be kept for ever, since their streams may go on some day.
  bool stop();

  [[nodiscard]] DeviceRef device() const noexcept { return device_; }
  [[nodiscard]] MemoryLedger& ledger() noexcept { return ledger_; }
  [[nodiscard]] BlockPool& pool() noexcept { return pool_; }
  /// Host memory that the device reads and writes directly.
  [[nodiscard]] BlockPool& pinned_pool() noexcept { return pinned_pool_; }
  /// Tells of news: work in a queue, a finished batch, a command. Woken by streams and submitters.
  [[nodiscard]] Waker& waker() noexcept { return waker_; }
  /// The same, but never drives on the calling thread.
  void wake_driver_thread() noexcept;
  [[nodiscard]] TaskThread& loader() noexcept { return loader_; }

  /// Whether threads that wait for answers may spin for a while: where the driver does.
  [[nodiscard]] bool callers_may_spin() const noexcept { return callers_may_spin_; }
  /// Whether the driver is woken by the events of batches, which must then be recorded.
  [[nodiscard]] bool waits_for_events() const noexcept {
    return options_.wait == WaitMode::block && device_->id().kind != DeviceKind::host;
  }

  /// Makes the driver look again by `deadline`.
  void wake_before(TimePoint deadline) noexcept;

  /// From now on the driver serves `plan`, whose model is set. Waits until it does.
  void publish(PlanState& plan);
  /// The driver stops serving `plan`. Returns true when nothing of it is in flight any more, false
  /// when a lane hangs: then the plan is kept until its streams pass, or for ever.
  bool retire(std::unique_ptr<PlanState>& plan);
  /// Runs a command as part of driving, and waits until it is done. Not for the driver itself.
  void on_driver(const std::function<void()>& command);
  /// Whether the driver has gone round since this was called last, as it is asked to here. Does not
  /// wait for it, nor drive. One caller at a time.
  [[nodiscard]] bool gives_sign_of_life();
  /// Answers what is in flight of `plan` as if its lanes hung.
  void give_up_on(PlanState& plan);

  /// Whether the device failed for good.
  [[nodiscard]] bool lost() const noexcept { return lost_.load(std::memory_order_seq_cst); }
  [[nodiscard]] std::optional<Error> fault() const { return faults_.of(device_->id()); }
  /// The device failed for good, as somebody else found.
  void report_loss(const Error& fault);
  /// What data of another device costs to move here. Before the first model is published.
  void set_move_cost(DeviceId from, const MoveCost& cost) { move_costs_.push_back({from, cost}); }

 private:
  void loop();
  void drive() noexcept;
  TimePoint drive_once();
  bool run_commands();
  bool complete_finished();
  void complete(PlanState& plan, LaneState& lane, BatchSlot& slot);
  void answer_batch(PlanState& plan, LaneState& lane, BatchSlot& slot, TimePoint ended);
  Response response_for(const PlanState& plan, const BatchSlot& slot, RequestState& request,
                        std::int64_t first_item) const;
  static void read_times(BatchSlot& slot);
  void account(PlanState& plan, LaneState& lane, BatchSlot& slot, TimePoint now);
  void trace(const PlanState& plan, const BatchSlot& slot, int requests, bool failed,
             TimePoint completed);
  void check_overdue();
  void give_up(PlanState& plan, LaneState& lane, const Error& error);
  [[nodiscard]] Error hang_error(const PlanState& plan, const LaneState& lane) const;
  void check_faults();
  [[nodiscard]] std::optional<Error> fault_of(const LaneState& lane) const;
  void lose_device(Error fault);
  void give_up_lost(PlanState& plan, const Error& fault);
  void pass_on() const;
  [[nodiscard]] MoveCost move_cost(DeviceId from) const noexcept;
  void quarantine_over(PlanState& plan, LaneState& lane);
  void bury_hung();
  void expire_requests();
  bool launch_ready();
  bool launch_from(PlanState& plan);
  LaneState* best_lane(PlanState& plan);
  [[nodiscard]] bool waits_for_step(const PlanState& plan, const LaneState& lane);
  PullQuery query_for(PlanState& plan, const LaneState& lane);
  [[nodiscard]] bool samples(std::uint64_t number, TimePoint now) noexcept;
  [[nodiscard]] Duration work_of(const PlanState& plan, const LaneState& lane,
                                 const BatchSlot& slot) const noexcept;
  void launch(PlanState& plan, LaneState& lane, BatchSlot& slot, TimePoint now);
  void publish_load(PlanState& plan);
  [[nodiscard]] bool spins() const noexcept;
  [[nodiscard]] TimePoint arm_wakes();
  [[nodiscard]] bool something_to_do(TimePoint until) const;
  void ask_for_wakes();

  const DeviceRef device_;
  const EngineOptions& options_;
  FaultBoard& faults_;
  Executor& executor_;
  TimelineRing& timelines_;
  MemoryLedger ledger_;
  BlockPool pool_;
  BlockPool pinned_pool_;
  const HostDevice* const host_;  // null: another kind of device
  const bool inline_;             // whoever has news drives
  const bool callers_may_spin_;
  Waker waker_;
  Waker sleeper_;  // the driver thread's, where `waker_` is redirected
  TaskThread loader_;
  std::unique_ptr<TaskThread> reporter_;  // calls `on_fault`; null without one

  std::mutex mutex_;
  std::vector<std::function<void()>> commands_;  // guarded by mutex_
  std::atomic<bool> has_commands_{false};
  std::atomic<bool> sign_is_due_{false};
  std::atomic<bool> stop_{false};
  std::atomic<bool> lost_{false};
  std::vector<std::pair<DeviceId, MoveCost>> move_costs_;
  /// When the driver thread will look by itself; TimePoint::min() while the device is being driven.
  std::atomic<Duration::rep> sleeps_until_{TimePoint::min().time_since_epoch().count()};
  /// When something is due, as last computed; when the driver thread will look by itself.
  std::atomic<Duration::rep> due_{TimePoint::max().time_since_epoch().count()};
  std::atomic<Duration::rep> thread_wakes_at_{TimePoint::min().time_since_epoch().count()};
  // Somebody drives; there is news that nobody has looked at. Together they make sure that whoever
  // comes while another drives is not forgotten: see `drive`.
  std::atomic<bool> driving_{false};
  std::atomic<bool> news_{false};

  // Of whoever drives.
  std::vector<PlanState*> plans_;
  std::vector<std::unique_ptr<PlanState>> hung_;  // unloaded, kept for their streams
  int in_flight_ = 0;
  double virtual_clock_ = 0;
  TimePoint now_;
  TimePoint look_again_;  // the earliest time at which a decision asked to be made again
  TimePoint last_work_;
  TimePoint next_fault_check_;
  TimePoint next_sample_;
  std::vector<DeviceLoad> loads_;
  std::vector<PlanLoad> ready_;
  std::vector<PlanState*> ready_plans_;
  Delivery delivery_;

  Thread driver_;
};

}  // namespace millrace
