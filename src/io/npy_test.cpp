#include "io/npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "base/text.h"

namespace millrace {
namespace {

// A file as NumPy's format description says it: magic, version, length, dictionary, data.
std::string npy(std::string_view dictionary, std::string_view data, char version = 1) {
  std::string header(dictionary);
  header += '\n';
  std::string file = "\x93NUMPY";
  file += version;
  file += '\0';
  const std::size_t length_bytes = version == 1 ? 2 : 4;
  for (std::size_t i = 0; i < length_bytes; ++i)
    file += static_cast<char>(header.size() >> (8 * i) & 0xFF);
  return file + header + std::string(data);
}

std::string dictionary(std::string_view descr, std::string_view shape,
                       std::string_view fortran = "False") {
  return concat("{'descr': '", descr, "', 'fortran_order': ", fortran, ", 'shape': ", shape, ", }");
}

template <class T>
std::string bytes_of(std::initializer_list<T> values) {
  std::string out;
  for (const T value : values) out.append(reinterpret_cast<const char*>(&value), sizeof value);
  return out;
}

Tensor parsed(const std::string& file) {
  Result<Tensor> tensor = parse_npy(file, "test.npy");
  EXPECT_TRUE(tensor.ok()) << (tensor.ok() ? "" : tensor.error().message);
  return tensor.ok() ? std::move(*tensor) : Tensor();
}

std::string refusal(const std::string& file) {
  Result<Tensor> tensor = parse_npy(file, "test.npy");
  return tensor.ok() ? "accepted" : tensor.error().message;
}

template <class T>
std::vector<T> values(const Tensor& tensor) {
  const std::int64_t count = *element_count(tensor.shape());
  const T* data = tensor.as<const T>();
  return {data, data + count};
}

TEST(Npy, ReadsFloats) {
  const Tensor tensor =
      parsed(npy(dictionary("<f4", "(2, 3)"), bytes_of<float>({1, 2, 3, 4, 5, 6.5F})));
  EXPECT_EQ(tensor.type(), DataType::fp32);
  EXPECT_EQ(tensor.shape(), (Shape{2, 3}));
  EXPECT_EQ(values<float>(tensor), (std::vector<float>{1, 2, 3, 4, 5, 6.5F}));
}

TEST(Npy, ReadsVersionsTwoAndThree) {
  for (const char version : {'\2', '\3'}) {
    EXPECT_EQ(values<std::int64_t>(
                  parsed(npy(dictionary("<i8", "(1,)"), bytes_of<std::int64_t>({-7}), version))),
              (std::vector<std::int64_t>{-7}));
  }
}

TEST(Npy, ReadsScalarsAndEmptyArrays) {
  EXPECT_EQ(parsed(npy(dictionary("<f8", "()"), bytes_of<double>({0.5}))).shape(), Shape{});
  const Tensor empty = parsed(npy(dictionary("<f8", "(3, 0)"), ""));
  EXPECT_EQ(empty.shape(), (Shape{3, 0}));
}

TEST(Npy, ConvertsBigEndian) {
  const Tensor tensor =
      parsed(npy(dictionary(">i4", "(2,)"), std::string("\0\0\1\2\xff\xff\xff\xfe", 8)));
  EXPECT_EQ(values<std::int32_t>(tensor), (std::vector<std::int32_t>{258, -2}));
}

TEST(Npy, ConvertsFortranOrder) {
  // Element (i, j, k) of a [2,3,2] array is 100 i + 10 j + k; the first index runs fastest in the
  // file.
  const Tensor tensor =
      parsed(npy(dictionary("<i2", "(2, 3, 2)", "True"),
                 bytes_of<std::int16_t>({0, 100, 10, 110, 20, 120, 1, 101, 11, 111, 21, 121})));
  EXPECT_EQ(values<std::int16_t>(tensor),
            (std::vector<std::int16_t>{0, 1, 10, 11, 20, 21, 100, 101, 110, 111, 120, 121}));
}

TEST(Npy, ConvertsBigEndianFortranOrder) {
  const Tensor tensor =
      parsed(npy(dictionary(">u2", "(2, 2)", "True"), std::string("\0\1\0\3\0\2\0\4", 8)));
  EXPECT_EQ(values<std::uint16_t>(tensor), (std::vector<std::uint16_t>{1, 2, 3, 4}));
}

TEST(Npy, NormalizesBooleans) {
  const Tensor tensor = parsed(npy(dictionary("|b1", "(3,)"), std::string("\0\1\7", 3)));
  EXPECT_EQ(tensor.type(), DataType::boolean);
  EXPECT_EQ(std::memcmp(tensor.view().data, "\0\1\1", 3), 0);
}

TEST(Npy, ReadsByteStringsAsBytes) {
  const Tensor tensor = parsed(npy(dictionary("|S3", "(3,)"), std::string("ab\0\0\0\0a\0c", 9)));
  ASSERT_EQ(tensor.type(), DataType::bytes);
  EXPECT_EQ(tensor.string_at(0), "ab");
  EXPECT_EQ(tensor.string_at(1), "");
  EXPECT_EQ(tensor.string_at(2), std::string_view("a\0c", 3));
}

TEST(Npy, ReadsUnicodeAsUtf8) {
  const std::string little = bytes_of<std::uint32_t>({'a', 0xE9, 0, 0x20AC, 0x1F600, 'z'});
  const Tensor tensor = parsed(npy(dictionary("<U3", "(2,)"), little));
  EXPECT_EQ(tensor.string_at(0), "a\xC3\xA9");
  EXPECT_EQ(tensor.string_at(1), "\xE2\x82\xAC\xF0\x9F\x98\x80z");
  const Tensor big = parsed(npy(dictionary(">U1", "(1,)"), std::string("\0\0\x20\xAC", 4)));
  EXPECT_EQ(big.string_at(0), "\xE2\x82\xAC");
}

TEST(Npy, RefusesWhatIsNoUnicodeCharacter) {
  EXPECT_NE(refusal(npy(dictionary("<U1", "(1,)"), bytes_of<std::uint32_t>({0x110000})))
                .find("no unicode character"),
            std::string::npos);
  EXPECT_NE(refusal(npy(dictionary("<U1", "(1,)"), bytes_of<std::uint32_t>({0xD800})))
                .find("no unicode character"),
            std::string::npos);
}

TEST(Npy, RefusesTypesByName) {
  for (const std::string_view descr :
       {"|O", "<c8", "<M8[ns]", "|V2", "<f16", "<i3", "<q8", "<S", "|b8"}) {
    const std::string message = refusal(npy(dictionary(descr, "(1,)"), std::string(16, '\0')));
    EXPECT_NE(message.find("not supported"), std::string::npos) << message;
    EXPECT_NE(message.find(descr), std::string::npos) << message;
  }
  EXPECT_NE(
      refusal(npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "0000"))
          .find("structured"),
      std::string::npos);
}

TEST(Npy, SaysWhatWasExpectedAndFound) {
  EXPECT_EQ(
      refusal(npy(dictionary("<f4", "(2, 3)"), "12345")),
      "test.npy: not a valid .npy file: expected 24 bytes of data for shape [2,3] of <f4, got 5");
  EXPECT_EQ(
      refusal(npy(dictionary("<f4", "(1,)"), "12345")),
      "test.npy: not a valid .npy file: expected 4 bytes of data for shape [1] of <f4, got 5");
}

TEST(Npy, RefusesSizesThatOverflow) {
  for (const std::string_view shape :
       {"(4611686018427387904, 4)", "(9223372036854775807,)", "(99999999999999999999,)",
        "(3037000500, 3037000500)", "(-1,)"}) {
    EXPECT_NE(refusal(npy(dictionary("<f8", shape), "")), "accepted") << shape;
  }
  EXPECT_NE(refusal(npy(dictionary("|S0", "(9223372036854775807,)"), "")), "accepted");
  EXPECT_NE(refusal(npy(dictionary("<U2147483648", "(4294967296,)"), "")), "accepted");
}

TEST(Npy, RefusesMoreDimensionsThanATensorHas) {
  EXPECT_NE(refusal(npy(dictionary("|u1", "(1, 1, 1, 1, 1, 1, 1, 1, 1)"), "x")).find("test.npy"),
            std::string::npos);
}

TEST(Npy, RefusesEveryTruncation) {
  const std::string whole = npy(dictionary("<f4", "(2,)"), "12345678");
  ASSERT_EQ(refusal(whole), "accepted");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_NE(refusal(whole.substr(0, size)), "accepted") << size;
  }
}

