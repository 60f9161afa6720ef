#include "device/host/machine.h"

#include <gtest/gtest.h>

namespace millrace {
namespace {

TEST(Machine, HasMemoryAndProcessors) {
  EXPECT_GT(machine_memory_bytes(), std::size_t{1} << 24);
  EXPECT_GE(usable_cores(), 1);
  EXPECT_FALSE(processor_name().empty());
}

TEST(Machine, ReadsMeminfo) {
  const char* text = "MemTotal:       24567890 kB\nMemFree:  12 kB\nHugePages_Total:       x\n";
  EXPECT_EQ(meminfo_bytes(text, "MemTotal"), std::size_t{24567890} * 1024);
  EXPECT_EQ(meminfo_bytes(text, "MemFree"), 12u * 1024);
  EXPECT_FALSE(meminfo_bytes(text, "HugePages_Total"));
  EXPECT_FALSE(meminfo_bytes(text, "Swap"));
  EXPECT_FALSE(meminfo_bytes("", "MemTotal"));
}

TEST(Machine, ReadsLimitsOfControlGroups) {
  EXPECT_EQ(cgroup_limit_bytes("1073741824\n"), std::size_t{1} << 30);
  EXPECT_FALSE(cgroup_limit_bytes("max\n"));
  EXPECT_FALSE(
      cgroup_limit_bytes("9223372036854771712\n"));  // how version 1 says that there is none
  EXPECT_FALSE(cgroup_limit_bytes("-1"));
  EXPECT_FALSE(cgroup_limit_bytes(""));
  EXPECT_EQ(cgroup_quota_cores("200000 100000\n"), 2);
  EXPECT_EQ(cgroup_quota_cores("250000 100000"), 3);
  EXPECT_EQ(cgroup_quota_cores("1000 100000"), 1);
  EXPECT_FALSE(cgroup_quota_cores("max 100000\n"));
  EXPECT_FALSE(cgroup_quota_cores("-1 100000"));
  EXPECT_FALSE(cgroup_quota_cores("100000 0"));
  EXPECT_FALSE(cgroup_quota_cores("100000"));
}

TEST(Machine, FindsItsControlGroup) {
  const char* text = "5:cpu,cpuacct:/a/b\n4:memory:/jobs/7\n0::/user.slice\n";
  EXPECT_EQ(cgroup_path(text, "memory"), "/jobs/7");
  EXPECT_EQ(cgroup_path(text, "cpu"), "/a/b");
  EXPECT_EQ(cgroup_path(text, "cpuacct"), "/a/b");
  EXPECT_EQ(cgroup_path(text, ""), "/user.slice");
  EXPECT_FALSE(cgroup_path(text, "pids"));
  EXPECT_FALSE(cgroup_path("nonsense\n1:x\n", ""));
}

}  // namespace
}  // namespace millrace
