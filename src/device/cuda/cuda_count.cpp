// Counts GPUs through the CUDA runtime, which is linked in and needs no driver to say that there is
// none.
#include "device/cuda/cuda_count.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "base/text.h"
#include "device/numa.h"
#include "device/select_devices.h"

namespace millrace {
namespace {

constexpr const char* kDriverFile = "/proc/driver/nvidia/version";

// 13020 is 13.2.
std::string cuda_version(int version) { return concat(version / 1000, ".", version % 1000 / 10); }

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// By the driver API's second version: of a MIG instance its own, where the first has its GPU's.
using UuidOf = CUresult (*)(CUuuid*, CUdevice);

UuidOf find_uuid_of() {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion("cuDeviceGetUuid", &entry, 11040, cudaEnableDefault, &found);
  const bool there = status == cudaSuccess && found == cudaDriverEntryPointSuccess;
  return there ? reinterpret_cast<UuidOf>(entry) : nullptr;
}

std::string uuid_text(std::string_view start, const CUuuid& uuid) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text(start);
  for (int i = 0; i < 16; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    const auto byte = static_cast<unsigned char>(uuid.bytes[i]);
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

std::string driver_release(std::string_view line) {
  while (!line.empty()) {
    const std::string_view word = line.substr(0, std::min(line.find(' '), line.size()));
    const bool number =
        std::ranges::all_of(word, [](char c) { return c == '.' || (c >= '0' && c <= '9'); });
    if (number && word.find('.') != std::string_view::npos) return std::string(word);
    line.remove_prefix(std::min(word.size() + 1, line.size()));
  }
  return {};
}

std::string why_no_gpus(const CudaCount& count) {
  if (count.driver == 0) {
    return "no driver: libcuda.so.1 was not found or cannot be used; install NVIDIA's driver, or "
           "start the container with its GPUs";
  }
  const int major = count.runtime / 1000;
  if (count.status == cudaErrorInsufficientDriver || count.driver / 1000 < major) {
    return concat("the driver", count.release.empty() ? "" : " ", count.release, " supports CUDA ",
                  cuda_version(count.driver), "; this build has CUDA ", cuda_version(count.runtime),
                  ": install a driver for CUDA ", major,
                  " or newer (\"nvidia-smi\" shows what one supports)");
  }
  std::string why;
  switch (count.status) {
    case cudaSuccess:
    case cudaErrorNoDevice:
      why = "the driver finds none";
      break;
    case cudaErrorSystemNotReady:
      why = "the machine's GPU service is not ready: start nvidia-fabricmanager";
      break;
    case cudaErrorSystemDriverMismatch:
      why =
          "libcuda.so.1 and the kernel's driver are of different releases: restart the machine "
          "after an update of the driver, or mend what the container brings along";
      break;
    default:
      why = concat("the driver says: ", cudaGetErrorString(count.status));
  }
  if (count.visible) {
    why += concat(" with CUDA_VISIBLE_DEVICES=", quote(count.visible),
                  "; what comes after the first entry that names no GPU is hidden too");
  }
  return why;
}

CudaStatus cuda_status() {
  CudaStatus status;
  status.runtime_version = cuda_version(CUDART_VERSION);
  CudaCount count;
  cudaDriverGetVersion(&count.driver);
  int gpus = 0;
  count.status = cudaGetDeviceCount(&gpus);
  cudaGetLastError();  // leaves no error behind
  if (count.status == cudaSuccess) status.visible_gpus = gpus;
  if (count.driver != 0) {
    count.release = driver_release(first_line(kDriverFile));
    const std::string version = concat("CUDA ", cuda_version(count.driver));
    status.driver_version =
        count.release.empty() ? version : concat(count.release, " (", version, ")");
  }
  count.visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (status.visible_gpus == 0) status.reason = why_no_gpus(count);
  return status;
}

std::vector<GpuIdentity> visible_gpus() {
  std::vector<GpuIdentity> gpus;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  const UuidOf uuid_of = count > 0 ? find_uuid_of() : nullptr;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    GpuIdentity gpu;
    if (cudaGetDeviceProperties(&properties, i) == cudaSuccess) {
      gpu.name = properties.name;
      const bool mig = gpu.name.find(" MIG ") != std::string::npos;
      CUuuid uuid = properties.uuid;
      if (uuid_of) uuid_of(&uuid, i);
      gpu.uuid = uuid_text(mig ? "MIG" : "GPU", uuid);
    }
    char bus_id[32] = {};
    if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, i) == cudaSuccess) {
      gpu.pci_bus_id = sysfs_pci_bus_id(bus_id);
    }
    gpus.push_back(std::move(gpu));
  }
  cudaGetLastError();
  return gpus;
}

}  // namespace millrace
