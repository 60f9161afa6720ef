#include <algorithm>
#include <charconv>
#include <set>

#include "cli/bench_peers.h"
#include "direct/machine.h"

namespace millrace::cli {
namespace {

double seconds_of(Duration time) { return std::chrono::duration<double>(time).count(); }

Error unsupported(std::string message) { return {ErrorCode::unsupported, std::move(message)}; }

std::string threads_text(int threads, int intra, bool spinning) {
  return std::to_string(threads) + (threads == 1 ? " thread" : " threads") + " over Run, " +
         std::to_string(intra) + " within an operator" + (spinning ? ", spinning" : "");
}

// The loops over ONNX Runtime's own interface.
class OnnxPeers {
 public:
  OnnxPeers(const CompareSetup& setup, const Model& model, const BenchInputs& inputs)
      : setup_(setup),
        model_(model),
        info_(model.info()),
        inputs_(inputs),
        alone_(setup.load.arrival == Arrival::blocking) {
    // Where the engine combines requests, the loop by hand runs batches as large as the engine may
    // make.
    const bool combines = setup.batching && !alone_ && setup.load.request_items < info_.max_items;
    items_ = combines ? info_.max_items : setup.load.request_items;
  }

  Result<std::vector<Peer>> make(Progress& progress) {
    std::vector<Peer> peers;
    for (const std::string& name : setup_.peers) {
      Result<void> made = name == "naive" ? add_naive(peers) : add_direct(peers, progress);
      if (!made.ok()) return std::move(made).error();
    }
    const auto memory = std::make_shared<std::vector<Lease>>(std::move(memory_));
    for (Peer& peer : peers) peer.memory = Lease::share(memory);
    return peers;
  }

 private:
  struct Threads {
    int over_run = 1;
    int intra = 1;
    bool spinning = false;
    friend bool operator==(const Threads&, const Threads&) = default;
  };

  // Fills the tensors of `setup`; their memory stays in `memory_`.
  Result<void> add_tensors(direct::OnnxSetup& setup, std::int64_t items) {
    setup.items = items;
    setup.model = setup_.model_path;
    Result<std::vector<std::vector<direct::Tensor>>> batches =
        make_batches(setup_, inputs_, items, memory_);
    if (!batches.ok()) return std::move(batches).error();
    setup.batches = std::move(*batches);
    for (const TensorInfo& output : info_.outputs) {
      if (onnx_type(output.type) == 0)
        return unsupported("the loops compared with do not handle BYTES (output " +
                           in_quotes(output.name) + ")");
      Shape shape = output.shape;
      if (output.batch_axis >= 0) shape[static_cast<std::size_t>(output.batch_axis)] = items;
      const Result<std::size_t> bytes = byte_count(output.type, shape);
      setup.outputs.push_back({output.name,
                               onnx_type(output.type),
                               {shape.begin(), shape.end()},
                               nullptr,
                               bytes.ok() ? *bytes : 0});
    }
    return {};
  }

  Result<std::unique_ptr<direct::OnnxLoop>> open(const direct::OnnxSetup& setup) {
    std::string error;
    std::unique_ptr<direct::OnnxLoop> loop = direct::make_onnx_loop(setup, error);
    if (!loop)
      return Error{ErrorCode::unavailable, "the loop compared with cannot start: " + error};
    return loop;
  }

  // The engine must give the same answer to the same batch.
  Result<void> check(direct::OnnxLoop& loop, const direct::OnnxSetup& setup) {
    std::string error;
    std::vector<std::string> found = loop.run_once(0, error);
    if (!error.empty()) return Error{ErrorCode::internal, "the loop compared with fails: " + error};
    return check_answer(model_, inputs_, setup.items, std::move(found));
  }

  Result<void> add_naive(std::vector<Peer>& peers) {
    direct::OnnxSetup setup;
    setup.naive = true;
    setup.intra_threads = direct::usable_cores();
    Result<void> tensors = add_tensors(setup, setup_.load.request_items);
    if (!tensors.ok()) return tensors;
    Result<std::unique_ptr<direct::OnnxLoop>> loop = open(setup);
    if (!loop.ok()) return std::move(loop).error();
    Result<void> checked = check(**loop, setup);
    if (!checked.ok()) return checked;
    peers.push_back(
        {"naive",
         "one session with default options, one request at a time",
         {{"threads", 1}, {"intra_threads", setup.intra_threads}, {"batch", setup.items}},
         std::move(*loop),
         {}});
    return {};
  }

