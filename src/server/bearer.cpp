#include "server/bearer.h"

#include "base/text.h"

namespace millrace::server {
namespace {

bool same_secret(std::string_view a, std::string_view b) noexcept {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^
                  static_cast<unsigned char>(b.empty() ? '\0' : b[i % b.size()]);
  }
  return difference == 0;
}

bool among(std::string_view token, const std::vector<std::string>& tokens) noexcept {
  bool found = false;
  for (const std::string& known : tokens) found |= same_secret(token, known);
  return found;
}

}  // namespace

Admission admission(std::string_view authorization, bool control,
                    const std::vector<std::string>& tokens,
                    const std::vector<std::string>& control_tokens) noexcept {
  const bool for_control = control && !control_tokens.empty();
  if (!for_control && tokens.empty()) return Admission::admitted;
  constexpr std::string_view kBearer = "Bearer ";
  if (authorization.size() <= kBearer.size() ||
      !equal_ignoring_case(authorization.substr(0, kBearer.size()), kBearer)) {
    return Admission::unknown;
  }
  const std::string_view token = trimmed(authorization.substr(kBearer.size()));
  if (among(token, control_tokens)) return Admission::admitted;
  if (!among(token, tokens)) return Admission::unknown;
  return for_control ? Admission::not_allowed : Admission::admitted;
}

}  // namespace millrace::server
