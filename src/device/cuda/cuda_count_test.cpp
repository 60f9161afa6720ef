#include "device/cuda/cuda_count.h"

#include <gmock/gmock.h>
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

CudaCount count_of(int driver, cudaError_t status, const char* visible = nullptr) {
  CudaCount count;
  count.driver = driver;
  count.runtime = 13020;
  count.status = status;
  count.visible = visible;
  return count;
}

TEST(CudaCount, SaysWhyThereIsNoGpuAndWhatToDo) {
  using testing::HasSubstr;
  EXPECT_THAT(why_no_gpus(count_of(0, cudaErrorInsufficientDriver)),
              testing::AllOf(HasSubstr("no driver"), HasSubstr("install NVIDIA's driver")));
  CudaCount old = count_of(12040, cudaErrorInsufficientDriver);
  old.release = "550.54.15";
  EXPECT_THAT(why_no_gpus(old), HasSubstr("the driver 550.54.15 supports CUDA 12.4; this build has "
                                          "CUDA 13.2: install a driver for CUDA 13 or newer"));
  EXPECT_EQ(why_no_gpus(count_of(13000, cudaErrorNoDevice)), "the driver finds none");
  EXPECT_THAT(why_no_gpus(count_of(13000, cudaErrorNoDevice, "7")),
              HasSubstr("the driver finds none with CUDA_VISIBLE_DEVICES=\"7\""));
  EXPECT_THAT(why_no_gpus(count_of(13000, cudaErrorSystemNotReady)), HasSubstr("fabricmanager"));
  EXPECT_THAT(why_no_gpus(count_of(13000, cudaErrorSystemDriverMismatch)), HasSubstr("restart"));
  EXPECT_THAT(why_no_gpus(count_of(13000, cudaErrorUnknown)), HasSubstr("the driver says: "));
}

TEST(CudaCount, IdentifiesAsManyAsItCounts) {
  const CudaStatus status = cuda_status();
  const auto gpus = visible_gpus();
  EXPECT_EQ(gpus.size(), static_cast<std::size_t>(status.visible_gpus));
  EXPECT_EQ(status.driver_version.empty(), status.reason.starts_with("no driver"));
  for (const GpuIdentity& gpu : gpus) {
    EXPECT_EQ(gpu.uuid.size(), std::string("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6").size());
    EXPECT_TRUE(gpu.uuid.starts_with("GPU-") || gpu.uuid.starts_with("MIG-")) << gpu.uuid;
    EXPECT_FALSE(gpu.pci_bus_id.empty());
    EXPECT_FALSE(gpu.name.empty());
  }
}

}  // namespace
}  // namespace millrace
