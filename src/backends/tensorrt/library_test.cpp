#include "backends/tensorrt/library.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "backends/test_harness.h"

namespace millrace::tensorrt {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

const std::string kInfer = "libnvinfer.so." + std::to_string(kMajor);

// In a process of its own: the library stays open once it was found.
class TensorrtLibraryMissing : public ::testing::Test {
 protected:
  TensorrtLibraryMissing()
      : folder_(fs::path(::testing::TempDir()) / ("tensorrt" + std::to_string(getpid()))) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    fs::create_directories(folder_);
  }
  ~TensorrtLibraryMissing() override { fs::remove_all(folder_); }

  template <class Open>
  [[noreturn]] static void open_with(const std::string& folder, Open open) {
    setenv("MILLRACE_TENSORRT", folder.c_str(), 1);
    const auto library = open();
    std::fputs(library.ok() ? "opened" : library.error().message.c_str(), stderr);
    std::exit(library.ok() ? 0 : library.error().code == ErrorCode::unavailable ? 3 : 4);
  }

  fs::path folder_;
};

TEST_F(TensorrtLibraryMissing, NamesTheFileAndHowToGetIt) {
  const std::string words = "TensorRT's " + kInfer + " was not found. Looked for:\n    .*/" +
                            kInfer + " \\(not there\\)\n  To get it: install TensorRT " +
                            std::to_string(kMajor) +
                            " and set MILLRACE_TENSORRT to the folder of its libraries";
  EXPECT_EXIT(open_with(folder_, open_library), ::testing::ExitedWithCode(3), words);
  EXPECT_EXIT(open_with(folder_, open_builder_library), ::testing::ExitedWithCode(3), words);
  EXPECT_EXIT(open_with("/no/such/folder", open_library), ::testing::ExitedWithCode(3),
              "/no/such/folder/" + kInfer + " \\(not there\\)");
}

TEST_F(TensorrtLibraryMissing, SaysWhenTheFileIsNoLibrary) {
  std::ofstream(folder_ / kInfer) << "no library at all";
  EXPECT_EXIT(open_with(folder_, open_library), ::testing::ExitedWithCode(3),
              kInfer + " \\(.*(invalid ELF header|file too short).*\\)\n  To get it: ");
}

TEST_F(TensorrtLibraryMissing, SaysWhenTheLibraryIsAnother) {
  for (const char* libm : {"/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6",
                           "/usr/lib/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6"}) {
    if (fs::exists(libm) && !fs::exists(folder_ / kInfer)) {
      fs::create_symlink(libm, folder_ / kInfer);
    }
  }
  if (!fs::exists(folder_ / kInfer)) GTEST_SKIP() << "no library to take for it";
  EXPECT_EXIT(open_with(folder_, open_library), ::testing::ExitedWithCode(3),
              kInfer + " is not TensorRT: it has no getInferLibVersion");
}

TEST_F(TensorrtLibraryMissing, IsLookedForAgain) {
  // Says "opened" of the first where a failure would be kept.
  EXPECT_EXIT(
      {
        setenv("MILLRACE_TENSORRT", "/first", 1);
        const bool failed = !open_library().ok();
        if (failed) open_with("/second", open_library);
      },
      ::testing::ExitedWithCode(3), "/second/" + kInfer);
}

TEST(TensorrtLibrary, IsLookedForInTheFolderThatIsNamedAndNowhereElse) {
  const char* before = std::getenv("MILLRACE_TENSORRT");
  const std::string kept = before ? before : "";
  setenv("MILLRACE_TENSORRT", "/opt/tensorrt/lib", 1);
  EXPECT_THAT(library_candidates("libx.so.1"), ElementsAre("/opt/tensorrt/lib/libx.so.1"));
  setenv("MILLRACE_TENSORRT", "", 1);  // as if it were not set
  const std::vector<std::string> files = library_candidates("libx.so.1");
  kept.empty() ? unsetenv("MILLRACE_TENSORRT") : setenv("MILLRACE_TENSORRT", kept.c_str(), 1);
  ASSERT_GE(files.size(), 3u);
  const fs::path program = fs::read_symlink("/proc/self/exe").parent_path();
  EXPECT_EQ(files[0], (program / "libx.so.1").string());
  EXPECT_EQ(files[1], (program.parent_path() / "lib" / "libx.so.1").string());
  EXPECT_EQ(files.back(), "libx.so.1") << "as the loader finds it";
}

TEST(TensorrtLibrary, SaysVersionsAsPeopleDo) {
  EXPECT_EQ(version_text(100600), "10.6.0");
  EXPECT_EQ(version_text(101303), "10.13.3");
  EXPECT_EQ(version_text(110000), "11.0.0");
}

}  // namespace
}  // namespace millrace::tensorrt