TEST(Npy, RefusesMalformedHeaders) {
  for (const std::string_view header :
       {"", "{", "}", "{}", "[]", "{'descr': '<f4'}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x", "{'descr': '<f4",
        "{'descr': '', 'fortran_order': False, 'shape': (1,)}"}) {
    EXPECT_NE(refusal(npy(header, "1234")).find("not a valid .npy file"), std::string::npos)
        << header;
  }
  EXPECT_NE(refusal("PK\3\4").find("\\x93NUMPY"), std::string::npos);
  EXPECT_NE(refusal(npy(dictionary("<f4", "(1,)"), "1234", '\4')).find("version 1, 2 or 3, got 4"),
            std::string::npos);
}

class NpyFile : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string folder_ = testing::TempDir() + "npy_test." + std::to_string(::getpid());
  std::string path_ = folder_ + "/a.npy";
};

TEST_F(NpyFile, WritesWhatItReads) {
  const std::vector<float> data = {1, -2.5F, 3, 4, 5, 6};
  for (const Shape& shape : {Shape{6}, Shape{2, 3}, Shape{1, 2, 3, 1}}) {
    ASSERT_TRUE(write_npy(TensorView::of(data.data(), shape), path_).ok());
    const Result<Tensor> read = read_npy(path_);
    ASSERT_TRUE(read.ok()) << read.error().message;
    EXPECT_EQ(read->shape(), shape);
    EXPECT_EQ(values<float>(*read), data);
    EXPECT_EQ(read_file(path_)->find('\n') % 64, 63U) << "data start at a multiple of 64";
  }
}

