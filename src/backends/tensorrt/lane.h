// One stream's worth of a TensorRT engine.
#pragma once

#include <memory>
#include <vector>

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include "backends/tensorrt/engine.h"
#include "device/cuda/run_counter.h"

namespace millrace::tensorrt {

/// Eager runs share one context per profile; each prepared run has a context of its own, captured
/// in a CUDA graph where that works. All use the lane's one block of activation memory, since its
/// stream runs them one after the other, or all lanes' one, in turn. Preparing uses a stream and
/// memory of its own, so that it may go on while the lane works.
class TensorrtLane final : public Lane {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Lane>> make(std::shared_ptr<LoadedEngine> engine,
                                                          const LaneOptions& options);
  ~TensorrtLane() override;

  StreamRef stream() const override { return stream_; }
  LaneTraits traits() const override;
  Result<ShapeKey> prepare(const BatchIo& io) override;
  Result<void> enqueue(ShapeKey key, const BatchIo& io) override;
  void abandon() noexcept override;
  std::string_view not_captured(ShapeKey key) const override;
  const std::atomic<std::uint64_t>* run_count(ShapeKey key) const override;
  LaneMemory memory() const override { return memory_; }

 private:
  using Context = std::unique_ptr<nvinfer1::IExecutionContext>;
  struct GraphDeleter {
    void operator()(CUgraphExec_st* graph) const noexcept;
  };
  using Graph = std::unique_ptr<CUgraphExec_st, GraphDeleter>;
  struct Prepared {
    Context context;       // null: its graph was captured from one of `callers_`
    Graph graph;           // null: runs eagerly, for the reason that was logged
    bool counted = false;  // the graph raises `run_count_`
  };
  struct Callers {
    std::vector<Shape> inputs;
    Context context;
  };
  /// Receives an output whose size is known only after computing.
  class LateOutput;

  TensorrtLane(std::shared_ptr<LoadedEngine> engine, int index);
  Result<Context> new_context(int profile, StreamRef stream);
  void give_activations(nvinfer1::IExecutionContext& context) const;
  Result<void> add_eager_contexts();
  Result<Context> prepare_context(const BatchIo& io);
  Result<void> set_host_values(nvinfer1::IExecutionContext& context, const BatchIo& io);
  Result<void> set_shapes(nvinfer1::IExecutionContext& context, const BatchIo& io);
  Result<void> set_addresses(nvinfer1::IExecutionContext& context, const BatchIo& io);
  Result<void> place_output(nvinfer1::IExecutionContext& context, const BatchIo& io,
                            std::size_t output);
  Result<void> run(nvinfer1::IExecutionContext& context, cudaStream_t stream);
  template <class Enqueue>
  Result<void> with_activations(Enqueue&& enqueue);
  Result<void> run_eagerly(ShapeKey key, const BatchIo& io);
  Result<void> warm_up(nvinfer1::IExecutionContext& context, const BatchIo& io);
  Result<Graph> capture(nvinfer1::IExecutionContext& context, bool counted);
  Result<nvinfer1::IExecutionContext*> callers_context(const BatchIo& io);
  Result<nvinfer1::IExecutionContext*> eager_context(const BatchIo& io);
  Result<void> finish_late_outputs(const BatchIo& io);

  const std::shared_ptr<LoadedEngine> engine_;
  const int index_;
  Stream stream_;
  cudaStream_t native_ = nullptr;
  Buffer activations_;  // null where all lanes share a block
  SharedBlock* shared_activations_ = nullptr;
  Buffer nothing_;  // the address of tensors without elements, which must have one
  RunCounter run_count_;
  LaneMemory memory_;
  std::vector<Context> eager_;                    // by profile
  std::vector<std::vector<Shape>> eager_shapes_;  // by profile: of the last run
  Stream loader_stream_;                          // of what prepares
  std::vector<Callers> callers_;                  // the loader's
  /// Never moved: the driver reads it while the loader adds to it.
  std::vector<std::unique_ptr<Prepared>> prepared_;
  std::vector<std::unique_ptr<LateOutput>> late_;  // by output; null where the size is known
  bool capture_failed_ = false;
  bool graphs_read_host_ = false;  // so that each needs a context of its own
  std::string why_not_captured_;   // written once, before a run of which it is true is handed out
};

}  // namespace millrace::tensorrt
