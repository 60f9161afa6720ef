// What the benchmark programs share: options, a model under load, and JSON on standard output.
#pragma once

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <CLI/CLI.hpp>

#include <millrace/engine.h>

#include "cli/bench_measure.h"
#include "cli/load_generator.h"
#include "cli/print.h"

namespace bench {

using millrace::cli::Json;

/// Ends the program with a message: a benchmark has nobody to hand an error to.
[[noreturn]] inline void die(const std::string& message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  std::exit(1);
}

template <class T>
T value_or_die(millrace::Result<T> result) {
  if (!result.ok()) die(result.error().message);
  return std::move(result).value();
}
inline void ok_or_die(millrace::Result<void> result) {
  if (!result.ok()) die(result.error().message);
}

/// A load on a model, with everything that it needs. Started and stopped by hand.
inline std::unique_ptr<millrace::cli::LoadGenerator> load_on(
    const millrace::Model& model, const millrace::cli::LoadOptions& options) {
  const millrace::cli::BenchInputs inputs =
      value_or_die(millrace::cli::BenchInputs::open(model.info(), {}, {}, options.seed));
  return value_or_die(millrace::cli::LoadGenerator::make(model, inputs, options));
}

/// Counts for so long, after a ramp that is not counted. The load is running.
struct Window {
  double seconds = 0;
  millrace::cli::Tally tally;

  [[nodiscard]] double items_per_s() const { return static_cast<double>(tally.items) / seconds; }
};
inline Window count_for(millrace::cli::LoadGenerator& load, double ramp_s, double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(ramp_s));
  (void)load.take();
  const auto start = millrace::Clock::now();
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  Window window;
  window.tally = load.take();
  window.seconds = std::chrono::duration<double>(millrace::Clock::now() - start).count();
  if (window.tally.errors > 0) die(load.first_error());
  return window;
}

/// Parses the options that `add` adds, runs `body` and prints the JSON that it returns.
template <class Add, class Body>
int run(int argc, char** argv, const char* description, Add add, Body body) {
  CLI::App app(description);
  add(app);
  CLI11_PARSE(app, argc, argv);
  const Json json = body();
  millrace::cli::print_json(json);
  return std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace bench
