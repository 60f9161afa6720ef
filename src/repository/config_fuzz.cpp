// Arbitrary bytes as a model's configuration.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "repository/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace millrace;
  const Result<ModelFile> file =
      parse_model_config({reinterpret_cast<const char*>(data), size}, "fuzz/millrace.json");
  if (!file.ok()) {
    if (file.error().message.find("fuzz/millrace.json") != 0) std::abort();  // says where
    return 0;
  }
  const ModelConfig& config = file->config;
  if (config.name.empty() || config.slots < 1 || config.slots > 8 || config.lanes < 0 ||
      !(config.weight > 0))
    std::abort();
  return 0;
}
