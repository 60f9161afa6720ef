// The usage of GPUs against tables of NVML's answers.
#include "device/nvml/gpu_usage.h"

#include <atomic>

#include <gtest/gtest.h>

#include "device/nvml/recorded_nvml.h"

namespace millrace {
namespace {

constexpr std::string_view kTable = R"(
DeviceGetCount() = 3
DeviceGetHandleByIndex(0) = 0
DeviceGetUUID(0) = GPU-a
DeviceGetUtilizationRates(0) = 87 41
DeviceGetPowerUsage(0) = 512250
DeviceGetEnforcedPowerLimit(0) = 700000
DeviceGetTotalEnergyConsumption(0) = 5000000123
DeviceGetHandleByIndex(1) = !15
DeviceGetHandleByIndex(2) = 2
DeviceGetUUID(2) = GPU-c
DeviceGetUtilizationRates(2) = !3
DeviceGetPowerUsage(2) = 90000
)";

TEST(GpuUsageTest, IsInUnitsAndWhatIsRefusedIsLeftOut) {
  const Recording recording(kTable);
  const std::vector<GpuUsage> gpus = read_gpu_usage(Recording::functions());
  ASSERT_EQ(gpus.size(), 2u);  // that which is lost is not there
  EXPECT_EQ(gpus[0].uuid, "GPU-a");
  EXPECT_DOUBLE_EQ(gpus[0].utilization.value(), 0.87);
  EXPECT_DOUBLE_EQ(gpus[0].memory_utilization.value(), 0.41);
  EXPECT_DOUBLE_EQ(gpus[0].power_watts.value(), 512.25);
  EXPECT_DOUBLE_EQ(gpus[0].power_limit_watts.value(), 700);
  EXPECT_DOUBLE_EQ(gpus[0].energy_joules.value(), 5000000.123);
  EXPECT_EQ(gpus[1].uuid, "GPU-c");
  EXPECT_FALSE(gpus[1].utilization.has_value());
  EXPECT_DOUBLE_EQ(gpus[1].power_watts.value(), 90);
  EXPECT_FALSE(gpus[1].energy_joules.has_value());
}

TEST(GpuUsageTest, ALibraryWithoutTheFunctionsTellsNothing) {
  const Recording recording(kTable);
  EXPECT_TRUE(read_gpu_usage(NvmlFunctions()).empty());
  NvmlFunctions old = Recording::functions();
  old.DeviceGetUtilizationRates = nullptr;
  old.DeviceGetTotalEnergyConsumption = nullptr;
  const std::vector<GpuUsage> gpus = read_gpu_usage(old);
  ASSERT_EQ(gpus.size(), 2u);
  EXPECT_FALSE(gpus[0].utilization.has_value());
  EXPECT_FALSE(gpus[0].energy_joules.has_value());
  EXPECT_DOUBLE_EQ(gpus[0].power_watts.value(), 512.25);
}

TEST(GpuUsageTest, NothingIsOpenedBeforeSomebodyAsks) {
  std::atomic<int> opened{0};
  std::atomic<int> samples{0};
  GpuUsageSampler sampler([&]() -> GpuUsageSampler::Read {
    ++opened;
    return [&samples] {
      GpuUsage gpu;
      gpu.uuid = std::to_string(++samples);
      return std::vector<GpuUsage>(1, gpu);
    };
  });
  EXPECT_EQ(opened, 0);
  const std::vector<GpuUsage> first = sampler.latest();
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].uuid, "1");
  while (sampler.latest()[0].uuid == "1")
    std::this_thread::yield();  // the next one comes by itself
  EXPECT_EQ(opened, 1);
}

TEST(GpuUsageTest, WhereThereIsNothingToReadTheAnswerIsEmpty) {
  std::atomic<int> opened{0};
  GpuUsageSampler sampler([&]() -> GpuUsageSampler::Read {
    ++opened;
    return nullptr;
  });
  EXPECT_TRUE(sampler.latest().empty());
  EXPECT_TRUE(sampler.latest().empty());
  EXPECT_EQ(opened, 1);
}

}  // namespace
}  // namespace millrace
