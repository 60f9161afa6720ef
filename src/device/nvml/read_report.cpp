#include "device/nvml/read_report.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/text.h"
#include "device/numa.h"

namespace millrace {
namespace {

// Calls of one library, whose refusals become words.
class Questions {
 public:
  explicit Questions(const NvmlFunctions& nvml) : nvml_(nvml) {}

  [[nodiscard]] const NvmlFunctions& functions() const { return nvml_; }

  template <class... Parameters, class... Arguments>
  [[nodiscard]] static int status(int (*function)(Parameters...), Arguments... arguments) {
    return function ? function(arguments...) : kNvmlFunctionNotFound;
  }

  // What `call(value)` fills in.
  template <class T, class Call>
  [[nodiscard]] GpuAnswer<T> ask(Call call) const {
    T value{};
    const int status = call(value);
    if (status == kNvmlSuccess) return {std::move(value), {}};
    return {std::nullopt, nvml_words(nvml_, status)};
  }

  [[nodiscard]] GpuAnswer<std::string> text(int (*function)(char*, unsigned)) const {
    return text_from([&](char* buffer, unsigned size) { return status(function, buffer, size); });
  }
  [[nodiscard]] GpuAnswer<std::string> text(int (*function)(NvmlDevice, char*, unsigned),
                                            NvmlDevice device) const {
    return text_from(
        [&](char* buffer, unsigned size) { return status(function, device, buffer, size); });
  }

  using NumberOf = int (*)(NvmlDevice, unsigned*);
  [[nodiscard]] GpuAnswer<unsigned> number(NumberOf function, NvmlDevice device) const {
    return ask<unsigned>([&](unsigned& value) { return status(function, device, &value); });
  }
  [[nodiscard]] GpuAnswer<GpuNowAndMost> pair(NumberOf now, NumberOf most,
                                              NvmlDevice device) const {
    return ask<GpuNowAndMost>([&](GpuNowAndMost& value) {
      const int found = status(now, device, &value.now);
      return found == kNvmlSuccess ? status(most, device, &value.most) : found;
    });
  }
  [[nodiscard]] GpuAnswer<GpuNowAndMost> clock(NvmlDevice device, int kind) const {
    return ask<GpuNowAndMost>([&](GpuNowAndMost& value) {
      const int found = status(nvml_.DeviceGetClockInfo, device, kind, &value.now);
      return found == kNvmlSuccess ? status(nvml_.DeviceGetMaxClockInfo, device, kind, &value.most)
                                   : found;
    });
  }

 private:
  template <class Call>
  [[nodiscard]] GpuAnswer<std::string> text_from(Call call) const {
    return ask<std::string>([&](std::string& value) {
      std::array<char, 96> buffer{};
      const int found = call(buffer.data(), unsigned{buffer.size()});
      buffer.back() = '\0';
      value = buffer.data();
      return found;
    });
  }

