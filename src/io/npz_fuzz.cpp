// Arbitrary bytes as a .npz archive.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "io/npz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace millrace;
  const Result<std::vector<NamedArray>> arrays =
      parse_npz({reinterpret_cast<const char*>(data), size}, "fuzz.npz");
  if (!arrays.ok()) return 0;
  for (const NamedArray& array : *arrays) {
    if (!validate(array.view, array.name).ok()) std::abort();
  }
  return 0;
}
