#include "cli/print.h"

#include <langinfo.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace millrace::cli {
namespace {

// printf with a precision and a number.
std::string formatted(const char* format, int digits, double value) {
  char text[64];
  const int length = std::snprintf(text, sizeof text, format, digits, value);
  return std::string(text, static_cast<std::size_t>(std::clamp(length, 0, 63)));
}

// Three significant digits, in the largest unit that leaves at least 1.
template <std::size_t N>
std::string in_units(double value, const std::array<std::pair<double, const char*>, N>& units) {
  for (const auto& [scale, name] : units) {
    const double scaled = value / scale;
    if (scaled < 0.9995 && scale != units.back().first) continue;
    const int digits = scale == units.back().first && scaled == std::floor(scaled) ? 0
                       : scaled < 9.995                                            ? 2
                       : scaled < 99.95                                            ? 1
                                                                                   : 0;
    return format_fixed(scaled, digits) + " " + name;
  }
  return {};
}

}  // namespace

std::string format_bytes(std::uint64_t bytes) {
  constexpr std::array<std::pair<double, const char*>, 5> kUnits = {{{1099511627776.0, "TiB"},
                                                                     {1073741824.0, "GiB"},
                                                                     {1048576.0, "MiB"},
                                                                     {1024.0, "KiB"},
                                                                     {1.0, "B"}}};
  return in_units(static_cast<double>(bytes), kUnits);
}

std::string format_time(std::chrono::nanoseconds time) {
  constexpr std::array<std::pair<double, const char*>, 4> kUnits = {
      {{1e9, "s"}, {1e6, "ms"}, {1e3, "us"}, {1.0, "ns"}}};
  return in_units(static_cast<double>(time.count()), kUnits);
}

std::string format_count(std::uint64_t count) {
  std::string text = std::to_string(count);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, 1, ',');
  return text;
}

std::string format_fixed(double value, int digits) { return formatted("%.*f", digits, value); }

std::string format_percent(double share) { return format_fixed(share * 100, 1) + "%"; }

std::string format_rate(double per_second) {
  if (per_second >= 100) return format_count(static_cast<std::uint64_t>(std::llround(per_second)));
  return format_fixed(per_second, per_second >= 10 ? 1 : 2);
}

std::string format_value(double value) { return formatted("%.*g", 6, value); }

std::string printable(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return out;
}

std::string in_quotes(std::string_view text) { return "\"" + printable(text) + "\""; }

bool colours_on(std::FILE* stream) noexcept {
  const char* none = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  if (none && *none) return false;
  return isatty(fileno(stream)) != 0 && terminal && *terminal && std::strcmp(terminal, "dumb") != 0;
}

bool utf8_locale() noexcept { return std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0; }

std::string inked(Ink ink, std::string_view text) {
  constexpr std::array<std::string_view, 6> kCodes = {"", "1", "2", "32", "31", "36"};
  if (ink == Ink::plain || !colours_on(stdout)) return std::string(text);
  std::string out = "\033[";
  return out.append(kCodes[static_cast<std::size_t>(ink)])
      .append("m")
      .append(text)
      .append("\033[0m");
}

std::string bar(double share, int width) {
  const double clamped = share >= 0 ? std::min(share, 1.0) : 0.0;  // no number counts as none
  std::string out;
  int used = 0;
  if (utf8_locale()) {
    constexpr std::array<std::string_view, 8> kPart = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    const auto eighths = static_cast<int>(std::lround(clamped * width * 8));
    for (; used < eighths / 8; ++used) out += "█";
    const std::string_view part = kPart[static_cast<std::size_t>(eighths % 8)];
    if (!part.empty()) ++used;
    out += part;
  } else {
    used = static_cast<int>(std::lround(clamped * width));
    out.assign(static_cast<std::size_t>(used), '#');
  }
  return out.append(static_cast<std::size_t>(std::max(width - used, 0)), ' ');
}

std::size_t columns_of(std::string_view text) noexcept {
  std::size_t columns = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\033') {
      while (i < text.size() && text[i] != 'm') ++i;
    } else if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) {
      ++columns;
    }
  }
  return columns;
}

std::string padded(std::string_view text, std::size_t columns) {
  const std::size_t own = columns_of(text);
  return std::string(text).append(columns > own ? columns - own : 0, ' ');
}

std::string padded_left(std::string_view text, std::size_t columns) {
  const std::size_t own = columns_of(text);
  return std::string(columns > own ? columns - own : 0, ' ').append(text);
}

Table::Table(std::vector<std::string> header, std::vector<std::size_t> right)
    : right_(std::move(right)) {
  rows_.push_back(std::move(header));
}

void Table::add(std::vector<std::string> row) {
  row.resize(rows_.front().size());
  rows_.push_back(std::move(row));
}

