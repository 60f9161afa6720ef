// The text format of Prometheus (version 0.0.4).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <millrace/statistics.h>

#include "base/text.h"

namespace millrace::server {

/// Upper bounds of the buckets of times, in nanoseconds: about three a decade, from 10 us to 10 s.
inline constexpr std::array<std::uint64_t, 19> kTimeBounds = {
    10'000,        25'000,        50'000,        100'000,       250'000,
    500'000,       1'000'000,     2'500'000,     5'000'000,     10'000'000,
    25'000'000,    50'000'000,    100'000'000,   250'000'000,   500'000'000,
    1'000'000'000, 2'500'000'000, 5'000'000'000, 10'000'000'000};
inline constexpr std::array<std::uint64_t, 10> kItemBounds = {1,  2,  4,   8,   16,
                                                              32, 64, 128, 256, 512};

/// Name and value, in the order in which they are written.
using Labels = std::vector<std::pair<std::string_view, std::string>>;

/// Labels and one more.
[[nodiscard]] Labels with(Labels labels, std::string_view name, std::string value);

/// Families of metrics, each with its head once and its samples together.
class MetricsPage {
 public:
  /// The samples that follow are of this family. A family comes once.
  void family(std::string_view name, std::string_view type, std::string_view help);
  template <class Value>
  void sample(const Labels& labels, const Value& value) {
    begin("", labels);
    if constexpr (std::floating_point<Value>) {
      append(value);
    } else {
      append_text(out_, value);
    }
    out_ += '\n';
  }
  /// Of times in nanoseconds, shown in seconds, or of whole numbers.
  void times(const Labels& labels, const Histogram& histogram) {
    buckets(labels, histogram, kTimeBounds, 1e-9);
  }
  void numbers(const Labels& labels, const Histogram& histogram) {
    buckets(labels, histogram, kItemBounds, 1);
  }
  [[nodiscard]] std::string take() { return std::move(out_); }

 private:
  void begin(std::string_view suffix, const Labels& labels);
  void append(double value);
  void buckets(Labels labels, const Histogram& histogram, std::span<const std::uint64_t> bounds,
               double unit);

  std::string name_;
  std::string out_;
};

}  // namespace millrace::server
