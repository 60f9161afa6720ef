// Counts GPUs through the CUDA runtime, which is linked in and needs no driver to say that there is
// none.
#include "device/cuda/cuda_count.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <string>

#include <cuda_runtime_api.h>

#include "base/text.h"
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

std::string why_none(cudaError_t status, int driver) {
  if (driver == 0) return "no driver: libcuda.so.1 was not found or cannot be used";
  if (status == cudaErrorInsufficientDriver) {
    return concat("the driver supports CUDA ", cuda_version(driver), "; this build needs ",
                  cuda_version(CUDART_VERSION), " or a newer driver");
  }
  std::string why = "the driver finds none";
  if (status != cudaSuccess && status != cudaErrorNoDevice) {
    why = concat("the driver says: ", cudaGetErrorString(status));
  }
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) {
    why += concat(" with CUDA_VISIBLE_DEVICES=", quote(visible));
  }
  return why;
}

std::string uuid_text(const cudaUUID_t& uuid) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "GPU";
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

CudaStatus cuda_status() {
  CudaStatus status;
  status.runtime_version = cuda_version(CUDART_VERSION);
  int driver = 0;
  cudaDriverGetVersion(&driver);
  int gpus = 0;
  const cudaError_t counted = cudaGetDeviceCount(&gpus);
  cudaGetLastError();  // leaves no error behind
  if (counted == cudaSuccess) status.visible_gpus = gpus;
  if (driver != 0) {
    const std::string release = driver_release(first_line(kDriverFile));
    status.driver_version = release.empty() ? concat("CUDA ", cuda_version(driver))
                                            : concat(release, " (CUDA ", cuda_version(driver), ")");
  }
  if (status.visible_gpus == 0) status.reason = why_none(counted, driver);
  return status;
}

std::vector<GpuIdentity> visible_gpus() {
  std::vector<GpuIdentity> gpus;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    GpuIdentity gpu;
    if (cudaGetDeviceProperties(&properties, i) == cudaSuccess) {
      gpu.uuid = uuid_text(properties.uuid);
      gpu.name = properties.name;
    }
    gpus.push_back(std::move(gpu));
  }
  cudaGetLastError();
  return gpus;
}

}  // namespace millrace
