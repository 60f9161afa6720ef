#include "base/file.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "base/text.h"

namespace millrace {
namespace {

namespace fs = std::filesystem;

class File : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "millrace_file_XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  [[nodiscard]] std::string in_folder(const std::string& name) const {
    return (folder_ / name).string();
  }
  void make(const std::string& name, std::string_view bytes) const {
    std::ofstream(in_folder(name), std::ios::binary) << bytes;
  }
  [[nodiscard]] std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  fs::path folder_;
};

TEST_F(File, IsReadWhole) {
  std::string bytes(300000, 'x');
  bytes[1000] = '\0';
  make("a", bytes);
  EXPECT_EQ(read_file(in_folder("a")).value(), bytes);
  make("empty", "");
  EXPECT_EQ(read_file(in_folder("empty")).value(), "");
  EXPECT_FALSE(read_file("/proc/self/status").value().empty());  // its size is given as 0
}

TEST_F(File, ReadingSaysWhatIsWrong) {
  const std::string missing = in_folder("missing");
  const auto error = read_file(missing).error();
  EXPECT_EQ(error.code, ErrorCode::not_found);
  EXPECT_EQ(error.message, concat("cannot read \"", missing, "\": No such file or directory"));
  EXPECT_EQ(read_file(folder_.string()).error().code, ErrorCode::invalid_argument);
  make("a", "12345678");
  EXPECT_TRUE(read_file(in_folder("a"), 8).ok());
  EXPECT_EQ(read_file(in_folder("a"), 7).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(read_file("/dev/zero", 1 << 20).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(read_file(in_folder("a/b")).error().code, ErrorCode::not_found);
}

TEST_F(File, AppearsWholeWhenCommitted) {
  make("out", "old");
  ASSERT_EQ(::chmod(in_folder("out").c_str(), 0640), 0);
  auto file = AtomicFile::create(in_folder("out"));
  ASSERT_TRUE(file.ok());
  const std::string piece(50000, 'y');
  std::string expected;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(file->write(piece).ok());
    expected += piece;
  }
  EXPECT_EQ(read_file(in_folder("out")).value(), "old");
  ASSERT_TRUE(file->commit().ok());
  EXPECT_EQ(read_file(in_folder("out")).value(), expected);
  EXPECT_EQ(files(), 1u);
  struct stat status {};
  ASSERT_EQ(::stat(in_folder("out").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
  EXPECT_FALSE(file->write("more").ok());
  EXPECT_FALSE(file->commit().ok());
  EXPECT_EQ(read_file(in_folder("out")).value(), expected);
}

TEST_F(File, LeavesNothingWithoutACommit) {
  {
    auto file = AtomicFile::create(in_folder("out"));
    ASSERT_TRUE(file.ok());
    AtomicFile moved = std::move(file).value();
    ASSERT_TRUE(moved.write("half").ok());
    EXPECT_EQ(files(), 1u);
  }
  EXPECT_EQ(files(), 0u);
}

TEST_F(File, CannotBeWrittenWhereThereIsNoPlace) {
  for (const std::string& path : {in_folder("no/such/folder"), std::string("/proc/millrace")}) {
    const auto error = write_file(path, "x").error();
    EXPECT_EQ(error.code, ErrorCode::unavailable);
    EXPECT_NE(error.message.find(path), std::string::npos) << error.message;
  }
  EXPECT_NE(write_file(folder_.string(), "x").error().message.find("Is a directory"),
            std::string::npos);
  EXPECT_EQ(files(), 0u);
}

// A limit on the size of files fails a write half-way, as a full disk does.
TEST_F(File, AFailedWriteLeavesWhatWasThere) {
  make("out", "old");
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = limit;
  small.rlim_cur = 100000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);

  auto file = AtomicFile::create(in_folder("out"));
  const Result<void> written = file->write(std::string(200000, 'z'));
  const Result<void> again = file->write("more");
  const Result<void> committed = file->commit();
  const std::size_t left = files();

  ::setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(written.ok());
  EXPECT_EQ(written.error().message,
            concat("cannot write \"", in_folder("out"), "\": File too large"));
  EXPECT_EQ(again.error(), written.error());
  EXPECT_EQ(committed.error(), written.error());
  EXPECT_EQ(left, 1u);
  EXPECT_EQ(read_file(in_folder("out")).value(), "old");
}

TEST_F(File, DevicesAreWrittenInPlace) {
  struct stat before {};
  ASSERT_EQ(::stat("/dev/full", &before), 0);
  const Result<void> full = write_file("/dev/full", "x");
  ASSERT_FALSE(full.ok());
  EXPECT_EQ(full.error().message, "cannot write \"/dev/full\": No space left on device");
  EXPECT_TRUE(write_file("/dev/null", "x").ok());
  struct stat after {};
  ASSERT_EQ(::stat("/dev/null", &after), 0);
  EXPECT_TRUE(S_ISCHR(after.st_mode));
  ASSERT_EQ(::stat("/dev/full", &after), 0);
  EXPECT_TRUE(S_ISCHR(after.st_mode));
}

TEST_F(File, LinksAreFollowed) {
  make("real", "old");
  fs::create_symlink("real", folder_ / "link");
  ASSERT_TRUE(write_file(in_folder("link"), "new").ok());
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(read_file(in_folder("real")).value(), "new");
}

}  // namespace
}  // namespace millrace
