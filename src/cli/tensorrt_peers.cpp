#include <algorithm>

#include "cli/bench_peers.h"
#include "direct/tensorrt.h"

#if MILLRACE_WITH_TENSORRT

namespace millrace::cli {
namespace {

double seconds_of(Duration time) { return std::chrono::duration<double>(time).count(); }

Error failed(const std::string& error) {
  return {ErrorCode::unavailable, "the loop compared with fails: " + error};
}

// How a loop is set up, besides what it reads.
struct Way {
  int lanes = 1;
  int slots = 1;
  bool graphs = false;
  bool copies_in_graph = true;
  direct::TensorrtWait wait = direct::TensorrtWait::stream_flag;

  [[nodiscard]] std::string text() const {
    return std::to_string(lanes) + (lanes == 1 ? " lane" : " lanes") + " of " +
           std::to_string(slots) + (slots == 1 ? " slot" : " slots") +
           (graphs ? copies_in_graph ? ", copies and run in one graph" : ", run in a graph"
                   : ", without graphs");
  }
};

// The loops over TensorRT's own interface, all with the engine file that the model runs.
class TensorrtPeers {
 public:
  TensorrtPeers(const CompareSetup& setup, const Model& model, const BenchInputs& inputs)
      : setup_(setup),
        model_(model),
        info_(model.info()),
        inputs_(inputs),
        alone_(setup.load.arrival == Arrival::blocking) {
    const bool combines = setup.batching && !alone_ && setup.load.request_items < info_.max_items;
    items_ = combines ? info_.max_items : setup.load.request_items;
  }

  Result<std::vector<Peer>> make(Progress& progress) {
    if (info_.placements.size() != 1) {
      return Error{ErrorCode::unsupported,
                   "the loops compared with use one GPU; name one with --devices"};
    }
    Result<void> opened = open();
    if (!opened.ok()) return std::move(opened).error();
    std::vector<Peer> peers;
    for (const std::string& name : setup_.peers) {
      Result<void> made = name == "naive" ? add_naive(peers) : add_direct(peers, progress);
      if (!made.ok()) return std::move(made).error();
    }
    return peers;
  }

 private:
  Result<void> open() {
    std::string file;
    for (const auto& [name, value] : info_.metadata) {
      if (name == "engine_file") file = value;
    }
    if (file.empty()) {
      return Error{ErrorCode::unsupported,
                   "the loops compared with read the engine from a file, and this one is in none: "
                   "turn the engine cache on, or name a .plan file"};
    }
    std::string error;
    setup_of_all_.opened =
        direct::open_tensorrt_plan("", file, info_.placements[0].device.index, error);
    if (!setup_of_all_.opened) return failed(error);
    setup_of_all_.resident = setup_.load.place == Place::device;
    setup_of_all_.pageable = setup_.load.place == Place::pageable;
    setup_of_all_.items = items_;
    Result<std::vector<std::vector<direct::Tensor>>> batches =
        make_batches(setup_, inputs_, items_, memory_);
    if (!batches.ok()) return std::move(batches).error();
    setup_of_all_.batches = std::move(*batches);
    return {};
  }

  Result<std::unique_ptr<direct::TensorrtLoop>> make_loop(const Way& way) {
    direct::TensorrtSetup setup = setup_of_all_;
    setup.lanes = way.lanes;
    setup.slots = way.slots;
    setup.graphs = way.graphs;
    setup.copies_in_graph = way.copies_in_graph;
    setup.wait = way.wait;
    return make_loop(setup);
  }
  static Result<std::unique_ptr<direct::TensorrtLoop>> make_loop(
      const direct::TensorrtSetup& setup) {
    std::string error;
    std::unique_ptr<direct::TensorrtLoop> loop = direct::make_tensorrt_loop(setup, error);
    if (!loop) return failed(error);
    return loop;
  }

  Result<void> check(direct::TensorrtLoop& loop) {
    std::string error;
    std::vector<std::string> found = loop.run_once(0, error);
    if (!error.empty()) return failed(error);
    return check_answer(model_, inputs_, items_, std::move(found));
  }

