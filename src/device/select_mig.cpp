#include "device/select_mig.h"

#include <algorithm>
#include <vector>

#include "base/text.h"
#include "base/try.h"
#include "device/select_devices.h"

namespace millrace {
namespace {

constexpr std::string_view kStart = "MIG-";

bool starts_with_ignoring_case(std::string_view text, std::string_view start) {
  return text.size() >= start.size() && equal_ignoring_case(text.substr(0, start.size()), start);
}

std::string instances_in(const GpuReport& report) {
  std::string text;
  for (const GpuDetails& gpu : report.gpus) {
    for (const MigInstance& instance : gpu.instances) {
      text += concat(text.empty() ? "" : ", ", instance.uuid, " (",
                     instance.name.value.value_or("MIG instance"), " of ", gpu.uuid, ")");
    }
  }
  return text.empty() ? "there is no MIG instance" : concat("there are ", text);
}

Result<std::string> uuid_of(const std::string& name, const GpuReport& report) {
  if (!report.unavailable.empty()) return name;
  std::vector<std::string> found;
  for (const GpuDetails& gpu : report.gpus) {
    for (const MigInstance& instance : gpu.instances) {
      if (starts_with_ignoring_case(instance.uuid, name)) found.push_back(instance.uuid);
    }
  }
  if (found.size() == 1) return found.front();
  if (found.empty()) {
    return Error{ErrorCode::not_found,
                 concat("device ", quote(name), " is not there; ", instances_in(report))};
  }
  return Error{ErrorCode::invalid_argument,
               concat("device ", quote(name), " fits ", found.size(),
                      " MIG instances; give more of the UUID: ", instances_in(report))};
}

bool lists(std::string_view visible, std::string_view uuid) {
  while (!visible.empty()) {
    const std::size_t comma = std::min(visible.find(','), visible.size());
    const std::string_view entry = trimmed(visible.substr(0, comma));
    if (entry.size() > kStart.size() && uuid.starts_with(entry)) return true;
    visible.remove_prefix(std::min(comma + 1, visible.size()));
  }
  return false;
}

}  // namespace

bool names_mig(std::string_view name) { return starts_with_ignoring_case(name, kStart); }

Result<std::optional<std::string>> visible_for_mig(std::span<const std::string> names,
                                                   const GpuReport& report,
                                                   const char* visible_now) {
  const auto first = std::ranges::find_if(names, names_mig);
  if (first == names.end()) return std::optional<std::string>();
  std::string visible;
  for (const std::string& name : names) {
    if (!names_mig(name)) {
      if (!names_gpu(name)) continue;
      return Error{ErrorCode::invalid_argument,
                   concat("devices ", quote(*first), " and ", quote(name),
                          ": CUDA shows a process either GPUs or a MIG instance; name one kind, "
                          "and use a process for each")};
    }
    MILLRACE_ASSIGN(const std::string uuid, uuid_of(name, report));
    if (visible_now && !lists(visible_now, uuid)) {
      return Error{ErrorCode::not_found,
                   concat("device ", quote(name), " is hidden by CUDA_VISIBLE_DEVICES=",
                          quote(visible_now), "; unset that, or name ", uuid, " there")};
    }
    if (visible.find(uuid) == std::string::npos) {
      visible += concat(visible.empty() ? "" : ",", uuid);
    }
  }
  return std::optional(std::move(visible));
}

}  // namespace millrace
