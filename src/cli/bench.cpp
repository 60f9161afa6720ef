// millrace bench: how fast a model runs under a stated load, and how that compares with loops by
// hand.
#include "cli/bench.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <set>

#include "base/text.h"
#include "cli/bench_server.h"
#include "cli/bench_startup.h"
#include "cli/model_arguments.h"
#include "cli/run_inputs.h"
#include "cli/verbs.h"
#include "io/output_file.h"

namespace millrace::cli {
namespace {

struct Options {
  std::vector<std::string> models;
  ModelArguments model;  // of all; the name is not used
  std::vector<int> lanes;
  std::vector<std::int64_t> batches;
  bool offline = false;
  int in_flight = 0;  // of --offline; 0: twice what the lanes hold
  int concurrency = 0;
  double rate = 0;
  std::int64_t request_items = 0;
  double seconds = 10;
  std::uint64_t seed = 1;
  InputArguments input;
  std::vector<std::string> compare;
  int pairs = 9;
  bool batching = true;
  Place place = Place::automatic;
  bool resident = false;
  std::string data_on;
  double delay_us = 0;
  bool windows = false;
  std::string json;
  std::string csv;
  std::string plot;
  std::string trace;
  bool startup = false;
  bool startup_probe = false;
  std::vector<std::string> command_line;