  Result<void> add_naive(std::vector<Peer>& peers) {
    direct::TensorrtSetup setup = setup_of_all_;
    setup.naive = true;
    setup.resident = false;
    Result<std::unique_ptr<direct::TensorrtLoop>> loop = make_loop(setup);
    if (!loop.ok()) return std::move(loop).error();
    Result<void> checked = check(**loop);
    if (!checked.ok()) return checked;
    peers.push_back({"naive",
                     "pageable memory, one batch at a time, synchronous",
                     {{"batch", items_}},
                     std::move(*loop),
                     {}});
    return {};
  }

  // Ways worth a trial: by the lanes, then what is known to matter.
  [[nodiscard]] std::vector<Way> ways() const {
    const std::vector<int> lanes =
        alone_ ? std::vector<int>{1} : std::vector<int>{1, 2, 3, 4, 6, 8, 12, 16};
    std::vector<Way> ways;
    for (const int lane_count : lanes) {
      for (const int slots : alone_ ? std::vector<int>{1} : std::vector<int>{1, 2}) {
        if (lane_count * slots > 16) continue;
        ways.push_back({lane_count, slots, true, true});
        if (!setup_of_all_.resident && !setup_of_all_.pageable) {
          ways.push_back({lane_count, slots, true, false});
        }
        if (lane_count <= 4) ways.push_back({lane_count, slots, false, true});
      }
    }
    if (setup_of_all_.pageable) {
      for (Way& way : ways) way.copies_in_graph = false;
    }
    return ways;
  }

  // By the median latency of a single caller, else by throughput.
  Result<void> add_direct(std::vector<Peer>& peers, Progress& progress) {
    Way best;
    double best_score = -1;
    std::uint64_t tried = 0;
    for (const Way& way : ways()) {
      if (interrupted()) break;
      Result<std::unique_ptr<direct::TensorrtLoop>> loop = make_loop(way);
      if (!loop.ok()) return std::move(loop).error();
      const direct::Figures figures =
          (*loop)->run(seconds_of(setup_.trial) / 4, seconds_of(setup_.trial));
      if (!figures.error.empty()) return failed(figures.error);
      const double score =
          alone_ ? 1 / std::max(figures.latency.quantile_us(0.5), 1e-3) : figures.items_per_s();
      if (score > best_score) {
        best_score = score;
        best = way;
      }
      progress.update(++tried);
    }
    Result<std::unique_ptr<direct::TensorrtLoop>> loop = make_loop(best);
    if (!loop.ok()) return std::move(loop).error();
    Result<void> checked = check(**loop);
    if (!checked.ok()) return checked;
    peers.push_back({"direct",
                     best.text(),
                     {{"lanes", best.lanes},
                      {"slots", best.slots},
                      {"graphs", best.graphs},
                      {"copies_in_graph", best.graphs && best.copies_in_graph},
                      {"batch", items_}},
                     std::move(*loop),
                     {}});
    return {};
  }

  const CompareSetup& setup_;
  const Model& model_;
  const ModelInfo& info_;
  const BenchInputs& inputs_;
  const bool alone_;
  std::int64_t items_ = 1;
  std::vector<Lease> memory_;  // until the loops have taken their copies
  direct::TensorrtSetup setup_of_all_;
};

}  // namespace

Result<std::vector<Peer>> tensorrt_peers(const CompareSetup& setup, const Model& model,
                                         const BenchInputs& inputs, Progress& progress) {
  return TensorrtPeers(setup, model, inputs).make(progress);
}

}  // namespace millrace::cli

#else

namespace millrace::cli {

Result<std::vector<Peer>> tensorrt_peers(const CompareSetup&, const Model&, const BenchInputs&,
                                         Progress&) {
  return Error{ErrorCode::unsupported, "this program was built without TensorRT"};
}

}  // namespace millrace::cli

#endif
