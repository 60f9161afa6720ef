// The TensorRT backend in a build without it.
#include <millrace/build.h>

#include "backends/tensorrt/tensorrt.h"

#if !MILLRACE_WITH_TENSORRT

namespace millrace {
namespace {

Error built_without() {
  return {ErrorCode::unsupported, "this program was built without TensorRT"};
}

}  // namespace

namespace tensorrt {

Backend backend() noexcept {
  return {"tensorrt",
          [] {
            return BackendInfo{"tensorrt", false, "", built_without().message};
          },
          [](const ModelSpec&, DeviceRef) {
            return Support{false, built_without().message};
          },
          [](const ModelSpec&, DeviceRef, MemoryLedger&) -> Result<std::unique_ptr<Plan>> {
            return built_without();
          }};
}

}  // namespace tensorrt

Result<BuildReport> build_engine(const BuildOptions&, const std::string&) {
  return built_without();
}
std::string engine_cache_folder() { return {}; }
Result<std::vector<CachedEngine>> list_engine_cache() { return built_without(); }
Result<int> clear_engine_cache() { return built_without(); }

}  // namespace millrace

#endif
