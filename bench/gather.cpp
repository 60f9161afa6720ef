// How fast pieces of memory are brought together on a device: by each of the methods of a gather,
// for pieces of many sizes in many numbers, from pinned memory and from the device's own; and by
// the engine, from requests of one item in pinned buffers of their own.
#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#include "support.h"

#if MILLRACE_WITH_CUDA
#include "device/cuda/gather.h"
#endif

namespace {

using namespace millrace;

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMostBytes = 4096 * kKiB;
constexpr std::size_t kMostPieces = 64;
/// A picture of 3 x 112 x 112 numbers of 4 bytes, and one of 3 x 224 x 224.
constexpr std::size_t kSizes[] = {4 * kKiB, 16 * kKiB,  32 * kKiB, 64 * kKiB,   128 * kKiB,
                                  150528,   256 * kKiB, 602112,    1024 * kKiB, kMostBytes};
constexpr std::size_t kCounts[] = {1, 2, 4, 8, 16, 32, 64};

struct Options {
  std::string device;
  std::string model;
  int rounds = 5;
  int batches = 100;
};

struct Method {
  const char* name;
  std::function<Result<void>(StreamRef, std::span<const CopyPiece>)> gather;
};

std::vector<Method> methods_for(const Device& device) {
  std::vector<Method> methods;
#if MILLRACE_WITH_CUDA
  if (device.id().kind == DeviceKind::cuda) {
    const auto by = [](GatherMethod method) {
      return [method](StreamRef stream, std::span<const CopyPiece> pieces) {
        return gather_pieces(pieces, method, stream.native_handle());
      };
    };
    methods.push_back({"each", by(GatherMethod::each)});
    methods.push_back({"batch", by(GatherMethod::batch)});
    methods.push_back({"kernel", by(GatherMethod::kernel)});
  }
#endif
  (void)device;
  methods.push_back({"automatic", [](StreamRef stream, std::span<const CopyPiece> pieces) {
                       return stream.gather(pieces);
                     }});
  return methods;
}

/// Buffers of their own for the sources, one for the target.
struct Memory {
  std::vector<Buffer> sources;
  Buffer target;
};

Memory allocate(Device& device, MemoryKind kind) {
  Memory memory;
  for (std::size_t i = 0; i < kMostPieces; ++i) {
    memory.sources.push_back(bench::value_or_die(device.allocate(kMostBytes, kind)));
    if (kind == MemoryKind::pinned) std::memset(memory.sources.back().data(), 1, kMostBytes);
  }
  memory.target =
      bench::value_or_die(device.allocate(kMostPieces * kMostBytes, MemoryKind::device));
  return memory;
}

struct Rate {
  double gb_per_s = 0;
  double host_us = 0;  // for one call
};

/// Many gathers one after the other, between two events.
Rate measure(Device& device, StreamRef stream, const Method& method,
             std::span<const CopyPiece> pieces) {
  std::size_t bytes = 0;
  for (const CopyPiece& piece : pieces) bytes += piece.bytes;
  const int repeats =
      static_cast<int>(std::clamp<std::size_t>((std::size_t{64} << 20) / bytes, 4, 200));
  const Event first = bench::value_or_die(device.new_event(EventTiming::timed));
  const Event last = bench::value_or_die(device.new_event(EventTiming::timed));
  bench::ok_or_die(method.gather(stream, pieces));
  bench::ok_or_die(stream.synchronize());
  bench::ok_or_die(stream.record(first));
  const TimePoint start = Clock::now();
  for (int i = 0; i < repeats; ++i) bench::ok_or_die(method.gather(stream, pieces));
  const std::chrono::duration<double, std::micro> enqueued = Clock::now() - start;
  bench::ok_or_die(stream.record(last));
  bench::ok_or_die(stream.synchronize());
  const std::chrono::duration<double> took =
      bench::value_or_die(last.ref().time()) - bench::value_or_die(first.ref().time());
  return {static_cast<double>(bytes) * repeats / std::max(took.count(), 1e-9) / 1e9,
          enqueued.count() / repeats};
}

bench::Json measure_methods(Device& device, int rounds) {
  const std::vector<Method> methods = methods_for(device);
  const Stream stream = bench::value_or_die(device.new_stream({}));
  bench::Json rows = bench::Json::array();
  for (const MemoryKind kind : {MemoryKind::pinned, MemoryKind::device}) {
    const Memory memory = allocate(device, kind);
    const char* const source = kind == MemoryKind::pinned ? "pinned" : "device";
    for (const std::size_t bytes : kSizes) {
      for (const std::size_t count : kCounts) {
        std::vector<CopyPiece> pieces;
        for (std::size_t i = 0; i < count; ++i) {
          pieces.push_back({static_cast<std::byte*>(memory.target.data()) + i * bytes,
                            memory.sources[i].data(), bytes});
        }
        bench::Json row = {{"source", source}, {"bytes", bytes}, {"pieces", count}};
        std::fprintf(stderr, "%-7s %8zu B x %2zu:", source, bytes, count);
        for (const Method& method : methods) {
          std::vector<double> rates;
          std::vector<double> host;
          for (int round = 0; round < rounds; ++round) {
            const Rate rate = measure(device, stream, method, pieces);
            rates.push_back(rate.gb_per_s);
            host.push_back(rate.host_us);
          }
          const double rate = cli::spread_of(rates).median;
          row[method.name] = {{"gb_per_s", rate}, {"host_us", cli::spread_of(host).median}};
          std::fprintf(stderr, "  %s %8.2f GB/s %6.1f us", method.name, rate,
                       cli::spread_of(host).median);
        }
        std::fprintf(stderr, "\n");
        rows.push_back(std::move(row));
      }
    }
  }
  return rows;
}

/// Requests of one item that wait until they make a full batch: how long their way into the
/// device's batch takes, by the device's own clock. With one batch at a time the device waits for
/// the call that copies; with several it has the next one before the last is over, as under load.
bench::Json measure_engine(const Options& options, int batches_in_flight) {
  EngineOptions engine_options;
  engine_options.devices.devices = {options.device};
  engine_options.devices.host.push_back({.separate_memory = true});
  engine_options.sample_every = 1;
  engine_options.trace_capacity = static_cast<std::size_t>(options.batches);
  Engine engine = bench::value_or_die(Engine::create(engine_options));
  ModelConfig config;
  config.path = options.model;
  config.lanes = 1;
  config.slots = batches_in_flight > 1 ? 2 : 1;
  config.batching.max_items = kMostPieces;
  config.batching.max_delay = std::chrono::seconds(10);
  const Model model = bench::value_or_die(engine.load(config));
  const TensorInfo& info = model.info().inputs.at(0);
  Shape shape = info.shape;
  shape[0] = 1;
  const std::size_t bytes = bench::value_or_die(byte_count(info.type, shape));
  std::vector<Tensor> inputs;
  for (std::size_t i = 0; i < kMostPieces; ++i) {
    inputs.push_back(bench::value_or_die(engine.new_tensor(info.type, shape)));
    std::memset(inputs.back().view().data, 0, bytes);
  }
  std::deque<Future> futures;
  const auto wait_for = [&futures](std::size_t left) {
    for (; futures.size() > left; futures.pop_front()) {
      (void)bench::value_or_die(futures.front().get());
    }
  };
  for (int batch = 0; batch < options.batches; ++batch) {
    for (const Tensor& input : inputs) {
      Request request;
      request.inputs.push_back({info.name, input.view(), input.lease()});
      futures.push_back(model.submit(std::move(request)));
    }
    wait_for(static_cast<std::size_t>(batches_in_flight - 1) * kMostPieces);
    if (batches_in_flight == 1) std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
  wait_for(0);
  std::vector<double> rates;
  for (const BatchTimeline& timeline : engine.timelines()) {
    if (!timeline.started || !timeline.copied_in || timeline.items != kMostPieces) continue;
    const std::chrono::duration<double> took = *timeline.copied_in - *timeline.started;
    rates.push_back(static_cast<double>(bytes * kMostPieces) / std::max(took.count(), 1e-9) / 1e9);
  }
  if (rates.empty()) bench::die("no batch of " + std::to_string(kMostPieces) + " was timed");
  const cli::Spread spread = cli::spread_of(rates);
  std::fprintf(
      stderr,
      "engine, %d in flight: %zu requests of %zu B: %.2f GB/s (%.2f to %.2f, %zu batches)\n",
      batches_in_flight, kMostPieces, bytes, spread.median, spread.min, spread.max, rates.size());
  return {{"model", options.model},     {"batches_in_flight", batches_in_flight},
          {"requests", kMostPieces},    {"bytes", bytes},
          {"batches", rates.size()},    {"gb_per_s", spread.median},
          {"gb_per_s_min", spread.min}, {"gb_per_s_max", spread.max}};
}

bench::Json measure_all(const Options& options) {
  DeviceSetOptions set;
  set.devices = {options.device};
  bench::Json result;
  {
    const DeviceSet devices = bench::value_or_die(DeviceSet::open(set));
    Device& device = *devices.devices()[0];
    result["device"] = device.info().name;
    result["methods"] = measure_methods(device, options.rounds);
  }
  if (!options.model.empty()) {
    result["engine"] = measure_engine(options, 4);
    result["engine_alone"] = measure_engine(options, 1);
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  options.device = cuda_status().visible_gpus > 0 ? "cuda:0" : "host:0";
  return bench::run(
      argc, argv,
      "Measures how fast pieces of memory are brought together on a device; a table goes to "
      "standard "
      "error.",
      [&](CLI::App& app) {
        app.add_option("--device", options.device, "Default: the first GPU, else host:0");
        app.add_option("--model", options.model,
                       "A model with a first input [N,...]: measures the engine as well");
        app.add_option("--rounds", options.rounds, "How often each is measured (default: 5)")
            ->check(CLI::Range(1, 1000));
        app.add_option("--batches", options.batches, "Of the engine (default: 100)")
            ->check(CLI::Range(1, 100000));
      },
      [&] { return measure_all(options); });
}
