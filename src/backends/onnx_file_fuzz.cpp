// Arbitrary bytes as an ONNX file: read without harm, and to the same result each time.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "backends/onnx_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view content(reinterpret_cast<const char*>(data), size);
  const auto summary = millrace::summarize_onnx(content);
  const auto again = millrace::summarize_onnx(content);
  if (summary.complete != again.complete || summary.weights_bytes != again.weights_bytes)
    std::abort();
  if (summary.complete && content.empty()) std::abort();
  (void)millrace::starts_like_onnx(content);
  return 0;
}
