// What the suites that need several GPUs share.
#pragma once

#include <gtest/gtest.h>

#include <millrace/device.h>

/// Ends the test as NOT CHECKED, which is printed and counted, where there are fewer.
#define REQUIRE_GPUS(count)                                                                        \
  do {                                                                                             \
    const millrace::CudaStatus cuda = millrace::cuda_status();                                     \
    if (cuda.visible_gpus < (count)) {                                                             \
      GTEST_SKIP() << "NOT CHECKED: needs " << (count) << " GPUs, there are " << cuda.visible_gpus \
                   << (cuda.reason.empty() ? "" : ": ") << cuda.reason;                            \
    }                                                                                              \
  } while (false)
