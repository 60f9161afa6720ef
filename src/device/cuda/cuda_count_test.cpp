#include "device/cuda/cuda_count.h"

#include <gtest/gtest.h>

#include <millrace/device.h>

#include "device/select_devices.h"

namespace millrace {
namespace {

TEST(CudaCount, ReadsTheReleaseOfTheDriver) {
  EXPECT_EQ(driver_release("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23"),
            "580.95.05");
  EXPECT_EQ(
      driver_release("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.1  Release"),
      "535.1");
  EXPECT_EQ(driver_release(""), "");
  EXPECT_EQ(driver_release("no number 7 here"), "");
}

TEST(CudaCount, IdentifiesAsManyAsItCounts) {
  const CudaStatus status = cuda_status();
  const auto gpus = visible_gpus();
  EXPECT_EQ(gpus.size(), static_cast<std::size_t>(status.visible_gpus));
  EXPECT_EQ(status.driver_version.empty(), status.reason.starts_with("no driver"));
  for (const GpuIdentity& gpu : gpus) {
    EXPECT_EQ(gpu.uuid.size(), std::string("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6").size());
    EXPECT_TRUE(gpu.uuid.starts_with("GPU-"));
    EXPECT_FALSE(gpu.name.empty());
  }
}

}  // namespace
}  // namespace millrace
