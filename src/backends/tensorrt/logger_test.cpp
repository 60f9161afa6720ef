#include "backends/tensorrt/logger.h"

#include <gtest/gtest.h>

namespace millrace::tensorrt {
namespace {

TEST(TensorrtLogger, KnowsWhenMemoryDidNotSuffice) {
  // As TensorRT says it at different places.
  EXPECT_TRUE(says_out_of_memory(
      "IBuilder::buildSerializedNetwork: Error Code 1: Cuda Runtime (out of memory)"));
  EXPECT_TRUE(says_out_of_memory("[defaultAllocator.cpp::allocate::57] Error Code 1: OutOfMemory"));
  EXPECT_TRUE(
      says_out_of_memory("Requested amount of GPU memory (1056256 bytes) could not be allocated."));
  EXPECT_FALSE(says_out_of_memory("Error Code 4: Internal Error (Could not find any tactic)"));
  EXPECT_FALSE(says_out_of_memory(""));
}

TEST(TensorrtLogger, GivesErrorsOnce) {
  Logger logger("digits");
  logger.log(nvinfer1::ILogger::Severity::kERROR, "first");
  logger.log(nvinfer1::ILogger::Severity::kINTERNAL_ERROR, "second");
  EXPECT_EQ(logger.take_errors(), "first\nsecond");
  EXPECT_EQ(logger.take_errors(), "");
}

}  // namespace
}  // namespace millrace::tensorrt
