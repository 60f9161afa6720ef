#include <algorithm>
#include <cstdlib>
#include <utility>

#include <millrace/device.h>

#include "base/text.h"
#include "base/try.h"
#include "device/cuda/cuda_device.h"
#include "device/host/host_device.h"
#include "device/nvml/read_report.h"
#include "device/select_devices.h"
#include "device/select_mig.h"

namespace millrace {
namespace {

constexpr const char* kVisible = "CUDA_VISIBLE_DEVICES";

// CUDA reads the variable once, when it is first used.
Result<void> show_mig_instances(const std::vector<std::string>& names) {
  MILLRACE_ASSIGN(const auto visible, visible_for_mig(names, nvml_report(), std::getenv(kVisible)));
  if (visible) setenv(kVisible, visible->c_str(), 1);
  return {};
}

Result<std::vector<DeviceId>> select_mig_devices(const std::vector<std::string>& names) {
  MILLRACE_TRY(show_mig_instances(names));
  const CudaStatus status = cuda_status();
  auto ids = select_devices(names, visible_gpus(), status.reason);
  if (ids.ok() || ids.error().code != ErrorCode::not_found) return ids;
  Error error = std::move(ids).error();
  error.message +=
      "; CUDA shows a process one MIG instance, which must be chosen before anything in the "
      "process uses CUDA";
  return error;
}

Result<std::vector<DeviceId>> devices_to_open(const std::vector<std::string>& names) {
  if (std::ranges::any_of(names, names_mig)) return select_mig_devices(names);
  const bool ask_driver = names.empty() || std::ranges::any_of(names, names_gpu);
  const CudaStatus status = ask_driver ? cuda_status() : CudaStatus();
  const auto gpus = status.visible_gpus > 0 ? visible_gpus() : std::vector<GpuIdentity>();
  if (names.empty()) {
    if (gpus.empty()) return std::vector{DeviceId::host(0)};
    std::vector<DeviceId> all;
    for (std::size_t i = 0; i < gpus.size(); ++i) {
      all.push_back(DeviceId::cuda(static_cast<std::int32_t>(i)));
    }
    return all;
  }
  return select_devices(names, gpus, status.reason);
}

Result<std::unique_ptr<Device>> open_device(DeviceId id, const DeviceSetOptions& options) {
  if (id.kind == DeviceKind::cuda) return open_cuda_device(id.index);
  const auto index = static_cast<std::size_t>(id.index);
  const auto own = index < options.host.size() ? options.host[index] : HostDeviceOptions();
  if (!(own.slowness > 0)) {
    return Error{ErrorCode::invalid_argument,
                 concat("device ", id, ": expected a slowness above 0, got ", own.slowness)};
  }
  return std::unique_ptr<Device>(std::make_unique<HostDevice>(id.index, own));
}

}  // namespace

DeviceSet::DeviceSet() noexcept = default;
DeviceSet::DeviceSet(DeviceSet&&) noexcept = default;
DeviceSet& DeviceSet::operator=(DeviceSet&&) noexcept = default;
DeviceSet::~DeviceSet() = default;

Result<DeviceSet> DeviceSet::open(const DeviceSetOptions& options) {
  MILLRACE_ASSIGN(const auto ids, devices_to_open(options.devices));
  DeviceSet set;
  for (DeviceId id : ids) {
    MILLRACE_ASSIGN(auto device, open_device(id, options));
    set.refs_.push_back(device.get());
    set.owned_.push_back(std::move(device));
  }
  MILLRACE_TRY(connect_cuda_devices(set.refs_));
  return set;
}

DeviceRef DeviceSet::find(DeviceId id) const noexcept {
  const auto found =
      std::ranges::find_if(refs_, [&](DeviceRef device) { return device->id() == id; });
  return found == refs_.end() ? nullptr : *found;
}

}  // namespace millrace
