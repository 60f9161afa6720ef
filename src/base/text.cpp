#include "base/text.h"

#include <array>
#include <cmath>
#include <cstdio>

#include "base/try.h"

namespace millrace {
namespace {

constexpr std::size_t kQuotedLimit = 120;

Error invalid(std::string_view what, std::string_view expected, std::string_view found) {
  return {ErrorCode::invalid_argument,
          concat(what, ": expected ", expected, ", got ", quote(found))};
}

// At most two digits behind the point, none that are zero at the end.
std::string short_number(double value) {
  char text[64];
  const int length = std::snprintf(text, sizeof text, value < 10 ? "%.2f" : "%.1f", value);
  std::string_view digits(text, static_cast<std::size_t>(length));
  while (digits.back() == '0') digits.remove_suffix(1);
  if (digits.back() == '.') digits.remove_suffix(1);
  return std::string(digits);
}

struct Unit {
  std::string_view name;
  double scale;
};

// "1.5ms" -> 1.5 and "ms". False when there is no plain non-negative number in front.
bool split_unit(std::string_view text, double& number, std::string_view& unit) {
  text = trimmed(text);
  if (text.empty() || text.front() < '0' || text.front() > '9') return false;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc{}) return false;
  unit = trimmed(text.substr(static_cast<std::size_t>(end - text.data())));
  return true;
}

// The value scaled by its unit and rounded; false when the unit is unknown or the result too large.
template <std::size_t N>
bool scaled(double number, std::string_view unit, const std::array<Unit, N>& units, double limit,
            double& value) {
  for (const Unit& known : units) {
    if (!equal_ignoring_case(known.name, unit)) continue;
    value = std::round(number * known.scale);
    return value < limit;
  }
  return false;
}

}  // namespace

std::string quote(std::string_view text) {
  std::string out = "\"";
  const auto append = [&](std::string_view part) {
    for (const char c : part) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '"' || c == '\\') {
        out += '\\';
        out += c;
      } else if (byte < 0x20 || byte >= 0x7f) {
        char escaped[8];
        std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
        out += escaped;
      } else {
        out += c;
      }
    }
  };
  if (text.size() <= kQuotedLimit) {
    append(text);
  } else {
    append(text.substr(0, kQuotedLimit / 2));
    out += "...";
    append(text.substr(text.size() - kQuotedLimit / 2));
  }
  out += '"';
  return out;
}

std::string_view trimmed(std::string_view text) noexcept {
  constexpr std::string_view kBlanks = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

bool equal_ignoring_case(std::string_view a, std::string_view b) noexcept {
  if (a.size() != b.size()) return false;
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (lower(a[i]) != lower(b[i])) return false;
  }
  return true;
}

std::string format_bytes(std::uint64_t bytes) {
  static constexpr std::array kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return concat(bytes, " B");
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; value >= 1023.95 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return concat(short_number(value), " ", kUnits[unit]);
}

std::string format_duration(std::chrono::nanoseconds duration) {
  if (duration < std::chrono::nanoseconds::zero()) {
    if (duration == std::chrono::nanoseconds::min()) ++duration;
    return "-" + format_duration(-duration);
  }
  const auto count = static_cast<double>(duration.count());
  if (count < 1000) return concat(duration.count(), " ns");
  if (count < 999.95e3) return concat(short_number(count / 1e3), " us");
  if (count < 999.95e6) return concat(short_number(count / 1e6), " ms");
  if (count < 59.95e9) return concat(short_number(count / 1e9), " s");
  const auto seconds = std::chrono::round<std::chrono::seconds>(duration).count();
  if (seconds < 3600) return concat(seconds / 60, " min ", seconds % 60, " s");
  return concat(seconds / 3600, " h ", seconds % 3600 / 60, " min");
}

Result<std::int64_t> parse_integer(std::string_view text, std::string_view what, std::int64_t low,
                                   std::int64_t high) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc{} && end == text.data() + text.size() && value >= low && value <= high) {
    return value;
  }
  using Limits = std::numeric_limits<std::int64_t>;
  if (low == Limits::min() && high == Limits::max()) return invalid(what, "a whole number", text);
  if (high == Limits::max()) return invalid(what, concat("a whole number of at least ", low), text);
  return invalid(what, concat("a whole number from ", low, " to ", high), text);
}

Result<double> parse_number(std::string_view text, std::string_view what) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc{} && end == text.data() + text.size() && std::isfinite(value))
    return value;
  return invalid(what, "a number", text);
}

Result<std::chrono::nanoseconds> parse_duration(std::string_view text, std::string_view what) {
  static constexpr std::array<Unit, 6> kUnits = {
      {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"min", 60e9}, {"h", 3600e9}}};
  double number = 0;
  double value = 0;
  std::string_view unit;
  if (split_unit(text, number, unit)) {
    if (number == 0 && unit.empty()) return std::chrono::nanoseconds::zero();
    if (scaled(number, unit, kUnits, 0x1p63, value)) {
      return std::chrono::nanoseconds(static_cast<std::int64_t>(value));
    }
  }
  return invalid(what, "a duration such as 500us, 2ms or 1.5s", text);
}

Result<std::uint64_t> parse_bytes(std::string_view text, std::string_view what) {
  static constexpr std::array<Unit, 10> kUnits = {{{"", 1},
                                                   {"B", 1},
                                                   {"KiB", 0x1p10},
                                                   {"MiB", 0x1p20},
                                                   {"GiB", 0x1p30},
                                                   {"TiB", 0x1p40},
                                                   {"KB", 1e3},
                                                   {"MB", 1e6},
                                                   {"GB", 1e9},
                                                   {"TB", 1e12}}};
  double number = 0;
  double value = 0;
  std::string_view unit;
  if (split_unit(text, number, unit)) {
    if (scaled(number, unit, kUnits, 0x1p63, value)) {
      const bool scaled_up = !unit.empty() && !equal_ignoring_case(unit, "B");
      if (scaled_up) return static_cast<std::uint64_t>(value);
      // Plain bytes: exact beyond 2^53, and no fractions.
      const std::string_view digits = trimmed(text);
      MILLRACE_ASSIGN(
          const std::int64_t bytes,
          parse_integer(digits.substr(0, digits.find_last_of("0123456789") + 1), what, 0));
      return static_cast<std::uint64_t>(bytes);
    }
  }
  return invalid(what, "a size such as 4096, 64MiB or 1.5GiB", text);
}

}  // namespace millrace
