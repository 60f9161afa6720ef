// Measures the hand-written TensorRT loops on a plan: a row of figures for each combination.
#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string_view>

#include "direct/tensorrt.h"

namespace {

using direct::Tensor;
using direct::TensorrtLoop;
using direct::TensorrtPlan;
using direct::TensorrtSetup;
using direct::TensorrtWait;

constexpr std::string_view kHelp =
    R"(direct_tensorrt: hand-written TensorRT loops, without an engine, on one plan

usage: direct_tensorrt --plan FILE --items N [options]

  --plan FILE            the TensorRT plan
  --items N              items in a batch: what a dynamic first dimension is set to (default 1)
  --library FILE         libnvinfer.so.10 (default: by the loader's search)
  --device N             GPU (default 0)

Each of these takes a list; every combination that makes sense is run.
  --lanes 1,2,4          streams (default 1,2,3,4,8)
  --slots 1,2            batches in flight on each (default 1)
  --graphs 0,1           CUDA graphs (default 0,1)
  --copies-in-graph 0,1  copies as nodes of the graph (default 1)
  --resident 0,1         inputs and outputs stay on the GPU (default 0)
  --pageable 0,1         host memory as malloc gives it (default 0)
  --wait LIST            stream-flag, graph-flag, event, blocking-event, stream-sync
                         (default stream-flag)

  --naive                also the tutorial's first version: pageable memory, one batch at a time
  --latency              one lane, one slot, whatever the lists say
  --graphs-per-slot N    inputs that a slot's graphs read in turn (default 1)
  --batches N            distinct inputs (default 8)
  --input-random         uniform in -1..1; small numbers for integers (this is the default)
  --input-zeros          zeros instead
  --check                compare each combination's outputs with the first one's, bit by bit
  --ramp S               seconds before counting (default 0.5)
  --seconds S            seconds that count (default 1.5)
  --json FILE            append one line of JSON for each combination
  --help                 this text

Columns: latency is from launch to observed end of a batch; "cpu" is the host thread's processor time
a batch, polling included; "launch" the time it takes to give a batch to the GPU.
)";

// --- What to run ---

struct Options {
  std::string plan;
  std::string library;
  std::string json;
  int device = 0;
  std::int64_t items = 1;
  std::vector<int> lanes{1, 2, 3, 4, 8};
  std::vector<int> slots{1};
  std::vector<int> graphs{0, 1};
  std::vector<int> copies_in_graph{1};
  std::vector<int> resident{0};
  std::vector<int> pageable{0};
  std::vector<TensorrtWait> waits{TensorrtWait::stream_flag};
  bool naive = false;
  bool latency = false;
  bool check = false;
  bool zeros = false;
  bool help = false;
  int graphs_per_slot = 1;
  int batches = 8;
  double ramp_s = 0.5;
  double seconds = 1.5;
};

struct NamedWait {
  std::string_view name;
  TensorrtWait wait;
};
constexpr NamedWait kWaits[] = {{"stream-flag", TensorrtWait::stream_flag},
                                {"graph-flag", TensorrtWait::graph_flag},
                                {"event", TensorrtWait::event},
                                {"blocking-event", TensorrtWait::blocking_event},
                                {"stream-sync", TensorrtWait::stream_sync}};

std::string_view name_of(TensorrtWait wait) {
  for (const NamedWait& known : kWaits) {
    if (known.wait == wait) return known.name;
  }
  return "?";
}

class Arguments {
 public:
  Arguments(int count, char** values) : values_(values + 1, values + count) {}

  bool next() {
    if (at_ == values_.size()) return false;
    option_ = values_[at_++];
    return true;
  }
  [[nodiscard]] const std::string& option() const { return option_; }

