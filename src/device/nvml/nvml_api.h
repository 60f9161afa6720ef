// The functions of NVML that we call, by NVML's own names without their prefix, and the layouts
// that they fill. Declared here so that no header is needed to build, and so that tests can stand
// in for the library.
#pragma once

#include <string>
#include <vector>

#include <millrace/error.h>

namespace millrace {

struct NvmlDeviceHandle;  // never defined: NVML's
using NvmlDevice = NvmlDeviceHandle*;

struct NvmlMemory {
  unsigned long long total = 0;
  unsigned long long free = 0;
  unsigned long long used = 0;
};

struct NvmlUtilization {
  unsigned gpu = 0;  // percent of the last sampling period in which a kernel ran
  unsigned memory = 0;
};

struct NvmlPci {
  char bus_id_legacy[16] = {};
  unsigned domain = 0;
  unsigned bus = 0;
  unsigned device = 0;
  unsigned pci_device_id = 0;
  unsigned pci_subsystem_id = 0;
  char bus_id[32] = {};  // "00000000:1B:00.0"
};

// What the functions return, as far as we tell it apart.
inline constexpr int kNvmlSuccess = 0;
inline constexpr int kNvmlInvalidArgument = 2;
inline constexpr int kNvmlNotSupported = 3;
inline constexpr int kNvmlNoPermission = 4;
inline constexpr int kNvmlNotFound = 6;
inline constexpr int kNvmlDriverNotLoaded = 9;
inline constexpr int kNvmlFunctionNotFound = 13;
inline constexpr int kNvmlGpuIsLost = 15;
inline constexpr int kNvmlVersionMismatch = 18;

// Numbers that they take.
inline constexpr int kNvmlClockSm = 1;
inline constexpr int kNvmlClockMemory = 2;
inline constexpr int kNvmlPeerRead = 0;
inline constexpr int kNvmlPeerWrite = 1;
inline constexpr int kNvmlPeerNvlink = 2;
inline constexpr unsigned kNvmlMostLinks = 18;
// The kind of device at the other end of a link.
inline constexpr int kNvmlLinkToGpu = 0;
inline constexpr int kNvmlLinkToUnknown = 255;

/// Null for what a library does not have.
struct NvmlFunctions {
  int (*Init)() = nullptr;
  int (*Shutdown)() = nullptr;
  const char* (*ErrorString)(int) = nullptr;
  int (*SystemGetDriverVersion)(char*, unsigned) = nullptr;
  int (*SystemGetNVMLVersion)(char*, unsigned) = nullptr;
  int (*SystemGetCudaDriverVersion)(int*) = nullptr;
  int (*DeviceGetCount)(unsigned*) = nullptr;
  int (*DeviceGetHandleByIndex)(unsigned, NvmlDevice*) = nullptr;
  int (*DeviceGetName)(NvmlDevice, char*, unsigned) = nullptr;
  int (*DeviceGetUUID)(NvmlDevice, char*, unsigned) = nullptr;
  int (*DeviceGetPciInfo)(NvmlDevice, NvmlPci*) = nullptr;
  int (*DeviceGetCudaComputeCapability)(NvmlDevice, int*, int*) = nullptr;
  int (*DeviceGetMemoryInfo)(NvmlDevice, NvmlMemory*) = nullptr;
  int (*DeviceGetCurrPcieLinkGeneration)(NvmlDevice, unsigned*) = nullptr;
  int (*DeviceGetMaxPcieLinkGeneration)(NvmlDevice, unsigned*) = nullptr;
  int (*DeviceGetCurrPcieLinkWidth)(NvmlDevice, unsigned*) = nullptr;
  int (*DeviceGetMaxPcieLinkWidth)(NvmlDevice, unsigned*) = nullptr;
  int (*DeviceGetClockInfo)(NvmlDevice, int, unsigned*) = nullptr;
  int (*DeviceGetMaxClockInfo)(NvmlDevice, int, unsigned*) = nullptr;
  int (*DeviceGetCurrentClocksEventReasons)(NvmlDevice, unsigned long long*) = nullptr;
  int (*DeviceGetEccMode)(NvmlDevice, int*, int*) = nullptr;
  int (*DeviceGetMigMode)(NvmlDevice, unsigned*, unsigned*) = nullptr;
  int (*DeviceGetMaxMigDeviceCount)(NvmlDevice, unsigned*) = nullptr;
  int (*DeviceGetMigDeviceHandleByIndex)(NvmlDevice, unsigned, NvmlDevice*) = nullptr;
  int (*DeviceGetGpuInstanceId)(NvmlDevice, unsigned*) = nullptr;
  int (*DeviceGetComputeInstanceId)(NvmlDevice, unsigned*) = nullptr;
  int (*DeviceGetNvLinkState)(NvmlDevice, unsigned, int*) = nullptr;
  int (*DeviceGetNvLinkRemoteDeviceType)(NvmlDevice, unsigned, int*) = nullptr;
  int (*DeviceGetNvLinkRemotePciInfo)(NvmlDevice, unsigned, NvmlPci*) = nullptr;
  int (*DeviceGetUtilizationRates)(NvmlDevice, NvmlUtilization*) = nullptr;
  int (*DeviceGetPowerUsage)(NvmlDevice, unsigned*) = nullptr;                        // milliwatts
  int (*DeviceGetEnforcedPowerLimit)(NvmlDevice, unsigned*) = nullptr;                // milliwatts
  int (*DeviceGetTotalEnergyConsumption)(NvmlDevice, unsigned long long*) = nullptr;  // millijoules
  int (*DeviceGetP2PStatus)(NvmlDevice, NvmlDevice, int, int*) = nullptr;
};

/// NVML, initialized. Closed on destruction.
class NvmlLibrary {
 public:
  /// Errors: unavailable, when `file` is not there or does not start, with the reason.
  [[nodiscard]] static Result<NvmlLibrary> open(const std::string& file = "libnvidia-ml.so.1");
  NvmlLibrary(NvmlLibrary&& other) noexcept;
  NvmlLibrary& operator=(NvmlLibrary&&) = delete;
  ~NvmlLibrary();
  [[nodiscard]] const NvmlFunctions& functions() const noexcept { return functions_; }

 private:
  explicit NvmlLibrary(void* handle) : handle_(handle) {}

  void* handle_ = nullptr;
  NvmlFunctions functions_;
};

/// What a function returned, in words: "not supported".
[[nodiscard]] std::string nvml_words(const NvmlFunctions& nvml, int status);

}  // namespace millrace
