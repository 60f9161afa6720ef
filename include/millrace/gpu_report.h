// What the driver's management library (NVML) knows of the machine's GPUs, for people and for
// reports.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace millrace {

/// A value, or why there is none: "not supported", "no permission", ...
template <class T>
struct GpuAnswer {
  std::optional<T> value;
  std::string refused;  // empty with a value
};

/// Of a switch on the board or in the driver; `pending` holds after the next reset.
struct GpuMode {
  bool on = false;
  bool pending = false;
};

struct GpuMemory {
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;
};

/// What a card does now, and the most that card and slot can do.
struct GpuNowAndMost {
  unsigned now = 0;
  unsigned most = 0;
};

/// A part of a GPU in MIG mode, which CUDA treats as a GPU. Untested on hardware.
struct MigInstance {
  std::string uuid;     // "MIG-..."
  int cuda_index = -1;  // as in `GpuDetails`
  GpuAnswer<std::string> name;
  GpuAnswer<GpuMemory> memory;
  GpuAnswer<unsigned> gpu_instance;
  GpuAnswer<unsigned> compute_instance;
};

/// A link that is up.
struct GpuLink {
  enum class To : std::uint8_t { gpu, bridge, unknown };  // bridge: a switch, or a processor
  unsigned number = 0;
  To to = To::unknown;
  std::string pci_bus_id;  // of the GPU at the other end, as in `GpuDetails`; else empty
};

struct GpuDetails {
  unsigned nvml_index = 0;
  int cuda_index = -1;     // among those visible to CUDA; -1: hidden from it, or divided by MIG
  std::string uuid;        // empty when refused
  std::string pci_bus_id;  // "0000:1b:00.0", as sysfs has it; empty when refused
  int numa_node = -1;      // -1: the system names none
  GpuAnswer<std::string> name;
  GpuAnswer<std::string> compute_capability;  // "9.0"
  GpuAnswer<GpuMemory> memory;
  GpuAnswer<GpuNowAndMost> pcie_generation;  // an idle card may show less than it does at work
  GpuAnswer<GpuNowAndMost> pcie_width;       // lanes
  GpuAnswer<GpuNowAndMost> clock_mhz;        // of the multiprocessors
  GpuAnswer<GpuNowAndMost> memory_clock_mhz;
  GpuAnswer<std::vector<std::string>>
      slowed_by;  // why the clock is below its most; none: it is not
  GpuAnswer<GpuMode> ecc;
  GpuAnswer<GpuMode> mig;
  std::vector<MigInstance> instances;
  GpuAnswer<std::vector<GpuLink>> links;
};

/// What one GPU reaches of another.
struct GpuPeer {
  GpuAnswer<bool> access;  // refused: "chipset", ... or what NVML said
  int nvlinks = 0;         // between the two, directly or through a switch
};

struct GpuReport {
  std::string unavailable;  // why there is nothing else here; empty when there is
  GpuAnswer<std::string> driver_version;
  GpuAnswer<std::string> nvml_version;
  GpuAnswer<std::string> cuda_version;      // the newest that the driver supports: "13.0"
  std::vector<GpuDetails> gpus;             // in NVML's order, which is that of the PCI bus
  std::vector<std::vector<GpuPeer>> peers;  // [from][to], both places in `gpus`
};

/// Asks the library, which is opened for as long as this takes; `numa_node` comes from the system.
/// Unless `ask_cuda`, each `cuda_index` is left at -1 and CUDA alone; else its driver is
/// initialized (no GPU is). A library that is not there is no error. Takes tens of milliseconds.
[[nodiscard]] GpuReport gpu_report(bool ask_cuda = true);

}  // namespace millrace
