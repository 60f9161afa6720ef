#include "cli/gpu_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace millrace::cli {
namespace {

using testing::HasSubstr;

template <class T>
GpuAnswer<T> answer(T value) {
  return {std::move(value), {}};
}
template <class T>
GpuAnswer<T> refused(std::string why) {
  return {std::nullopt, std::move(why)};
}

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

GpuDetails gpu(unsigned index, int cuda_index) {
  GpuDetails gpu;
  gpu.nvml_index = index;
  gpu.cuda_index = cuda_index;
  gpu.uuid = "GPU-" + std::to_string(index);
  gpu.pci_bus_id = "0000:1b:00.0";
  gpu.numa_node = 1;
  gpu.name = answer<std::string>("NVIDIA H200");
  gpu.compute_capability = answer<std::string>("9.0");
  gpu.memory = answer(GpuMemory{140 * kGiB, 100 * kGiB});
  gpu.pcie_generation = answer(GpuNowAndMost{1, 5});
  gpu.pcie_width = answer(GpuNowAndMost{8, 16});
  gpu.clock_mhz = answer(GpuNowAndMost{345, 1980});
  gpu.memory_clock_mhz = refused<GpuNowAndMost>("no permission");
  gpu.slowed_by = answer(std::vector<std::string>{"power limit", "sync boost"});
  gpu.ecc = answer(GpuMode{true, true});
  gpu.mig = answer(GpuMode{false, true});
  gpu.links = answer(
      std::vector<GpuLink>{{0, GpuLink::To::bridge, ""}, {1, GpuLink::To::gpu, "0000:2b:00.0"}});
  return gpu;
}

// GPU 0 is cuda:1 and GPU 1 hidden; they reach each other by NVLink one way alone.
GpuReport two_gpus() {
  GpuReport report;
  report.driver_version = answer<std::string>("580.95.05");
  report.cuda_version = answer<std::string>("13.0");
  report.nvml_version = refused<std::string>("not known to this driver");
  report.gpus = {gpu(0, 1), gpu(1, -1)};
  report.peers.resize(2, std::vector<GpuPeer>(2));
  report.peers[0][1] = {answer(true), 18};
  report.peers[1][0] = {{false, "not by this chipset"}, 0};
  return report;
}

TEST(GpusText, HasABlockForEachGpu) {
  const std::string text = gpus_text(two_gpus());
  for (const char* expected :
       {"GPUs (driver 580.95.05, CUDA 13.0, NVML not known to this driver)", "cuda:1  NVIDIA H200",
        "GPU 1  NVIDIA H200", "UUID         GPU-1", "100 GiB free of 140 GiB",
        "0000:1b:00.0, NUMA node 1", "generation 1 of 5, lanes 8 of 16",
        "345 of 1980 MHz, memory no permission MHz", "power limit; sync boost",
        "2 up: 1 to GPUs, 1 to switches", "ECC          on\n",
        "MIG          off, on after the next reset"}) {
    EXPECT_THAT(text, HasSubstr(expected));
  }
}

TEST(GpusText, ShowsWhoReachesWhom) {
  const std::string text = gpus_text(two_gpus());
  EXPECT_THAT(text, HasSubstr("NVLink x18"));
  EXPECT_THAT(text, HasSubstr("no (not by this chipset)"));
  GpuReport one = two_gpus();
  one.gpus.pop_back();
  EXPECT_THAT(gpus_text(one), testing::Not(HasSubstr("Peer access")));
  EXPECT_EQ(gpus_text(GpuReport()), "");
}

TEST(GpusText, ListsMigInstances) {
  GpuReport report = two_gpus();
  MigInstance instance;
  instance.uuid = "MIG-7";
  instance.cuda_index = 0;
  instance.name = answer<std::string>("NVIDIA A100 MIG 1g.5gb");
  instance.memory = answer(GpuMemory{5 * kGiB, 4 * kGiB});
  instance.gpu_instance = answer(9U);
  instance.compute_instance = refused<unsigned>("not supported");
  report.gpus[1].instances = {instance};
  EXPECT_THAT(gpus_text(report),
              HasSubstr("cuda:0  MIG-7  NVIDIA A100 MIG 1g.5gb, 4.00 GiB free of 5.00 GiB, "
                        "GPU instance 9, compute instance not supported"));
  Json json = gpus_json(report)["gpus"][1]["mig_instances"][0];
  EXPECT_EQ(json["device"], "cuda:0");
  EXPECT_EQ(json["memory"]["total_bytes"], 5 * kGiB);
  EXPECT_EQ(json["compute_instance"], nullptr);
  EXPECT_EQ(json["refused"]["compute_instance"], "not supported");
}

TEST(GpusJson, HasNullAndTheReasonForWhatWasRefused) {
  Json json = gpus_json(two_gpus());
  EXPECT_EQ(json["available"], true);
  EXPECT_EQ(json["nvml_version"], nullptr);
  EXPECT_EQ(json["refused"]["nvml_version"], "not known to this driver");
  Json first = json["gpus"][0];
  EXPECT_EQ(first["device"], "cuda:1");
  EXPECT_EQ(first["pcie_width"]["now"], 8);
  EXPECT_EQ(first["memory_clock_mhz"], nullptr);
  EXPECT_EQ(first["refused"].size(), 1U);
  EXPECT_EQ(first["nvlinks"][1]["pci_bus_id"], "0000:2b:00.0");
  EXPECT_EQ(json["gpus"][1]["device"], nullptr);
  ASSERT_EQ(json["peers"].size(), 2U);
  EXPECT_EQ(json["peers"][0]["nvlinks"], 18);
  EXPECT_EQ(json["peers"][1]["access"], false);
  EXPECT_EQ(json["peers"][1]["why_not"], "not by this chipset");
}

TEST(GpusJson, SaysWhyThereIsNothing) {
  GpuReport report;
  report.unavailable = "NVML was not found";
  Json json = gpus_json(report);
  EXPECT_EQ(json["available"], false);
  EXPECT_EQ(json["reason"], "NVML was not found");
  EXPECT_TRUE(json["gpus"].empty());
}

TEST(KeepOnly, LeavesTheGpusInUseAndTheirPeers) {
  GpuReport report = two_gpus();
  MigInstance instance;
  instance.cuda_index = 4;
  report.gpus[1].instances = {instance};
  keep_only(report, {1, 4});
  EXPECT_EQ(report.gpus.size(), 2U);
  keep_only(report, {4});
  ASSERT_EQ(report.gpus.size(), 1U);
  EXPECT_EQ(report.gpus[0].uuid, "GPU-1");
  ASSERT_EQ(report.peers.size(), 1U);
  EXPECT_EQ(report.peers[0].size(), 1U);
  keep_only(report, {});
  EXPECT_EQ(gpus_text(report), "");
}

}  // namespace
}  // namespace millrace::cli
