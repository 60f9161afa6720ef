#include "backends/onnxruntime/library.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "backends/onnxruntime/runtime.h"
#include "backends/test_harness.h"

namespace millrace::onnxruntime {
namespace {

// In a process of its own: the library stays open once it was found.
class OnnxLibraryMissing : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }

  [[noreturn]] static void open_with(const char* file) {
    setenv("MILLRACE_ONNXRUNTIME", file, 1);
    const auto library = open_library();
    std::fputs(library.ok() ? "opened" : library.error().message.c_str(), stderr);
    std::exit(library.ok() ? 0 : library.error().code == ErrorCode::unavailable ? 3 : 4);
  }
};

TEST_F(OnnxLibraryMissing, NamesTheFileAndHowToGetIt) {
  EXPECT_EXIT(open_with("/nowhere/libonnxruntime.so"), ::testing::ExitedWithCode(3),
              "Looked for:\n    /nowhere/libonnxruntime.so \\(not there\\)\n.*pip install "
              "onnxruntime.*MILLRACE_ONNXRUNTIME");
}

TEST_F(OnnxLibraryMissing, SaysWhenTheFileIsNoLibrary) {
  EXPECT_EXIT(open_with("/proc/self/maps"), ::testing::ExitedWithCode(3),
              "/proc/self/maps \\(.+\\)");
}

TEST_F(OnnxLibraryMissing, SaysWhenTheLibraryIsAnother) {
  EXPECT_EXIT(open_with("libm.so.6"), ::testing::ExitedWithCode(3), "is not ONNX Runtime");
}

TEST(OnnxLibrary, LooksInTheseFiles) {
  const std::vector<std::string> files = library_candidates();
  ASSERT_GE(files.size(), 6U);
  const std::filesystem::path program =
      std::filesystem::read_symlink("/proc/self/exe").parent_path();
  EXPECT_EQ(files[0], (program / "libonnxruntime.so.1").string());
  EXPECT_EQ(files[1], (program / "libonnxruntime.so").string());
  EXPECT_EQ(files[2], (program.parent_path() / "lib" / "libonnxruntime.so.1").string());
  EXPECT_EQ(files[files.size() - 2], "libonnxruntime.so.1");
  EXPECT_EQ(files.back(), "libonnxruntime.so");
}

TEST(OnnxLibrary, OpensAndSaysItsVersion) {
  const auto library = open_library();
  ASSERT_TRUE(library.ok()) << library.error().message;
  EXPECT_EQ((*library)->version.substr(0, 2), "1.");
  EXPECT_EQ(*open_library(), *library);
}

TEST(OnnxThreads, FollowTheBudget) {
  struct Row {
    int cpu_threads, lanes, workers;
  };
  for (const Row row :
       {Row{1, 1, 0}, Row{2, 2, 0}, Row{4, 4, 0}, Row{5, 1, 4}, Row{8, 2, 6}, Row{64, 16, 48}}) {
    const auto threads = choose_threads({row.cpu_threads, {}, {}, {}});
    ASSERT_TRUE(threads.ok());
    EXPECT_EQ(threads->workers(), row.workers) << row.cpu_threads;
    EXPECT_EQ(runs_at_a_time(row.cpu_threads, *threads), row.lanes) << row.cpu_threads;
    EXPECT_FALSE(threads->spinning);
  }
}

TEST(OnnxThreads, CanBeAskedFor) {
  const auto threads = choose_threads({8, 4, 2, true});
  ASSERT_TRUE(threads.ok());
  EXPECT_EQ(threads->workers(), 4);
  EXPECT_EQ(runs_at_a_time(8, *threads), 4);
  EXPECT_TRUE(threads->spinning);
  EXPECT_EQ(choose_threads({2, 2, {}, {}})->workers(), 1);
  MILLRACE_EXPECT_ERROR(choose_threads({2, 3, {}, {}}), ErrorCode::invalid_argument,
                        "budget of 2 (cpu_threads), got 3 and 1");
}

TEST(OnnxThreads, AreDecidedByTheFirstModelAndFreeAgainAfterTheLast) {
  auto first = Runtime::share({4, 2, {}, {}});
  ASSERT_TRUE(first.ok()) << testing::text_of(first);
  EXPECT_EQ((*first)->gate().capacity(), 3);
  MILLRACE_EXPECT_ERROR(Runtime::share({4, 3, {}, {}}), ErrorCode::invalid_argument,
                        "\"intra_op_threads\": asked for 3, but all ONNX Runtime models of a "
                        "process share one thread "
                        "pool, which was made with 2");
  MILLRACE_EXPECT_ERROR(Runtime::share({4, {}, 2, {}}), ErrorCode::invalid_argument,
                        "inter_op_threads");
  MILLRACE_EXPECT_ERROR(Runtime::share({4, {}, {}, true}), ErrorCode::invalid_argument, "spinning");
  auto second = Runtime::share({2, 2, 1, false});
  ASSERT_TRUE(second.ok()) << testing::text_of(second);
  EXPECT_EQ(*first, *second);
  EXPECT_EQ((*first)->gate().capacity(), 1);  // the latest budget counts
  first.value().reset();
  second.value().reset();
  EXPECT_EQ((*Runtime::share({4, 3, {}, {}}))->threads().intra_op, 3);
}

}  // namespace
}  // namespace millrace::onnxruntime
