// How often memory is allocated for each request once the engine runs: every operator new of the
// program is counted, the load generator's own included (which has none).
#include <atomic>
#include <cstdlib>
#include <new>

#include "support.h"

namespace {

std::atomic<std::uint64_t> allocations{0};
std::atomic<std::uint64_t> allocated_bytes{0};

void* counted(std::size_t bytes, std::size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  allocated_bytes.fetch_add(bytes, std::memory_order_relaxed);
  if (alignment <= alignof(std::max_align_t)) return std::malloc(bytes == 0 ? 1 : bytes);
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

void* counted_or_throw(std::size_t bytes, std::size_t alignment) {
  void* const memory = counted(bytes, alignment);
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return counted_or_throw(bytes, 1); }
void* operator new[](std::size_t bytes) { return counted_or_throw(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted_or_throw(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return counted_or_throw(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return counted(bytes, 1); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return counted(bytes, 1);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

using namespace millrace;

bench::Json count(double seconds, int concurrency) {
  EngineOptions engine_options;
  engine_options.devices.devices = {"host:0"};
  Engine engine = bench::value_or_die(Engine::create(engine_options));
  ModelConfig config;
  config.path = "reference:identity";
  config.batching.max_items = 64;
  const Model model = bench::value_or_die(engine.load(config));
  cli::LoadOptions options;
  options.concurrency = concurrency;
  if (concurrency == 1) options.arrival = cli::Arrival::blocking;
  const auto load = bench::load_on(model, options);
  load->start();
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds / 4));
  (void)load->take();
  const std::uint64_t count_before = allocations.load();
  const std::uint64_t bytes_before = allocated_bytes.load();
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  const std::uint64_t count_after = allocations.load();
  const std::uint64_t bytes_after = allocated_bytes.load();
  const cli::Tally tally = load->take();
  bench::ok_or_die(load->stop());
  if (tally.errors > 0 || tally.requests == 0)
    bench::die("requests failed: " + load->first_error());
  const auto each = [&](std::uint64_t before, std::uint64_t after) {
    return static_cast<double>(after - before) / static_cast<double>(tally.requests);
  };
  return {{"concurrency", concurrency},
          {"requests", tally.requests},
          {"allocations", count_after - count_before},
          {"allocations_per_request", each(count_before, count_after)},
          {"bytes_per_request", each(bytes_before, bytes_after)}};
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 2;
  return bench::run(
      argc, argv, "Counts allocations per request of the identity model in the steady state.",
      [&](CLI::App& app) {
        app.add_option("--seconds", seconds, "Time to count for (default: 2)")
            ->check(CLI::Range(0.01, 3600.0));
      },
      [&] {
        return bench::Json{{"model", "reference:identity"},
                           {"runs", {count(seconds, 256), count(seconds, 1)}}};
      });
}
