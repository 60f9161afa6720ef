#include "device/host/machine.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>
#include <thread>

#include <sched.h>
#include <unistd.h>

#include "base/text.h"

namespace millrace {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The rest of the line that starts with `name`, from its first character after blanks.
std::optional<std::string_view> value_of(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.starts_with(name)) {
      line.remove_prefix(name.size());
      std::size_t start = line.find_first_not_of(" \t:");
      return start == std::string_view::npos ? std::string_view() : line.substr(start);
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return std::nullopt;
}

// Reads a number at the front of `text` and removes it and blanks after it.
std::optional<std::int64_t> take_number(std::string_view& text) {
  std::int64_t number = 0;
  auto [stop, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (status != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(stop - text.data()));
  text.remove_prefix(std::min(text.find_first_not_of(" \t\n"), text.size()));
  return number;
}

// Calls `visit` with the text of `file` in the control group and in each of its ancestors, up to
// the mount: limits of all of them hold. A container may see only the latter.
void visit_cgroup_files(const std::string& mount, std::string path, const std::string& file,
                        const std::function<void(const std::string&)>& visit) {
  while (!path.empty() && path.back() == '/') path.pop_back();
  for (;;) {
    std::string text = read_file(concat(mount, path, "/", file));
    if (!text.empty()) visit(text);
    std::size_t slash = path.rfind('/');
    if (slash == std::string::npos) return;
    path.resize(slash);
  }
}

}  // namespace

std::optional<std::size_t> meminfo_bytes(std::string_view meminfo, std::string_view name) {
  auto value = value_of(meminfo, name);
  if (!value) return std::nullopt;
  auto kilobytes = take_number(*value);
  if (!kilobytes || *kilobytes < 0) return std::nullopt;
  return static_cast<std::size_t>(*kilobytes) * 1024;
}

std::optional<std::size_t> cgroup_limit_bytes(std::string_view text) {
  auto bytes = take_number(text);
  // The older interface says "no limit" by the largest number of whole pages.
  if (!bytes || *bytes < 0 || *bytes > std::numeric_limits<std::int64_t>::max() / 2) {
    return std::nullopt;
  }
  return static_cast<std::size_t>(*bytes);
}

std::optional<int> cgroup_quota_cores(std::string_view text) {
  auto quota = take_number(text);
  auto period = take_number(text);
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;
  constexpr std::int64_t kMost = 1 << 20;
  return static_cast<int>(std::min(*quota / *period + (*quota % *period != 0), kMost));
}

std::optional<std::string> cgroup_path(std::string_view cgroups, std::string_view controller) {
  while (!cgroups.empty()) {
    // "4:memory:/path" or, for the unified hierarchy, "0::/path".
    std::size_t end = std::min(cgroups.find('\n'), cgroups.size());
    std::string_view line = cgroups.substr(0, end);
    cgroups.remove_prefix(std::min(end + 1, cgroups.size()));
    std::size_t first = line.find(':');
    if (first == std::string_view::npos) continue;
    std::size_t second = line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    std::string names = "," + std::string(line.substr(first + 1, second - first - 1)) + ",";
    std::string wanted = "," + std::string(controller) + ",";
    bool match = controller.empty() ? names == ",," : names.find(wanted) != std::string::npos;
    if (match) return std::string(line.substr(second + 1));
  }
  return std::nullopt;
}

std::size_t machine_memory_bytes() {
  auto total = meminfo_bytes(read_file("/proc/meminfo"), "MemTotal");
  std::size_t least = total.value_or(static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) *
                                     static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
  auto lower = [&](const std::string& text) {
    if (auto limit = cgroup_limit_bytes(text)) least = std::min(least, *limit);
  };
  const std::string cgroups = read_file("/proc/self/cgroup");
  if (auto path = cgroup_path(cgroups, "")) {
    visit_cgroup_files("/sys/fs/cgroup", *path, "memory.max", lower);
  }
  if (auto path = cgroup_path(cgroups, "memory")) {
    visit_cgroup_files("/sys/fs/cgroup/memory", *path, "memory.limit_in_bytes", lower);
  }
  return least;
}

int usable_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  auto lower = [&](const std::string& text) {
    if (auto quota = cgroup_quota_cores(text)) cores = std::min(cores, *quota);
  };
  const std::string cgroups = read_file("/proc/self/cgroup");
  if (auto path = cgroup_path(cgroups, "")) {
    visit_cgroup_files("/sys/fs/cgroup", *path, "cpu.max", lower);
  }
  if (auto path = cgroup_path(cgroups, "cpu")) {
    const std::string mount = "/sys/fs/cgroup/cpu";
    std::string quota;
    visit_cgroup_files(mount, *path, "cpu.cfs_quota_us",
                       [&](const std::string& text) { quota = text; });
    lower(quota + " " + read_file(mount + "/cpu.cfs_period_us"));
  }
  return std::max(cores, 1);
}

std::string processor_name() {
  const std::string text = read_file("/proc/cpuinfo");
  return std::string(value_of(text, "model name").value_or("CPU"));
}

}  // namespace millrace
