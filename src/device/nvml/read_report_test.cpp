// Reading NVML against tables of its answers. They are put together from what NVML documents and
// what nvidia-smi shows of such GPUs; the MIG one was never compared with hardware.
#include "device/nvml/read_report.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/text.h"
#include "device/nvml/recorded_nvml.h"

namespace millrace {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::string_view kOneH200 = R"(
SystemGetDriverVersion() = 580.95.05
SystemGetNVMLVersion() = 13.580.95.05
SystemGetCudaDriverVersion() = 13000
DeviceGetCount() = 1
DeviceGetHandleByIndex(0) = 0
DeviceGetName(0) = NVIDIA H200
DeviceGetUUID(0) = GPU-8932f937-d72c-4106-c12f-20bd9faed9f6
DeviceGetPciInfo(0) = 00000000:1B:00.0
DeviceGetCudaComputeCapability(0) = 9 0
DeviceGetMemoryInfo(0) = 150754820096 150115254272 639565824
DeviceGetCurrPcieLinkGeneration(0) = 5
DeviceGetMaxPcieLinkGeneration(0) = 5
DeviceGetCurrPcieLinkWidth(0) = 16
DeviceGetMaxPcieLinkWidth(0) = 16
DeviceGetClockInfo(0,1) = 345
DeviceGetMaxClockInfo(0,1) = 1980
DeviceGetClockInfo(0,2) = 3201
DeviceGetMaxClockInfo(0,2) = 3201
DeviceGetCurrentClocksEventReasons(0) = 1
DeviceGetEccMode(0) = 1 1
DeviceGetMigMode(0) = 0 0
)";

// GPU 0 is divided in two instances and has room for five more; GPU 1 gets MIG mode at its next
// reset.
constexpr std::string_view kA100WithMig = R"(
SystemGetDriverVersion() = 580.95.05
SystemGetNVMLVersion() = !13
SystemGetCudaDriverVersion() = 13000
DeviceGetCount() = 2
DeviceGetHandleByIndex(0) = 0
DeviceGetName(0) = NVIDIA A100-SXM4-40GB
DeviceGetUUID(0) = GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77
DeviceGetPciInfo(0) = 00000000:07:00.0
DeviceGetMemoryInfo(0) = !4
DeviceGetMigMode(0) = 1 1
DeviceGetMaxMigDeviceCount(0) = 7
DeviceGetMigDeviceHandleByIndex(0,0) = 0/0
DeviceGetMigDeviceHandleByIndex(0,1) = !6
DeviceGetMigDeviceHandleByIndex(0,2) = 0/2
DeviceGetName(0/0) = NVIDIA A100-SXM4-40GB MIG 3g.20gb
DeviceGetUUID(0/0) = MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f
DeviceGetMemoryInfo(0/0) = 20937965568 20925120512 12845056
DeviceGetGpuInstanceId(0/0) = 2
DeviceGetComputeInstanceId(0/0) = 0
DeviceGetName(0/2) = NVIDIA A100-SXM4-40GB MIG 1g.5gb
DeviceGetUUID(0/2) = MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135
DeviceGetMemoryInfo(0/2) = 5100273664 5093982208 6291456
DeviceGetGpuInstanceId(0/2) = 9
DeviceGetHandleByIndex(1) = 1
DeviceGetName(1) = NVIDIA A100-SXM4-40GB
DeviceGetUUID(1) = GPU-2c6cbb9e-73ba-4c2f-9d44-7f0f2a3c5d10
DeviceGetPciInfo(1) = 00000000:0A:00.0
DeviceGetMigMode(1) = 0 1
DeviceGetP2PStatus(0,1,0) = 5
DeviceGetP2PStatus(1,0,0) = !3
)";

