// A loaded model: its queue, its plans on the devices, its figures.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include <millrace/model.h>

#include "base/live_histogram.h"
#include "engine/executor.h"
#include "engine/model_queue.h"

namespace millrace {

class CopyPool;
class DeviceState;
class Ensemble;
class PlanState;
struct PlanFigures;

/// Answers that await delivery to callbacks, gathered so that a batch of them costs one hand-over.
/// Used by one thread.
class Delivery {
 public:
  explicit Delivery(Executor& executor) : executor_(executor) {}
  Delivery(const Delivery&) = delete;
  ~Delivery() { flush(0); }
  void add(RequestState& state) { answered_.push_back(&state); }
  void flush(std::size_t key) { executor_.post(key, answered_); }

 private:
  Executor& executor_;
  std::vector<RequestState*> answered_;
};

/// Shared by all threads; fields say who writes them.
class ModelState : public std::enable_shared_from_this<ModelState> {
 public:
  /// `info.max_items` and `config.batching.max_items` must be settled.
  ModelState(ModelConfig config, ModelInfo info, Executor& executor, std::vector<DeviceId> devices);
  ~ModelState();

  [[nodiscard]] const ModelConfig& config() const noexcept { return config_; }
  [[nodiscard]] const ModelInfo& info() const noexcept { return info_; }
  [[nodiscard]] ModelQueue& queue() noexcept { return queue_; }
  [[nodiscard]] std::span<PlanState* const> plans() const noexcept { return plans_; }

  /// Once, before the first submit. `devices`: all of the engine's. Both outlive the model.
  void set_plans(std::vector<PlanState*> plans, std::span<const DeviceRef> devices,
                 CopyPool& copies);
  void set_ensemble(std::unique_ptr<Ensemble> ensemble);
  [[nodiscard]] Ensemble* ensemble() const noexcept { return ensemble_.get(); }

  /// Validates and queues; with a callback or, when that is empty, for a future. The result is a
  /// lease on the state for the caller.
  Result<Lease> submit(Request request, Callback callback, RequestState** state);
  bool cancel(RequestState& state) noexcept;

  /// Hands an answer over: counts it, keeps the order where that is asked for. Takes the engine's
  /// lease on `state`. From any thread.
  void answer(RequestState& state, Result<Response> answer, Delivery& delivery);
  /// Answers every waiting request with `error`.
  void fail_waiting(const Error& error);
  /// Answers those whose data lies at `location`, which is lost.
  void fail_waiting_at(std::size_t location, const Error& error);
  /// Answers every waiting request with `error`, and refuses those that come.
  void stop(const Error& error);
  /// Answers those whose deadline has passed.
  void expire(TimePoint now, Delivery& delivery);
  /// Called when an answer is with its caller; the model may be gone when this returns.
  void finished_one() noexcept { outstanding_.fetch_sub(1, std::memory_order_release); }

  /// From now on submits are refused with `reason`.
  void close(Error reason);
  /// Whether every request was answered by `until`. Polls: not for a driver.
  bool wait_idle(TimePoint until);
  [[nodiscard]] std::int64_t outstanding() const noexcept {
    return outstanding_.load(std::memory_order_acquire);
  }
  /// When no plan can run it any more; the first reason counts.
  void no_lane_left(const Error& reason);
  void lane_back();

  [[nodiscard]] ModelStatistics statistics() const;
  [[nodiscard]] Executor& executor() noexcept { return executor_; }
  [[nodiscard]] std::size_t delivery_key() const noexcept {
    return config_.batching.preserve_order ? order_key_
                                           : next_key_.fetch_add(1, std::memory_order_relaxed);
  }

 private:
  Result<void> validate(Request& request, RequestState& state) const;
  Result<void> validate_inputs(Request& request, RequestState& state) const;
  Result<void> validate_outputs(Request& request, RequestState& state) const;
  [[nodiscard]] DeviceRef own_memory_of(DeviceId device) const noexcept;
  Result<void> check_memory(const TensorView& view, const Lease& lease,
                            std::string_view what) const;
  Result<void> stage_inputs(Request& request, RequestState& state) const;
  Result<void> stage_input(NamedTensor& input, std::size_t index, RequestState& state) const;
  [[nodiscard]] DeviceState* staging() const noexcept;
  void answer_all(std::span<RequestState* const> waiting, const Error& error);
  [[nodiscard]] std::optional<Error> fault_at(std::size_t location) const;
  void wake_a_driver(const RequestState& state);
  void hand_over(RequestState& state, Delivery& delivery);
  void count(const RequestState& state, const Result<Response>& answer);

  const ModelConfig config_;
  const ModelInfo info_;
  Executor& executor_;
  ModelQueue queue_;
  std::vector<PlanState*> plans_;                            // gone once the model is unloaded
  std::vector<std::shared_ptr<const PlanFigures>> figures_;  // of the plans, which they outlive
  std::unique_ptr<Ensemble> ensemble_;
  /// Host inputs are brought into its pinned memory; null where no device has memory of its own.
  DeviceState* staging_ = nullptr;
  std::span<const DeviceRef> devices_;  // the engine's
  CopyPool* copies_ = nullptr;          // null for ensembles, as staging_
  const std::size_t order_key_;

  std::atomic<bool> open_{true};
  std::atomic<std::int64_t> outstanding_{0};
  mutable std::atomic<std::size_t> next_key_{0};
  mutable std::mutex mutex_;
  Error closed_reason_;           // guarded by mutex_
  std::optional<Error> no_lane_;  // guarded by mutex_

  // Answers in the order of submission: guarded by order_mutex_.
  std::mutex order_mutex_;
  std::deque<RequestState*> in_order_;

  struct Counters {
    std::atomic<std::uint64_t> succeeded{0}, failed{0}, rejected{0}, expired{0}, cancelled{0},
        items{0};
  };
  Counters counters_;
  LiveHistogram total_;  // of ensembles, whose requests pass no plan of their own
};

}  // namespace millrace
