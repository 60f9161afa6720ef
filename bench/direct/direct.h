// Hand-written loops that the engine is compared with: plain structures in, figures out.
//
// Nothing here uses Millrace: only the vendors' C interfaces and the standard library. Each loop is
// the best that we know how to write by hand for its job, with every buffer allocated before it
// starts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace direct {

/// Counts nanoseconds in buckets of at most 1.6% relative width.
class Latencies {
 public:
  Latencies() : counts_(std::size_t{64} * 48) {}
  void record(std::uint64_t ns) noexcept;
  void merge(const Latencies& other) noexcept;
  void clear() noexcept;
  /// The middle of the bucket that holds the value which a share `q` (0..1) does not exceed; 0 when
  /// empty.
  [[nodiscard]] double quantile_us(double q) const noexcept;
  [[nodiscard]] double mean_us() const noexcept;
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }

 private:
  std::vector<std::uint32_t> counts_;
  std::uint64_t count_ = 0;
  double sum_ns_ = 0;
};

/// What one window gave. `error` is empty unless the loop could not go on.
struct Figures {
  double seconds = 0;
  std::uint64_t requests = 0;
  std::uint64_t items = 0;
  Latencies latency;        // of single requests, as their caller sees them
  std::uint64_t wrong = 0;  // checked answers that were not right
  std::string error;

  [[nodiscard]] double items_per_s() const {
    return seconds > 0 ? static_cast<double>(items) / seconds : 0;
  }
  [[nodiscard]] double requests_per_s() const {
    return seconds > 0 ? static_cast<double>(requests) / seconds : 0;
  }
};

/// A loop ready to run. Idle between the calls of `run`; used by one thread at a time.
class Loop {
 public:
  virtual ~Loop() = default;
  /// Runs for `ramp_s` seconds without counting, then counts for `seconds`, then comes to rest.
  [[nodiscard]] virtual Figures run(double ramp_s, double seconds) = 0;
};

// --- ONNX Runtime ---

/// A tensor in memory of the caller's, which stays valid as long as the loop.
struct Tensor {
  std::string name;
  int element_type = 0;  // ONNXTensorElementDataType; not strings
  std::vector<std::int64_t> shape;
  void* data = nullptr;
  std::size_t bytes = 0;
};

/// How an ONNX Runtime loop is set up. All its threads call `Run` on one shared session.
struct OnnxSetup {
  /// The library file; empty: the one this process has loaded already, else by the loader's search.
  std::string library;
  std::string model;  // a path; ignored when there is content
  std::shared_ptr<const std::string> content;
  int threads = 1;        // that loop over Run
  int intra_threads = 1;  // within an operator, the calling thread's included
  bool spinning = false;  // of the session's own pool
  /// Batches to run, each a tensor per input of the model: the threads go round and round over
  /// them.
  std::vector<std::vector<Tensor>> batches;
  std::int64_t items = 1;  // in each batch
  /// Element type, and shape of one batch, of each output; a dimension of -1 leaves that output to
  /// the library.
  std::vector<Tensor> outputs;  // `data` is ignored: the loop allocates
  /// The tutorial's way instead: one thread, default options, tensors made for each request,
  /// outputs left to the library and copied out. `intra_threads` holds here too, and is best set to
  /// the cores that this process may use: left to itself the library takes all of the machine and
  /// pins its threads to them.
  bool naive = false;
};

class OnnxLoop : public Loop {
 public:
  /// Runs one batch once and copies what came out, an entry per output. Empty on error; see
  /// `error`.
  [[nodiscard]] virtual std::vector<std::string> run_once(std::size_t batch,
                                                          std::string& error) = 0;
};

/// Null on error, which is then told in `error`.
[[nodiscard]] std::unique_ptr<OnnxLoop> make_onnx_loop(const OnnxSetup& setup, std::string& error);

// --- A pipeline without an engine ---

/// What the engine does for the identity model, reduced to threads and queues: callers' callbacks
/// push to a queue, a driver thread forms batches from it, stream threads copy input to output item
/// by item, and a completion thread calls the callbacks, each of which sends its request again.
struct PipelineSetup {
  int concurrency = 1;  // requests in flight
  std::int64_t request_items = 1;
  std::int64_t max_batch_items = 1;
  int lanes = 1;  // stream threads
  int slots = 2;  // batches in flight on each
  std::size_t item_bytes = 64;
};

[[nodiscard]] std::unique_ptr<Loop> make_pipeline(const PipelineSetup& setup);

}  // namespace direct