// All links go to switches, and some are down.
std::string four_h200() {
  std::string table = "DeviceGetCount() = 4\n";
  for (int i = 0; i < 4; ++i) {
    table += concat("DeviceGetHandleByIndex(", i, ") = ", i, "\nDeviceGetUUID(", i, ") = GPU-", i,
                    "\nDeviceGetPciInfo(", i, ") = 00000000:", i, "A:00.0\n");
    for (int link = 0; link < 18; ++link) {
      table += concat("DeviceGetNvLinkState(", i, ",", link, ") = ", i == 3 && link > 11 ? 0 : 1,
                      "\nDeviceGetNvLinkRemoteDeviceType(", i, ",", link, ") = 2\n");
    }
    for (int to = 0; to < 4; ++to) {
      for (int what = 0; what < 3; ++what) {
        table += concat("DeviceGetP2PStatus(", i, ",", to, ",", what, ") = 0\n");
      }
    }
  }
  return table;
}

GpuReport read(std::string_view table, const std::string& sysfs = "/nowhere") {
  const Recording recording(table);
  return read_gpu_report(Recording::functions(), sysfs);
}

TEST(ReadGpuReport, OneH200) {
  const GpuReport report = read(kOneH200);
  EXPECT_EQ(report.unavailable, "");
  EXPECT_EQ(report.driver_version.value, "580.95.05");
  EXPECT_EQ(report.nvml_version.value, "13.580.95.05");
  EXPECT_EQ(report.cuda_version.value, "13.0");
  ASSERT_EQ(report.gpus.size(), 1U);
  const GpuDetails& gpu = report.gpus[0];
  EXPECT_EQ(gpu.uuid, "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6");
  EXPECT_EQ(gpu.pci_bus_id, "0000:1b:00.0");
  EXPECT_EQ(gpu.name.value, "NVIDIA H200");
  EXPECT_EQ(gpu.compute_capability.value, "9.0");
  EXPECT_EQ(gpu.memory.value->total_bytes, 150754820096U);
  EXPECT_EQ(gpu.memory.value->free_bytes, 150115254272U);
  EXPECT_EQ(gpu.pcie_generation.value->now, 5U);
  EXPECT_EQ(gpu.pcie_generation.value->most, 5U);
  EXPECT_EQ(gpu.pcie_width.value->now, 16U);
  EXPECT_EQ(gpu.clock_mhz.value->now, 345U);
  EXPECT_EQ(gpu.clock_mhz.value->most, 1980U);
  EXPECT_EQ(gpu.memory_clock_mhz.value->now, 3201U);
  EXPECT_THAT(*gpu.slowed_by.value, IsEmpty());  // idling is no slowdown
  EXPECT_TRUE(gpu.ecc.value->on);
  EXPECT_FALSE(gpu.mig.value->on);
  EXPECT_THAT(gpu.instances, IsEmpty());
}

TEST(ReadGpuReport, WhatIsRefusedIsSaidInItsPlace) {
  const GpuReport report = read(kOneH200);
  EXPECT_FALSE(report.gpus[0].links.value.has_value());
  EXPECT_EQ(report.gpus[0].links.refused, "not supported");
  const GpuReport mig = read(kA100WithMig);
  EXPECT_EQ(mig.gpus[0].memory.refused, "no permission");
  EXPECT_EQ(mig.nvml_version.refused, "not known to this driver");
  EXPECT_EQ(mig.gpus[0].ecc.refused, "not supported");
  EXPECT_FALSE(mig.gpus[0].pcie_width.value.has_value());
}

TEST(ReadGpuReport, FunctionsThatALibraryDoesNotHaveAreRefused) {
  const Recording recording(kOneH200);
  NvmlFunctions old = Recording::functions();
  old.DeviceGetMigMode = nullptr;
  old.DeviceGetMaxClockInfo = nullptr;
  const GpuReport report = read_gpu_report(old, "/nowhere");
  EXPECT_EQ(report.gpus[0].mig.refused, "not known to this driver");
  EXPECT_EQ(report.gpus[0].clock_mhz.refused, "not known to this driver");
  EXPECT_TRUE(report.gpus[0].ecc.value.has_value());
  EXPECT_THAT(read_gpu_report(NvmlFunctions(), "/nowhere").unavailable,
              HasSubstr("does not count GPUs"));
}