  // As many threads as the engine has lanes, each with as many within an operator.
  Threads engines_threads() const {
    Threads threads;
    threads.over_run = alone_ ? 1 : std::min(total_lanes(info_), setup_.load.concurrency);
    threads.intra = intra_threads();
    const auto spinning = setup_.options.find("spinning");
    threads.spinning = spinning != setup_.options.end() && spinning->second == "1";
    return threads;
  }

  // What the engine was told or says of itself; else what the budget of running lanes and pool
  // workers leaves.
  int intra_threads() const {
    std::string text;
    for (const auto& [name, value] : info_.metadata) {
      if (name == "intra_op_threads") text = value;
    }
    if (const auto found = setup_.options.find("intra_op_threads"); found != setup_.options.end())
      text = found->second;
    int threads = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), threads).ec == std::errc() &&
        threads > 0)
      return threads;
    return std::max(1, direct::usable_cores() - total_lanes(info_) + 1);
  }

  Result<void> add_direct(std::vector<Peer>& peers, Progress& progress) {
    direct::OnnxSetup setup;
    Result<void> tensors = add_tensors(setup, items_);
    if (!tensors.ok()) return tensors;
    const Threads own = engines_threads();
    Result<Threads> best = find_best(setup, own, progress);
    if (!best.ok()) return std::move(best).error();
    Result<void> added = add(peers, setup, "direct", own);
    if (added.ok() && !(*best == own)) added = add(peers, setup, "direct_best", *best);
    return added;
  }

  Result<void> add(std::vector<Peer>& peers, direct::OnnxSetup setup, std::string name,
                   const Threads& threads) {
    set(setup, threads);
    Result<std::unique_ptr<direct::OnnxLoop>> loop = open(setup);
    if (!loop.ok()) return std::move(loop).error();
    Result<void> checked = check(**loop, setup);
    if (!checked.ok()) return checked;
    peers.push_back({std::move(name),
                     threads_text(threads.over_run, threads.intra, threads.spinning),
                     {{"threads", threads.over_run},
                      {"intra_threads", threads.intra},
                      {"spinning", threads.spinning},
                      {"batch", setup.items}},
                     std::move(*loop),
                     {}});
    return {};
  }

  static void set(direct::OnnxSetup& setup, const Threads& threads) {
    setup.threads = threads.over_run;
    setup.intra_threads = threads.intra;
    setup.spinning = threads.spinning;
  }

  // Powers of two up to the cores, and the cores.
  static std::vector<int> counts() {
    const int cores = direct::usable_cores();
    std::vector<int> counts;
    for (int n = 1; n < cores; n *= 2) counts.push_back(n);
    counts.push_back(cores);
    return counts;
  }

  // By the median latency of a single caller, else by throughput.
  Result<Threads> find_best(direct::OnnxSetup setup, const Threads& own, Progress& progress) {
    Threads best = own;
    double best_score = -1;
    std::uint64_t tried = 0;
    for (const int over_run : alone_ ? std::vector<int>{1} : counts()) {
      for (const int intra : counts()) {
        for (const bool spinning : {false, true}) {
          if ((spinning && intra == 1) || over_run + intra - 1 > 2 * direct::usable_cores() ||
              interrupted())
            continue;
          const Threads threads{over_run, intra, spinning};
          set(setup, threads);
          Result<std::unique_ptr<direct::OnnxLoop>> loop = open(setup);
          if (!loop.ok()) return std::move(loop).error();
          const direct::Figures figures =
              (*loop)->run(seconds_of(setup_.trial) / 4, seconds_of(setup_.trial));
          if (!figures.error.empty())
            return Error{ErrorCode::internal, "the loop compared with fails: " + figures.error};
          const double score =
              alone_ ? 1 / std::max(figures.latency.quantile_us(0.5), 1e-3) : figures.items_per_s();
          if (score > best_score) {
            best_score = score;
            best = threads;
          }
          progress.update(++tried);
        }
      }
    }
    return best;
  }

  const CompareSetup& setup_;
  const Model& model_;
  const ModelInfo& info_;
  const BenchInputs& inputs_;
  const bool alone_;
  std::int64_t items_ = 1;
  std::vector<Lease> memory_;  // that the loops read as long as they live
};

}  // namespace

Result<std::vector<Peer>> onnx_peers(const CompareSetup& setup, const Model& model,
                                     const BenchInputs& inputs, Progress& progress) {
  return OnnxPeers(setup, model, inputs).make(progress);
}

}  // namespace millrace::cli