std::string Table::text(std::size_t indent) const {
  std::vector<std::size_t> widths(rows_.front().size());
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], columns_of(row[i]));
  }
  std::string out;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line(indent, ' ');
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const bool right = std::find(right_.begin(), right_.end(), i) != right_.end();
      const std::string cell = r == 0 ? inked(Ink::dim, rows_[r][i]) : rows_[r][i];
      if (i > 0) line += "  ";
      line += right ? padded_left(cell, widths[i]) : padded(cell, widths[i]);
    }
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

namespace {

int failure = 0;  // the first error of writing to standard output

}  // namespace

void print(std::string_view text) {
  errno = 0;
  const bool whole = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!whole && failure == 0) failure = errno ? errno : EIO;
}

int flush_printed() {
  errno = 0;
  if (std::fflush(stdout) != 0 && failure == 0) failure = errno ? errno : EIO;
  if (std::ferror(stdout) != 0 && failure == 0) failure = EIO;
  return failure;
}

void print_json(const Json& json) {
  print(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void warn(std::string_view message) {
  std::fprintf(stderr, "millrace: warning: %.*s\n", static_cast<int>(message.size()),
               message.data());
}

Progress::Progress(std::string what, std::uint64_t total, std::string unit)
    : what_(std::move(what)),
      total_(total),
      unit_(std::move(unit)),
      on_(isatty(STDERR_FILENO) != 0),
      start_(Clock::now()) {}

std::string Progress::line(std::uint64_t done, double seconds) const {
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  std::string text = what_ + "  ";
  if (total_ > 0) {
    const double share = static_cast<double>(done) / static_cast<double>(total_);
    text += utf8_locale() ? bar(share, 24) : "[" + bar(share, 24) + "]";
    text += "  " + format_count(done) + "/" + format_count(total_) + " " + unit_;
  } else {
    text += format_count(done) + " " + unit_;
  }
  text += "  " + format_rate(rate) + " " + unit_ + "/s";
  if (total_ > done && rate > 0) {
    const auto left =
        static_cast<std::uint64_t>(std::llround(static_cast<double>(total_ - done) / rate));
    const std::string seconds_left = std::to_string(left % 60);
    text += "  " + std::to_string(left / 60) + ":" + (seconds_left.size() < 2 ? "0" : "") +
            seconds_left + " left";
  }
  return text;
}

void Progress::update(std::uint64_t done) {
  if (!on_) return;
  const TimePoint now = Clock::now();
  if (now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  shown_ = true;
  const std::string text = line(done, std::chrono::duration<double>(now - start_).count());
  std::fprintf(stderr, "\r%s\033[K", text.c_str());
  std::fflush(stderr);
}

void Progress::clear() {
  if (!shown_) return;
  shown_ = false;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
}

Json latency_json(const Histogram& nanoseconds) {
  const auto micros = [](double ns) { return std::round(ns) / 1000; };
  const auto quantile = [&](double q) {
    return micros(static_cast<double>(nanoseconds.quantile(q)));
  };
  return {{"mean", micros(nanoseconds.mean())},
          {"p50", quantile(0.5)},
          {"p90", quantile(0.9)},
          {"p99", quantile(0.99)},
          {"p99_9", quantile(0.999)},
          {"max", micros(static_cast<double>(nanoseconds.max()))}};
}

ModelStatistics difference(const ModelStatistics& later, const ModelStatistics& earlier) {
  ModelStatistics out = later;
  for (const auto field :
       {&ModelStatistics::requests, &ModelStatistics::succeeded, &ModelStatistics::failed,
        &ModelStatistics::rejected, &ModelStatistics::expired, &ModelStatistics::cancelled,
        &ModelStatistics::items, &ModelStatistics::batches, &ModelStatistics::prepared_batches,
        &ModelStatistics::bound_in_place}) {
    out.*field -= earlier.*field;
  }
  for (std::size_t i = 0; i < kEagerReasons; ++i) out.eager_batches[i] -= earlier.eager_batches[i];
  out.device_time -= earlier.device_time;
  for (std::size_t i = 0; i < kPhases; ++i) out.phases[i].subtract(earlier.phases[i]);
  out.batch_items.subtract(earlier.batch_items);
  for (std::size_t i = 0; i < std::min(out.devices.size(), earlier.devices.size()); ++i) {
    DeviceStatistics& device = out.devices[i];
    for (const auto field : {&DeviceStatistics::requests, &DeviceStatistics::items,
                             &DeviceStatistics::batches, &DeviceStatistics::moved_requests}) {
      device.*field -= earlier.devices[i].*field;
    }
    device.device_time -= earlier.devices[i].device_time;
    device.total.subtract(earlier.devices[i].total);
  }
  return out;
}

}  // namespace millrace::cli
