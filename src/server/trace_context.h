// The W3C's trace context: which trace a request belongs to, as headers carry it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace millrace::server {

/// A span of a trace. Neither number is all zeros.
struct TraceContext {
  std::uint64_t trace_high = 0;  // of the 128 bits that name the trace
  std::uint64_t trace_low = 0;
  std::uint64_t span = 0;
  bool sampled = false;

  friend bool operator==(const TraceContext&, const TraceContext&) = default;
};

/// Reads a traceparent header: "00-" and 32, 16 and 2 small hexadecimal digits with "-" between
/// them. Of versions to come the same part is read, of what follows nothing. Nullopt for anything
/// else, which is as if there were none.
[[nodiscard]] std::optional<TraceContext> parse_traceparent(std::string_view text) noexcept;

/// The header for it, of version 00.
[[nodiscard]] std::string to_traceparent(const TraceContext& context);

/// Digits in hexadecimal, 16 each.
void append_hex(std::string& out, std::uint64_t number);

/// A number that is not 0, and that no other call of this process answers.
[[nodiscard]] std::uint64_t new_trace_number();

}  // namespace millrace::server
