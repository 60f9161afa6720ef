// What the demonstration measured, and how it is shown.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cli/model_arguments.h"
#include "cli/print.h"
#include "cli/scores.h"

namespace millrace::cli {

/// The images with what they really show.
struct HeldOut {
  Tensor images;
  std::vector<std::int64_t> labels;
  std::string labels_from;

  [[nodiscard]] std::int64_t count() const { return images.shape()[0]; }
};

/// What the model said to an image when it saw it first.
struct Answer {
  std::vector<Guess> guesses;
};

/// One stretch of requests with so many in flight.
struct Stretch {
  int in_flight = 0;
  std::uint64_t answers = 0;
  double seconds = 0;
  Histogram latency;  // nanoseconds
  ModelStatistics statistics;
  std::map<std::string, std::uint64_t> by_device;
  std::set<std::pair<std::string, int>> lanes;

  [[nodiscard]] double rate() const {
    return seconds > 0 ? static_cast<double>(answers) / seconds : 0;
  }
};

/// All that is shown, in whatever form.
struct Outcome {
  const OpenModel& open;
  const HeldOut& data;
  std::vector<std::string> names;  // of the classes
  std::vector<Answer> answers;
  std::uint64_t changed = 0;
  Stretch full;
  Stretch single;

  [[nodiscard]] bool right(std::int64_t image) const {
    const auto i = static_cast<std::size_t>(image);
    return answers[i].guesses[0].label == data.labels[i];
  }
  [[nodiscard]] std::int64_t correct() const {
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < data.count(); ++i) count += right(i) ? 1 : 0;
    return count;
  }
  [[nodiscard]] double accuracy() const {
    return static_cast<double>(correct()) / static_cast<double>(data.count());
  }
};

void print_outcome(const Outcome& outcome);
void print_outcome_json(const Outcome& outcome);

}  // namespace millrace::cli
