#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

#include <millrace/device.h>

namespace millrace {
namespace {

constexpr const char* kVariable = "CUDA_MODULE_LOADING";

TEST(CudaDefaults, LoadKernelsWhenTheyAreUsed) {
  unsetenv(kVariable);
  set_cuda_defaults();
  EXPECT_STREQ(std::getenv(kVariable), "LAZY");
}

TEST(CudaDefaults, GiveEachOfManyStreamsAQueueOfItsOwn) {
  unsetenv("CUDA_DEVICE_MAX_CONNECTIONS");
  set_cuda_defaults();
  EXPECT_STREQ(std::getenv("CUDA_DEVICE_MAX_CONNECTIONS"), "32");
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "8", 1);
  set_cuda_defaults();
  EXPECT_STREQ(std::getenv("CUDA_DEVICE_MAX_CONNECTIONS"), "8") << "the user's word";
  unsetenv("CUDA_DEVICE_MAX_CONNECTIONS");
}

TEST(CudaDefaults, LeaveTheUsersWord) {
  setenv(kVariable, "EAGER", 1);
  set_cuda_defaults();
  EXPECT_STREQ(std::getenv(kVariable), "EAGER");
  unsetenv(kVariable);
}

}  // namespace
}  // namespace millrace
