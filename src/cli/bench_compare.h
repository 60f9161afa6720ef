// The same work without the engine, measured in turn with it.
#pragma once

#include <string>
#include <vector>

#include <millrace/model.h>

#include "cli/bench_measure.h"
#include "cli/print.h"

namespace millrace::cli {

/// What a comparison needs to know of the measurement that it stands beside.
struct CompareSetup {
  std::vector<std::string> peers;  // "naive", "direct"
  std::string model_path;
  std::map<std::string, std::string> options;  // of the backend
  LoadOptions load;
  bool batching = true;
  int pairs = 9;
  Duration window = std::chrono::milliseconds(500);
  /// Of each trial when the best loop is looked for.
  Duration trial = std::chrono::milliseconds(250);
};

/// One pair of windows, the engine's and the peer's right after it.
struct PairSample {
  double engine_items_per_s = 0;
  double peer_items_per_s = 0;
  double engine_p50_us = 0;
  double peer_p50_us = 0;
};

struct Comparison {
  std::string name;  // "direct", "direct_best", "naive"
  std::string what;  // in words
  Json setup;        // threads, intra_threads, spinning, batch, ...
  std::vector<PairSample> samples;

  [[nodiscard]] double peer_items_per_s() const;  // median
  [[nodiscard]] double peer_p50_us() const;       // median
  [[nodiscard]] Spread ratio() const;             // engine / peer, items per second
  [[nodiscard]] Spread p50_excess_us() const;     // engine - peer
};

/// Measures the engine and each peer in turn, `pairs` times round, the load stopped in between.
/// `load` is at rest before and after. Errors: unsupported when there is no such peer for the
/// model; those of the peers; internal when a peer's answers differ from the engine's. Fewer pairs
/// when interrupted.
[[nodiscard]] Result<std::vector<Comparison>> compare(const CompareSetup& setup, const Model& model,
                                                      const BenchInputs& inputs,
                                                      LoadGenerator& load, Progress& progress);

[[nodiscard]] Json comparison_json(const Comparison& comparison);

}  // namespace millrace::cli
