#include "device/nvml/gpu_usage.h"

#include <array>
#include <chrono>
#include <memory>
#include <utility>

#include "base/log.h"

namespace millrace {
namespace {

constexpr Duration kPeriod = std::chrono::seconds(1);
constexpr Duration kInterest = std::chrono::minutes(1);  // how long a question keeps it going
constexpr Duration kStale = std::chrono::seconds(3);
constexpr double kPercent = 0.01;
constexpr double kMilli = 0.001;

template <class T>
std::optional<double> in_units(int (*function)(NvmlDevice, T*), NvmlDevice device, double unit) {
  T value = 0;
  if (!function || function(device, &value) != kNvmlSuccess) return std::nullopt;
  return static_cast<double>(value) * unit;
}

std::string uuid_of(const NvmlFunctions& nvml, NvmlDevice device) {
  std::array<char, 96> text{};
  const bool known =
      nvml.DeviceGetUUID && nvml.DeviceGetUUID(device, text.data(), text.size()) == kNvmlSuccess;
  text.back() = '\0';
  return known ? text.data() : "";
}

GpuUsageSampler::Read open_nvml() {
  Result<NvmlLibrary> opened = NvmlLibrary::open();
  if (!opened) {
    log_info("the utilization of GPUs is not known: ", opened.error().message);
    return nullptr;
  }
  auto library = std::make_shared<const NvmlLibrary>(*std::move(opened));
  return [library] { return read_gpu_usage(library->functions()); };
}

}  // namespace

std::vector<GpuUsage> read_gpu_usage(const NvmlFunctions& nvml) {
  std::vector<GpuUsage> gpus;
  unsigned count = 0;
  if (!nvml.DeviceGetCount || nvml.DeviceGetCount(&count) != kNvmlSuccess) return gpus;
  for (unsigned i = 0; i < count && nvml.DeviceGetHandleByIndex; ++i) {
    NvmlDevice device = nullptr;
    if (nvml.DeviceGetHandleByIndex(i, &device) != kNvmlSuccess) continue;
    GpuUsage gpu;
    gpu.uuid = uuid_of(nvml, device);
    if (gpu.uuid.empty()) continue;
    NvmlUtilization busy;
    if (nvml.DeviceGetUtilizationRates &&
        nvml.DeviceGetUtilizationRates(device, &busy) == kNvmlSuccess) {
      gpu.utilization = busy.gpu * kPercent;
      gpu.memory_utilization = busy.memory * kPercent;
    }
    gpu.power_watts = in_units(nvml.DeviceGetPowerUsage, device, kMilli);
    gpu.power_limit_watts = in_units(nvml.DeviceGetEnforcedPowerLimit, device, kMilli);
    gpu.energy_joules = in_units(nvml.DeviceGetTotalEnergyConsumption, device, kMilli);
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

GpuUsageSampler::GpuUsageSampler() : GpuUsageSampler(open_nvml) {}

GpuUsageSampler::~GpuUsageSampler() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::vector<GpuUsage> GpuUsageSampler::latest() {
  std::unique_lock lock(mutex_);
  asked_ = Clock::now();
  if (!std::exchange(started_, true)) {
    Result<Thread> thread = Thread::start("mr-gpu-usage", [this] { work(); });
    over_ = !thread.ok();
    if (thread) thread_ = *std::move(thread);
  }
  changed_.notify_all();
  changed_.wait_for(lock, kPeriod, [this] { return over_ || asked_ - sampled_ < kStale; });
  return sample_;
}

void GpuUsageSampler::work() {
  const Read read = open_();
  std::unique_lock lock(mutex_);
  over_ = !read;
  while (!over_ && !stopping_) {
    lock.unlock();
    std::vector<GpuUsage> sample = read();
    lock.lock();
    sample_ = std::move(sample);
    sampled_ = Clock::now();
    changed_.notify_all();
    changed_.wait_for(lock, kPeriod, [this] { return stopping_; });
    changed_.wait(lock, [this] { return stopping_ || Clock::now() - asked_ < kInterest; });
  }
  changed_.notify_all();
}

}  // namespace millrace
