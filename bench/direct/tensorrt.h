// Hand-written loops over one TensorRT engine on one GPU.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "direct/direct.h"

namespace direct {

/// An engine on its device, from which any number of loops can be made.
class TensorrtPlan {
 public:
  virtual ~TensorrtPlan() = default;
  /// Name, element type (as in ONNX) and shape of each input, the first dimension set to `items`
  /// where it is dynamic. `bytes` is 0 where another dimension is.
  [[nodiscard]] virtual std::vector<Tensor> inputs(std::int64_t items) const = 0;
  /// Of the TensorRT that was loaded: 10.6.0 is 100600.
  [[nodiscard]] virtual int library_version() const = 0;
};

/// `library`: the file; empty: the one this process has loaded already, else by the loader's
/// search. Null on error, which is then told in `error`.
[[nodiscard]] std::shared_ptr<TensorrtPlan> open_tensorrt_plan(const std::string& library,
                                                               const std::string& plan, int device,
                                                               std::string& error);

/// How the loop learns that a batch is done.
enum class TensorrtWait : std::uint8_t {
  stream_flag,     // polls a word in pinned memory that the stream writes after the batch
  graph_flag,      // the same, written by the last node of the graph
  event,           // polls an event
  blocking_event,  // sleeps for the oldest batch's event
  stream_sync,     // cudaStreamSynchronize for the oldest batch
};

/// One host thread, the one that calls `run`, drives all lanes and keeps each full.
struct TensorrtSetup {
  std::string library;  // as for open_tensorrt_plan
  std::string plan;     // a path
  int device = 0;
  /// Used instead of `library`, `plan` and `device` where there is one.
  std::shared_ptr<TensorrtPlan> opened;
  int lanes = 1;  // streams, each with its own scratch memory
  int slots = 1;  // batches in flight on each, with buffers and an execution context of their own
  bool graphs = false;
  bool copies_in_graph = true;  // of no effect without graphs or when resident
  /// Inputs lie on the GPU and outputs stay there.
  bool resident = false;
  /// Host memory as `malloc` gives it; not with copies in a graph.
  bool pageable = false;
  TensorrtWait wait = TensorrtWait::stream_flag;
  /// A graph reads its input where it read it when captured: how many inputs each slot goes round
  /// over, with a graph for each. Without graphs, or with copies outside them, each slot goes round
  /// over all batches.
  int graphs_per_slot = 1;
  /// Each a tensor per input of the plan, all of the same shapes. The loop takes its own copies
  /// when it is made. An empty shape stands for the plan's, an element type of 0 for any.
  std::vector<std::vector<Tensor>> batches;
  std::int64_t items = 1;  // in each batch: what a dynamic first dimension is set to
  /// The tutorial's first version instead: one stream, pageable memory, and for each batch
  /// cudaMemcpy in, enqueueV3, cudaMemcpy out, cudaStreamSynchronize.
  bool naive = false;
};

class TensorrtLoop : public Loop {
 public:
  /// Runs one batch once and copies what came out, an entry per output. Batch `i` goes to slot `i`
  /// modulo all slots (lanes counted first), through the graph that was captured for it where there
  /// is one. Empty on error; see `error`.
  [[nodiscard]] virtual std::vector<std::string> run_once(std::size_t batch,
                                                          std::string& error) = 0;

  /// What the last window cost the host thread.
  struct HostCost {
    double cpu_s = 0;     // polling included
    double launch_s = 0;  // giving work to the GPU, by the clock
  };
  [[nodiscard]] virtual HostCost host_cost() const = 0;
};

/// Null on error, which is then told in `error`.
[[nodiscard]] std::unique_ptr<TensorrtLoop> make_tensorrt_loop(const TensorrtSetup& setup,
                                                               std::string& error);

}  // namespace direct