  const NvmlFunctions& nvml_;
};

std::string pci_name(const NvmlPci& pci) {
  const char* end = std::find(std::begin(pci.bus_id), std::end(pci.bus_id), '\0');
  return sysfs_pci_bus_id(std::string_view(pci.bus_id, static_cast<std::size_t>(end - pci.bus_id)));
}

struct Reason {
  unsigned long long bit;
  const char* words;
};

// That it idles slows nobody.
constexpr unsigned long long kIdle = 0x1;
constexpr Reason kReasons[] = {{0x2, "clocks set by the user"},
                               {0x4, "power limit"},
                               {0x8, "hardware slowdown"},
                               {0x10, "sync boost"},
                               {0x20, "temperature, by the driver"},
                               {0x40, "temperature, by the hardware"},
                               {0x80, "power brake"},
                               {0x100, "display clocks"}};

std::vector<std::string> reasons_in(unsigned long long bits) {
  std::vector<std::string> reasons;
  bits &= ~kIdle;
  for (const Reason& reason : kReasons) {
    if ((bits & reason.bit) != 0) reasons.emplace_back(reason.words);
    bits &= ~reason.bit;
  }
  if (bits != 0) reasons.push_back(concat("reason ", bits));
  return reasons;
}

GpuAnswer<GpuMemory> memory_of(const Questions& ask, NvmlDevice device) {
  return ask.ask<GpuMemory>([&](GpuMemory& value) {
    NvmlMemory memory;
    const int found = Questions::status(ask.functions().DeviceGetMemoryInfo, device, &memory);
    value = {memory.total, memory.free};
    return found;
  });
}

GpuAnswer<GpuMode> ecc_of(const Questions& ask, NvmlDevice device) {
  return ask.ask<GpuMode>([&](GpuMode& mode) {
    int now = 0;
    int pending = 0;
    const int found = Questions::status(ask.functions().DeviceGetEccMode, device, &now, &pending);
    mode = {now != 0, pending != 0};
    return found;
  });
}

GpuAnswer<GpuMode> mig_of(const Questions& ask, NvmlDevice device) {
  return ask.ask<GpuMode>([&](GpuMode& mode) {
    unsigned now = 0;
    unsigned pending = 0;
    const int found = Questions::status(ask.functions().DeviceGetMigMode, device, &now, &pending);
    mode = {now != 0, pending != 0};
    return found;
  });
}

// Places may be empty: what is left of instances that were destroyed.
std::vector<MigInstance> instances_of(const Questions& ask, NvmlDevice gpu) {
  const NvmlFunctions& nvml = ask.functions();
  std::vector<MigInstance> instances;
  const unsigned places = ask.number(nvml.DeviceGetMaxMigDeviceCount, gpu).value.value_or(0);
  for (unsigned i = 0; i < places; ++i) {
    NvmlDevice device = nullptr;
    const int found = Questions::status(nvml.DeviceGetMigDeviceHandleByIndex, gpu, i, &device);
    if (found != kNvmlSuccess) continue;
    MigInstance instance;
    instance.uuid = ask.text(nvml.DeviceGetUUID, device).value.value_or("");
    instance.name = ask.text(nvml.DeviceGetName, device);
    instance.memory = memory_of(ask, device);
    instance.gpu_instance = ask.number(nvml.DeviceGetGpuInstanceId, device);
    instance.compute_instance = ask.number(nvml.DeviceGetComputeInstanceId, device);
    instances.push_back(std::move(instance));
  }
  return instances;
}

GpuLink link_of(const Questions& ask, NvmlDevice device, unsigned number) {
  const NvmlFunctions& nvml = ask.functions();
  GpuLink link;
  link.number = number;
  int type = kNvmlLinkToUnknown;
  if (Questions::status(nvml.DeviceGetNvLinkRemoteDeviceType, device, number, &type) !=
          kNvmlSuccess ||
      type == kNvmlLinkToUnknown) {
    return link;
  }
  link.to = type == kNvmlLinkToGpu ? GpuLink::To::gpu : GpuLink::To::bridge;
  NvmlPci remote;
  if (link.to == GpuLink::To::gpu && Questions::status(nvml.DeviceGetNvLinkRemotePciInfo, device,
                                                       number, &remote) == kNvmlSuccess) {
    link.pci_bus_id = pci_name(remote);
  }
  return link;
}

// A GPU without links refuses the first; one with fewer than the most refuses those that it has
// not.
GpuAnswer<std::vector<GpuLink>> links_of(const Questions& ask, NvmlDevice device) {
  GpuAnswer<std::vector<GpuLink>> links{std::vector<GpuLink>(), {}};
  for (unsigned i = 0; i < kNvmlMostLinks; ++i) {
    int up = 0;
    const int found = Questions::status(ask.functions().DeviceGetNvLinkState, device, i, &up);
    if (found != kNvmlSuccess) {
      if (i == 0) return {std::nullopt, nvml_words(ask.functions(), found)};
      continue;
    }
    if (up != 0) links.value->push_back(link_of(ask, device, i));
  }
  return links;
}

GpuDetails details_of(const Questions& ask, NvmlDevice device, const std::string& sysfs) {
  const NvmlFunctions& nvml = ask.functions();
  GpuDetails gpu;
  gpu.uuid = ask.text(nvml.DeviceGetUUID, device).value.value_or("");
  NvmlPci pci;
  if (Questions::status(nvml.DeviceGetPciInfo, device, &pci) == kNvmlSuccess) {
    gpu.pci_bus_id = pci_name(pci);
    gpu.numa_node = numa_node_of(gpu.pci_bus_id, sysfs);
  }
  gpu.name = ask.text(nvml.DeviceGetName, device);
  gpu.compute_capability = ask.ask<std::string>([&](std::string& value) {
    int major = 0;
    int minor = 0;
    const int found =
        Questions::status(nvml.DeviceGetCudaComputeCapability, device, &major, &minor);
    value = concat(major, ".", minor);
    return found;
  });
  gpu.memory = memory_of(ask, device);
  gpu.pcie_generation =
      ask.pair(nvml.DeviceGetCurrPcieLinkGeneration, nvml.DeviceGetMaxPcieLinkGeneration, device);
  gpu.pcie_width =
      ask.pair(nvml.DeviceGetCurrPcieLinkWidth, nvml.DeviceGetMaxPcieLinkWidth, device);
  gpu.clock_mhz = ask.clock(device, kNvmlClockSm);
  gpu.memory_clock_mhz = ask.clock(device, kNvmlClockMemory);
  gpu.slowed_by = ask.ask<std::vector<std::string>>([&](std::vector<std::string>& reasons) {
    unsigned long long bits = 0;
    const int found = Questions::status(nvml.DeviceGetCurrentClocksEventReasons, device, &bits);
    reasons = reasons_in(bits);
    return found;
  });
  gpu.ecc = ecc_of(ask, device);
  gpu.mig = mig_of(ask, device);
  if (gpu.mig.value && gpu.mig.value->on) gpu.instances = instances_of(ask, device);
  gpu.links = links_of(ask, device);
  return gpu;
}

// The values of nvmlGpuP2PStatus_t.
std::string peer_refusal(int status) {
  constexpr const char* kWords[] = {"",
                                    "not by this chipset",
                                    "not by this GPU",
                                    "not across these I/O hubs",
                                    "disabled by a setting of the driver",
                                    "not supported"};
  return status > 0 && status < static_cast<int>(std::size(kWords)) ? kWords[status] : "unknown";
}

int links_to_bridges(const GpuDetails& gpu) {
  if (!gpu.links.value) return 0;
  return static_cast<int>(std::ranges::count(*gpu.links.value, GpuLink::To::bridge, &GpuLink::to));
}

int links_between(const GpuDetails& from, const GpuDetails& to) {
  if (!from.links.value) return 0;
  const auto direct = std::ranges::count_if(*from.links.value, [&](const GpuLink& link) {
    return !link.pci_bus_id.empty() && link.pci_bus_id == to.pci_bus_id;
  });
  return direct > 0 ? static_cast<int>(direct)
                    : std::min(links_to_bridges(from), links_to_bridges(to));
}

GpuPeer peer_of(const Questions& ask, std::pair<NvmlDevice, const GpuDetails&> from,
                std::pair<NvmlDevice, const GpuDetails&> to) {
  const auto answer = [&](int what, int& found) {
    return Questions::status(ask.functions().DeviceGetP2PStatus, from.first, to.first, what,
                             &found);
  };
  GpuPeer peer;
  for (const int what : {kNvmlPeerRead, kNvmlPeerWrite}) {
    int found = 0;
    const int status = answer(what, found);
    if (status != kNvmlSuccess) {
      peer.access = {std::nullopt, nvml_words(ask.functions(), status)};
      return peer;
    }
    if (found != 0) {
      peer.access = {false, peer_refusal(found)};
      return peer;
    }
  }
  peer.access.value = true;
  int nvlink = -1;
  if (answer(kNvmlPeerNvlink, nvlink) == kNvmlSuccess && nvlink == 0) {
    peer.nvlinks = links_between(from.second, to.second);
  }
  return peer;
}

}  // namespace

GpuReport read_gpu_report(const NvmlFunctions& nvml, const std::string& sysfs) {
  const Questions ask(nvml);
  GpuReport report;
  report.driver_version = ask.text(nvml.SystemGetDriverVersion);
  report.nvml_version = ask.text(nvml.SystemGetNVMLVersion);
  report.cuda_version = ask.ask<std::string>([&](std::string& value) {
    int version = 0;
    const int found = Questions::status(nvml.SystemGetCudaDriverVersion, &version);
    value = concat(version / 1000, ".", version % 1000 / 10);  // 13020 is 13.2
    return found;
  });
  unsigned count = 0;
  if (const int found = Questions::status(nvml.DeviceGetCount, &count); found != kNvmlSuccess) {
    report.unavailable = concat("NVML does not count GPUs: ", nvml_words(nvml, found));
    return report;
  }
  std::vector<NvmlDevice> handles;
  for (unsigned i = 0; i < count; ++i) {
    NvmlDevice device = nullptr;
    const int found = Questions::status(nvml.DeviceGetHandleByIndex, i, &device);
    GpuDetails gpu;
    if (found == kNvmlSuccess) {
      gpu = details_of(ask, device, sysfs);
    } else {
      gpu.name.refused = nvml_words(nvml, found);
    }
    gpu.nvml_index = i;
    report.gpus.push_back(std::move(gpu));
    handles.push_back(device);
  }
  report.peers.resize(count, std::vector<GpuPeer>(count));
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t j = 0; j < count; ++j) {
      if (i == j || !handles[i] || !handles[j]) continue;
      report.peers[i][j] = peer_of(ask, {handles[i], report.gpus[i]}, {handles[j], report.gpus[j]});
    }
  }
  return report;
}

