#include <cstddef>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <millrace/device.h>

#include "device/host/host_device.h"

namespace millrace {
namespace {

using testing::HasSubstr;

TEST(DeviceSet, OpensAHostDeviceWhenNothingIsNamed) {
  const DeviceSet set = DeviceSet::open().value();
  ASSERT_EQ(set.devices().size(), 1u);
  EXPECT_EQ(set.devices()[0]->id(), DeviceId::host(0));
  EXPECT_EQ(set.devices()[0]->info().uuid, "HOST-0");
}

TEST(DeviceSet, KeepsTheOrderAndTheIndicesNamed) {
  const DeviceSet set = DeviceSet::open({.devices = {"host:2", "host"}, .host = {}}).value();
  ASSERT_EQ(set.devices().size(), 2u);
  EXPECT_EQ(set.devices()[0]->id(), DeviceId::host(2));
  EXPECT_EQ(set.devices()[1]->id(), DeviceId::host(0));
  EXPECT_EQ(set.find(DeviceId::host(2)), set.devices()[0]);
  EXPECT_EQ(set.find(DeviceId::host(1)), nullptr);
  EXPECT_EQ(set.find(DeviceId::host_memory()), nullptr);
}

TEST(DeviceSet, GivesEachHostDeviceItsSettings) {
  DeviceSetOptions options;
  options.devices = {"host:1", "host:5", "host:0"};
  options.host = {{.memory_limit_bytes = 1000, .slowness = 2},
                  {.memory_limit_bytes = 3000, .slowness = 3}};
  const DeviceSet set = DeviceSet::open(options).value();
  EXPECT_EQ(set.find(DeviceId::host(0))->memory().limit_bytes, 1000u);
  EXPECT_EQ(set.find(DeviceId::host(1))->memory().limit_bytes, 3000u);
  EXPECT_EQ(as_host(set.find(DeviceId::host(1)))->slowness(), 3);
  const DeviceRef by_default = set.find(DeviceId::host(5));
  EXPECT_EQ(by_default->memory().limit_bytes, by_default->info().memory_bytes);
  EXPECT_EQ(as_host(by_default)->slowness(), 1);
  EXPECT_EQ(as_host(nullptr), nullptr);
}

TEST(DeviceSet, StaysValidWhenMoved) {
  DeviceSet set = DeviceSet::open({.devices = {"host"}, .host = {}}).value();
  const DeviceRef device = set.devices()[0];
  DeviceSet moved = std::move(set);
  EXPECT_EQ(moved.find(DeviceId::host(0)), device);
  EXPECT_TRUE(device->new_stream({}).ok());
}

TEST(DeviceSet, RefusesBadNamesAndSettings) {
  EXPECT_EQ(DeviceSet::open({.devices = {"tpu"}, .host = {}}).error().code,
            ErrorCode::invalid_argument);
  EXPECT_EQ(DeviceSet::open({.devices = {"host", "host:0"}, .host = {}}).error().code,
            ErrorCode::invalid_argument);
  for (double slowness : {0.0, -1.0}) {
    DeviceSetOptions options;
    options.devices = {"host"};
    options.host = {{.memory_limit_bytes = 0, .slowness = slowness}};
    EXPECT_EQ(DeviceSet::open(options).error().code, ErrorCode::invalid_argument);
  }
}

TEST(DeviceSet, SaysWhyAGpuCannotBeUsed) {
  const CudaStatus status = cuda_status();
  const auto set = DeviceSet::open({.devices = {"cuda:0"}, .host = {}});
  ASSERT_FALSE(set.ok());
  if (status.visible_gpus == 0) {
    EXPECT_EQ(set.error().code, ErrorCode::not_found);
    EXPECT_THAT(set.error().message, HasSubstr(status.reason));
    EXPECT_THAT(set.error().message, HasSubstr("host:0"));
  } else {
    EXPECT_EQ(set.error().code, ErrorCode::unsupported);
  }
}

TEST(CudaStatus, GivesAReasonExactlyWhenThereAreNoGpus) {
  const CudaStatus status = cuda_status();
  EXPECT_GE(status.visible_gpus, 0);
  EXPECT_EQ(status.reason.empty(), status.visible_gpus > 0) << status.reason;
#if MILLRACE_WITH_CUDA
  EXPECT_THAT(status.runtime_version, testing::StartsWith("13."));
#else
  EXPECT_EQ(status.reason, "built without CUDA");
#endif
}

}  // namespace
}  // namespace millrace
