// Which processors are near a GPU, and how threads and pinned memory get there. Without libnuma:
// what the kernel says in sysfs, and its system calls.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace millrace {

/// "0-3,8,10-11" as the kernel writes it; an empty text is an empty list. Nothing for what it would
/// not write. Ascending, each processor once.
[[nodiscard]] std::optional<std::vector<int>> parse_cpu_list(std::string_view text);
/// The reverse: {0, 1, 2, 8} is "0-2,8".
[[nodiscard]] std::string cpu_list_text(const std::vector<int>& cpus);

/// As CUDA or NVML writes it ("00000000:1B:00.0") to the name that sysfs has ("0000:1b:00.0");
/// unchanged when it is neither.
[[nodiscard]] std::string sysfs_pci_bus_id(std::string_view bus_id);

/// Of the device of that name in sysfs; -1 when the kernel names none.
[[nodiscard]] int numa_node_of(const std::string& pci_bus_id, const std::string& sysfs = "/sys");

/// Where the threads that serve a device run, and its pinned memory lies.
struct NumaPlace {
  int node = -1;          // -1: anywhere
  std::vector<int> cpus;  // of the node, that the process may use; none: anywhere
  std::string why;        // in words, for the log
};

/// Anywhere, unless the machine has several nodes of processors, `node` is one, and some of its
/// processors are among `allowed`.
[[nodiscard]] NumaPlace place_near(int node, const std::vector<int>& allowed,
                                   const std::string& sysfs = "/sys");

/// The processors that the process may use: those of its main thread.
[[nodiscard]] std::vector<int> process_cpus();

/// Moves the calling thread to the place's processors. False when the system refuses; true when
/// there are none to move to.
bool move_this_thread(const NumaPlace& place) noexcept;

/// While one lives, the calling thread's new pages come from the place's node as long as that has
/// any. Where the system allows no memory policy (containers often do not), the thread runs on the
/// node's processors meanwhile, near which the kernel looks for pages first.
class NumaMemoryGuard {
 public:
  explicit NumaMemoryGuard(const NumaPlace& place) noexcept;
  NumaMemoryGuard(const NumaMemoryGuard&) = delete;
  NumaMemoryGuard& operator=(const NumaMemoryGuard&) = delete;
  ~NumaMemoryGuard();

 private:
  static constexpr int kMostNodes = 1024;

  enum class Change : unsigned char { none, policy, processors };
  Change change_ = Change::none;
  int mode_ = 0;  // the policy before
  unsigned long nodes_[kMostNodes / (8 * sizeof(unsigned long))] = {};
  std::vector<int> cpus_;  // of the thread before
};

}  // namespace millrace