void number_as_cuda(GpuReport& report, std::span<const GpuIdentity> visible) {
  const auto index_of = [&](const std::string& uuid, const std::string& pci_bus_id) {
    const auto same = std::ranges::find_if(visible, [&](const GpuIdentity& gpu) {
      if (!uuid.empty() && !gpu.uuid.empty()) return equal_ignoring_case(gpu.uuid, uuid);
      return !pci_bus_id.empty() && gpu.pci_bus_id == pci_bus_id;
    });
    return same == visible.end() ? -1 : static_cast<int>(same - visible.begin());
  };
  for (GpuDetails& gpu : report.gpus) {
    gpu.cuda_index = index_of(gpu.uuid, gpu.pci_bus_id);
    for (MigInstance& instance : gpu.instances) instance.cuda_index = index_of(instance.uuid, "");
  }
}

GpuReport nvml_report() {
  const Result<NvmlLibrary> library = NvmlLibrary::open();
  if (library.ok()) return read_gpu_report(library->functions());
  GpuReport report;
  report.unavailable = library.error().message;
  return report;
}

GpuReport gpu_report(bool ask_cuda) {
  GpuReport report = nvml_report();
  if (ask_cuda && !report.gpus.empty()) number_as_cuda(report, visible_gpus());
  return report;
}

}  // namespace millrace
