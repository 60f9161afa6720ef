#include <dlfcn.h>

#include <utility>

#include "base/text.h"
#include "device/nvml/nvml_api.h"

namespace millrace {
namespace {

template <class Function>
void find(void* library, Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(library, name));
}

NvmlFunctions functions_of(void* library) {
  NvmlFunctions f;
  find(library, f.Init, "nvmlInit_v2");
  find(library, f.Shutdown, "nvmlShutdown");
  find(library, f.ErrorString, "nvmlErrorString");
  find(library, f.SystemGetDriverVersion, "nvmlSystemGetDriverVersion");
  find(library, f.SystemGetNVMLVersion, "nvmlSystemGetNVMLVersion");
  find(library, f.SystemGetCudaDriverVersion, "nvmlSystemGetCudaDriverVersion_v2");
  find(library, f.DeviceGetCount, "nvmlDeviceGetCount_v2");
  find(library, f.DeviceGetHandleByIndex, "nvmlDeviceGetHandleByIndex_v2");
  find(library, f.DeviceGetName, "nvmlDeviceGetName");
  find(library, f.DeviceGetUUID, "nvmlDeviceGetUUID");
  find(library, f.DeviceGetPciInfo, "nvmlDeviceGetPciInfo_v3");
  find(library, f.DeviceGetCudaComputeCapability, "nvmlDeviceGetCudaComputeCapability");
  find(library, f.DeviceGetMemoryInfo, "nvmlDeviceGetMemoryInfo");
  find(library, f.DeviceGetCurrPcieLinkGeneration, "nvmlDeviceGetCurrPcieLinkGeneration");
  find(library, f.DeviceGetMaxPcieLinkGeneration, "nvmlDeviceGetMaxPcieLinkGeneration");
  find(library, f.DeviceGetCurrPcieLinkWidth, "nvmlDeviceGetCurrPcieLinkWidth");
  find(library, f.DeviceGetMaxPcieLinkWidth, "nvmlDeviceGetMaxPcieLinkWidth");
  find(library, f.DeviceGetClockInfo, "nvmlDeviceGetClockInfo");
  find(library, f.DeviceGetMaxClockInfo, "nvmlDeviceGetMaxClockInfo");
  find(library, f.DeviceGetCurrentClocksEventReasons, "nvmlDeviceGetCurrentClocksEventReasons");
  if (!f.DeviceGetCurrentClocksEventReasons) {  // its name before driver 535
    find(library, f.DeviceGetCurrentClocksEventReasons,
         "nvmlDeviceGetCurrentClocksThrottleReasons");
  }
  find(library, f.DeviceGetEccMode, "nvmlDeviceGetEccMode");
  find(library, f.DeviceGetMigMode, "nvmlDeviceGetMigMode");
  find(library, f.DeviceGetMaxMigDeviceCount, "nvmlDeviceGetMaxMigDeviceCount");
  find(library, f.DeviceGetMigDeviceHandleByIndex, "nvmlDeviceGetMigDeviceHandleByIndex");
  find(library, f.DeviceGetGpuInstanceId, "nvmlDeviceGetGpuInstanceId");
  find(library, f.DeviceGetComputeInstanceId, "nvmlDeviceGetComputeInstanceId");
  find(library, f.DeviceGetNvLinkState, "nvmlDeviceGetNvLinkState");
  find(library, f.DeviceGetNvLinkRemoteDeviceType, "nvmlDeviceGetNvLinkRemoteDeviceType");
  find(library, f.DeviceGetNvLinkRemotePciInfo, "nvmlDeviceGetNvLinkRemotePciInfo_v2");
  find(library, f.DeviceGetUtilizationRates, "nvmlDeviceGetUtilizationRates");
  find(library, f.DeviceGetPowerUsage, "nvmlDeviceGetPowerUsage");
  find(library, f.DeviceGetEnforcedPowerLimit, "nvmlDeviceGetEnforcedPowerLimit");
  find(library, f.DeviceGetTotalEnergyConsumption, "nvmlDeviceGetTotalEnergyConsumption");
  find(library, f.DeviceGetP2PStatus, "nvmlDeviceGetP2PStatus");
  return f;
}

}  // namespace

std::string nvml_words(const NvmlFunctions& nvml, int status) {
  switch (status) {
    case kNvmlNotSupported:
      return "not supported";
    case kNvmlNoPermission:
      return "no permission";
    case kNvmlFunctionNotFound:
      return "not known to this driver";
    case kNvmlGpuIsLost:
      return "the GPU is lost";
    case kNvmlDriverNotLoaded:
      return "the driver's kernel module is not loaded";
    case kNvmlVersionMismatch:
      return "the driver's library and its kernel module are of different versions; "
             "restart the machine after an update of the driver";
    default:
      break;
  }
  const char* words = nvml.ErrorString ? nvml.ErrorString(status) : nullptr;
  return words ? concat(words, " (NVML error ", status, ")") : concat("NVML error ", status);
}

Result<NvmlLibrary> NvmlLibrary::open(const std::string& file) {
  void* const handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* why = dlerror();
    return Error{ErrorCode::unavailable,
                 concat("NVML was not found: ", why ? why : file,
                        "; it comes with the driver (in a container: with the \"utility\" "
                        "capability of the NVIDIA runtime)")};
  }
  NvmlLibrary library(handle);
  library.functions_ = functions_of(handle);
  const int status = library.functions_.Init ? library.functions_.Init() : kNvmlFunctionNotFound;
  if (status != kNvmlSuccess) {
    Error error{ErrorCode::unavailable,
                concat("NVML did not start: ", nvml_words(library.functions_, status))};
    library.functions_.Shutdown = nullptr;
    return error;
  }
  return library;
}

NvmlLibrary::NvmlLibrary(NvmlLibrary&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), functions_(other.functions_) {}

NvmlLibrary::~NvmlLibrary() {
  if (!handle_) return;
  if (functions_.Shutdown) functions_.Shutdown();
  dlclose(handle_);
}

}  // namespace millrace
