// NVML as a table of its answers, for tests.
#pragma once

#include <array>
#include <initializer_list>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/text.h"
#include "device/nvml/nvml_api.h"

namespace millrace {

/// Plays a table: one line a call, "DeviceGetEccMode(0) = 1 1". GPUs are called by their index,
/// "0/2" is the MIG device in place 2 of GPU 0. "!3" is the status 3, "not supported", which is
/// also the answer to calls that the table does not have.
class Recording {
 public:
  explicit Recording(std::string_view table) {
    std::istringstream lines{std::string(table)};
    for (std::string line; std::getline(lines, line);) {
      const std::size_t equals = line.find(" = ");
      if (equals != std::string::npos) answers_[line.substr(0, equals)] = line.substr(equals + 3);
    }
    playing = this;
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  ~Recording() { playing = nullptr; }

  static NvmlFunctions functions();

 private:
  static std::string name_of(NvmlDevice device) {
    const auto number = reinterpret_cast<const char*>(device) - handles.data();
    return number < 100 ? std::to_string(number) : concat(number / 100 - 1, "/", number % 100);
  }
  static NvmlDevice device_of(const std::string& name) {
    std::istringstream words(name);
    std::size_t gpu = 0;
    std::size_t place = 0;
    char slash = 0;
    words >> gpu;
    const bool mig = static_cast<bool>(words >> slash >> place);
    return reinterpret_cast<NvmlDevice>(&handles.at(mig ? (gpu + 1) * 100 + place : gpu));
  }

  // The answer to "function(arguments)", or the status.
  template <class... Arguments>
  static int look_up(std::string& answer, const char* function, Arguments... arguments) {
    std::vector<std::string> names;
    [[maybe_unused]] const auto add = [&](auto argument) {
      if constexpr (std::is_same_v<decltype(argument), NvmlDevice>) {
        names.push_back(name_of(argument));
      } else {
        names.push_back(std::to_string(argument));
      }
    };
    (add(arguments), ...);
    const auto found = playing->answers_.find(concat(function, "(", join(names, ","), ")"));
    if (found == playing->answers_.end()) return kNvmlNotSupported;
    answer = found->second;
    return answer.starts_with('!') ? std::stoi(answer.substr(1)) : kNvmlSuccess;
  }
  template <class... Arguments>
  static int text(char* buffer, unsigned size, Arguments... arguments) {
    std::string answer;
    const int status = look_up(answer, arguments...);
    if (status == kNvmlSuccess) buffer[answer.copy(buffer, size - 1)] = '\0';
    return status;
  }
  template <class T, class... Arguments>
  static int numbers(std::initializer_list<T*> values, Arguments... arguments) {
    std::string answer;
    const int status = look_up(answer, arguments...);
    std::istringstream words(answer);
    for (T* value : values) words >> *value;
    return status;
  }
  template <class... Arguments>
  static int device(NvmlDevice* value, Arguments... arguments) {
    std::string answer;
    const int status = look_up(answer, arguments...);
    if (status == kNvmlSuccess) *value = device_of(answer);
    return status;
  }

  static inline const Recording* playing = nullptr;
  static inline std::array<char, 1000> handles{};  // the address of each is a handle
  std::map<std::string, std::string> answers_;
};

inline NvmlFunctions Recording::functions() {
  NvmlFunctions f;
  f.SystemGetDriverVersion = [](char* b, unsigned n) {
    return text(b, n, "SystemGetDriverVersion");
  };
  f.SystemGetNVMLVersion = [](char* b, unsigned n) { return text(b, n, "SystemGetNVMLVersion"); };
  f.SystemGetCudaDriverVersion = [](int* v) { return numbers({v}, "SystemGetCudaDriverVersion"); };
  f.DeviceGetCount = [](unsigned* v) { return numbers({v}, "DeviceGetCount"); };
  f.DeviceGetHandleByIndex = [](unsigned i, NvmlDevice* d) {
    return device(d, "DeviceGetHandleByIndex", i);
  };
  f.DeviceGetName = [](NvmlDevice d, char* b, unsigned n) {
    return text(b, n, "DeviceGetName", d);
  };
  f.DeviceGetUUID = [](NvmlDevice d, char* b, unsigned n) {
    return text(b, n, "DeviceGetUUID", d);
  };
  f.DeviceGetPciInfo = [](NvmlDevice d, NvmlPci* pci) {
    return text(pci->bus_id, sizeof pci->bus_id, "DeviceGetPciInfo", d);
  };
  f.DeviceGetCudaComputeCapability = [](NvmlDevice d, int* a, int* b) {
    return numbers({a, b}, "DeviceGetCudaComputeCapability", d);
  };
  f.DeviceGetMemoryInfo = [](NvmlDevice d, NvmlMemory* m) {
    return numbers({&m->total, &m->free, &m->used}, "DeviceGetMemoryInfo", d);
  };
  f.DeviceGetCurrPcieLinkGeneration = [](NvmlDevice d, unsigned* v) {
    return numbers({v}, "DeviceGetCurrPcieLinkGeneration", d);
  };
  f.DeviceGetMaxPcieLinkGeneration = [](NvmlDevice d, unsigned* v) {
    return numbers({v}, "DeviceGetMaxPcieLinkGeneration", d);
  };
  f.DeviceGetCurrPcieLinkWidth = [](NvmlDevice d, unsigned* v) {
    return numbers({v}, "DeviceGetCurrPcieLinkWidth", d);
  };
  f.DeviceGetMaxPcieLinkWidth = [](NvmlDevice d, unsigned* v) {
    return numbers({v}, "DeviceGetMaxPcieLinkWidth", d);
  };
  f.DeviceGetClockInfo = [](NvmlDevice d, int kind, unsigned* v) {
    return numbers({v}, "DeviceGetClockInfo", d, kind);
  };
  f.DeviceGetMaxClockInfo = [](NvmlDevice d, int kind, unsigned* v) {
    return numbers({v}, "DeviceGetMaxClockInfo", d, kind);
  };
  f.DeviceGetCurrentClocksEventReasons = [](NvmlDevice d, unsigned long long* v) {
    return numbers({v}, "DeviceGetCurrentClocksEventReasons", d);
  };
  f.DeviceGetEccMode = [](NvmlDevice d, int* a, int* b) {
    return numbers({a, b}, "DeviceGetEccMode", d);
  };
  f.DeviceGetMigMode = [](NvmlDevice d, unsigned* a, unsigned* b) {
    return numbers({a, b}, "DeviceGetMigMode", d);
  };
  f.DeviceGetMaxMigDeviceCount = [](NvmlDevice d, unsigned* v) {
    return numbers({v}, "DeviceGetMaxMigDeviceCount", d);
  };
  f.DeviceGetMigDeviceHandleByIndex = [](NvmlDevice d, unsigned i, NvmlDevice* v) {
    return device(v, "DeviceGetMigDeviceHandleByIndex", d, i);
  };
  f.DeviceGetGpuInstanceId = [](NvmlDevice d, unsigned* v) {
    return numbers({v}, "DeviceGetGpuInstanceId", d);
  };
  f.DeviceGetComputeInstanceId = [](NvmlDevice d, unsigned* v) {
    return numbers({v}, "DeviceGetComputeInstanceId", d);
  };
  f.DeviceGetNvLinkState = [](NvmlDevice d, unsigned i, int* v) {
    return numbers({v}, "DeviceGetNvLinkState", d, i);
  };
  f.DeviceGetNvLinkRemoteDeviceType = [](NvmlDevice d, unsigned i, int* v) {
    return numbers({v}, "DeviceGetNvLinkRemoteDeviceType", d, i);
  };
  f.DeviceGetNvLinkRemotePciInfo = [](NvmlDevice d, unsigned i, NvmlPci* pci) {
    return text(pci->bus_id, sizeof pci->bus_id, "DeviceGetNvLinkRemotePciInfo", d, i);
  };
  f.DeviceGetUtilizationRates = [](NvmlDevice d, NvmlUtilization* u) {
    return numbers({&u->gpu, &u->memory}, "DeviceGetUtilizationRates", d);
  };
  f.DeviceGetPowerUsage = [](NvmlDevice d, unsigned* v) {
    return numbers({v}, "DeviceGetPowerUsage", d);
  };
  f.DeviceGetEnforcedPowerLimit = [](NvmlDevice d, unsigned* v) {
    return numbers({v}, "DeviceGetEnforcedPowerLimit", d);
  };
  f.DeviceGetTotalEnergyConsumption = [](NvmlDevice d, unsigned long long* v) {
    return numbers({v}, "DeviceGetTotalEnergyConsumption", d);
  };
  f.DeviceGetP2PStatus = [](NvmlDevice a, NvmlDevice b, int what, int* v) {
    return numbers({v}, "DeviceGetP2PStatus", a, b, what);
  };
  return f;
}

}  // namespace millrace
