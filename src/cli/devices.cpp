// millrace devices: what there is to run on, and what can run models here.
#include <memory>

#include <millrace/engine.h>

#include "cli/gpu_text.h"
#include "cli/print.h"
#include "cli/verbs.h"

namespace millrace::cli {
namespace {

struct Options {
  std::vector<std::string> devices;
  bool json = false;
};

struct Found {
  std::vector<DeviceSet> sets;  // keeps the devices
  std::vector<DeviceRef> devices;
};

// Those named, or all GPUs and the host.
Result<Found> find_devices(const std::vector<std::string>& named) {
  Found found;
  const auto add = [&found](const DeviceSetOptions& options) -> Result<void> {
    Result<DeviceSet> set = DeviceSet::open(options);
    if (!set.ok()) return std::move(set).error();
    found.sets.push_back(std::move(*set));
    for (const DeviceRef device : found.sets.back().devices()) found.devices.push_back(device);
    return {};
  };
  Result<void> added = add({named, {}});
  if (!added.ok()) return std::move(added).error();
  const bool host = found.devices.size() == 1 && found.devices[0]->id().kind == DeviceKind::host;
  if (named.empty() && !host) {
    added = add({{"host"}, {}});
    if (!added.ok()) return std::move(added).error();
  }
  return found;
}

std::string cuda_line(const CudaStatus& cuda) {
  if (cuda.runtime_version.empty()) return "built without";
  const std::string runtime = "runtime " + cuda.runtime_version;
  if (!cuda.driver_version.empty() && cuda.reason.empty())
    return runtime + ", driver " + cuda.driver_version;
  return runtime + ", no GPU: " + cuda.reason;
}

std::string capability(const DeviceInfo& info) {
  if (info.compute_major == 0) return "-";
  return std::to_string(info.compute_major) + "." + std::to_string(info.compute_minor);
}

void print_table(const Found& found, const GpuReport& gpus) {
  Table devices({"device", "name", "cores", "compute", "memory", "free", "uuid"}, {2, 3, 4, 5});
  for (const DeviceRef device : found.devices) {
    const DeviceInfo& info = device->info();
    const MemoryInfo memory = device->memory();
    devices.add({to_string(info.id), printable(info.name), std::to_string(info.cores),
                 capability(info), format_bytes(memory.limit_bytes),
                 format_bytes(memory.free_bytes), info.uuid});
  }
  Table backends({"backend", "usable", "version", ""});
  for (const BackendInfo& backend : backend_infos()) {
    backends.add({backend.name, backend.usable ? inked(Ink::green, "yes") : inked(Ink::red, "no"),
                  backend.version.empty() ? "-" : backend.version, printable(backend.reason)});
  }
  print(inked(Ink::bold, "Devices") + "\n" + devices.text() + "\n");
  if (const std::string text = gpus_text(gpus); !text.empty()) print(text + "\n");
  print(inked(Ink::bold, "Backends") + " (\"auto\" tries them in this order)\n" + backends.text() +
        "\n");
  print(inked(Ink::bold, "CUDA") + "  " + cuda_line(cuda_status()) + "\n");
  if (!gpus.unavailable.empty()) {
    print(inked(Ink::bold, "NVML") + "  " + printable(gpus.unavailable) + "\n");
  }
}

void print_as_json(const Found& found, const GpuReport& gpus) {
  Json devices = Json::array();
  for (const DeviceRef device : found.devices) {
    const DeviceInfo& info = device->info();
    const MemoryInfo memory = device->memory();
    Json entry = {{"device", to_string(info.id)},
                  {"kind", info.id.kind == DeviceKind::cuda ? "cuda" : "host"},
                  {"name", info.name},
                  {"uuid", info.uuid},
                  {"cores", info.cores},
                  {"memory_bytes", info.memory_bytes},
                  {"limit_bytes", memory.limit_bytes},
                  {"free_bytes", memory.free_bytes},
                  {"used_bytes", memory.used_bytes}};
    if (info.compute_major > 0) entry["compute_capability"] = capability(info);
    if (!info.pci_bus_id.empty()) entry["pci_bus_id"] = info.pci_bus_id;
    if (info.numa_node >= 0) entry["numa_node"] = info.numa_node;
    devices.push_back(std::move(entry));
  }
  Json backends = Json::array();
  for (const BackendInfo& backend : backend_infos()) {
    backends.push_back({{"name", backend.name},
                        {"usable", backend.usable},
                        {"version", backend.version},
                        {"reason", backend.reason}});
  }
  const CudaStatus cuda = cuda_status();
  print_json({{"devices", devices},
              {"backends", backends},
              {"cuda",
               {{"visible_gpus", cuda.visible_gpus},
                {"driver_version", cuda.driver_version},
                {"runtime_version", cuda.runtime_version},
                {"reason", cuda.reason}}},
              {"nvml", gpus_json(gpus)}});
}

Result<int> run(const Options& options) {
  Result<Found> found = find_devices(options.devices);
  if (!found.ok()) return std::move(found).error();
  GpuReport gpus = gpu_report();
  if (!options.devices.empty()) {
    std::vector<int> named;
    for (const DeviceRef device : found->devices) {
      if (device->id().kind == DeviceKind::cuda) named.push_back(device->id().index);
    }
    keep_only(gpus, named);
  }
  if (options.json)
    print_as_json(*found, gpus);
  else
    print_table(*found, gpus);
  return kFine;
}

}  // namespace

void add_devices(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand(
      "devices", "Shows devices, memory, versions, and which backends are usable");
  verb->add_option("--devices", options->devices,
                   "Only these: 0,1, GPU-uuid or MIG-uuid, host, host:1 (default: all GPUs and the "
                   "host)")
      ->delimiter(',')
      ->type_name("LIST");
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([options, &context] { context.action = [options] { return run(*options); }; });
}

}  // namespace millrace::cli