  const std::string& text() {
    if (at_ == values_.size()) throw std::runtime_error(option_ + ": expected a value, got none");
    return values_[at_++];
  }
  template <class T>
  T number(T least) {
    return parse<T>(text(), least);
  }
  std::vector<int> numbers(int least) {
    std::vector<int> out;
    for (const std::string& item : items()) out.push_back(parse<int>(item, least));
    return out;
  }
  std::vector<TensorrtWait> waits() {
    std::vector<TensorrtWait> out;
    for (const std::string& item : items()) {
      const auto* const found = std::find_if(std::begin(kWaits), std::end(kWaits),
                                             [&](const auto& known) { return known.name == item; });
      if (found == std::end(kWaits))
        throw std::runtime_error(option_ + ": '" + item + "' is no way to wait; see --help");
      out.push_back(found->wait);
    }
    return out;
  }

 private:
  template <class T>
  T parse(const std::string& text, T least) const {
    T value{};
    const char* const end = text.data() + text.size();
    const auto [stop, code] = std::from_chars(text.data(), end, value);
    if (code != std::errc() || stop != end || value < least)
      throw std::runtime_error(option_ + ": expected a number of at least " +
                               std::to_string(least) + ", got '" + text + "'");
    return value;
  }
  std::vector<std::string> items() {
    std::vector<std::string> out(1);
    for (const char c : text()) {
      if (c == ',')
        out.emplace_back();
      else
        out.back() += c;
    }
    return out;
  }

