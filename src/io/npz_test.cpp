#include "io/npz.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "io/npy.h"
#include "io/zip.h"

namespace millrace {
namespace {

namespace fs = std::filesystem;

class Npz : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  std::string written(std::span<const NamedTensor> arrays) {
    const Result<void> done = write_npz(arrays, path_);
    EXPECT_TRUE(done.ok()) << (done.ok() ? "" : done.error().message);
    return *read_file(path_);
  }
  std::string two_arrays() {
    return written(
        std::vector<NamedTensor>{{"a", TensorView::of(floats_.data(), {2, 2}), {}},
                                 {"numbers/b", TensorView::of(integers_.data(), {3}), {}}});
  }
  static std::string refusal(const std::string& bytes) {
    const Result<std::vector<NamedArray>> arrays = parse_npz(bytes, "test.npz");
    return arrays.ok() ? "accepted" : arrays.error().message;
  }
  // The archive with a byte of a structure changed; `signature` finds the last such structure.
  static std::string changed(std::string bytes, std::string_view signature, std::size_t offset,
                             char value) {
    const std::size_t at = bytes.rfind(signature);
    EXPECT_NE(at, std::string::npos);
    bytes[at + offset] = value;
    return bytes;
  }

  std::string folder_ = testing::TempDir() + "npz_test." + std::to_string(::getpid());
  std::string path_ = folder_ + "/a.npz";
  std::vector<float> floats_ = {1, 2, 3, 4};
  std::vector<std::int64_t> integers_ = {-1, 0, 1};
};

TEST_F(Npz, ReadsWhatItWrites) {
  const Result<std::vector<NamedArray>> arrays = parse_npz(two_arrays(), "test.npz");
  ASSERT_TRUE(arrays.ok()) << arrays.error().message;
  ASSERT_EQ(arrays->size(), 2U);
  EXPECT_EQ((*arrays)[0].name, "a");
  EXPECT_EQ((*arrays)[0].view.shape, (Shape{2, 2}));
  EXPECT_EQ((*arrays)[0].view.as<float>()[3], 4);
  EXPECT_EQ((*arrays)[1].name, "numbers/b");
  EXPECT_EQ((*arrays)[1].view.as<std::int64_t>()[0], -1);
}

TEST_F(Npz, IsTheSameEveryTime) { EXPECT_EQ(two_arrays(), two_arrays()); }

TEST_F(Npz, ReadsAnEmptyArchive) {
  const Result<std::vector<NamedArray>> arrays = parse_npz(written({}), "test.npz");
  ASSERT_TRUE(arrays.ok()) << arrays.error().message;
  EXPECT_TRUE(arrays->empty());
}

TEST_F(Npz, ReadsTheHeldOutDigits) {  // written by NumPy
  const Result<std::vector<NamedArray>> arrays =
      read_npz(MILLRACE_SOURCE_DIR "/examples/digits/held_out.npz");
  ASSERT_TRUE(arrays.ok()) << arrays.error().message;
  ASSERT_EQ(arrays->size(), 3U);
  EXPECT_EQ((*arrays)[0].name, "images");
  EXPECT_EQ((*arrays)[0].view.shape, (Shape{360, 1, 8, 8}));
  EXPECT_EQ((*arrays)[0].view.type, DataType::fp32);
  EXPECT_EQ((*arrays)[1].view.type, DataType::int64);
}

std::size_t arrays_in(const std::string& name) {
  const Result<std::vector<NamedArray>> arrays =
      read_npz(MILLRACE_SOURCE_DIR "/tests/fuzz/corpus/npz/" + name);
  EXPECT_TRUE(arrays.ok()) << (arrays.ok() ? "" : arrays.error().message);
  return arrays.ok() ? arrays->size() : 0;
}

TEST_F(Npz, ReadsArchivesOfOtherWriters) {  // NumPy's and Python's
  EXPECT_EQ(arrays_in("stored.npz"), 2U);
  EXPECT_EQ(arrays_in("deflated.npz"), 2U);
  EXPECT_EQ(arrays_in("empty.npz"), 0U);
  EXPECT_EQ(arrays_in("zip64.npz"), 1U) << "sizes and places in 64-bit fields";
  EXPECT_EQ(arrays_in("comment.npz"), 1U)
      << "a folder, and a comment that looks like a directory's end";
}

// An archive with one deflated member, put together by hand.
std::string deflated_archive(const std::string& content, std::uint32_t announced) {
  std::string packed(compressBound(content.size()) + 64, '\0');
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);

  std::string out;
  const auto put = [&out](std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i) & 0xFF);
  };
  const auto crc =
      crc32(0, reinterpret_cast<const Bytef*>(content.data()), static_cast<uInt>(content.size()));
  const auto sizes = [&] {
    put(crc, 4);
    put(packed.size(), 4);
    put(announced, 4);
    put(5, 2);  // the name's length
  };
  put(0x04034b50, 4), put(20, 2), put(0, 2), put(8, 2), put(0, 4), sizes(), put(0, 2);
  out += "x.npy" + packed;
  const std::size_t directory = out.size();
  put(0x02014b50, 4), put(20, 2), put(20, 2), put(0, 2), put(8, 2), put(0, 4), sizes();
  put(0, 2), put(0, 2), put(0, 2), put(0, 2), put(0, 4), put(0, 4);
  out += "x.npy";
  const std::size_t end = out.size();
  put(0x06054b50, 4), put(0, 4), put(1, 2), put(1, 2), put(end - directory, 4), put(directory, 4),
      put(0, 2);
  return out;
}

