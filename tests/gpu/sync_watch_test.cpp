// The watch sees each forbidden call when one is made on purpose, and nothing where there is none.
#include "tests/gpu/sync_watch.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/thread.h"
#include "tests/gpu/sync_watch_kernels.h"

namespace millrace {
namespace {

TEST(FaultOf, KnowsEveryVersionOfAFunction) {
  for (const char* name : {"cuCtxSynchronize", "cuCtxSynchronize_v2", "cuStreamSynchronize_ptsz",
                           "cuEventSynchronize"}) {
    EXPECT_EQ(fault_of(name), CallFault::synchronizes) << name;
  }
  for (const char* name :
       {"cuMemAlloc_v2", "cuMemAllocPitch_v2", "cuMemAllocManaged", "cuMemAllocHost_v2",
        "cuMemAllocAsync_ptsz", "cuMemAllocFromPoolAsync", "cuMemFree_v2", "cuMemFreeAsync",
        "cuMemFreeHost", "cuMemHostAlloc", "cuMemHostRegister_v2", "cuMemCreate", "cuMemMap"}) {
    EXPECT_EQ(fault_of(name), CallFault::allocates) << name;
  }
  for (const char* name : {"cuMemcpy", "cuMemcpy_ptds", "cuMemcpyHtoD_v2", "cuMemcpyHtoD_v2_ptds",
                           "cuMemcpy2DUnaligned_v2", "cuMemcpyPeer", "cuMemsetD32_v2"}) {
    EXPECT_EQ(fault_of(name), CallFault::copies) << name;
  }
  for (const char* name : {"cuModuleLoadData", "cuModuleLoadDataEx", "cuModuleUnload",
                           "cuLibraryLoadData", "cuLibraryLoadFromFile"}) {
    EXPECT_EQ(fault_of(name), CallFault::loads) << name;
  }
  for (const char* name : {"cuStreamCreateWithPriority", "cuEventCreate", "cuEventDestroy_v2",
                           "cuCtxCreate_v4", "cuGraphInstantiateWithParams"}) {
    EXPECT_EQ(fault_of(name), CallFault::creates) << name;
  }
}

TEST(FaultOf, LetsWorkBeEnqueued) {
  for (const char* name :
       {"cuLaunchKernel", "cuLaunchKernelEx_ptsz", "cuLaunchHostFunc", "cuGraphLaunch",
        "cuMemcpyAsync", "cuMemcpyHtoDAsync_v2", "cuMemcpyBatchAsync_v2", "cuMemsetD8Async",
        "cuEventRecord", "cuEventQuery", "cuStreamQuery", "cuStreamWaitEvent",
        "cuStreamWriteValue32_v2", "cuMemGetInfo_v2", "cuPointerGetAttribute",
        "cuModuleGetLoadingMode", "cuCtxSetCurrent"}) {
    EXPECT_EQ(fault_of(name), std::nullopt) << name;
  }
}

/// A watch, a stream that does not know the default one, and memory of each kind. All that is used
/// has been used before the watch is armed, so that nothing is loaded late.
class SyncWatchTest : public testing::Test {
 protected:
  static constexpr std::size_t kBytes = 1 << 16;

  void SetUp() override {
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) {
      GTEST_SKIP() << "NOT CHECKED: needs 1 GPU, this machine has none";
    }
    Result<std::unique_ptr<SyncWatch>> started = SyncWatch::start();
    if (!started.ok()) GTEST_SKIP() << "NOT CHECKED: " << started.error().message;
    watch_ = std::move(*started);
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), cudaSuccess);
    ASSERT_EQ(cudaMalloc(&device_, kBytes), cudaSuccess);
    ASSERT_EQ(cudaHostAlloc(&pinned_, kBytes, cudaHostAllocDefault), cudaSuccess);
    ASSERT_EQ(cudaMemset(device_, 0, kBytes), cudaSuccess);
    for (const cudaStream_t stream : {stream_, cudaStreamLegacy, cudaStreamPerThread}) {
      ASSERT_EQ(launch_increment(word(), stream), cudaSuccess);
    }
    enqueue_round();
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  void TearDown() override {
    if (watch_ == nullptr) return;
    watch_->disarm();
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    cudaFreeHost(pinned_);
    cudaFree(device_);
    cudaEventDestroy(event_);
    cudaStreamDestroy(stream_);
  }

