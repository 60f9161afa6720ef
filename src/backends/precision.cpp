#include <millrace/build.h>

#include "base/text.h"

namespace millrace {
namespace {

constexpr std::string_view kNames[] = {"auto", "fp32", "tf32", "fp16",
                                       "bf16", "int8", "fp8",  "typed"};

}  // namespace

std::string_view to_string(Precision precision) noexcept {
  return kNames[static_cast<std::size_t>(precision)];
}

Result<Precision> parse_precision(std::string_view text) {
  for (std::size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == text) return static_cast<Precision>(i);
  }
  return Error{ErrorCode::invalid_argument,
               concat("precision: expected one of ", join(kNames, ", "), ", got ", quote(text))};
}

}  // namespace millrace
