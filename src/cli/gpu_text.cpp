#include "cli/gpu_text.h"

#include <algorithm>
#include <functional>

namespace millrace::cli {
namespace {

std::string name_of(const GpuDetails& gpu) {
  if (gpu.cuda_index >= 0) return to_string(DeviceId::cuda(gpu.cuda_index));
  return "GPU " + std::to_string(gpu.nvml_index);
}

// -------------------------------------------------------------------------------------------------
// for people

template <class T, class Words>
std::string said(const GpuAnswer<T>& answer, Words words) {
  return answer.value ? std::string(std::invoke(words, *answer.value)) : printable(answer.refused);
}

std::string of_most(const GpuNowAndMost& value) {
  return std::to_string(value.now) + " of " + std::to_string(value.most);
}

std::string mode_text(const GpuMode& mode) {
  std::string now = mode.on ? "on" : "off";
  if (mode.on == mode.pending) return now;
  return now + (mode.pending ? ", on" : ", off") + " after the next reset";
}

std::string memory_text(const GpuMemory& memory) {
  return format_bytes(memory.free_bytes) + " free of " + format_bytes(memory.total_bytes);
}

std::string slowed_text(const std::vector<std::string>& reasons) {
  std::string text;
  for (const std::string& reason : reasons) text += (text.empty() ? "" : "; ") + reason;
  return text.empty() ? "by nothing" : text;
}

std::string links_text(const std::vector<GpuLink>& links) {
  if (links.empty()) return "none up";
  const auto to = [&](GpuLink::To end) { return std::ranges::count(links, end, &GpuLink::to); };
  std::string ends;
  for (const auto& [end, words] : {std::pair{GpuLink::To::gpu, "GPUs"},
                                   {GpuLink::To::bridge, "switches"},
                                   {GpuLink::To::unknown, "an end that is not told"}}) {
    if (to(end) > 0) ends += (ends.empty() ? "" : ", ") + std::to_string(to(end)) + " to " + words;
  }
  return std::to_string(links.size()) + " up: " + ends;
}

std::string instance_line(const MigInstance& instance) {
  const std::string name = instance.cuda_index >= 0
                               ? to_string(DeviceId::cuda(instance.cuda_index)) + "  "
                               : std::string();
  const auto number = [](unsigned value) { return std::to_string(value); };
  return name + instance.uuid + "  " + said(instance.name, printable) + ", " +
         said(instance.memory, memory_text) + ", GPU instance " +
         said(instance.gpu_instance, number) + ", compute instance " +
         said(instance.compute_instance, number);
}

std::string gpu_block(const GpuDetails& gpu) {
  std::string out = "  " + inked(Ink::bold, name_of(gpu)) + "  " + said(gpu.name, printable) + "\n";
  const auto row = [&out](std::string_view name, const std::string& value) {
    out += "    " + padded(name, 13) + value + "\n";
  };
  row("UUID", gpu.uuid.empty() ? "not told" : gpu.uuid);
  row("capability", said(gpu.compute_capability, printable));
  row("memory", said(gpu.memory, memory_text));
  row("ECC", said(gpu.ecc, mode_text));
  row("PCI", (gpu.pci_bus_id.empty() ? std::string("not told") : gpu.pci_bus_id) + ", NUMA node " +
                 (gpu.numa_node < 0 ? "not told" : std::to_string(gpu.numa_node)));
  row("PCIe", "generation " + said(gpu.pcie_generation, of_most) + ", lanes " +
                  said(gpu.pcie_width, of_most));
  row("clocks", said(gpu.clock_mhz, of_most) + " MHz, memory " +
                    said(gpu.memory_clock_mhz, of_most) + " MHz");
  row("slowed", said(gpu.slowed_by, slowed_text));
  row("NVLink", said(gpu.links, links_text));
  row("MIG", said(gpu.mig, mode_text));
  for (const MigInstance& instance : gpu.instances) row("  instance", instance_line(instance));
  return out;
}

std::string peer_text(const GpuPeer& peer) {
  if (!peer.access.value) return printable(peer.access.refused);
  if (!*peer.access.value) return "no (" + printable(peer.access.refused) + ")";
  return peer.nvlinks > 0 ? "NVLink x" + std::to_string(peer.nvlinks) : "PCIe";
}

std::string peers_text(const GpuReport& report) {
  std::vector<std::string> header{"from \\ to"};
  for (const GpuDetails& gpu : report.gpus) header.push_back(name_of(gpu));
  Table table(header);
  for (std::size_t i = 0; i < report.gpus.size(); ++i) {
    std::vector<std::string> row{name_of(report.gpus[i])};
    for (std::size_t j = 0; j < report.gpus.size(); ++j) {
      row.push_back(i == j ? "-" : peer_text(report.peers[i][j]));
    }
    table.add(std::move(row));
  }
  return table.text();
}

// -------------------------------------------------------------------------------------------------
// as JSON

// Fields of an object, those without an answer as null.
class Answers {
 public:
  template <class T, class Value>
  void add(const char* name, const GpuAnswer<T>& answer, Value value) {
    json_[name] = answer.value ? Json(std::invoke(value, *answer.value)) : Json();
    if (!answer.value) refused_[name] = answer.refused;
  }
  void set(const char* name, Json value) { json_[name] = std::move(value); }
  [[nodiscard]] Json json() && {
    json_["refused"] = std::move(refused_);
    return std::move(json_);
  }