  [[nodiscard]] unsigned* word() const { return static_cast<unsigned*>(device_); }

  /// One of everything that a steady state may do.
  void enqueue_round() {
    EXPECT_EQ(cudaMemcpyAsync(device_, pinned_, kBytes, cudaMemcpyHostToDevice, stream_),
              cudaSuccess);
    EXPECT_EQ(cudaMemsetAsync(device_, 0, 64, stream_), cudaSuccess);
    EXPECT_EQ(launch_increment(word(), stream_), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(event_, stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(stream_, event_, 0), cudaSuccess);
    EXPECT_EQ(cudaMemcpyAsync(pinned_, device_, kBytes, cudaMemcpyDeviceToHost, stream_),
              cudaSuccess);
    EXPECT_EQ(
        cudaLaunchHostFunc(
            stream_, [](void* rounds) { ++*static_cast<std::atomic<int>*>(rounds); }, &rounds_),
        cudaSuccess);
    const cudaError_t status = cudaEventQuery(event_);
    EXPECT_TRUE(status == cudaSuccess || status == cudaErrorNotReady);
  }

  /// What is recorded while `act` runs.
  template <class Act>
  std::vector<Violation> while_armed(Act act) {
    watch_->clear();
    watch_->arm();
    act();
    watch_->disarm();
    return watch_->violations();
  }

  /// Whether there is a call with this fault, of a function whose name begins so.
  static testing::AssertionResult has(const std::vector<Violation>& violations, CallFault fault,
                                      const std::string& prefix) {
    for (const Violation& one : violations) {
      if (one.fault == fault && one.function.starts_with(prefix)) {
        if (one.count == 0 || one.thread == 0 || one.backtrace.empty()) {
          return testing::AssertionFailure() << "incomplete: " << to_string(violations);
        }
        return testing::AssertionSuccess();
      }
    }
    return testing::AssertionFailure()
           << "no " << prefix << " that " << to_string(fault) << " among:\n"
           << to_string(violations);
  }

  std::unique_ptr<SyncWatch> watch_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t event_ = nullptr;
  void* device_ = nullptr;
  void* pinned_ = nullptr;
  std::vector<char> pageable_ = std::vector<char>(kBytes);
  std::atomic<int> rounds_{0};
};

TEST_F(SyncWatchTest, FindsNothingInASteadyState) {
  constexpr int kRounds = 200;
  const std::vector<Violation> found = while_armed([&] {
    for (int i = 0; i < kRounds; ++i) enqueue_round();
  });
  EXPECT_TRUE(found.empty()) << to_string(found);
  EXPECT_TRUE(watch_->creations().empty()) << to_string(watch_->creations());
  EXPECT_EQ(watch_->count("cuLaunchKernel"), kRounds);
  EXPECT_EQ(watch_->count("cuMemcpy"), 2 * kRounds);
  EXPECT_EQ(watch_->count("cuMemAlloc"), 0u);
}

TEST_F(SyncWatchTest, RecordsNothingUnlessArmed) {
  const auto forbidden = [&] { EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess); };
  forbidden();
  EXPECT_TRUE(watch_->violations().empty());
  EXPECT_FALSE(while_armed(forbidden).empty());
  const std::vector<Violation> before = watch_->violations();
  forbidden();
  EXPECT_EQ(watch_->violations().size(), before.size());
  EXPECT_EQ(watch_->violations()[0].count, before[0].count);
  watch_->clear();
  EXPECT_TRUE(watch_->violations().empty());
  EXPECT_TRUE(watch_->counts().empty());
}

TEST_F(SyncWatchTest, SeesWaiting) {
  EXPECT_TRUE(has(while_armed([&] { EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess); }),
                  CallFault::synchronizes, "cuCtxSynchronize"));
  EXPECT_TRUE(has(while_armed([&] { EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess); }),
                  CallFault::synchronizes, "cuStreamSynchronize"));
  EXPECT_TRUE(has(while_armed([&] { EXPECT_EQ(cudaEventSynchronize(event_), cudaSuccess); }),
                  CallFault::synchronizes, "cuEventSynchronize"));
}