std::string npy_of(const std::vector<float>& values) {
  NpyParts parts;
  EXPECT_TRUE(
      make_npy(TensorView::of(values.data(), {static_cast<std::int64_t>(values.size())}), parts)
          .ok());
  return parts.header + std::string(parts.data);
}

TEST_F(Npz, ReadsDeflatedMembers) {
  const std::string content = npy_of(std::vector<float>(1000, 2.5F));
  const Result<std::vector<NamedArray>> arrays =
      parse_npz(deflated_archive(content, static_cast<std::uint32_t>(content.size())), "test.npz");
  ASSERT_TRUE(arrays.ok()) << arrays.error().message;
  EXPECT_EQ(arrays->at(0).view.as<float>()[999], 2.5F);
}

TEST_F(Npz, RefusesAWrongUnpackedSize) {
  const std::string content = npy_of(std::vector<float>(1000, 2.5F));
  const auto size = static_cast<std::uint32_t>(content.size());
  EXPECT_NE(refusal(deflated_archive(content, size - 1)).find("do not unpack to"),
            std::string::npos);
  EXPECT_NE(refusal(deflated_archive(content, size + 1)).find("do not unpack to"),
            std::string::npos);
  // More than deflate can make of so few bytes: refused before memory is asked for.
  EXPECT_NE(refusal(deflated_archive(content, 0xFFFFFFF0U)).find("cannot hold"), std::string::npos);
}

TEST_F(Npz, RefusesEveryTruncation) {
  const std::string whole = two_arrays();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_NE(refusal(whole.substr(0, size)), "accepted") << size;
  }
}

TEST_F(Npz, FindsDamage) {
  const std::string whole = two_arrays();
  std::string damaged = whole;
  damaged[whole.find("\x93NUMPY") + 130] ^= 1;
  EXPECT_NE(refusal(damaged).find("checksum"), std::string::npos) << refusal(damaged);
  EXPECT_NE(refusal(changed(whole, "PK\1\2", 10, 12))
                .find("compression 0 (stored) or 8 (deflate), got 12"),
            std::string::npos);
  EXPECT_NE(refusal(changed(whole, "PK\1\2", 8, 1)).find("encrypted"), std::string::npos);
  EXPECT_NE(refusal(changed(whole, "PK\1\2", 45, '\x7f')).find("outside"), std::string::npos);
  EXPECT_NE(refusal(changed(whole, "PK\5\6", 10, 3)).find("expected 3 entries"), std::string::npos);
  EXPECT_NE(refusal(changed(whole, "PK\5\6", 4, 1)).find("several files"), std::string::npos);
}

TEST_F(Npz, NeverReadsOutsideWhateverByteChanges) {
  const std::string whole = two_arrays();
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (const int bit : {0x01, 0x80, 0xFF}) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ bit);
      static_cast<void>(parse_npz(damaged, "test.npz").ok());  // for the sanitizers
    }
  }
}

TEST_F(Npz, RefusesNamesThatAreNoArraysOrComeTwice) {
  Result<AtomicFile> file = AtomicFile::create(path_);
  ZipWriter writer(*file);
  ASSERT_TRUE(writer.add("readme.txt", "hello", "").ok());
  ASSERT_TRUE(writer.finish().ok() && file->commit().ok());
  EXPECT_NE(refusal(*read_file(path_)).find("\"readme.txt\""), std::string::npos);

  const NamedTensor array{"a", TensorView::of(floats_.data(), {4}), {}};
  EXPECT_NE(refusal(written(std::vector<NamedTensor>{array, array})).find("two arrays"),
            std::string::npos);
}

TEST_F(Npz, NamesArchiveAndArrayOfABadMember) {
  Result<AtomicFile> file = AtomicFile::create(path_);
  ZipWriter writer(*file);
  ASSERT_TRUE(writer.add("x.npy", "no array", "").ok());
  ASSERT_TRUE(writer.finish().ok() && file->commit().ok());
  EXPECT_NE(refusal(*read_file(path_)).find("test.npz: array \"x\": not a valid .npy file"),
            std::string::npos);
}

TEST_F(Npz, LeavesNothingWhenItCannotBeWritten) {
  const std::vector<NamedTensor> arrays = {{"a", TensorView::of(floats_.data(), {4}), {}}};
  const Result<void> full = write_npz(arrays, "/dev/full");
  ASSERT_FALSE(full.ok());
  EXPECT_NE(full.error().message.find("No space left on device"), std::string::npos);

  TensorView strided = arrays[0].view;
  strided.shape = {2};
  strided.strides = {2};
  EXPECT_FALSE(write_npz(std::vector<NamedTensor>{{"a", strided, {}}}, path_).ok());
  EXPECT_TRUE(fs::is_empty(folder_));
}

}  // namespace
}  // namespace millrace
