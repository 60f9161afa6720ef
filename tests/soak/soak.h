// Hours in minutes: everything at once that users do to an engine, for as long as one likes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <millrace/engine.h>

namespace millrace::soak {

struct Options {
  EngineOptions engine;
  ModelConfig stays;   // loaded all the time
  ModelConfig comes;   // loaded and unloaded again and again
  Duration time{};     // in all
  Duration warm_up{};  // at first, for which memory may grow
  int callers = 4;     // threads
  std::int64_t most_items = 8;
  std::uint64_t seed = 1;
};

struct Report {
  std::uint64_t right = 0;      // answers that were compared
  std::uint64_t cancelled = 0;  // by their callers
  std::uint64_t expired = 0;    // by a deadline
  std::uint64_t refused = 0;    // by the model that was being unloaded
  std::uint64_t wrong = 0;      // all other errors, and answers that differ
  std::string first_wrong;
  std::uint64_t loads = 0;
  /// Of one request at a time to the model that stays.
  Duration usual{};    // median while nothing is loaded
  Duration longest{};  // while nothing is loaded
  Duration longest_during_a_load{};
  /// Median of the last quarter of the time less that of the first after the warm-up.
  std::int64_t host_growth_bytes = 0;
  struct Growth {
    DeviceId device;
    std::int64_t bytes = 0;
  };
  std::vector<Growth> device_growth;
};

/// Callers send requests of random sizes to both models, cancel some, give some a short deadline,
/// and compare every answer with the one that a quiet engine gave. Errors: those of the engine and
/// of the loads; a wrong answer is none.
[[nodiscard]] Result<Report> run(const Options& options);

}  // namespace millrace::soak