  std::vector<std::string> values_;
  std::size_t at_ = 0;
  std::string option_;
};

bool take_list(Options& options, Arguments& arguments) {
  const std::string& option = arguments.option();
  if (option == "--lanes") return options.lanes = arguments.numbers(1), true;
  if (option == "--slots") return options.slots = arguments.numbers(1), true;
  if (option == "--graphs") return options.graphs = arguments.numbers(0), true;
  if (option == "--copies-in-graph") return options.copies_in_graph = arguments.numbers(0), true;
  if (option == "--resident") return options.resident = arguments.numbers(0), true;
  if (option == "--pageable") return options.pageable = arguments.numbers(0), true;
  if (option == "--wait") return options.waits = arguments.waits(), true;
  return false;
}

bool take_switch(Options& options, const std::string& option) {
  if (option == "--naive") return options.naive = true;
  if (option == "--latency") return options.latency = true;
  if (option == "--check") return options.check = true;
  if (option == "--input-random") return true;
  if (option == "--input-zeros") return options.zeros = true;
  if (option == "--help" || option == "-h") return options.help = true;
  return false;
}

bool take_value(Options& options, Arguments& arguments) {
  const std::string& option = arguments.option();
  if (option == "--plan") return options.plan = arguments.text(), true;
  if (option == "--library") return options.library = arguments.text(), true;
  if (option == "--json") return options.json = arguments.text(), true;
  if (option == "--device") return options.device = arguments.number<int>(0), true;
  if (option == "--items") return options.items = arguments.number<std::int64_t>(1), true;
  if (option == "--graphs-per-slot")
    return options.graphs_per_slot = arguments.number<int>(1), true;
  if (option == "--batches") return options.batches = arguments.number<int>(1), true;
  if (option == "--ramp") return options.ramp_s = arguments.number<double>(0), true;
  if (option == "--seconds") return options.seconds = arguments.number<double>(0), true;
  return false;
}

Options parse(int count, char** values) {
  Options options;
  Arguments arguments(count, values);
  while (arguments.next()) {
    if (!take_switch(options, arguments.option()) && !take_list(options, arguments) &&
        !take_value(options, arguments))
      throw std::runtime_error("unknown option " + arguments.option() + "; see --help");
  }
  if (options.help) return options;
  if (options.plan.empty()) throw std::runtime_error("expected --plan FILE; see --help");
  if (options.latency) options.lanes = options.slots = {1};
  return options;
}

bool makes_sense(const TensorrtSetup& setup) {
  const bool copies_in_graph = setup.graphs && setup.copies_in_graph && !setup.resident;
  if (setup.pageable && (setup.resident || copies_in_graph)) return false;
  return setup.wait != TensorrtWait::graph_flag ||
         (setup.graphs && (setup.resident || copies_in_graph));
}

bool is_same(const TensorrtSetup& a, const TensorrtSetup& b) {
  const bool same_copies =
      a.copies_in_graph == b.copies_in_graph || !a.graphs || a.resident;  // else of no effect
  return a.lanes == b.lanes && a.slots == b.slots && a.graphs == b.graphs && same_copies &&
         a.resident == b.resident && a.pageable == b.pageable && a.wait == b.wait &&
         a.naive == b.naive;
}

std::vector<TensorrtSetup> setups_of(const Options& options, const TensorrtSetup& common) {
  std::vector<TensorrtSetup> out;
  const auto add = [&](const TensorrtSetup& setup) {
    const bool known = std::any_of(out.begin(), out.end(),
                                   [&](const auto& other) { return is_same(other, setup); });
    if (!known && makes_sense(setup)) out.push_back(setup);
  };
  TensorrtSetup setup = common;
  if (options.naive) {
    setup.naive = true;
    add(setup);
    setup.naive = false;
  }
  for (const int resident : options.resident) {
    setup.resident = resident != 0;
    for (const int pageable : options.pageable) {
      setup.pageable = pageable != 0;
      for (const int graphs : options.graphs) {
        setup.graphs = graphs != 0;
        for (const int copies : options.copies_in_graph) {
          setup.copies_in_graph = copies != 0;
          for (const TensorrtWait wait : options.waits) {
            setup.wait = wait;
            for (const int slots : options.slots) {
              setup.slots = slots;
              for (const int lanes : options.lanes) {
                setup.lanes = lanes;
                add(setup);
              }
            }
          }
        }
      }
    }
  }
  return out;
}

// --- Inputs ---

class Random {
 public:
  std::uint64_t bits() {
    state_ += 0x9E3779B97F4A7C15U;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  float uniform() { return static_cast<float>(static_cast<std::int32_t>(bits() >> 32)) * 0x1p-31F; }
  std::uint64_t below(std::uint64_t limit) { return bits() % limit; }

 private:
  std::uint64_t state_ = 1;
};

std::uint16_t half_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = (bits >> 16) & 0x8000U;
  const int exponent = static_cast<int>((bits >> 23) & 0xFFU) - 127 + 15;
  if (exponent <= 0) return static_cast<std::uint16_t>(sign);
  return static_cast<std::uint16_t>(sign | (static_cast<std::uint32_t>(exponent) << 10) |
                                    ((bits >> 13) & 0x3FFU));
}

template <class T, class Make>
void fill(std::vector<std::byte>& out, Make make) {
  for (std::size_t at = 0; at + sizeof(T) <= out.size(); at += sizeof(T)) {
    const T value = static_cast<T>(make());
    std::memcpy(out.data() + at, &value, sizeof(T));
  }
}

void fill_randomly(const Tensor& tensor, std::vector<std::byte>& out, Random& random) {
  // Masks and segment numbers are 0 or 1; other integers are taken for token numbers.
  const bool flag = tensor.name.find("mask") != std::string::npos ||
                    tensor.name.find("type") != std::string::npos;
  const auto small = [&] { return random.below(flag ? 2 : 100); };
  switch (tensor.element_type) {
    case 1:
      return fill<float>(out, [&] { return random.uniform(); });
    case 2:
      return fill<std::uint8_t>(out, [&] { return random.below(flag ? 2 : 256); });
    case 3:
      return fill<std::int8_t>(out, small);
    case 6:
      return fill<std::int32_t>(out, small);
    case 7:
      return fill<std::int64_t>(out, small);
    case 9:
      return fill<std::uint8_t>(out, [&] { return random.below(2); });
    case 10:
      return fill<std::uint16_t>(out, [&] { return half_of(random.uniform()); });
    case 16:
      return fill<std::uint16_t>(
          out, [&] { return std::bit_cast<std::uint32_t>(random.uniform()) >> 16; });
    case 17:  // below 0x38 an E4M3 number is less than 1
      return fill<std::uint8_t>(out, [&] { return (random.below(2) << 7) | random.below(0x38); });
    default:
      throw std::runtime_error("input '" + tensor.name + "': no random values of ONNX type " +
                               std::to_string(tensor.element_type));
  }
}

struct Inputs {
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::vector<Tensor>> batches;
};

Inputs make_inputs(const TensorrtPlan& plan, const Options& options) {
  Inputs inputs;
  Random random;
  for (int i = 0; i < options.batches; ++i) {
    std::vector<Tensor>& batch = inputs.batches.emplace_back();
    for (Tensor tensor : plan.inputs(options.items)) {
      if (tensor.bytes == 0)
        throw std::runtime_error("input '" + tensor.name +
                                 "': a dimension other than the first is dynamic");
      std::vector<std::byte>& memory = inputs.memory.emplace_back(tensor.bytes);
      if (!options.zeros) fill_randomly(tensor, memory, random);
      tensor.data = memory.data();
      batch.push_back(std::move(tensor));
    }
  }
  return inputs;
}

// --- Figures ---

struct Cell {
  TensorrtSetup setup;
  direct::Figures figures;
  TensorrtLoop::HostCost cost;
  std::optional<std::uint64_t> differing;  // outputs, of all batches

