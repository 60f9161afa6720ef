// What the verbs print with: figures as text, tables, bars, colours where they can be seen, a
// progress line, and JSON.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <millrace/device.h>
#include <millrace/statistics.h>

namespace millrace::cli {

/// Keeps fields in the order in which they were set.
using Json = nlohmann::ordered_json;

/// "1.2 MiB"; "480 us", "1.23 s"; "12,345"; "0.50" (fixed digits behind the point); "99.8%".
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);
[[nodiscard]] std::string format_time(std::chrono::nanoseconds time);
[[nodiscard]] std::string format_count(std::uint64_t count);
[[nodiscard]] std::string format_fixed(double value, int digits);
[[nodiscard]] std::string format_percent(double share);
/// A rate: whole with separators from 100 on, else with digits.
[[nodiscard]] std::string format_rate(double per_second);
/// A number of a tensor: short, six significant digits.
[[nodiscard]] std::string format_value(double value);
/// In double quotes, with control characters escaped.
[[nodiscard]] std::string in_quotes(std::string_view text);
/// Without control characters (they become '?'), so that a file's content cannot steer the
/// terminal.
[[nodiscard]] std::string printable(std::string_view text);

/// Whether a stream is a terminal that shows colours: not with NO_COLOR set, nor TERM=dumb.
[[nodiscard]] bool colours_on(std::FILE* stream) noexcept;
/// Whether the locale's characters are UTF-8.
[[nodiscard]] bool utf8_locale() noexcept;

enum class Ink : std::uint8_t { plain, bold, dim, green, red, cyan };
/// `text` in that ink on standard output; unchanged where there are no colours.
[[nodiscard]] std::string inked(Ink ink, std::string_view text);

/// A horizontal bar for a share of 0 to 1, `width` columns with blanks; in eighths of a column in
/// UTF-8.
[[nodiscard]] std::string bar(double share, int width);

/// Columns that `text` takes: escapes none, a UTF-8 character one.
[[nodiscard]] std::size_t columns_of(std::string_view text) noexcept;
/// Filled up with blanks behind (or in front, for numbers).
[[nodiscard]] std::string padded(std::string_view text, std::size_t columns);
[[nodiscard]] std::string padded_left(std::string_view text, std::size_t columns);

/// Rows of cells under a header; columns as wide as their widest cell. Columns named in `right` (by
/// number) are aligned to the right. Every row has as many cells as the header.
class Table {
 public:
  explicit Table(std::vector<std::string> header, std::vector<std::size_t> right = {});
  void add(std::vector<std::string> row);
  [[nodiscard]] std::string text(std::size_t indent = 2) const;

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<std::size_t> right_;
};

/// Writes to standard output. What does not arrive is noticed by `main`. Only on the main thread.
void print(std::string_view text);
/// Sends what was printed on its way: 0, or the first error of the system (`errno`) since the
/// start.
[[nodiscard]] int flush_printed();
/// Writes a document and a newline.
void print_json(const Json& json);
/// Writes "millrace: warning: ..." to standard error.
void warn(std::string_view message);

/// A line on standard error that says how far a loop is, how fast and how long still: only on a
/// terminal, redrawn at most ten times a second.
class Progress {
 public:
  /// `total` 0: unknown. `unit`: "images", "requests".
  Progress(std::string what, std::uint64_t total, std::string unit);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { clear(); }
  void update(std::uint64_t done);
  /// Takes the line away, so that something else can be printed; the next update draws it again.
  void clear();

 private:
  [[nodiscard]] std::string line(std::uint64_t done, double seconds) const;

  std::string what_;
  std::uint64_t total_;
  std::string unit_;
  bool on_;
  bool shown_ = false;
  TimePoint start_;
  TimePoint drawn_{};
};

/// {"mean", "p50", "p90", "p99", "p99_9", "max"} in microseconds, of a histogram of nanoseconds.
[[nodiscard]] Json latency_json(const Histogram& nanoseconds);

/// What happened between two snapshots of a model's statistics: counts, phases and batch sizes.
[[nodiscard]] ModelStatistics difference(const ModelStatistics& later,
                                         const ModelStatistics& earlier);

}  // namespace millrace::cli
