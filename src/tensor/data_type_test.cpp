#include <millrace/data_type.h>

#include <set>
#include <string>

#include <gtest/gtest.h>

namespace millrace {
namespace {

TEST(DataType, NamesReadBack) {
  std::set<std::string_view> names;
  for (const DataType type : all_data_types()) {
    const std::string_view name = to_string(type);
    EXPECT_TRUE(names.insert(name).second) << name;
    EXPECT_EQ(parse_data_type(name).value(), type);
    std::string lower(name);
    for (char& c : lower) c = static_cast<char>(std::tolower(c));
    EXPECT_EQ(parse_data_type(lower).value(), type);
  }
  EXPECT_EQ(names.size(), 16u);
  EXPECT_EQ(static_cast<int>(all_data_types().back()), 15);
  for (std::size_t i = 0; i < all_data_types().size(); ++i) {
    EXPECT_EQ(static_cast<std::size_t>(all_data_types()[i]), i);
  }
}

TEST(DataType, ReadsOtherSpellings) {
  const std::pair<const char*, DataType> spellings[] = {
      {"tensor(int64)", DataType::int64},
      {"tensor(float)", DataType::fp32},
      {"tensor(float16)", DataType::fp16},
      {"tensor(bool)", DataType::boolean},
      {"tensor(string)", DataType::bytes},
      {"tensor(double)", DataType::fp64},
      {"tensor(bfloat16)", DataType::bf16},
      {"tensor(float8e4m3fn)", DataType::fp8_e4m3},
      {"float8e5m2", DataType::fp8_e5m2},
      {"float8_e4m3fn", DataType::fp8_e4m3},
      {"float32", DataType::fp32},
      {"Float64", DataType::fp64},
      {"uint8", DataType::uint8},
      {"<i8", DataType::int64},
      {"|u1", DataType::uint8},
      {"|b1", DataType::boolean},
      {"<f4", DataType::fp32},
      {"=f8", DataType::fp64},
      {"i4", DataType::int32},
      {" FP16 ", DataType::fp16},
      {"<u2", DataType::uint16},
      {"|i1", DataType::int8},
  };
  for (const auto& [text, type] : spellings) {
    const auto parsed = parse_data_type(text);
    ASSERT_TRUE(parsed.ok()) << text;
    EXPECT_EQ(*parsed, type) << text;
  }
}

TEST(DataType, RefusesOthersByListingThoseKnown) {
  for (const char* text : {"", "FP33", "tensor()", "tensor(int64", "tensor(", ">i8", "<fp32",
                           "int64)", "<", "complex64", "tensor(tensor(int64))"}) {
    const auto parsed = parse_data_type(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::invalid_argument);
    EXPECT_NE(parsed.error().message.find("FP32, FP64"), std::string::npos)
        << parsed.error().message;
  }
}

TEST(DataType, SizesAreThoseOfTheCppTypes) {
  EXPECT_EQ(size_of(kDataTypeOf<bool>), sizeof(bool));
  EXPECT_EQ(size_of(kDataTypeOf<std::uint16_t>), 2u);
  EXPECT_EQ(size_of(kDataTypeOf<float>), sizeof(float));
  EXPECT_EQ(size_of(kDataTypeOf<std::int64_t>), 8u);
  EXPECT_EQ(size_of(kDataTypeOf<double>), sizeof(double));
  EXPECT_EQ(size_of(DataType::fp16), 2u);
  EXPECT_EQ(size_of(DataType::bf16), 2u);
  EXPECT_EQ(size_of(DataType::fp8_e4m3), 1u);
  EXPECT_EQ(size_of(DataType::bytes), 0u);
}

}  // namespace
}  // namespace millrace
