// Who may do what, by the token that comes with a call.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace millrace::server {

enum class Admission : std::uint8_t {
  admitted,
  unknown,      // no token, or none that is known
  not_allowed,  // a known one, which does not open this
};

/// `authorization`: what came with the call, "Bearer TOKEN". `control`: it changes what is served,
/// or how. A control token opens everything; one of `tokens` all but control, and that too where
/// there are no control tokens. Where there are no tokens at all, all is open to everybody. Takes
/// the same time wherever two tokens differ.
[[nodiscard]] Admission admission(std::string_view authorization, bool control,
                                  const std::vector<std::string>& tokens,
                                  const std::vector<std::string>& control_tokens) noexcept;

}  // namespace millrace::server
