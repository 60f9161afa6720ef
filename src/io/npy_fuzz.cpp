// Arbitrary bytes as a .npy file; what is read must be readable again once written.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "io/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace millrace;
  const Result<Tensor> tensor = parse_npy({reinterpret_cast<const char*>(data), size}, "fuzz.npy");
  if (!tensor.ok()) return 0;
  if (!validate(tensor->view(), "fuzz.npy").ok()) std::abort();
  NpyParts parts;
  if (!make_npy(tensor->view(), parts).ok()) return 0;  // a text that cannot be kept
  const Result<Tensor> again = parse_npy(parts.header + std::string(parts.data), "again.npy");
  if (!again.ok() || again->shape() != tensor->shape() || again->type() != tensor->type())
    std::abort();
  return 0;
}