TEST_F(NpyFile, WritesEveryType) {
  alignas(8) const std::array<char, 16> data = {0, 1, 0, 1};
  for (const DataType type : all_data_types()) {
    if (type == DataType::bytes) continue;
    ASSERT_TRUE(write_npy(TensorView::of(type, data.data(), {2}), path_).ok());
    const Result<Tensor> read = read_npy(path_);
    ASSERT_TRUE(read.ok()) << read.error().message;
    const bool widened =
        type == DataType::bf16 || type == DataType::fp8_e4m3 || type == DataType::fp8_e5m2;
    EXPECT_EQ(read->type(), widened ? DataType::fp32 : type);
  }
}

TEST_F(NpyFile, WidensBf16Exactly) {
  const std::uint16_t bits[] = {0x3F80, 0xC040, 0x7F80};
  ASSERT_TRUE(write_npy(TensorView::of(DataType::bf16, bits, {3}), path_).ok());
  const Result<Tensor> read = read_npy(path_);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(values<float>(*read),
            (std::vector<float>{1, -3, std::numeric_limits<float>::infinity()}));
}

TEST_F(NpyFile, WritesBytes) {
  const std::string_view texts[] = {"", "a", "longer", "x"};
  const Result<Tensor> tensor = Tensor::of_strings(texts, {2, 2});
  ASSERT_TRUE(write_npy(tensor->view(), path_).ok());
  const Result<Tensor> read = read_npy(path_);
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->shape(), (Shape{2, 2}));
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(read->string_at(i), texts[i]);
}

TEST_F(NpyFile, RefusesBytesThatTheFormatWouldCut) {
  const std::string_view texts[] = {std::string_view("a\0", 2)};
  const Result<Tensor> tensor = Tensor::of_strings(texts, {1});
  const Result<void> written = write_npy(tensor->view(), path_);
  ASSERT_FALSE(written.ok());
  EXPECT_EQ(written.error().code, ErrorCode::unsupported);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(NpyFile, LeavesNothingOnAFullDisk) {
  const std::vector<float> data(1 << 18);
  const Result<void> written = write_npy(TensorView::of(data.data(), {1 << 18}), "/dev/full");
  ASSERT_FALSE(written.ok());
  EXPECT_EQ(written.error().code, ErrorCode::unavailable);
  EXPECT_EQ(written.error().message, "cannot write \"/dev/full\": No space left on device");
}

TEST_F(NpyFile, NamesAMissingFile) {
  const Result<Tensor> read = read_npy(path_);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().code, ErrorCode::not_found);
  EXPECT_NE(read.error().message.find(path_), std::string::npos);
}

}  // namespace
}  // namespace millrace
