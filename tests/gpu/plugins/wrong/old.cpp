// Plug-ins of the interface that IPluginV3 replaced, by the function that their libraries have.
#include <cstdint>

// NOLINTBEGIN(readability-identifier-naming): TensorRT's name
extern "C" {
[[gnu::visibility("default")]] void* const* getPluginCreators(std::int32_t& count);
}
void* const* getPluginCreators(std::int32_t& count) {
  count = 0;
  return nullptr;
}
// NOLINTEND(readability-identifier-naming)
