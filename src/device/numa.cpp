#include "device/numa.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <fstream>
#include <iterator>
#include <memory>

#include "base/text.h"

namespace millrace {
namespace {

constexpr int kMostCpus = 1 << 16;

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::vector<int> list_in(const std::string& path) {
  return parse_cpu_list(first_line(path)).value_or(std::vector<int>());
}

std::vector<int> nodes_with_cpus(const std::string& sysfs) {
  std::vector<int> nodes;
  for (const int node : list_in(sysfs + "/devices/system/node/online")) {
    if (!list_in(concat(sysfs, "/devices/system/node/node", node, "/cpulist")).empty()) {
      nodes.push_back(node);
    }
  }
  return nodes;
}

// A set of processors of any size.
struct CpuSet {
  CpuSet() : bytes(CPU_ALLOC_SIZE(kMostCpus)), set(CPU_ALLOC(kMostCpus), &free_set) {
    if (set) CPU_ZERO_S(bytes, set.get());
  }
  static void free_set(cpu_set_t* set) noexcept { CPU_FREE(set); }

  std::size_t bytes;
  std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set;
};

std::vector<int> cpus_of_thread(pid_t thread) {
  const CpuSet cpus;
  std::vector<int> list;
  if (!cpus.set || sched_getaffinity(thread, cpus.bytes, cpus.set.get()) != 0) return list;
  for (int cpu = 0; cpu < kMostCpus; ++cpu) {
    if (CPU_ISSET_S(static_cast<std::size_t>(cpu), cpus.bytes, cpus.set.get())) list.push_back(cpu);
  }
  return list;
}

bool run_this_thread_on(const std::vector<int>& list) noexcept {
  const CpuSet cpus;
  if (!cpus.set) return false;
  for (const int cpu : list) {
    CPU_SET_S(static_cast<std::size_t>(cpu), cpus.bytes, cpus.set.get());
  }
  return sched_setaffinity(0, cpus.bytes, cpus.set.get()) == 0;
}

bool take_number(std::string_view& text, int& number) {
  const auto [stop, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (status != std::errc{} || number < 0 || number >= kMostCpus) return false;
  text.remove_prefix(static_cast<std::size_t>(stop - text.data()));
  return true;
}

bool take_char(std::string_view& text, char c) {
  if (!text.starts_with(c)) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

std::optional<std::vector<int>> parse_cpu_list(std::string_view text) {
  std::vector<int> cpus;
  text = trimmed(text);
  while (!text.empty()) {
    int first = 0;
    if (!take_number(text, first)) return std::nullopt;
    int last = first;
    if (take_char(text, '-') && (!take_number(text, last) || last < first)) return std::nullopt;
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (text.empty()) break;
    if (!take_char(text, ',') || text.empty()) return std::nullopt;
  }
  std::ranges::sort(cpus);
  cpus.erase(std::ranges::unique(cpus).begin(), cpus.end());
  return cpus;
}

std::string cpu_list_text(const std::vector<int>& cpus) {
  std::string text;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t end = i + 1;
    while (end < cpus.size() && cpus[end] == cpus[end - 1] + 1) ++end;
    if (!text.empty()) text += ',';
    append_text(text, cpus[i]);
    if (end - i > 1) text += concat("-", cpus[end - 1]);
    i = end;
  }
  return text;
}

std::string sysfs_pci_bus_id(std::string_view bus_id) {
  std::string name;
  for (const char c : bus_id) {
    name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  // NVML writes domains with eight digits, sysfs with as many as it takes, at least four.
  std::size_t colon = name.find(':');
  for (; colon != std::string::npos && colon > 4 && name.front() == '0'; --colon) name.erase(0, 1);
  return name;
}

int numa_node_of(const std::string& pci_bus_id, const std::string& sysfs) {
  if (pci_bus_id.empty() || pci_bus_id.find('/') != std::string::npos) return -1;
  const std::string line = first_line(concat(sysfs, "/bus/pci/devices/", pci_bus_id, "/numa_node"));
  int node = -1;
  const std::string_view text = trimmed(line);
  const auto status = std::from_chars(text.data(), text.data() + text.size(), node).ec;
  return status == std::errc{} && node >= 0 ? node : -1;
}

NumaPlace place_near(int node, const std::vector<int>& allowed, const std::string& sysfs) {
  NumaPlace place;
  const std::vector<int> nodes = nodes_with_cpus(sysfs);
  if (nodes.size() < 2) {
    place.why = "the machine has one NUMA node";
    return place;
  }
  if (node < 0) {
    place.why = "the system does not say which NUMA node it is attached to";
    return place;
  }
  const auto near = list_in(concat(sysfs, "/devices/system/node/node", node, "/cpulist"));
  if (near.empty()) {
    place.why = concat("its NUMA node ", node, " has no processors");
    return place;
  }
  std::ranges::set_intersection(near, allowed, std::back_inserter(place.cpus));
  if (place.cpus.empty()) {
    place.why = concat("this process may use none of the processors ", cpu_list_text(near),
                       " of its NUMA node ", node);
    return place;
  }
  place.node = node;
  place.why = concat("NUMA node ", node, ", processors ", cpu_list_text(place.cpus));
  return place;
}

std::vector<int> process_cpus() { return cpus_of_thread(getpid()); }

bool move_this_thread(const NumaPlace& place) noexcept {
  return place.cpus.empty() || run_this_thread_on(place.cpus);
}

NumaMemoryGuard::NumaMemoryGuard(const NumaPlace& place) noexcept {
  if (place.node < 0 || place.node >= kMostNodes) return;
  if (syscall(SYS_get_mempolicy, &mode_, nodes_, kMostNodes, nullptr, 0) == 0) {
    constexpr std::size_t kBits = 8 * sizeof(unsigned long);
    unsigned long wanted[std::size(decltype(nodes_){})] = {};
    const auto node = static_cast<std::size_t>(place.node);
    wanted[node / kBits] = 1UL << (node % kBits);
    if (syscall(SYS_set_mempolicy, MPOL_PREFERRED, wanted, kMostNodes) == 0) {
      change_ = Change::policy;
      return;
    }
  }
  try {
    cpus_ = cpus_of_thread(0);
  } catch (...) {  // no memory for the list: then it stays where it is
    return;
  }
  if (!cpus_.empty() && move_this_thread(place)) change_ = Change::processors;
}

NumaMemoryGuard::~NumaMemoryGuard() {
  if (change_ == Change::policy) syscall(SYS_set_mempolicy, mode_, nodes_, kMostNodes);
  if (change_ == Change::processors) run_this_thread_on(cpus_);
}

}  // namespace millrace