 private:
  Json json_ = Json::object();
  Json refused_ = Json::object();
};

constexpr auto kAsItIs = [](const auto& value) { return value; };

Json pair_json(const GpuNowAndMost& value) { return {{"now", value.now}, {"most", value.most}}; }
Json mode_json(const GpuMode& mode) { return {{"on", mode.on}, {"pending", mode.pending}}; }
Json memory_json(const GpuMemory& memory) {
  return {{"total_bytes", memory.total_bytes}, {"free_bytes", memory.free_bytes}};
}
Json index_json(int index) { return index < 0 ? Json() : Json(to_string(DeviceId::cuda(index))); }

Json links_json(const std::vector<GpuLink>& links) {
  constexpr const char* kEnds[] = {"gpu", "switch", "unknown"};
  Json list = Json::array();
  for (const GpuLink& link : links) {
    list.push_back({{"link", link.number},
                    {"to", kEnds[static_cast<std::size_t>(link.to)]},
                    {"pci_bus_id", link.pci_bus_id}});
  }
  return list;
}

Json instance_json(const MigInstance& instance) {
  Answers answers;
  answers.set("uuid", instance.uuid);
  answers.set("device", index_json(instance.cuda_index));
  answers.add("name", instance.name, kAsItIs);
  answers.add("memory", instance.memory, memory_json);
  answers.add("gpu_instance", instance.gpu_instance, kAsItIs);
  answers.add("compute_instance", instance.compute_instance, kAsItIs);
  return std::move(answers).json();
}

Json gpu_json(const GpuDetails& gpu) {
  Answers answers;
  answers.set("device", index_json(gpu.cuda_index));
  answers.set("nvml_index", gpu.nvml_index);
  answers.set("uuid", gpu.uuid);
  answers.set("pci_bus_id", gpu.pci_bus_id);
  answers.set("numa_node", gpu.numa_node < 0 ? Json() : Json(gpu.numa_node));
  answers.add("name", gpu.name, kAsItIs);
  answers.add("compute_capability", gpu.compute_capability, kAsItIs);
  answers.add("memory", gpu.memory, memory_json);
  answers.add("ecc", gpu.ecc, mode_json);
  answers.add("pcie_generation", gpu.pcie_generation, pair_json);
  answers.add("pcie_width", gpu.pcie_width, pair_json);
  answers.add("clock_mhz", gpu.clock_mhz, pair_json);
  answers.add("memory_clock_mhz", gpu.memory_clock_mhz, pair_json);
  answers.add("slowed_by", gpu.slowed_by, kAsItIs);
  answers.add("nvlinks", gpu.links, links_json);
  answers.add("mig", gpu.mig, mode_json);
  Json instances = Json::array();
  for (const MigInstance& instance : gpu.instances) instances.push_back(instance_json(instance));
  answers.set("mig_instances", std::move(instances));
  return std::move(answers).json();
}

Json peers_json(const GpuReport& report) {
  Json peers = Json::array();
  for (std::size_t i = 0; i < report.gpus.size(); ++i) {
    for (std::size_t j = 0; j < report.gpus.size(); ++j) {
      if (i == j) continue;
      const GpuPeer& peer = report.peers[i][j];
      peers.push_back({{"from", report.gpus[i].uuid},
                       {"to", report.gpus[j].uuid},
                       {"access", peer.access.value ? Json(*peer.access.value) : Json()},
                       {"why_not", peer.access.refused},
                       {"nvlinks", peer.nvlinks}});
    }
  }
  return peers;
}

}  // namespace

void keep_only(GpuReport& report, const std::vector<int>& cuda_indices) {
  const auto used = [&](int index) {
    return index >= 0 && std::ranges::find(cuda_indices, index) != cuda_indices.end();
  };
  for (std::size_t i = report.gpus.size(); i-- > 0;) {
    const GpuDetails& gpu = report.gpus[i];
    const bool part = std::ranges::any_of(gpu.instances, used, &MigInstance::cuda_index);
    if (used(gpu.cuda_index) || part) continue;
    const auto place = static_cast<std::ptrdiff_t>(i);
    report.gpus.erase(report.gpus.begin() + place);
    report.peers.erase(report.peers.begin() + place);
    for (std::vector<GpuPeer>& row : report.peers) row.erase(row.begin() + place);
  }
}

std::string gpus_text(const GpuReport& report) {
  if (report.gpus.empty()) return {};
  std::string out = inked(Ink::bold, "GPUs") + " (driver " +
                    said(report.driver_version, printable) + ", CUDA " +
                    said(report.cuda_version, printable) + ", NVML " +
                    said(report.nvml_version, printable) + ")\n";
  for (const GpuDetails& gpu : report.gpus) out += gpu_block(gpu);
  if (report.gpus.size() > 1) {
    out += "\n" + inked(Ink::bold, "Peer access") + "\n" + peers_text(report);
  }
  return out;
}

Json gpus_json(const GpuReport& report) {
  Answers answers;
  answers.set("available", report.unavailable.empty());
  answers.set("reason", report.unavailable);
  if (report.unavailable.empty()) {
    answers.add("driver_version", report.driver_version, kAsItIs);
    answers.add("cuda_version", report.cuda_version, kAsItIs);
    answers.add("nvml_version", report.nvml_version, kAsItIs);
  }
  Json gpus = Json::array();
  for (const GpuDetails& gpu : report.gpus) gpus.push_back(gpu_json(gpu));
  answers.set("gpus", std::move(gpus));
  answers.set("peers", peers_json(report));
  return std::move(answers).json();
}

}  // namespace millrace::cli
