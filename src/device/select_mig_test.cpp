#include "device/select_mig.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace millrace {
namespace {

using testing::HasSubstr;
using Names = std::vector<std::string>;

constexpr const char* kFirst = "MIG-a1111111-2222-3333-4444-555555555555";
constexpr const char* kSecond = "MIG-a9999999-2222-3333-4444-555555555555";

GpuReport two_instances() {
  GpuReport report;
  GpuDetails gpu;
  gpu.uuid = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77";
  gpu.instances.resize(2);
  gpu.instances[0].uuid = kFirst;
  gpu.instances[0].name.value = "NVIDIA A100-SXM4-40GB MIG 1g.5gb";
  gpu.instances[1].uuid = kSecond;
  report.gpus = {GpuDetails(), gpu};
  return report;
}

Result<std::optional<std::string>> choose(const Names& names, const char* visible = nullptr) {
  return visible_for_mig(names, two_instances(), visible);
}

TEST(SelectMig, OtherNamesAskForNothing) {
  EXPECT_EQ(choose({}).value(), std::nullopt);
  EXPECT_EQ(choose({"0", "GPU-5d5b", "host"}).value(), std::nullopt);
  EXPECT_EQ(choose({"0"}, "1").value(), std::nullopt);
}

TEST(SelectMig, InstancesAreNamedInFull) {
  EXPECT_EQ(choose({kFirst}).value(), kFirst);
  EXPECT_EQ(choose({"mig-A9"}).value(), kSecond);
  EXPECT_EQ(choose({"host", kSecond, kFirst}).value(), std::string(kSecond) + "," + kFirst);
  EXPECT_EQ(choose({kFirst, "MIG-a1"}).value(), kFirst);
}

TEST(SelectMig, TheUsersVariableMustNameThem) {
  EXPECT_EQ(choose({"MIG-a9"}, kSecond).value(), kSecond);
  EXPECT_EQ(choose({"MIG-a9"}, " MIG-a1, MIG-a9999999").value(), kSecond);
  for (const char* hides : {"", "0", "MIG-", kFirst, "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"}) {
    const auto hidden = choose({"MIG-a9"}, hides);
    ASSERT_FALSE(hidden.ok()) << hides;
    EXPECT_EQ(hidden.error().code, ErrorCode::not_found);
    EXPECT_THAT(hidden.error().message, HasSubstr("hidden by CUDA_VISIBLE_DEVICES=\""));
    EXPECT_THAT(hidden.error().message, HasSubstr(kSecond));
  }
}

TEST(SelectMig, ListsWhatThereIs) {
  const auto unknown = choose({"MIG-b"});
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, ErrorCode::not_found);
  EXPECT_THAT(unknown.error().message, HasSubstr(std::string(kFirst) + " (NVIDIA A100"));
  EXPECT_THAT(unknown.error().message, HasSubstr(kSecond));
  EXPECT_THAT(visible_for_mig(Names{"MIG-b"}, GpuReport(), nullptr).error().message,
              HasSubstr("there is no MIG instance"));
}

TEST(SelectMig, RefusesPrefixesOfSeveralAndGpusBeside) {
  for (const Names& names : {Names{"MIG-a"}, {"MIG-"}, {kFirst, "0"}, {"GPU-5d5b", kFirst}}) {
    const auto chosen = choose(names);
    ASSERT_FALSE(chosen.ok()) << names.front();
    EXPECT_EQ(chosen.error().code, ErrorCode::invalid_argument) << chosen.error().message;
  }
  EXPECT_THAT(choose({kFirst, "0"}).error().message, HasSubstr("either GPUs or a MIG instance"));
}

TEST(SelectMig, WithoutNvmlNamesAreTakenAsTheyAre) {
  GpuReport report;
  report.unavailable = "NVML was not found";
  EXPECT_EQ(visible_for_mig(Names{"MIG-x"}, report, nullptr).value(), "MIG-x");
}

}  // namespace
}  // namespace millrace