  [[nodiscard]] double per_batch_us(double seconds) const {
    return figures.requests > 0 ? seconds * 1e6 / static_cast<double>(figures.requests) : 0;
  }
};

std::vector<std::string> outputs_of(TensorrtLoop& loop, std::size_t batches, std::string& error) {
  std::vector<std::string> all;
  for (std::size_t i = 0; i < batches && error.empty(); ++i) {
    for (std::string& output : loop.run_once(i, error)) all.push_back(std::move(output));
  }
  return all;
}

// `expected` is set by the first combination that gives outputs.
Cell measure(const TensorrtSetup& setup, const Options& options,
             std::vector<std::string>& expected) {
  Cell cell{setup, {}, {}, std::nullopt};
  std::string& error = cell.figures.error;
  const std::unique_ptr<TensorrtLoop> loop = direct::make_tensorrt_loop(setup, error);
  if (!loop) return cell;
  if (options.check) {
    const std::vector<std::string> outputs = outputs_of(*loop, setup.batches.size(), error);
    if (!error.empty()) return cell;
    if (expected.empty()) expected = outputs;
    cell.differing = 0;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (outputs[i] != expected[i]) ++*cell.differing;
    }
  }
  cell.figures = loop->run(options.ramp_s, options.seconds);
  cell.cost = loop->host_cost();
  return cell;
}

std::string_view memory_of(const TensorrtSetup& setup) {
  if (setup.naive) return "naive";
  if (setup.resident) return "resident";
  return setup.pageable ? "pageable" : "pinned";
}

std::string_view work_of(const TensorrtSetup& setup) {
  if (setup.naive || !setup.graphs) return "enqueue";
  return setup.resident || setup.copies_in_graph ? "graph" : "graph+copies";
}

void print_heading(const Options& options) {
  std::printf("%-9s %-12s %-14s %5s %5s %11s %11s %10s %10s %9s %9s%s\n", "memory", "work", "wait",
              "lanes", "slots", "items/s", "batches/s", "p50 us", "p99 us", "cpu us", "launch us",
              options.check ? "  differing" : "");
}

void print_row(const Cell& cell) {
  const TensorrtSetup& setup = cell.setup;
  const direct::Figures& figures = cell.figures;
  std::printf("%-9s %-12s %-14s %5d %5d ", memory_of(setup).data(), work_of(setup).data(),
              setup.naive ? "-" : name_of(setup.wait).data(), setup.lanes, setup.slots);
  if (!figures.error.empty()) {
    std::printf("failed: %s\n", figures.error.c_str());
  } else {
    std::printf("%11.0f %11.0f %10.1f %10.1f %9.2f %9.2f", figures.items_per_s(),
                figures.requests_per_s(), figures.latency.quantile_us(0.5),
                figures.latency.quantile_us(0.99), cell.per_batch_us(cell.cost.cpu_s),
                cell.per_batch_us(cell.cost.launch_s));
    if (cell.differing) std::printf("  %9llu", static_cast<unsigned long long>(*cell.differing));
    std::printf("\n");
  }
  std::fflush(stdout);
}

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= 0x20)
      out += c;
    else
      out += ' ';
  }
  return out + '"';
}

