// What is said of the machine's GPUs against what CUDA and the system say. Skipped, and said so,
// where there is none.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include <millrace/engine.h>
#include <millrace/gpu_report.h>

#include "device/numa.h"

namespace millrace {
namespace {

using Json = nlohmann::json;

class Gpus : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_status().visible_gpus == 0) {
      GTEST_SKIP() << "NOT CHECKED: needs 1 GPU: " << cuda_status().reason;
    }
  }
};

const GpuDetails* find_gpu(const GpuReport& report, int cuda_index) {
  for (const GpuDetails& gpu : report.gpus) {
    if (gpu.cuda_index == cuda_index) return &gpu;
  }
  return nullptr;
}

std::string first_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "Cpus_allowed_list" of each thread of this process whose name starts so.
std::vector<std::string> processors_of_threads(const std::string& start) {
  std::vector<std::string> lists;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (!first_line(task.path() / "comm").starts_with(start)) continue;
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);) {
      const std::string name = "Cpus_allowed_list:\t";
      if (line.starts_with(name)) lists.push_back(line.substr(name.size()));
    }
  }
  return lists;
}

TEST_F(Gpus, NvmlAndCudaTellTheSameOfEach) {
  const GpuReport report = gpu_report();
  if (!report.unavailable.empty()) GTEST_SKIP() << "NOT CHECKED: " << report.unavailable;
  Result<DeviceSet> set = DeviceSet::open();
  ASSERT_TRUE(set.ok()) << set.error().message;
  for (const DeviceRef device : set->devices()) {
    const DeviceInfo& info = device->info();
    if (info.uuid.starts_with("MIG-")) continue;
    const GpuDetails* gpu = find_gpu(report, info.id.index);
    ASSERT_NE(gpu, nullptr) << to_string(info.id) << ", " << info.uuid;
    EXPECT_EQ(gpu->uuid, info.uuid);
    EXPECT_EQ(gpu->pci_bus_id, info.pci_bus_id);
    EXPECT_EQ(gpu->numa_node, info.numa_node);
    EXPECT_EQ(gpu->name.value, info.name) << gpu->name.refused;
    EXPECT_EQ(gpu->compute_capability.value,
              std::to_string(info.compute_major) + "." + std::to_string(info.compute_minor));
    ASSERT_TRUE(gpu->memory.value.has_value()) << gpu->memory.refused;
    EXPECT_NEAR(static_cast<double>(gpu->memory.value->total_bytes),
                static_cast<double>(info.memory_bytes),
                0.05 * static_cast<double>(info.memory_bytes));
    EXPECT_GT(gpu->memory.value->free_bytes, 0U);
    ASSERT_TRUE(gpu->clock_mhz.value.has_value()) << gpu->clock_mhz.refused;
    EXPECT_LE(gpu->clock_mhz.value->now, gpu->clock_mhz.value->most);
  }
}

TEST_F(Gpus, PeersAreThoseOfCuda) {
  const int count = cuda_status().visible_gpus;
  if (count < 2) GTEST_SKIP() << "NOT CHECKED: needs 2 GPUs";
  const GpuReport report = gpu_report();
  if (!report.unavailable.empty()) GTEST_SKIP() << "NOT CHECKED: " << report.unavailable;
  for (int from = 0; from < count; ++from) {
    for (int to = 0; to < count; ++to) {
      const GpuDetails* a = find_gpu(report, from);
      const GpuDetails* b = find_gpu(report, to);
      if (from == to || !a || !b) continue;
      const GpuPeer& peer = report.peers[a->nvml_index][b->nvml_index];
      int reaches = 0;
      ASSERT_EQ(cudaDeviceCanAccessPeer(&reaches, from, to), cudaSuccess);
      if (!peer.access.value) continue;  // NVML has no opinion
      EXPECT_EQ(*peer.access.value, reaches != 0)
          << "cuda:" << from << " to cuda:" << to << ": " << peer.access.refused;
    }
  }
}

TEST_F(Gpus, AreChosenByUuidAndPrefix) {
  Result<DeviceSet> all = DeviceSet::open();
  ASSERT_TRUE(all.ok()) << all.error().message;
  for (const DeviceRef device : all->devices()) {
    const std::string uuid = device->info().uuid;
    Result<DeviceSet> one = DeviceSet::open({{uuid}, {}});
    ASSERT_TRUE(one.ok()) << one.error().message;
    EXPECT_EQ(one->devices()[0]->id(), device->id());
  }
  Result<DeviceSet> none = DeviceSet::open({{"cuda:64"}, {}});
  ASSERT_FALSE(none.ok());
  EXPECT_THAT(none.error().message, testing::HasSubstr(all->devices()[0]->info().uuid));
}

TEST_F(Gpus, ThreadsAndPinnedMemoryAreNearTheirGpu) {
  EngineOptions options;
  options.devices.devices = {"0"};
  Result<Engine> engine = Engine::create(std::move(options));
  ASSERT_TRUE(engine.ok()) << engine.error().message;
  const DeviceRef device = engine->devices()[0];
  const NumaPlace place = place_near(device->info().numa_node, process_cpus());
  if (place.node < 0) GTEST_SKIP() << "NOT CHECKED: " << place.why;
  for (const char* name : {"mr-driver-0", "mr-loader-0", "mr-waiter-0"}) {
    EXPECT_THAT(processors_of_threads(name), testing::ElementsAre(cpu_list_text(place.cpus)))
        << name;
  }
  Result<Buffer> pinned = device->allocate(std::size_t{1} << 24, MemoryKind::pinned);
  ASSERT_TRUE(pinned.ok()) << pinned.error().message;
  void* page = pinned->data();
  int node = -1;
  if (syscall(SYS_move_pages, 0, 1UL, &page, nullptr, &node, 0) != 0 || node < 0) {
    GTEST_SKIP() << "NOT CHECKED: the system does not say where pinned memory lies (" << node
                 << ")";
  }
  EXPECT_EQ(node, place.node);
}

TEST_F(Gpus, StartupIsMeasuredInFreshProcesses) {
  const BackendInfo backend = backend_infos().front();
  if (!backend.usable) GTEST_SKIP() << "NOT CHECKED: " << backend.reason;
  const std::string command = std::string(MILLRACE_BINARY) +
                              " bench " MILLRACE_SOURCE_DIR
                              "/examples/digits --startup --pairs 2 --devices 0 --json";
  std::FILE* const pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string said;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) said += static_cast<char>(c);
  ASSERT_EQ(pclose(pipe), 0) << said;
  const Json found = Json::parse(said, nullptr, false);
  ASSERT_FALSE(found.is_discarded()) << said;
  EXPECT_EQ(found["devices"][0], "cuda:0") << said;
  for (const Json& kind : found["loading"]) {
    EXPECT_GT(kind["gpu_bytes"]["median"].get<double>(), 0) << said;
    EXPECT_GT(kind["first_inference_s"]["median"].get<double>(), 0) << said;
  }
  std::printf("%s\n", said.c_str());
}

}  // namespace
}  // namespace millrace
