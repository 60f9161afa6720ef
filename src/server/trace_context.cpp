#include "server/trace_context.h"

#include <atomic>
#include <random>

namespace millrace::server {
namespace {

constexpr std::size_t kLength = 55;  // of version 00

std::optional<std::uint64_t> hex(std::string_view digits) noexcept {
  std::uint64_t value = 0;
  for (const char c : digits) {
    const bool letter = c >= 'a' && c <= 'f';
    if (!letter && (c < '0' || c > '9')) return std::nullopt;
    value = value << 4 | static_cast<std::uint64_t>(letter ? c - 'a' + 10 : c - '0');
  }
  return value;
}

std::uint64_t seed() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

}  // namespace

std::optional<TraceContext> parse_traceparent(std::string_view text) noexcept {
  if (text.size() < kLength || text[2] != '-' || text[35] != '-' || text[52] != '-') {
    return std::nullopt;
  }
  const auto version = hex(text.substr(0, 2));
  const auto high = hex(text.substr(3, 16));
  const auto low = hex(text.substr(19, 16));
  const auto span = hex(text.substr(36, 16));
  const auto flags = hex(text.substr(53, 2));
  if (!version || !high || !low || !span || !flags || *version == 0xFF) return std::nullopt;
  if (text.size() > kLength && (*version == 0 || text[kLength] != '-')) return std::nullopt;
  if ((*high == 0 && *low == 0) || *span == 0) return std::nullopt;
  return TraceContext{*high, *low, *span, (*flags & 1) != 0};
}

void append_hex(std::string& out, std::uint64_t number) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  for (int shift = 60; shift >= 0; shift -= 4) out += kDigits[number >> shift & 0xF];
}

std::string to_traceparent(const TraceContext& context) {
  std::string out = "00-";
  append_hex(out, context.trace_high);
  append_hex(out, context.trace_low);
  out += '-';
  append_hex(out, context.span);
  out += context.sampled ? "-01" : "-00";
  return out;
}

// A counter from a random start, mixed such that all of 64 bits come up once: the finalizer of
// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
std::uint64_t new_trace_number() {
  static std::atomic<std::uint64_t> next{seed()};
  constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15;
  std::uint64_t number = 0;
  while (number == 0) {
    number = next.fetch_add(kStep, std::memory_order_relaxed);
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9;
    number = (number ^ number >> 27) * 0x94D049BB133111EB;
    number ^= number >> 31;
  }
  return number;
}

}  // namespace millrace::server
