#include <millrace/shape.h>

#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

// Of sizes of every magnitude, often such that the product lies near 2^63.
Shape random_shape(std::mt19937_64& random) {
  Shape shape;
  const std::size_t rank = random() % (kMaxRank + 1);
  int bits_left = static_cast<int>(random() % 80);
  for (std::size_t i = 0; i < rank; ++i) {
    const int bits = rank == i + 1 ? std::min(bits_left, 62) : static_cast<int>(random() % 20);
    bits_left = std::max(0, bits_left - bits);
    const auto base = std::int64_t{1} << bits;
    const auto extra = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(base));
    shape.push_back(random() % 16 == 0 ? static_cast<std::int64_t>(random() % 3) : base + extra);
  }
  return shape;
}

// The product, or -1 when it is over 63 bits.
__extension__ using Wide = __int128;
Wide reference_product(const Shape& shape, std::int64_t factor) {
  Wide product = factor;
  for (const std::int64_t size : shape) {
    if (size == 0) return 0;
  }
  for (const std::int64_t size : shape) {
    product *= size;
    if (product > kLargest) return -1;
  }
  return product;
}

TEST(Shape, CountsAgreeWithWideArithmetic) {
  std::mt19937_64 random(7);
  int overflows = 0;
  int fits = 0;
  for (int i = 0; i < 200000; ++i) {
    const Shape shape = random_shape(random);
    const Wide expected = reference_product(shape, 1);
    const auto count = element_count(shape);
    ASSERT_EQ(count.ok(), expected >= 0) << to_string(shape);
    if (count.ok()) {
      ASSERT_TRUE(*count == expected) << to_string(shape);
    }

    const DataType type = all_data_types()[random() % all_data_types().size()];
    Wide bytes = 0;
    if (type == DataType::bytes) {
      bytes = expected < 0 || (expected + 1) * 8 > kLargest ? Wide{-1} : (expected + 1) * 8;
    } else {
      bytes = reference_product(shape, static_cast<std::int64_t>(size_of(type)));
    }
    const auto size = byte_count(type, shape);
    ASSERT_EQ(size.ok(), bytes >= 0) << to_string(shape) << to_string(type);
    if (size.ok()) {
      ASSERT_TRUE(static_cast<Wide>(*size) == bytes) << to_string(shape) << to_string(type);
      ++fits;
    } else {
      ASSERT_EQ(size.error().code, ErrorCode::invalid_argument);
      ++overflows;
    }
  }
  EXPECT_GT(overflows, 5000);
  EXPECT_GT(fits, 5000);
}

TEST(Shape, CountsAtTheEdges) {
  EXPECT_EQ(element_count({}).value(), 1);
  EXPECT_EQ(element_count({0, kLargest, kLargest}).value(), 0);
  EXPECT_EQ(element_count({kLargest}).value(), kLargest);
  EXPECT_FALSE(element_count({kLargest, 2}).ok());
  EXPECT_EQ(byte_count(DataType::uint8, {kLargest}).value(), static_cast<std::size_t>(kLargest));
  EXPECT_FALSE(byte_count(DataType::fp16, {kLargest}).ok());
  EXPECT_FALSE(byte_count(DataType::bytes, {kLargest}).ok());
  EXPECT_EQ(byte_count(DataType::bytes, {0}).value(), 8u);
}

TEST(Shape, NegativeAndDynamicSizesHaveNoCount) {
  EXPECT_EQ(element_count({2, -3}).error().message,
            "shape [2,-3]: expected sizes of zero or more, got -3");
  EXPECT_EQ(element_count({0, -1}).error().message,
            "shape [0,-1]: expected sizes of zero or more, got -1 (a size not known yet)");
  EXPECT_FALSE(element_count({std::numeric_limits<std::int64_t>::min(), 2}).ok());
  EXPECT_TRUE(is_dynamic({2, -1}));
  EXPECT_FALSE(is_dynamic({2, 0}));
  EXPECT_FALSE(is_dynamic({}));
}

TEST(Shape, TextReadsBack) {
  std::mt19937_64 random(8);
  for (int i = 0; i < 2000; ++i) {
    Shape shape = random_shape(random);
    if (!shape.empty() && random() % 2 == 0) shape[0] = kDynamic;
    const auto parsed = parse_shape(to_string(shape));
    ASSERT_TRUE(parsed.ok()) << to_string(shape);
    ASSERT_EQ(*parsed, shape);
  }
}

TEST(Shape, ReadsItsSpellings) {
  EXPECT_EQ(parse_shape("[1,3,-1]").value(), (Shape{1, 3, -1}));
  EXPECT_EQ(parse_shape(" [ 1 , 3 ] ").value(), (Shape{1, 3}));
  EXPECT_EQ(parse_shape("1,3,?").value(), (Shape{1, 3, -1}));
  EXPECT_EQ(parse_shape("1x3x224").value(), (Shape{1, 3, 224}));
  EXPECT_EQ(parse_shape("7").value(), (Shape{7}));
  EXPECT_EQ(parse_shape("[]").value(), Shape{});
  for (const char* text :
       {"", " ", "[", "]", "[1", "1]", "1,,2", ",", "1x", "x", "-2", "1,-2", "1x2,3", "a", "1.5",
        "[[1]]", "9223372036854775808", "1,2,3,4,5,6,7,8,9", "[1,]"}) {
    const auto parsed = parse_shape(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::invalid_argument);
  }
  EXPECT_EQ(
      parse_shape("1,b").error().message,
      "shape: expected dimensions such as [1,3,-1], 1,3,? or 1x3x224, got \"1,b\": \"b\" is not a "
      "dimension");
}

TEST(Shape, HasAtMostEightDimensions) {
  const std::vector<std::int64_t> nine(9, 1);
  EXPECT_EQ(Dims::from(nine).error().code, ErrorCode::unsupported);
  EXPECT_EQ(Dims::from(std::span(nine).first(8)).value().rank(), 8u);
}

TEST(Strides, OfContiguousShapes) {
  EXPECT_EQ(contiguous_strides({2, 3, 4}), (Strides{12, 4, 1}));
  EXPECT_EQ(contiguous_strides({}), Strides{});
  EXPECT_TRUE(is_contiguous({2, 3, 4}, {}));
  EXPECT_TRUE(is_contiguous({2, 3, 4}, {12, 4, 1}));
  EXPECT_FALSE(is_contiguous({2, 3, 4}, {4, 8, 1}));
  EXPECT_FALSE(is_contiguous({2, 3}, {1}));
  EXPECT_TRUE(is_contiguous({2, 1, 4}, {4, 999, 1}));  // a single element has no neighbour
  EXPECT_TRUE(is_contiguous({2, 0, 4}, {7, 7, 7}));    // nothing lies anywhere
  EXPECT_FALSE(is_contiguous({2, 3}, {0, 1}));
  EXPECT_TRUE(is_contiguous({0, kLargest, kLargest}, {1, 1, 1}));  // and nothing overflows
}

TEST(Shape, MatchesPatterns) {
  EXPECT_TRUE(matches({4, 3, 8}, {-1, 3, -1}));
  EXPECT_FALSE(matches({4, 2, 8}, {-1, 3, -1}));
  EXPECT_FALSE(matches({4, 3}, {-1, 3, -1}));
  EXPECT_FALSE(matches({4, 3, 8}, {-1, 3}));
  EXPECT_TRUE(matches({}, {}));
}

}  // namespace
}  // namespace millrace
