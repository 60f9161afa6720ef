// A lane of an ONNX Runtime model: its stream's thread runs the session.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "backends/backend.h"
#include "backends/onnxruntime/session.h"

namespace millrace::onnxruntime {

class OnnxLane final : public Lane {
 public:
  static Result<std::unique_ptr<Lane>> make(std::shared_ptr<Session> session, DeviceRef device,
                                            const LaneOptions& options);

  StreamRef stream() const override { return stream_; }
  LaneTraits traits() const override;
  Result<ShapeKey> prepare(const BatchIo& io) override;
  Result<void> enqueue(ShapeKey key, const BatchIo& io) override;
  Result<void> terminate() override;
  void abandon() noexcept override;

 private:
  // The library's name for memory that a tensor of ours occupies, kept while the tensor stays the
  // same: slots are at fixed addresses.
  struct Bound {
    Owned<OrtValue> value;
    const void* data = nullptr;
    Shape shape;
  };
  // One run's worth of the above; touched by the stream's thread only.
  struct Slot {
    std::vector<Bound> inputs;
    std::vector<Bound> outputs;
  };

  explicit OnnxLane(std::shared_ptr<Session> session) : session_(std::move(session)) {}

  void execute(const BatchIo& io) noexcept;
  Result<void> run(const BatchIo& io);
  Result<void> bind_inputs(Slot& slot, const BatchIo& io);
  Result<void> bind_outputs(Slot& slot, const BatchIo& io);
  Result<void> bind(Bound& bound, const TensorView& view);
  Result<void> bind_strings(Bound& bound, const TensorView& view);
  Result<void> take_outputs(Slot& slot, const BatchIo& io);
  Result<void> take_output(std::size_t index, const OrtValue& value, OutputSlot& slot);
  Result<void> take_strings(const OrtValue& value, const Shape& shape, OutputSlot& slot);
  [[nodiscard]] Slot& slot_of(const BatchIo& io);

  const std::shared_ptr<Session> session_;
  Stream stream_;
  Owned<OrtRunOptions> run_options_;
  Gate::Pass pass_;

  std::mutex mutex_;
  bool running_ = false;            // under mutex_
  std::atomic<bool> ended_{false};  // written under mutex_: the running batch is to end

  std::vector<Slot> slots_;
  std::vector<const OrtValue*> input_values_;  // the library's view of the current run
  std::vector<OrtValue*> output_values_;
};

}  // namespace millrace::onnxruntime
