#include "device/select_devices.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/text.h"
#include "base/try.h"

namespace millrace {
namespace {

constexpr std::string_view kUuidStart = "GPU-";
constexpr std::string_view kMigStart = "MIG-";

bool starts_with_ignoring_case(std::string_view text, std::string_view start) {
  return text.size() >= start.size() && equal_ignoring_case(text.substr(0, start.size()), start);
}

bool is_uuid(std::string_view name) {
  return starts_with_ignoring_case(name, kUuidStart) || starts_with_ignoring_case(name, kMigStart);
}

std::vector<std::size_t> gpus_of_prefix(std::string_view prefix,
                                        std::span<const GpuIdentity> gpus) {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < gpus.size(); ++i) {
    if (starts_with_ignoring_case(gpus[i].uuid, prefix)) found.push_back(i);
  }
  return found;
}

std::optional<std::size_t> gpu_of_uuid(std::string_view entry, std::span<const GpuIdentity> gpus) {
  if (entry.size() <= kUuidStart.size() || !entry.starts_with(kUuidStart)) return std::nullopt;
  const auto found = gpus_of_prefix(entry, gpus);
  return found.size() == 1 ? std::optional(found.front()) : std::nullopt;
}

// What follows the number does not count: "0x1" is 0.
std::optional<std::size_t> gpu_of_index(std::string_view entry, std::span<const GpuIdentity> gpus) {
  if (entry.starts_with('+')) entry.remove_prefix(1);
  std::size_t index = 0;
  const auto status = std::from_chars(entry.data(), entry.data() + entry.size(), index).ec;
  return status == std::errc{} && index < gpus.size() ? std::optional(index) : std::nullopt;
}

std::string what_there_is(std::span<const GpuIdentity> gpus, std::string_view why_no_gpus) {
  std::string text;
  for (std::size_t i = 0; i < gpus.size(); ++i) {
    text += concat("cuda:", i, " (", gpus[i].name, ", ", gpus[i].uuid, "), ");
  }
  text += "host:0, host:1, ...";
  if (gpus.empty()) text += concat("; no GPU, ", why_no_gpus);
  return text;
}

Error not_found(std::string_view name, std::span<const GpuIdentity> gpus,
                std::string_view why_no_gpus) {
  return {ErrorCode::not_found, concat("device ", quote(name), " is not there; there are ",
                                       what_there_is(gpus, why_no_gpus))};
}

Result<DeviceId> select_device(std::string_view name, std::span<const GpuIdentity> gpus,
                               std::string_view why_no_gpus) {
  if (is_uuid(name)) {
    const auto found = gpus_of_prefix(name, gpus);
    if (found.empty()) return not_found(name, gpus, why_no_gpus);
    if (found.size() > 1) {
      return Error{ErrorCode::invalid_argument,
                   concat("device ", quote(name), " fits ", found.size(),
                          " GPUs; give more of the UUID: ", what_there_is(gpus, why_no_gpus))};
    }
    return DeviceId::cuda(static_cast<std::int32_t>(found.front()));
  }
  MILLRACE_ASSIGN(const DeviceId id, parse_device_id(name));
  if (id.kind == DeviceKind::cuda && static_cast<std::size_t>(id.index) >= gpus.size()) {
    return not_found(name, gpus, why_no_gpus);
  }
  return id;
}

}  // namespace

std::vector<std::size_t> parse_visible_devices(std::string_view text,
                                               std::span<const GpuIdentity> gpus) {
  std::vector<std::size_t> visible;
  const auto read = trimmed(text).starts_with(kUuidStart) ? gpu_of_uuid : gpu_of_index;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    const auto gpu = read(trimmed(text.substr(0, comma)), gpus);
    if (!gpu) break;
    if (std::ranges::find(visible, *gpu) != visible.end()) return {};
    visible.push_back(*gpu);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return visible;
}

bool names_gpu(std::string_view name) {
  if (is_uuid(name)) return true;
  const auto id = parse_device_id(name);
  return id && id->kind == DeviceKind::cuda;
}

Result<std::vector<DeviceId>> select_devices(std::span<const std::string> names,
                                             std::span<const GpuIdentity> gpus,
                                             std::string_view why_no_gpus) {
  std::vector<DeviceId> ids;
  for (const std::string& name : names) {
    MILLRACE_ASSIGN(const DeviceId id, select_device(name, gpus, why_no_gpus));
    const auto same = std::ranges::find(ids, id);
    if (same != ids.end()) {
      return Error{ErrorCode::invalid_argument,
                   concat("device ", quote(name), " is ", id, ", already named ",
                          quote(names[static_cast<std::size_t>(same - ids.begin())]),
                          "; name each device once")};
    }
    ids.push_back(id);
  }
  return ids;
}

}  // namespace millrace
