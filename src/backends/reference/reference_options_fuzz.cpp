// Arbitrary text as a reference model's name and as its description: accepted within the documented
// ranges, or refused with a message.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "backends/reference/compute.h"
#include "backends/reference/options.h"

namespace {

void check(const millrace::Result<millrace::reference::Options>& result) {
  if (!result.ok()) {
    if (result.error().message.empty()) std::abort();
    return;
  }
  const millrace::reference::Options& options = *result;
  if (options.lanes < 1 || options.inputs < 1 || options.max_items < 0) std::abort();
  if (options.batch_time.count() < 0 || options.types.empty()) std::abort();
  if (millrace::reference::inputs_of(options).empty()) std::abort();
  if (millrace::reference::outputs_of(options).empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check(millrace::reference::parse_options(text));
  check(millrace::reference::parse_json_options(text));
  return 0;
}
