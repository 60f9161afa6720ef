#include "server/metrics_page.h"

#include <charconv>

namespace millrace::server {
namespace {

void append_escaped(std::string& out, std::string_view text) {
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
}

}  // namespace

Labels with(Labels labels, std::string_view name, std::string value) {
  labels.emplace_back(name, std::move(value));
  return labels;
}

void MetricsPage::family(std::string_view name, std::string_view type, std::string_view help) {
  name_ = name;
  out_ += concat("# HELP ", name, ' ', help, "\n# TYPE ", name, ' ', type, '\n');
}

void MetricsPage::begin(std::string_view suffix, const Labels& labels) {
  out_ += name_;
  out_ += suffix;
  char between = '{';
  for (const auto& [name, value] : labels) {
    out_ += between;
    between = ',';
    out_ += name;
    out_ += "=\"";
    append_escaped(out_, value);
    out_ += '"';
  }
  if (!labels.empty()) out_ += '}';
  out_ += ' ';
}

// As many digits as it takes to read the same number back: totals grow.
void MetricsPage::append(double value) {
  char digits[32];
  const std::to_chars_result end = std::to_chars(digits, digits + sizeof digits, value);
  out_.append(digits, end.ptr);
}

void MetricsPage::buckets(Labels labels, const Histogram& histogram,
                          std::span<const std::uint64_t> bounds, double unit) {
  std::vector<std::uint64_t> within(bounds.size());
  const std::vector<std::uint64_t>& counts = histogram.counts();
  for (std::size_t bucket = 0; bucket < counts.size(); ++bucket) {
    if (counts[bucket] == 0) continue;
    const std::uint64_t value = Histogram::value_of(bucket);
    for (std::size_t i = bounds.size(); i-- > 0 && value <= bounds[i];) within[i] += counts[bucket];
  }
  labels.emplace_back("le", "");
  for (std::size_t i = 0; i < bounds.size(); ++i) {
    labels.back().second = concat(static_cast<double>(bounds[i]) * unit);
    begin("_bucket", labels);
    append_text(out_, within[i]);
    out_ += '\n';
  }
  labels.back().second = "+Inf";
  begin("_bucket", labels);
  append_text(out_, histogram.count());
  labels.pop_back();
  out_ += '\n';
  begin("_sum", labels);
  append(histogram.mean() * static_cast<double>(histogram.count()) * unit);
  out_ += '\n';
  begin("_count", labels);
  append_text(out_, histogram.count());
  out_ += '\n';
}

}  // namespace millrace::server