TEST(ReadGpuReport, ReasonsOfSlowClocks) {
  const std::string base(kOneH200);
  const auto reasons = [&](const char* bits) {
    return *read(base + "DeviceGetCurrentClocksEventReasons(0) = " + bits + "\n")
                .gpus[0]
                .slowed_by.value;
  };
  EXPECT_THAT(reasons("4"), ElementsAre("power limit"));
  EXPECT_THAT(reasons("73"), ElementsAre("hardware slowdown", "temperature, by the hardware"));
  EXPECT_THAT(reasons("513"), ElementsAre("reason 512"));
}

TEST(ReadGpuReport, MigInstancesOfAnA100) {
  const GpuReport report = read(kA100WithMig);
  ASSERT_EQ(report.gpus.size(), 2U);
  const std::vector<MigInstance>& instances = report.gpus[0].instances;
  ASSERT_EQ(instances.size(), 2U);  // a place between them is empty
  EXPECT_EQ(instances[0].uuid, "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f");
  EXPECT_EQ(instances[0].name.value, "NVIDIA A100-SXM4-40GB MIG 3g.20gb");
  EXPECT_EQ(instances[0].memory.value->total_bytes, 20937965568U);
  EXPECT_EQ(instances[0].gpu_instance.value, 2U);
  EXPECT_EQ(instances[0].compute_instance.value, 0U);
  EXPECT_EQ(instances[1].uuid, "MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135");
  EXPECT_EQ(instances[1].compute_instance.refused, "not supported");
  EXPECT_TRUE(report.gpus[0].mig.value->on);
  EXPECT_FALSE(report.gpus[1].mig.value->on);
  EXPECT_TRUE(report.gpus[1].mig.value->pending);
  EXPECT_THAT(report.gpus[1].instances, IsEmpty());
  EXPECT_EQ(report.peers[0][1].access.value, false);
  EXPECT_EQ(report.peers[0][1].access.refused, "not supported");
  EXPECT_FALSE(report.peers[1][0].access.value.has_value());
}

TEST(ReadGpuReport, FourGpusBehindSwitches) {
  const GpuReport report = read(four_h200());
  ASSERT_EQ(report.gpus.size(), 4U);
  EXPECT_EQ(report.gpus[0].links.value->size(), 18U);
  EXPECT_EQ(report.gpus[0].links.value->back().to, GpuLink::To::bridge);
  EXPECT_EQ(report.gpus[3].links.value->size(), 12U);
  for (std::size_t i = 0; i < 4; ++i) {
    for (std::size_t j = 0; j < 4; ++j) {
      if (i == j) continue;
      EXPECT_EQ(report.peers[i][j].access.value, true) << i << " to " << j;
      EXPECT_EQ(report.peers[i][j].nvlinks, i == 3 || j == 3 ? 12 : 18) << i << " to " << j;
    }
  }
}

TEST(ReadGpuReport, LinksFromGpuToGpuCountForThatGpuAlone) {
  std::string table = four_h200();
  for (int link = 0; link < 18; ++link) {
    table += concat("DeviceGetNvLinkRemoteDeviceType(0,", link, ") = ", link < 4 ? 0 : 255,
                    "\nDeviceGetNvLinkRemotePciInfo(0,", link, ") = 00000000:2A:00.0\n");
  }
  const GpuReport report = read(table);
  EXPECT_EQ(report.gpus[0].links.value->front().to, GpuLink::To::gpu);
  EXPECT_EQ(report.gpus[0].links.value->front().pci_bus_id, report.gpus[2].pci_bus_id);
  EXPECT_EQ(report.peers[0][2].nvlinks, 4);
  EXPECT_EQ(report.peers[0][1].nvlinks, 0);
}

TEST(ReadGpuReport, PeersWithoutNvlinkOrWithoutAccess) {
  const std::string base = four_h200();
  const GpuReport pcie = read(base + "DeviceGetP2PStatus(0,1,2) = 5\n");
  EXPECT_EQ(pcie.peers[0][1].access.value, true);
  EXPECT_EQ(pcie.peers[0][1].nvlinks, 0);
  const GpuReport none = read(base + "DeviceGetP2PStatus(0,1,1) = 1\n");
  EXPECT_EQ(none.peers[0][1].access.value, false);
  EXPECT_EQ(none.peers[0][1].access.refused, "not by this chipset");
}