TEST_F(SyncWatchTest, SeesAllocation) {
  void* block = nullptr;
  EXPECT_TRUE(has(while_armed([&] { EXPECT_EQ(cudaMalloc(&block, kBytes), cudaSuccess); }),
                  CallFault::allocates, "cuMemAlloc"));
  EXPECT_TRUE(has(while_armed([&] { EXPECT_EQ(cudaFree(block), cudaSuccess); }),
                  CallFault::allocates, "cuMemFree"));
  EXPECT_TRUE(
      has(while_armed([&] { EXPECT_EQ(cudaMallocAsync(&block, kBytes, stream_), cudaSuccess); }),
          CallFault::allocates, "cuMemAllocAsync"));
  EXPECT_TRUE(has(while_armed([&] { EXPECT_EQ(cudaFreeAsync(block, stream_), cudaSuccess); }),
                  CallFault::allocates, "cuMemFreeAsync"));
  EXPECT_TRUE(has(while_armed([&] { EXPECT_EQ(cudaMallocHost(&block, kBytes), cudaSuccess); }),
                  CallFault::allocates, "cuMem"));
  EXPECT_TRUE(has(while_armed([&] { EXPECT_EQ(cudaFreeHost(block), cudaSuccess); }),
                  CallFault::allocates, "cuMemFreeHost"));
  EXPECT_TRUE(has(while_armed([&] {
                    EXPECT_EQ(cudaHostRegister(pageable_.data(), kBytes, cudaHostRegisterDefault),
                              cudaSuccess);
                  }),
                  CallFault::allocates, "cuMemHostRegister"));
  EXPECT_EQ(cudaHostUnregister(pageable_.data()), cudaSuccess);
}

TEST_F(SyncWatchTest, SeesSynchronousCopies) {
  // The runtime may make them of an Async call on the default stream and a wait.
  const auto sees = [](const std::vector<Violation>& found, const char* prefix) {
    return has(found, CallFault::copies, prefix) || has(found, CallFault::default_stream, prefix);
  };
  std::vector<Violation> found = while_armed([&] {
    EXPECT_EQ(cudaMemcpy(device_, pinned_, kBytes, cudaMemcpyHostToDevice), cudaSuccess);
  });
  EXPECT_TRUE(sees(found, "cuMemcpy")) << to_string(found);
  found = while_armed([&] { EXPECT_EQ(cudaMemset(device_, 0, kBytes), cudaSuccess); });
  EXPECT_TRUE(sees(found, "cuMemset")) << to_string(found);
}

TEST_F(SyncWatchTest, SeesTheDefaultStreams) {
  EXPECT_TRUE(has(while_armed([&] { EXPECT_EQ(launch_increment(word(), nullptr), cudaSuccess); }),
                  CallFault::default_stream, "cuLaunchKernel"));
  EXPECT_TRUE(
      has(while_armed([&] { EXPECT_EQ(launch_increment(word(), cudaStreamLegacy), cudaSuccess); }),
          CallFault::default_stream, "cuLaunchKernel"));
  EXPECT_TRUE(has(
      while_armed([&] { EXPECT_EQ(launch_increment(word(), cudaStreamPerThread), cudaSuccess); }),
      CallFault::default_stream, "cuLaunchKernel"));
  EXPECT_TRUE(has(while_armed([&] {
                    EXPECT_EQ(
                        cudaMemcpyAsync(device_, pinned_, kBytes, cudaMemcpyHostToDevice, nullptr),
                        cudaSuccess);
                  }),
                  CallFault::default_stream, "cuMemcpy"));
  EXPECT_TRUE(has(while_armed([&] { EXPECT_EQ(cudaEventRecord(event_, nullptr), cudaSuccess); }),
                  CallFault::default_stream, "cuEventRecord"));
}

