// Which devices a user's words name: pure functions over what a machine has.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/device.h>
#include <millrace/error.h>

namespace millrace {

struct GpuIdentity {
  std::string uuid;          // "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", or "MIG-..."
  std::string name;          // "NVIDIA H200"
  std::string pci_bus_id{};  // "0000:1b:00.0"; empty when unknown
};

/// The GPUs that the CUDA runtime shows to this process, in its order; none when it cannot say.
[[nodiscard]] std::vector<GpuIdentity> visible_gpus();

/// Which of `gpus`, all those of the machine, a CUDA_VISIBLE_DEVICES of `text` leaves visible, in
/// its order; reads it as driver 580 was seen to. The first entry says whether all are indices
/// (what follows the number does not count) or UUIDs (or prefixes that fit one GPU only). The first
/// entry that names no GPU (-1, an index too high, an unknown or ambiguous prefix, the other kind
/// of entry) ends the list; an empty text hides all, and so does a GPU named twice.
[[nodiscard]] std::vector<std::size_t> parse_visible_devices(std::string_view text,
                                                             std::span<const GpuIdentity> gpus);

/// The devices that `names`, as `DeviceSetOptions::devices` has them, stand for; none for no names.
/// `gpus` are the visible ones; `why_no_gpus` is said when one is asked for and there are none.
/// Errors: as `DeviceSet::open`.
[[nodiscard]] Result<std::vector<DeviceId>> select_devices(std::span<const std::string> names,
                                                           std::span<const GpuIdentity> gpus,
                                                           std::string_view why_no_gpus);

/// Whether a device name can only mean a GPU, so that the driver has to be asked.
[[nodiscard]] bool names_gpu(std::string_view name);

}  // namespace millrace
