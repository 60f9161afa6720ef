// millrace bench: what its parts hand to one another.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <millrace/model.h>

#include "cli/bench_compare.h"
#include "cli/bench_measure.h"
#include "cli/print.h"
#include "cli/server_target.h"

namespace millrace::cli {

/// Of a model that a server runs.
struct ServerFacts {
  std::string url;
  SharedKind shared = SharedKind::none;
  bool process_known = false;  // so that its CPU time and memory are
};

/// One measured combination of lanes and batch.
struct BenchCell {
  ModelInfo info;
  std::string model;     // as named on the command line
  std::string scenario;  // "offline", "concurrency 64", "rate 1000"
  LoadOptions load;
  bool batching = true;
  Duration delay{};
  Measurement measurement;
  std::vector<Comparison> comparisons;
  std::string first_error;
  bool graphs_asked = false;   // explicitly, by the option graphs=on
  std::optional<Error> fault;  // a device failed for good
  std::optional<ServerFacts> server;

  /// Of the batches measured, those that were to run as graphs and did not; 0 to 1.
  [[nodiscard]] double eager_share() const;
  [[nodiscard]] int lanes() const { return info.placements.empty() ? 0 : info.placements[0].lanes; }
};

/// What the machine itself costs, measured before anything runs.
struct MachineFigures {
  double wake_us = 0;
  double timer_lag_us = 0;
  int cores = 0;
};
[[nodiscard]] MachineFigures measure_machine(Duration time);

/// "12 of 400 batches ran without a graph (3.0%): 12 not_captured (capturing failed: ...)"; empty
/// when all ran as asked.
[[nodiscard]] std::string eager_text(const BenchCell& cell);
/// Several models measured at the same time: each as a cell, and what each device did for them.
[[nodiscard]] Json together_json(const std::vector<BenchCell>& cells,
                                 const MachineFigures& machine);
[[nodiscard]] std::string together_text(const std::vector<BenchCell>& cells,
                                        const MachineFigures& machine, bool windows);

[[nodiscard]] Json cell_json(const BenchCell& cell, const MachineFigures& machine);
/// One line for each cell under a header.
[[nodiscard]] std::string cells_csv(const std::vector<BenchCell>& cells);
/// What is printed for people: one cell in detail, several as a table.
[[nodiscard]] std::string cells_text(const std::vector<BenchCell>& cells,
                                     const MachineFigures& machine, bool windows);
/// Throughput and p99 against batch, in a colour for each number of lanes.
[[nodiscard]] std::string cells_plot(const std::vector<BenchCell>& cells);

}  // namespace millrace::cli
