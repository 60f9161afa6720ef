#include "backends/onnxruntime/onnx_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

namespace millrace::onnxruntime {
namespace {

std::string model_path(std::string_view name) {
  return std::string(MILLRACE_SOURCE_DIR "/tests/models/") + std::string(name) + ".onnx";
}

std::string content_of(std::string_view name) {
  std::ifstream file(model_path(name), std::ios::binary);
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(OnnxFile, ReadsVersionsAndWeights) {
  const OnnxSummary summary = summarize_onnx_file(model_path("linear"));
  EXPECT_TRUE(summary.complete);
  EXPECT_EQ(summary.ir_version, 10);
  ASSERT_EQ(summary.opsets.size(), 1U);
  EXPECT_EQ(summary.opsets[0], (std::pair<std::string, std::int64_t>("", 21)));
  // 16 x 64 floats, and their name and shape.
  EXPECT_GE(summary.weights_bytes, 4096U);
  EXPECT_LE(summary.weights_bytes, 4096U + 64);
  EXPECT_TRUE(summary.shapeless_outputs.empty());
}

TEST(OnnxFile, ReadsOtherDomains) {
  const OnnxSummary summary = summarize_onnx(content_of("unknown_operator"));
  ASSERT_EQ(summary.opsets.size(), 2U);
  EXPECT_EQ(summary.opsets[1], (std::pair<std::string, std::int64_t>("example.frob", 1)));
  EXPECT_EQ(summary.weights_bytes, 0U);
}

TEST(OnnxFile, NamesOutputsOfUnknownRank) {
  EXPECT_EQ(summarize_onnx(content_of("unknown_rank")).shapeless_outputs,
            std::vector<std::string>{"output"});
  EXPECT_TRUE(summarize_onnx(content_of("scalar")).shapeless_outputs.empty());
}

// A length-delimited protobuf field.
std::string field(int number, const std::string& bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}

TEST(OnnxFile, CountsWeightsInFilesBesideTheModel) {
  const std::string entry = field(1, "length") + field(2, "1000000");
  const std::string other = field(1, "offset") + field(2, "77");
  const std::string bad = field(1, "length") + field(2, "12monkeys");
  const std::string initializer = field(13, entry) + field(13, other) + field(13, bad);
  const std::string model = field(7, field(5, initializer));
  const OnnxSummary summary = summarize_onnx(model);
  EXPECT_TRUE(summary.complete);
  EXPECT_EQ(summary.weights_bytes, 1000000 + initializer.size());
}

TEST(OnnxFile, AnyPrefixAndAnyChangedByteIsReadSafely) {
  const std::string whole = content_of("linear");
  EXPECT_FALSE(summarize_onnx("").complete);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_LE(summarize_onnx(std::string(whole, 0, length)).weights_bytes, whole.size());
  }
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 0xff);
    (void)summarize_onnx(changed);
  }
  EXPECT_FALSE(summarize_onnx(whole.substr(0, whole.size() / 2)).complete);
}

TEST(OnnxFile, AMissingFileHasNothing) {
  EXPECT_FALSE(summarize_onnx_file("/nowhere/at/all.onnx").complete);
  EXPECT_FALSE(summarize_onnx_file("/").complete);
}

TEST(OnnxFile, FirstBytes) {
  EXPECT_TRUE(starts_like_onnx(content_of("linear")));
  EXPECT_FALSE(starts_like_onnx("PK\x03\x04"));
  EXPECT_FALSE(starts_like_onnx("{}"));
  EXPECT_FALSE(starts_like_onnx("\x08"));
}

}  // namespace
}  // namespace millrace::onnxruntime
