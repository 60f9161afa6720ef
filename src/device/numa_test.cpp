// Against recorded sysfs trees: the files of a machine with two processor packages, a GPU on each.
#include "device/numa.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace millrace {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<int> cpus_from_to(int first, int last) {
  std::vector<int> cpus;
  for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  return cpus;
}

class Numa : public testing::Test {
 protected:
  Numa() {
    write("devices/system/node/online", "0-1\n");
    write("devices/system/node/node0/cpulist", "0-31,64-95\n");
    write("devices/system/node/node1/cpulist", "32-63,96-127\n");
    write("bus/pci/devices/0000:1b:00.0/numa_node", "0\n");
    write("bus/pci/devices/0000:ba:00.0/numa_node", "1\n");
    write("bus/pci/devices/0000:00:05.0/numa_node", "-1\n");
  }
  ~Numa() override { std::filesystem::remove_all(sysfs_); }
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((sysfs_ / path).parent_path());
    std::ofstream(sysfs_ / path) << text;
  }
  [[nodiscard]] std::string sysfs() const { return sysfs_.string(); }

  const std::filesystem::path sysfs_ =
      std::filesystem::path(testing::TempDir()) /
      (std::string("sysfs-") + testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST(CpuList, IsReadAndWrittenAsTheKernelDoes) {
  EXPECT_THAT(parse_cpu_list("0-3,8,10-11\n").value(), ElementsAre(0, 1, 2, 3, 8, 10, 11));
  EXPECT_THAT(parse_cpu_list("7").value(), ElementsAre(7));
  EXPECT_THAT(parse_cpu_list("3,1,2-3").value(), ElementsAre(1, 2, 3));
  EXPECT_THAT(parse_cpu_list("\n").value(), IsEmpty());
  for (const char* text : {"a", "1-", "-1", "3-1", "1,", ",1", "1;2", "1-2-3", "0-99999999"}) {
    EXPECT_FALSE(parse_cpu_list(text).has_value()) << text;
  }
  for (const char* text : {"", "0", "0-3,8,10-11", "0-31,64-95"}) {
    EXPECT_EQ(cpu_list_text(parse_cpu_list(text).value()), text);
  }
}

TEST(PciBusId, IsNamedAsSysfsDoes) {
  EXPECT_EQ(sysfs_pci_bus_id("00000000:1B:00.0"), "0000:1b:00.0");
  EXPECT_EQ(sysfs_pci_bus_id("0000:1B:00.0"), "0000:1b:00.0");
  EXPECT_EQ(sysfs_pci_bus_id("00010000:01:00.0"), "10000:01:00.0");
  EXPECT_EQ(sysfs_pci_bus_id(""), "");
}

TEST_F(Numa, NodeOfAGpuIsWhatItsSlotSays) {
  EXPECT_EQ(numa_node_of("0000:1b:00.0", sysfs()), 0);
  EXPECT_EQ(numa_node_of("0000:ba:00.0", sysfs()), 1);
  EXPECT_EQ(numa_node_of("0000:00:05.0", sysfs()), -1);
  EXPECT_EQ(numa_node_of("0000:ff:00.0", sysfs()), -1);
  EXPECT_EQ(numa_node_of("", sysfs()), -1);
  EXPECT_EQ(numa_node_of("../0000:ba:00.0", sysfs()), -1);
}

TEST_F(Numa, PlaceIsWhatTheNodeHasAndTheProcessMayUse) {
  const NumaPlace place = place_near(1, cpus_from_to(60, 99), sysfs());
  EXPECT_EQ(place.node, 1);
  EXPECT_THAT(place.cpus, ElementsAre(60, 61, 62, 63, 96, 97, 98, 99));
  EXPECT_EQ(place.why, "NUMA node 1, processors 60-63,96-99");
}

TEST_F(Numa, APlaceThatTheProcessMayNotUseIsAnywhere) {
  const NumaPlace place = place_near(1, cpus_from_to(0, 31), sysfs());
  EXPECT_EQ(place.node, -1);
  EXPECT_THAT(place.cpus, IsEmpty());
  EXPECT_THAT(place.why, HasSubstr("none of the processors 32-63,96-127 of its NUMA node 1"));
}

TEST_F(Numa, AnUnknownNodeIsAnywhere) {
  EXPECT_THAT(place_near(-1, cpus_from_to(0, 127), sysfs()).cpus, IsEmpty());
  EXPECT_THAT(place_near(2, cpus_from_to(0, 127), sysfs()).why, HasSubstr("no processors"));
}

TEST_F(Numa, OneNodeIsAnywhere) {
  write("devices/system/node/online", "0\n");
  const NumaPlace place = place_near(0, cpus_from_to(0, 127), sysfs());
  EXPECT_EQ(place.node, -1);
  EXPECT_THAT(place.why, HasSubstr("one NUMA node"));
}

// Such as memory of a GPU that the processors share.
TEST_F(Numa, ANodeOfMemoryAloneDoesNotCount) {
  write("devices/system/node/online", "0-1\n");
  write("devices/system/node/node1/cpulist", "\n");
  EXPECT_THAT(place_near(0, cpus_from_to(0, 127), sysfs()).why, HasSubstr("one NUMA node"));
}

TEST_F(Numa, WithoutSysfsItIsAnywhere) {
  EXPECT_THAT(place_near(0, {0}, sysfs() + "/nowhere").cpus, IsEmpty());
}

TEST(NumaThreads, MoveToThePlaceAndToNoOther) {
  const std::vector<int> all = process_cpus();
  ASSERT_FALSE(all.empty());
  std::thread([&] {
    NumaPlace place;
    EXPECT_TRUE(move_this_thread(place));  // anywhere
    place.node = 0;
    place.cpus = {all.back()};
    EXPECT_TRUE(move_this_thread(place));
    EXPECT_EQ(sched_getcpu(), all.back());
    place.cpus = {60000};
    EXPECT_FALSE(move_this_thread(place));
    EXPECT_EQ(sched_getcpu(), all.back());
  }).join();
  EXPECT_EQ(process_cpus(), all);
}

int allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : -1;
}

int memory_policy() {
  int mode = -1;
  return syscall(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0) == 0 ? mode : -1;
}

TEST(NumaMemory, GuardsChangeTheThreadWhileTheyLive) {
  NumaPlace place;
  place.node = 0;
  place.cpus = {process_cpus().front()};
  const int cpus = allowed_cpus();
  const int policy = memory_policy();
  {
    const NumaMemoryGuard guard(place);
    EXPECT_TRUE(memory_policy() == MPOL_PREFERRED || allowed_cpus() == 1)
        << "policy " << memory_policy() << ", processors " << allowed_cpus();
    const std::vector<char> page(1 << 16, 'x');
    EXPECT_EQ(page.back(), 'x');
  }
  EXPECT_EQ(allowed_cpus(), cpus);
  EXPECT_EQ(memory_policy(), policy);
}

TEST(NumaMemory, GuardsOfNoPlaceChangeNothing) {
  const int cpus = allowed_cpus();
  const int policy = memory_policy();
  const NumaMemoryGuard guard{NumaPlace()};
  EXPECT_EQ(allowed_cpus(), cpus);
  EXPECT_EQ(memory_policy(), policy);
}

}  // namespace
}  // namespace millrace