TEST(ReadGpuReport, AGpuThatIsLostHidesNoOther) {
  const GpuReport report = read(four_h200() + "DeviceGetHandleByIndex(1) = !15\n");
  ASSERT_EQ(report.gpus.size(), 4U);
  EXPECT_EQ(report.gpus[1].name.refused, "the GPU is lost");
  EXPECT_EQ(report.gpus[1].nvml_index, 1U);
  EXPECT_EQ(report.gpus[2].uuid, "GPU-2");
  EXPECT_FALSE(report.peers[0][1].access.value.has_value());
  EXPECT_EQ(report.peers[0][2].access.value, true);
}

TEST(ReadGpuReport, NumaNodesComeFromTheSystem) {
  const std::filesystem::path sysfs =
      std::filesystem::path(testing::TempDir()) / "sysfs-of-gpu-report";
  std::filesystem::create_directories(sysfs / "bus/pci/devices/0000:1b:00.0");
  std::ofstream(sysfs / "bus/pci/devices/0000:1b:00.0/numa_node") << "1\n";
  EXPECT_EQ(read(kOneH200, sysfs.string()).gpus[0].numa_node, 1);
  EXPECT_EQ(read(kOneH200).gpus[0].numa_node, -1);
  std::filesystem::remove_all(sysfs);
}

TEST(NumberAsCuda, FollowsUuidsNotPlaces) {
  GpuReport report = read(four_h200());
  const std::vector<GpuIdentity> visible{{"GPU-2", "", ""}, {"gpu-0", "", ""}};
  number_as_cuda(report, visible);
  EXPECT_EQ(report.gpus[0].cuda_index, 1);
  EXPECT_EQ(report.gpus[1].cuda_index, -1);
  EXPECT_EQ(report.gpus[2].cuda_index, 0);
  EXPECT_EQ(report.gpus[3].cuda_index, -1);
}

TEST(NumberAsCuda, FollowsThePciBusWhereThereIsNoUuid) {
  GpuReport report = read(four_h200() + "DeviceGetUUID(1) = !4\n");
  const std::vector<GpuIdentity> visible{{"GPU-3", "", "0000:3a:00.0"},
                                         {"GPU-1", "", "0000:1a:00.0"}};
  number_as_cuda(report, visible);
  EXPECT_EQ(report.gpus[1].cuda_index, 1);
  EXPECT_EQ(report.gpus[3].cuda_index, 0);
  EXPECT_EQ(report.gpus[0].cuda_index, -1);
}

TEST(NumberAsCuda, AnInstanceIsVisibleWithoutItsGpu) {
  GpuReport report = read(kA100WithMig);
  const std::vector<GpuIdentity> visible{
      {"MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135", "", "0000:07:00.0"}};
  number_as_cuda(report, visible);
  EXPECT_EQ(report.gpus[0].cuda_index, -1);
  EXPECT_EQ(report.gpus[0].instances[0].cuda_index, -1);
  EXPECT_EQ(report.gpus[0].instances[1].cuda_index, 0);
}

TEST(NvmlLibrary, SaysWhyItIsNotThere) {
  const auto missing = NvmlLibrary::open("libno-such-nvml.so.1");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::unavailable);
  EXPECT_THAT(missing.error().message, HasSubstr("libno-such-nvml.so.1"));
  const auto other = NvmlLibrary::open("libm.so.6");  // opens, but is no NVML
  ASSERT_FALSE(other.ok());
  EXPECT_THAT(other.error().message, HasSubstr("NVML did not start"));
}

TEST(NvmlLibrary, AReportWithoutItSaysSo) {
  const GpuReport report = gpu_report();
  EXPECT_EQ(report.unavailable.empty(), report.driver_version.value.has_value());
}

}  // namespace
}  // namespace millrace
