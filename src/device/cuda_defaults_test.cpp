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

TEST(CudaDefaults, LeaveTheUsersWord) {
  setenv(kVariable, "EAGER", 1);
  set_cuda_defaults();
  EXPECT_STREQ(std::getenv(kVariable), "EAGER");
  unsetenv(kVariable);
}

}  // namespace
}  // namespace millrace