  // Of a server.
  std::string url;
  std::string version;
  std::string token;
  client::ClientTls tls;
  SharedKind shared = SharedKind::none;
  int gpu = 0;
  int server_pid = 0;
  std::vector<std::string> shapes;
  bool allow_refused = false;
  bool whole = false;
};

constexpr std::string_view kToStandardOutput = "-";
constexpr std::size_t kTraceCapacity = std::size_t{1} << 16;
constexpr int kDefaultConcurrency = 64;
/// Of a server: what it takes to saturate it is not known here.
constexpr int kOfflineInFlight = 16;
constexpr int kMostOpen = 4096;
/// Where graphs were asked for, more batches than this without one are a failure.
constexpr double kMostEager = 0.01;

constexpr const char* kFooter =
    "Several models run at the same time on one engine, each with the load asked for: "
    "a.onnx@0 b.onnx@1 c.onnx@0,1 puts them on GPUs.\n"
    "\n"
    "Loads: --offline keeps enough requests of a whole batch in flight to saturate every lane; "
    "--concurrency N keeps N requests of one\n"
    "item in flight, each sent again as soon as it is answered (N = 1: one caller that waits); "
    "--rate R sends at random (Poisson) times,\n"
    "R a second on average, and counts latency from the time a request was meant to be sent. "
    "Default: --concurrency 64.\n"
    "\n"
    "Stable rule: the duration is cut into windows of a twelfth of it (20 ms to 1 s). Two warm up. "
    "Then windows are counted until the\n"
    "throughput of each of the last three lies within 3% of their mean; the figures are of those "
    "three. If that does not come before\n"
    "the duration is over, or with --rate, they are of all windows after the warm-up. Ctrl-C ends "
    "early and prints what there is.\n"
    "\n"
    "One answer in 64 is compared with the answer to the same input before; an error or a wrong "
    "answer makes the exit code 1.\n"
    "So do, with --option graphs=on, more than 1% of batches that ran without a CUDA graph.";

Duration duration_of(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

void check_several(const Options& options) {
  const auto refuse = [](const char* option, const char* why) {
    throw UsageError(std::string(option) + " does not go with several models" + why);
  };
  if (options.lanes.size() > 1) refuse("a list of --lanes", "");
  if (options.batches.size() > 1) refuse("a list of --batch", "");
  if (!options.compare.empty()) refuse("--compare", ": loops by hand run one");
  if (!options.input.inputs.empty()) refuse("--input", ", which get random data");
  if (!options.plot.empty()) refuse("--plot", "");
}

void check(const Options& options) {
  const int loads =
      (options.offline ? 1 : 0) + (options.concurrency > 0 ? 1 : 0) + (options.rate > 0 ? 1 : 0);
  if (loads > 1)
    throw UsageError("expected one of --offline, --concurrency and --rate, got " +
                     std::to_string(loads));
  if (options.in_flight > 0 && !options.offline) {
    throw UsageError("--in-flight goes with --offline; without it --concurrency says how many");
  }
  if (options.offline && options.request_items > 0)
    throw UsageError(
        "--request-items does not go with --offline, whose requests are whole batches");
  if (options.rate > 0 && !options.compare.empty())
    throw UsageError("--compare does not go with --rate: an open loop's throughput is given");
  const bool sweep = options.lanes.size() > 1 || options.batches.size() > 1;
  if (sweep && !options.trace.empty())
    throw UsageError("--trace goes with one value of --lanes and --batch, not with a list");
  if (options.resident && !options.data_on.empty())
    throw UsageError("--data-on and --resident both say where the inputs lie; give one of them");
  if (options.models.size() > 1) check_several(options);
  std::set<std::string> peers(options.compare.begin(), options.compare.end());
  if (peers.size() != options.compare.size()) throw UsageError("--compare names a loop twice");
}

std::string number_text(double value) {
  return value == std::floor(value) && value < 1e15
             ? std::to_string(static_cast<std::int64_t>(value))
             : format_value(value);
}

std::string scenario_of(const Options& options) {
  if (options.offline) return "offline";
  if (options.rate > 0) return "rate " + number_text(options.rate);
  return "concurrency " +
         std::to_string(options.concurrency > 0 ? options.concurrency : kDefaultConcurrency);
}

Result<LoadOptions> load_of(const Options& options, const Engine& engine, const ModelInfo& info) {
  LoadOptions load;
  load.engine = &engine;
  load.place = options.resident ? Place::device : options.place;
  if (!options.data_on.empty()) {
    Result<DeviceId> device = parse_device_id(options.data_on);
    if (!device.ok()) return std::move(device).error();
    load.place = Place::device;
    load.data_on = *device;
  }
  load.seed = options.seed;
  load.request_items = std::max<std::int64_t>(options.request_items, 1);
  if (options.offline) {
    load.request_items = info.max_items;
    load.concurrency = options.in_flight;
    for (const ModelInfo::Placement& placement : info.placements) {
      if (options.in_flight == 0) load.concurrency += 2 * placement.lanes * placement.slots;
    }
  } else if (options.rate > 0) {
    load.arrival = Arrival::poisson;
    load.rate = options.rate;
  } else {
    load.concurrency = options.concurrency > 0 ? options.concurrency : kDefaultConcurrency;
    if (load.concurrency == 1) load.arrival = Arrival::blocking;
  }
  return load;
}

// The model's configuration for one cell.
void configure(const Options& options, ModelConfig& config) {
  // The load is bounded by what is in flight.
  config.limits.max_bytes = std::numeric_limits<std::size_t>::max();
  if (!options.batching) {
    config.batching.preferred_items.clear();
    config.batching.max_delay = {};
    if (!options.offline)
      config.batching.max_items = std::max<std::int64_t>(options.request_items, 1);
  } else if (options.delay_us > 0) {
    config.batching.max_delay = duration_of(options.delay_us * 1e-6);
  }
}

Result<void> compare_cell(const Options& options, const OpenModels::One& open,
                          const BenchInputs& inputs, LoadGenerator& load, BenchCell& cell) {
  CompareSetup setup;
  setup.peers = options.compare;
  setup.model_path = open.file.config.path;
  setup.options = open.file.config.options;
  setup.load = cell.load;
  setup.batching = options.batching;
  setup.pairs = options.pairs;
  setup.window =
      std::clamp<Duration>(duration_of(options.seconds / 20), std::chrono::milliseconds(20),
                           std::chrono::milliseconds(500));
  setup.trial = setup.window / 2;
  Progress progress("comparing", 0, "windows");
  Result<std::vector<Comparison>> comparisons = compare(setup, open.model, inputs, load, progress);
  if (!comparisons.ok()) return std::move(comparisons).error();
  cell.comparisons = std::move(*comparisons);
  return {};
}

// What one model is measured with. Stays where it is while the load runs.
struct Station {
  const OpenModels::One* one = nullptr;
  std::unique_ptr<BenchInputs> inputs;
  std::unique_ptr<LoadGenerator> load;
  BenchCell cell;
};

Result<OpenModels> open_all(const Options& options, int lanes, std::int64_t batch) {
  ModelArguments arguments = options.model;
  arguments.lanes = lanes;
  arguments.batch = batch;
  std::vector<PlacedModel> models;
  for (const std::string& argument : options.models) {
    Result<PlacedModel> placed = read_placed_model(argument);
    if (!placed.ok()) return std::move(placed).error();
    apply(arguments, placed->file.config);
    configure(options, placed->file.config);
    models.push_back(std::move(*placed));
  }
  EngineOptions engine;
  engine.callback_threads = static_cast<int>(std::min<std::size_t>(models.size(), 8));
  if (!options.trace.empty()) {
    engine.trace_capacity = kTraceCapacity;
    engine.sample_every = 1;
  }
  return open_models(std::move(models), arguments, std::move(engine));
}

Result<Station> make_station(const Options& options, const OpenModels& open, std::size_t number) {
  Station station;
  station.one = &open.models[number];
  Result<BenchInputs> inputs =
      BenchInputs::open(station.one->model.info(), options.input, station.one->file.preprocess,
                        options.seed + number);
  if (!inputs.ok()) return std::move(inputs).error();
  station.inputs = std::make_unique<BenchInputs>(std::move(*inputs));
  BenchCell& cell = station.cell;
  cell.info = station.one->model.info();
  cell.model = options.models[number];
  cell.scenario = scenario_of(options);
  Result<LoadOptions> wanted = load_of(options, open.engine, cell.info);
  if (!wanted.ok()) return std::move(wanted).error();
  cell.load = *wanted;
  const auto& model_options = station.one->file.config.options;
  const auto graphs = model_options.find("graphs");
  cell.graphs_asked =
      graphs != model_options.end() && (graphs->second == "on" || graphs->second == "1");
  cell.batching = options.batching;
  cell.delay = station.one->file.config.batching.max_delay;
  Result<std::unique_ptr<LoadGenerator>> load =
      LoadGenerator::make(station.one->model, *station.inputs, cell.load);
  if (!load.ok()) return std::move(load).error();
  station.load = std::move(*load);
  return station;
}

Result<void> measure_all(const Options& options, std::vector<Station>& stations) {
  std::vector<LoadGenerator*> loads;
  loads.reserve(stations.size());
  for (const Station& station : stations) loads.push_back(station.load.get());
  Progress progress("measuring", 0, "requests");
  std::uint64_t answered = 0;
  Result<std::vector<Measurement>> measured =
      measure(loads, plan_windows(duration_of(options.seconds)), options.rate > 0,
              [&](const WindowSample& sample) {
                progress.update(answered +=
                                static_cast<std::uint64_t>(sample.requests_per_s * sample.seconds));
              });
  if (!measured.ok()) return std::move(measured).error();
  for (std::size_t i = 0; i < stations.size(); ++i) {
    stations[i].cell.measurement = std::move((*measured)[i]);
    stations[i].cell.first_error = stations[i].load->first_error();
  }
  return {};
}

// A cell for each model, all measured at once.
Result<std::vector<BenchCell>> run_cells(const Options& options, int lanes, std::int64_t batch) {
  Result<OpenModels> open = open_all(options, lanes, batch);
  if (!open.ok()) return std::move(open).error();
  std::vector<Station> stations;
  for (std::size_t i = 0; i < open->models.size(); ++i) {
    Result<Station> station = make_station(options, *open, i);
    if (!station.ok()) return std::move(station).error();
    stations.push_back(std::move(*station));
  }
  Result<void> done = measure_all(options, stations);
  if (!done.ok()) return std::move(done).error();
  if (!options.trace.empty()) {
    const std::vector<BatchTimeline> timelines = open->engine.timelines();
    done = write_chrome_trace(timelines, options.trace);
    if (!done.ok()) return std::move(done).error();
  }
  std::vector<BenchCell> cells;
  for (Station& station : stations) {
    BenchCell& cell = station.cell;
    if (!options.compare.empty() && cell.measurement.errors == 0 && !interrupted()) {
      done = compare_cell(options, *station.one, *station.inputs, *station.load, cell);
      if (!done.ok()) return std::move(done).error();
    }
    if (const Result<void> sound = check_faults(open->engine); !sound.ok()) {
      cell.fault = sound.error();
    }
    cell.load.engine = nullptr;
    cells.push_back(std::move(cell));
  }
  return cells;
}

Result<void> write_results(const Options& options, const std::vector<BenchCell>& cells,
                           const MachineFigures& machine) {
  const bool together = options.models.size() > 1;
  const bool sweep = options.lanes.size() > 1 || options.batches.size() > 1;
  Json json = Json::array();
  for (const BenchCell& cell : cells) json.push_back(cell_json(cell, machine));
  if (together) {
    json = together_json(cells, machine);
  } else if (!sweep) {
    json = Json(json[0]);
  }
  if (options.json == kToStandardOutput)
    print_json(json);
  else
    print(together ? together_text(cells, machine, options.windows)
                   : cells_text(cells, machine, options.windows));
  if (!options.json.empty() && options.json != kToStandardOutput) {
    Result<void> written =
        write_text(options.json, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    if (!written.ok()) return written;
  }
  if (!options.csv.empty()) {
    Result<void> written = write_text(options.csv, cells_csv(cells));
    if (!written.ok()) return written;
  }
  if (!options.plot.empty()) return write_text(options.plot, cells_plot(cells));
  return {};
}

// What the loads and the figures under load have, and the start of a process has not.
void check_startup(const Options& options) {
  for (const auto& [given, name] : {std::pair{options.offline, "--offline"},
                                    {options.concurrency > 0, "--concurrency"},
                                    {options.rate > 0, "--rate"},
                                    {options.request_items > 0, "--request-items"},
                                    {!options.compare.empty(), "--compare"},
                                    {options.windows, "--windows"},
                                    {!options.csv.empty(), "--csv"},
                                    {!options.plot.empty(), "--plot"},
                                    {!options.trace.empty(), "--trace"}}) {
    if (given)
      throw UsageError(std::string("--startup measures one request in each process; ") + name +
                       " does not go with it");
  }
  if (options.lanes.size() > 1 || options.batches.size() > 1)
    throw UsageError("--startup goes with one value of --lanes and --batch, not with a list");
  if (options.models.size() > 1) throw UsageError("--startup goes with one model");
}

Result<int> run_startup(const Options& options) {
  check_startup(options);
  StartupOptions startup;
  startup.model = options.model;
  startup.model.model = options.models.front();
  startup.model.lanes = options.lanes.empty() ? 0 : options.lanes.front();
  startup.model.batch = options.batches.empty() ? 0 : options.batches.front();
  startup.input = options.input;
  startup.seed = options.seed;
  startup.runs = options.pairs;
  if (options.startup_probe) {
    Result<void> probed = probe_startup(startup);
    if (!probed.ok()) return std::move(probed).error();
    return kFine;
  }
  const InterruptGuard guard;
  Result<StartupResult> result = measure_startup(startup, options.command_line);
  if (!result.ok()) return std::move(result).error();
  const Json json = startup_json(*result);
  if (options.json == kToStandardOutput)
    print_json(json);
  else
    print(startup_text(*result));
  if (!options.json.empty() && options.json != kToStandardOutput) {
    Result<void> written =
        write_text(options.json, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    if (!written.ok()) return std::move(written).error();
  }
  return kFine;
}

// What only an engine in this process has.
void check_server(const Options& options) {
  for (const auto& [given, name] : {std::pair{!options.lanes.empty(), "--lanes"},
                                    {!options.batching, "--batching"},
                                    {options.delay_us > 0, "--delay"},
                                    {options.place != Place::automatic, "--host-memory"},
                                    {options.resident, "--resident"},
                                    {!options.data_on.empty(), "--data-on"},
                                    {!options.compare.empty(), "--compare"},
                                    {options.startup, "--startup"},
                                    {!options.trace.empty(), "--trace"}}) {
    if (given) throw UsageError(std::string(name) + " does not go with --url");
  }
  if (options.models.size() > 1) throw UsageError("--url goes with one model");
  if (!options.batches.empty() && options.request_items > 0)
    throw UsageError("with --url, --batch and --request-items are the same; give one of them");
}

// The shape of "NAME=3x224x224".
Result<std::pair<std::string, Shape>> read_shape(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw UsageError("--shape: expected NAME=3x224x224, got " + in_quotes(text));
  std::vector<std::int64_t> sizes;
  for (std::size_t at = equals + 1; at <= text.size();) {
    const std::size_t end = std::min(text.find('x', at), text.size());
    Result<std::int64_t> size =
        parse_integer(std::string_view(text).substr(at, end - at), "--shape", 0, 1LL << 40);
    if (!size.ok()) return std::move(size).error();
    sizes.push_back(*size);
    at = end + 1;
  }
  Result<Shape> shape = Shape::from(sizes);
  if (!shape.ok()) return std::move(shape).error();
  return std::pair{text.substr(0, equals), *shape};
}

Result<ServerBench> server_bench(const Options& options, std::int64_t items) {
  ServerBench bench;
  bench.server.url = options.url;
  bench.server.client.token = options.token;
  bench.server.client.tls = options.tls;
  bench.server.model = {options.models.front(), options.version};
  bench.server.shared = options.shared;
  bench.server.gpu = options.gpu;
  bench.server.pid = options.server_pid;
  for (const std::string& text : options.shapes) {
    Result<std::pair<std::string, Shape>> shape = read_shape(text);
    if (!shape.ok()) return std::move(shape).error();
    bench.server.shapes.push_back(std::move(*shape));
  }
  bench.scenario = scenario_of(options);
  bench.input = options.input;
  bench.seconds = options.seconds;
  bench.whole = options.whole;
  LoadOptions& load = bench.load;
  load.seed = options.seed;
  load.request_items = std::max<std::int64_t>(items, 1);
  load.refusals_fail = !options.allow_refused;
  load.most_open = kMostOpen;
  if (options.rate > 0) {
    load.arrival = Arrival::poisson;
    load.rate = options.rate;
  } else {
    load.concurrency = options.in_flight > 0     ? options.in_flight
                       : options.offline         ? kOfflineInFlight
                       : options.concurrency > 0 ? options.concurrency
                                                 : kDefaultConcurrency;
  }
  bench.server.client.max_connections =
      std::max<std::size_t>(kMostOpen, static_cast<std::size_t>(std::max(load.concurrency, 0)));
  return bench;
}

// Failures, but for those that were allowed, end with an error.
Result<int> judge_server(const Options& options, const std::vector<BenchCell>& cells) {
  for (const BenchCell& cell : cells) {
    const Measurement& measured = cell.measurement;
    const std::uint64_t failed = measured.errors - (options.allow_refused ? measured.refused : 0);
    if (failed == 0) continue;
    return Error{ErrorCode::internal, format_count(failed) + " of " +
                                          format_count(measured.tally.requests + measured.errors) +
                                          " requests failed; the first: " + cell.first_error};
  }
  return kFine;
}

Result<int> run_server(const Options& options) {
  check(options);
  check_server(options);
  const InterruptGuard guard;
  const MachineFigures machine = measure_machine(
      std::clamp<Duration>(duration_of(options.seconds / 20), std::chrono::milliseconds(10),
                           std::chrono::milliseconds(500)));
  std::vector<BenchCell> cells;
  for (const std::int64_t items : options.batches.empty()
                                      ? std::vector<std::int64_t>{options.request_items}
                                      : options.batches) {
    if (interrupted()) break;
    Result<ServerBench> bench = server_bench(options, items);
    if (!bench.ok()) return std::move(bench).error();
    Result<BenchCell> cell = bench_server(*bench);
    if (!cell.ok()) return std::move(cell).error();
    if (cell->measurement.seconds > 0) cells.push_back(std::move(*cell));
  }
  if (cells.empty()) return Error{ErrorCode::cancelled, "interrupted before anything was measured"};
  Result<void> written = write_results(options, cells, machine);
  if (!written.ok()) return std::move(written).error();
  return judge_server(options, cells);
}

Result<int> run(const Options& options) {
  if (!options.url.empty()) return run_server(options);
  if (options.startup || options.startup_probe) return run_startup(options);
  check(options);
  const InterruptGuard guard;
  const MachineFigures machine = measure_machine(
      std::clamp<Duration>(duration_of(options.seconds / 20), std::chrono::milliseconds(10),
                           std::chrono::milliseconds(500)));
  std::vector<BenchCell> cells;
  for (const int lanes : options.lanes.empty() ? std::vector<int>{0} : options.lanes) {
    for (const std::int64_t batch :
         options.batches.empty() ? std::vector<std::int64_t>{0} : options.batches) {
      if (interrupted()) break;
      Result<std::vector<BenchCell>> measured = run_cells(options, lanes, batch);
      if (!measured.ok()) return std::move(measured).error();
      for (BenchCell& cell : *measured) {
        if (cell.measurement.seconds > 0) cells.push_back(std::move(cell));
      }
    }
  }
  if (cells.empty()) return Error{ErrorCode::cancelled, "interrupted before anything was measured"};
  Result<void> written = write_results(options, cells, machine);
  if (!written.ok()) return std::move(written).error();
  for (const BenchCell& cell : cells) {
    if (cell.fault) return *cell.fault;
  }
  for (const BenchCell& cell : cells) {
    if (cell.measurement.errors == 0) continue;
    return Error{ErrorCode::internal,
                 format_count(cell.measurement.errors) + " of " +
                     format_count(cell.measurement.tally.requests + cell.measurement.errors) +
                     " requests failed; the first: " + cell.first_error};
  }
  for (const BenchCell& cell : cells) {
    if (!cell.graphs_asked || cell.eager_share() <= kMostEager) continue;
    return Error{ErrorCode::internal, "graphs were asked for (--option graphs=on), but " +
                                          eager_text(cell) + "; expected at most 1%"};
  }
  return kFine;
}

void add_load_options(CLI::App& verb, Options& options) {
  verb.add_flag("--offline", options.offline,
                "Whole batches, as many in flight as saturate the devices");
  verb.add_option("--in-flight", options.in_flight,
                  "Of --offline: requests in flight (default: twice what the lanes hold)")
      ->check(CLI::Range(1, 65536))
      ->type_name("N");
  verb.add_option("--concurrency", options.concurrency, "Keep N requests in flight")
      ->check(CLI::Range(1, 65536))
      ->type_name("N");
  verb.add_option("--rate", options.rate, "Send R requests a second, at random times")
      ->check(CLI::Range(0.001, 1e8))
      ->type_name("R");
  verb.add_option("--request-items", options.request_items, "Items in each request (default: 1)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->type_name("N");
  verb.add_option("--duration", options.seconds,
                  "The most time to measure, in seconds (default: 10)")
      ->check(CLI::Range(0.01, 86400.0))
      ->type_name("S");
  verb.add_option("--batching", options.batching,
                  "Combine requests into batches: on or off (default: on)")
      ->type_name("on|off")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, bool>{{"on", true}, {"off", false}}));
  verb.add_option("--delay", options.delay_us,
                  "Hold a batch back for so many microseconds to fill it")
      ->check(CLI::Range(0.0, 1e9))
      ->type_name("US");
  verb.add_option(
          "--input,-i", options.input.inputs,
          "Real data: [NAME=]FILE (.npz, .npy, pictures, a folder of pictures); default: random")
      ->type_name("FILE")
      ->take_all();
  verb.add_option("--host-memory", options.place,
                  "What inputs lie in: pinned, pageable or managed (default: pinned for GPUs)")
      ->type_name("KIND")
      ->transform(CLI::CheckedTransformer(std::map<std::string, Place>{
          {"pinned", Place::pinned}, {"pageable", Place::pageable}, {"managed", Place::managed}}));
  verb.add_flag("--resident", options.resident,
                "Inputs lie in the memory of the device that runs the model; outputs stay there");
  verb.add_option("--data-on", options.data_on,
                  "Inputs lie in the memory of this device; outputs stay where they are computed")
      ->type_name("DEVICE");
  verb.add_option("--seed", options.seed, "Of random inputs and arrival times (default: 1)")
      ->type_name("N");
}

void add_server_options(CLI::App& verb, Options& options) {
  verb.add_option(
          "--url", options.url,
          "Measure a server: http://HOST:PORT, https://, grpc://, grpcs://; --batch is then "
          "the items of a request")
      ->type_name("URL");
  verb.add_option("--model-version", options.version, "Of the server's (default: its choice)")
      ->type_name("V");
  verb.add_option("--shared-memory", options.shared,
                  "What tensors lie in: none, system or cuda (default: none: they are sent)")
      ->type_name("KIND")
      ->transform(CLI::CheckedTransformer(std::map<std::string, SharedKind>{
          {"none", SharedKind::none}, {"system", SharedKind::system}, {"cuda", SharedKind::cuda}}));
  verb.add_option("--gpu", options.gpu, "Of --shared-memory cuda (default: 0)")->type_name("N");
  verb.add_option("--shape", options.shapes,
                  "NAME=3x224x224: an item of an input whose size the server leaves open")
      ->type_name("SHAPE")
      ->take_all();
  verb.add_option("--server-pid", options.server_pid,
                  "Process of the server, whose CPU time and memory are counted")
      ->check(CLI::PositiveNumber)
      ->type_name("PID");
  verb.add_flag("--allow-refused", options.allow_refused,
                "Requests that the server refuses because it is full are no failures");
  verb.add_flag("--whole", options.whole, "Measure to the end of --duration, stable or not");
  verb.add_option("--token", options.token, "Bearer token")->type_name("TEXT");
  verb.add_option("--tls-ca", options.tls.authorities, "Who signs the server's certificate (PEM)")
      ->type_name("FILE");
  verb.add_option("--tls-cert", options.tls.certificate, "Of this client (PEM)")->type_name("FILE");
  verb.add_option("--tls-key", options.tls.key, "Of this client (PEM)")->type_name("FILE");
}

void add_output_options(CLI::App& verb, Options& options) {
  verb.add_option("--compare", options.compare, "Measure in turn with loops by hand: naive, direct")
      ->delimiter(',')
      ->check(CLI::IsMember({"naive", "direct"}))
      ->type_name("LIST");
  verb.add_flag("--startup", options.startup,
                "Measure the first answer of fresh processes, CUDA_MODULE_LOADING=LAZY and EAGER");
  verb.add_flag("--startup-probe", options.startup_probe)->group("");  // what --startup runs
  verb.add_option("--pairs", options.pairs,
                  "Pairs of windows, or of processes with --startup, to compare (default: 9)")
      ->check(CLI::Range(1, 1000))
      ->type_name("N");
  verb.add_flag("--windows", options.windows, "Show every window");
  verb.add_option("--json", options.json, "Write JSON to FILE, or to standard output")
      ->expected(0, 1)
      ->default_str(std::string(kToStandardOutput))
      ->type_name("[FILE]");
  verb.add_option("--csv", options.csv, "Write a table with commas")->type_name("FILE");
  verb.add_option("--plot", options.plot, "Write a plot of throughput and p99 (SVG)")
      ->type_name("FILE");
  verb.add_option("--trace", options.trace,
                  "Write every batch's timeline for Perfetto or chrome://tracing")
      ->type_name("FILE");
}

}  // namespace

void add_bench(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("bench", "Measures throughput and latency under a load");
  add_models_arguments(*verb, options->model, options->models);
  verb->add_option("--lanes", options->lanes,
                   "Lanes on each device; a list sweeps (default: the backend's)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024))
      ->type_name("N[,N]");
  verb->add_option("--slots", options->model.slots, "Batches in flight on each lane (default: 2)")
      ->check(CLI::Range(1, 8))
      ->type_name("N");
  verb->add_option("--batch", options->batches,
                   "The most items in a batch; a list sweeps (default: the model's)")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->type_name("N[,N]");
  add_load_options(*verb, *options);
  add_server_options(*verb, *options);
  add_output_options(*verb, *options);
  verb->footer(kFooter);
  verb->callback([options, verb, &context] {
    // Given without a file, it means standard output.
    if (verb->count("--json") > 0 && options->json.empty()) options->json = kToStandardOutput;
    options->command_line = context.arguments;
    context.action = [options] { return run(*options); };
  });
}

}  // namespace millrace::cli
