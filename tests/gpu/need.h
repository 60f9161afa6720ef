// What a test on GPUs needs of the machine. What is missing is said, and counted as NOT CHECKED.
#pragma once

#include <gtest/gtest.h>

#include <millrace/device.h>

/// Ends the test or fixture unless so many GPUs are visible.
#define REQUIRE_GPUS(count)                                                                   \
  do {                                                                                        \
    const ::millrace::CudaStatus status = ::millrace::cuda_status();                          \
    if (status.visible_gpus < (count)) {                                                      \
      GTEST_SKIP() << "NOT CHECKED: needs " << (count) << " GPUs, " << status.visible_gpus    \
                   << " are visible" << (status.reason.empty() ? "" : ": ") << status.reason; \
    }                                                                                         \
  } while (false)