class Json {
 public:
  void add(std::string_view name, const std::string& value) {
    text_ += (text_.empty() ? "" : ",") + quote(name) + ":" + value;
  }
  void add(std::string_view name, std::string_view value) { add(name, quote(value)); }
  void add(std::string_view name, bool value) { add(name, std::string(value ? "true" : "false")); }
  void add(std::string_view name, double value) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.6g", value);
    add(name, std::string(digits));
  }
  void add_count(std::string_view name, std::uint64_t value) { add(name, std::to_string(value)); }
  [[nodiscard]] std::string line() const { return "{" + text_ + "}\n"; }

 private:
  std::string text_;
};

std::string json_of(const Cell& cell, const Options& options, const TensorrtPlan& plan) {
  const TensorrtSetup& setup = cell.setup;
  const direct::Figures& figures = cell.figures;
  Json json;
  json.add("plan", std::string_view(options.plan));
  json.add_count("tensorrt", static_cast<std::uint64_t>(plan.library_version()));
  json.add_count("items", static_cast<std::uint64_t>(options.items));
  json.add("memory", memory_of(setup));
  json.add("work", work_of(setup));
  json.add("wait", setup.naive ? "-" : name_of(setup.wait));
  json.add_count("lanes", static_cast<std::uint64_t>(setup.lanes));
  json.add_count("slots", static_cast<std::uint64_t>(setup.slots));
  json.add("graphs", setup.graphs);
  json.add("copies_in_graph", setup.graphs && setup.copies_in_graph && !setup.resident);
  json.add("resident", setup.resident);
  json.add("naive", setup.naive);
  if (!figures.error.empty()) {
    json.add("error", std::string_view(figures.error));
    return json.line();
  }
  json.add("seconds", figures.seconds);
  json.add_count("batches", figures.requests);
  json.add("items_per_s", figures.items_per_s());
  json.add("batches_per_s", figures.requests_per_s());
  json.add("mean_us", figures.latency.mean_us());
  json.add("p50_us", figures.latency.quantile_us(0.5));
  json.add("p99_us", figures.latency.quantile_us(0.99));
  json.add("cpu_us", cell.per_batch_us(cell.cost.cpu_s));
  json.add("launch_us", cell.per_batch_us(cell.cost.launch_s));
  if (cell.differing) json.add_count("differing_outputs", *cell.differing);
  return json.line();
}

int run(const Options& options) {
  std::string error;
  TensorrtSetup common;
  common.opened = direct::open_tensorrt_plan(options.library, options.plan, options.device, error);
  if (!common.opened) throw std::runtime_error(error);
  const Inputs inputs = make_inputs(*common.opened, options);
  common.batches = inputs.batches;
  common.items = options.items;
  common.graphs_per_slot = options.graphs_per_slot;
  const std::vector<TensorrtSetup> setups = setups_of(options, common);
  if (setups.empty()) throw std::runtime_error("none of these combinations makes sense");
  std::ofstream json;
  if (!options.json.empty()) {
    json.open(options.json, std::ios::app);
    if (!json) throw std::runtime_error("cannot write " + options.json);
  }
  std::printf("%s, %lld items a batch, TensorRT %d\n", options.plan.c_str(),
              static_cast<long long>(options.items), common.opened->library_version());
  print_heading(options);
  std::vector<std::string> expected;
  bool failed = false;
  for (const TensorrtSetup& setup : setups) {
    const Cell cell = measure(setup, options, expected);
    failed = failed || !cell.figures.error.empty();
    print_row(cell);
    if (json.is_open()) json << json_of(cell, options, *common.opened) << std::flush;
  }
  if (json.is_open() && !json) throw std::runtime_error("cannot write " + options.json);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

}  // namespace

int main(int count, char** values) {
  try {
    const Options options = parse(count, values);
    if (options.help) {
      std::cout << kHelp;
      return EXIT_SUCCESS;
    }
    return run(options);
  } catch (const std::exception& what) {
    std::cerr << "direct_tensorrt: " << what.what() << "\n";
    return EXIT_FAILURE;
  }
}
