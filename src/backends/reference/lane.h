// A lane of a reference model.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "backends/reference/options.h"
#include "backends/reference/pace.h"

namespace millrace::reference {

/// What the lanes of a plan share. Lanes hold it too: an abandoned lane outlives its plan.
struct Model {
  std::string name;
  Options options;
  DeviceRef device = nullptr;
  double slowness = 1.0;
  std::atomic<std::uint64_t> calls{0};
  Reservation reservation;  // of the weights
  Buffer weights;

  /// `time` on this device.
  [[nodiscard]] Duration slowed(std::chrono::nanoseconds time) const noexcept;
  /// Counts a call. Whether it is one that the options name, and its number.
  struct Call {
    std::uint64_t number = 0;
    bool named = false;
  };
  [[nodiscard]] Call count_call() noexcept;
  [[nodiscard]] Error error(ErrorCode code, std::string_view what) const;
};

class ReferenceLane final : public Lane {
 public:
  static Result<std::unique_ptr<Lane>> make(const std::shared_ptr<Model>& model,
                                            const LaneOptions& options);

  StreamRef stream() const override { return stream_; }
  LaneTraits traits() const override;
  Result<ShapeKey> prepare(const BatchIo& io) override;
  Result<void> enqueue(ShapeKey key, const BatchIo& io) override;
  Result<void> terminate() override;
  void abandon() noexcept override;
  std::string_view not_captured(ShapeKey key) const override;
  LaneMemory memory() const override;

 private:
  [[nodiscard]] Result<void> check_reach(const BatchIo& io) const;
  // A prepared run: for these shapes and, where addresses are fixed, in this memory.
  struct Prepared {
    ReferenceLane* lane;
    std::vector<TensorView> inputs;
    std::vector<OutputSlot> outputs;  // views only
    Buffer memory;
  };

  explicit ReferenceLane(std::shared_ptr<Model> model) : model_(std::move(model)) {}

  Result<Prepared*> find(ShapeKey key, const BatchIo& io) const;
  Result<void> start(StreamRef work, Prepared* prepared, const BatchIo& io);
  void execute(Prepared* prepared, const BatchIo& io) noexcept;
  Result<void> imitate(const Prepared* prepared, const BatchIo& io, Interrupt* interrupt);
  Result<void> compute_outputs(Prepared* prepared, const BatchIo& io);
  [[nodiscard]] bool first_of_its_shapes(std::span<const TensorView> inputs);

  const std::shared_ptr<Model> model_;
  Buffer memory_;
  Stream stream_;
  Stream own_stream_;  // null unless asked for
  Event forked_, joined_;
  Interrupt interrupt_;
  std::vector<std::unique_ptr<Prepared>> prepared_;  // never grows beyond what is reserved
  std::atomic<std::size_t> prepared_count_{0};       // of these, whole: read while more are added
  std::mutex mutex_;
  std::vector<std::vector<Shape>>
      seen_;  // under mutex_: what need not run for the first time again
};

}  // namespace millrace::reference
