#include "backends/onnx_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

namespace millrace {
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

std::string varint(std::size_t value) {
  std::string bytes;
  for (; value > 127; value >>= 7) bytes += static_cast<char>((value & 127) | 128);
  return bytes + static_cast<char>(value);
}

// A length-delimited protobuf field.
std::string field(std::size_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
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

std::string tensor_in(const std::string& file) {
  return field(13, field(1, "location") + field(2, file)) + field(8, "weights");
}

TEST(OnnxFile, NamesTheFilesThatHoldWeightsWhereverTheyAreUsed) {
  const std::string inner =
      field(5, tensor_in("c")) + field(1, field(5, field(10, tensor_in("e"))));
  const std::string node = field(4, "If") + field(5, field(6, inner)) + field(5, field(11, inner));
  const std::string constant = field(4, "Constant") + field(5, field(5, tensor_in("a")));
  const std::string graph =
      field(1, node) + field(1, constant) + field(5, tensor_in("b")) + field(5, field(8, "here"));
  const std::string function = field(7, field(5, field(5, tensor_in("d"))));
  const std::string model = field(7, graph) + field(25, function);
  const OnnxSummary summary = summarize_onnx(model);
  EXPECT_TRUE(summary.complete);
  EXPECT_EQ(summary.external_files, (std::vector<std::string>{"a", "b", "c", "d", "e"}));
  EXPECT_TRUE(summarize_onnx(content_of("linear")).external_files.empty());
}

TEST(OnnxFile, GraphsWithoutEndAreNotFollowed) {
  std::string graph = field(5, tensor_in("x"));
  for (int depth = 0; depth < 200; ++depth) {
    graph = field(1, field(5, field(6, graph)));
    if (depth == 10) {
      EXPECT_FALSE(summarize_onnx(field(7, graph)).external_files.empty());
    }
    if (depth > 40) {
      EXPECT_TRUE(summarize_onnx(field(7, graph)).external_files.empty());
    }
  }
}

TEST(OnnxFile, SaysWhetherItIsQuantizedAndWhichVariant) {
  const OnnxSummary plain = summarize_onnx(content_of("linear"));
  EXPECT_FALSE(plain.quantized);
  EXPECT_EQ(plain.variant, "");
  for (const char* const op : {"QuantizeLinear", "DequantizeLinear"}) {
    EXPECT_TRUE(summarize_onnx(field(7, field(1, field(4, op)))).quantized);
  }
  const std::string metadata = field(14, field(1, "author") + field(2, "fp32")) +
                               field(14, field(1, "millrace_variant") + field(2, "fp16"));
  EXPECT_EQ(summarize_onnx(field(7, "") + metadata).variant, "fp16");
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
}  // namespace millrace