TEST_F(SyncWatchTest, SeesPageableCopies) {
  EXPECT_TRUE(has(while_armed([&] {
                    EXPECT_EQ(cudaMemcpyAsync(device_, pageable_.data(), kBytes,
                                              cudaMemcpyHostToDevice, stream_),
                              cudaSuccess);
                  }),
                  CallFault::pageable, "cuMemcpy"));
  EXPECT_TRUE(has(while_armed([&] {
                    EXPECT_EQ(cudaMemcpyAsync(pageable_.data(), device_, kBytes,
                                              cudaMemcpyDeviceToHost, stream_),
                              cudaSuccess);
                  }),
                  CallFault::pageable, "cuMemcpy"));
  EXPECT_TRUE(has(while_armed([&] {
                    EXPECT_EQ(cudaMemcpyAsync(device_, pageable_.data(), kBytes, cudaMemcpyDefault,
                                              stream_),
                              cudaSuccess);
                  }),
                  CallFault::pageable, "cuMemcpy"));
  EXPECT_TRUE(has(while_armed([&] {
                    EXPECT_EQ(cudaMemcpy2DAsync(device_, 64, pageable_.data(), 64, 32, 4,
                                                cudaMemcpyHostToDevice, stream_),
                              cudaSuccess);
                  }),
                  CallFault::pageable, "cuMemcpy2DAsync"));
}

TEST_F(SyncWatchTest, SeesLoading) {
  void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
  ASSERT_NE(driver, nullptr);
  const auto load =
      reinterpret_cast<int (*)(void**, const void*)>(dlsym(driver, "cuModuleLoadData"));
  ASSERT_NE(load, nullptr);
  void* module = nullptr;
  EXPECT_TRUE(has(while_armed([&] { EXPECT_NE(load(&module, "not a module"), 0); }),
                  CallFault::loads, "cuModuleLoadData"));
}

TEST_F(SyncWatchTest, SeesCreationApart) {
  const std::vector<Violation> found = while_armed([&] {
    cudaEvent_t event = nullptr;
    cudaStream_t stream = nullptr;
    EXPECT_EQ(cudaEventCreate(&event), cudaSuccess);
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  });
  EXPECT_TRUE(found.empty()) << to_string(found);
  EXPECT_TRUE(has(watch_->creations(), CallFault::creates, "cuEventCreate"));
  EXPECT_TRUE(has(watch_->creations(), CallFault::creates, "cuStreamCreate"));
}

TEST_F(SyncWatchTest, CountsByThreadAndNamesIt) {
  const std::vector<Violation> found = while_armed([&] {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    Thread other("stranger", [&] {
      for (int i = 0; i < 3; ++i) EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    });
  });
  const auto one = std::find_if(found.begin(), found.end(), [](const Violation& violation) {
    return violation.thread_name == "stranger";
  });
  ASSERT_NE(one, found.end()) << to_string(found);
  EXPECT_EQ(one->count, 3u);
  EXPECT_NE(one->thread, gettid());
  EXPECT_EQ(std::count_if(found.begin(), found.end(),
                          [](const Violation& violation) {
                            return violation.fault == CallFault::synchronizes;
                          }),
            2);
}

TEST_F(SyncWatchTest, LetsAWaiterWait) {
  watch_->allow_thread(gettid());
  watch_->allow_threads_named("waiter");
  const auto wait = [&] {
    EXPECT_EQ(cudaEventSynchronize(event_), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  };
  std::vector<Violation> found = while_armed([&] {
    wait();
    const Thread waiter("waiter", wait);
  });
  EXPECT_TRUE(found.empty()) << to_string(found);
  found = while_armed([&] { const Thread other("stranger", wait); });
  EXPECT_TRUE(has(found, CallFault::synchronizes, "cuEventSynchronize"));
  void* block = nullptr;
  found = while_armed([&] { EXPECT_EQ(cudaMalloc(&block, kBytes), cudaSuccess); });
  EXPECT_TRUE(has(found, CallFault::allocates, "cuMemAlloc"));
  EXPECT_EQ(cudaFree(block), cudaSuccess);
}

TEST_F(SyncWatchTest, IsAloneInItsProcess) {
  const Result<std::unique_ptr<SyncWatch>> second = SyncWatch::start();
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::unavailable);
  watch_.reset();
  Result<std::unique_ptr<SyncWatch>> next = SyncWatch::start();
  ASSERT_TRUE(next.ok()) << next.error().message;
  watch_ = std::move(*next);
  EXPECT_FALSE(while_armed([&] { EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess); }).empty());
}

}  // namespace
}  // namespace millrace
