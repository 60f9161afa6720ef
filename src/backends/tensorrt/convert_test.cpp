#include "backends/tensorrt/convert.h"

#include <gtest/gtest.h>

#include <map>

#include "backends/test_harness.h"

namespace millrace::tensorrt {
namespace {

TEST(TensorrtTypes, AreOursOrNothing) {
  using Theirs = nvinfer1::DataType;
  const std::map<Theirs, DataType> known = {
      {Theirs::kFLOAT, DataType::fp32},   {Theirs::kHALF, DataType::fp16},
      {Theirs::kBF16, DataType::bf16},    {Theirs::kINT8, DataType::int8},
      {Theirs::kUINT8, DataType::uint8},  {Theirs::kINT32, DataType::int32},
      {Theirs::kINT64, DataType::int64},  {Theirs::kBOOL, DataType::boolean},
      {Theirs::kFP8, DataType::fp8_e4m3},
  };
  for (int i = -1; i < 32; ++i) {
    const auto type = static_cast<Theirs>(i);
    const auto at = known.find(type);
    EXPECT_EQ(data_type(type), at == known.end() ? std::nullopt : std::optional(at->second)) << i;
  }
  EXPECT_EQ(data_type(Theirs::kINT4), std::nullopt);
}

TEST(TensorrtShapes, GoBothWays) {
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{kDynamic, 3, 224, 224}, Shape{0, 1},
                             Shape{1, 2, 3, 4, 5, 6, 7, 8}, Shape{std::int64_t{1} << 40}}) {
    const auto dims = dims_of(shape);
    ASSERT_TRUE(dims.ok()) << testing::text_of(dims);
    EXPECT_EQ(dims->nbDims, static_cast<int>(shape.rank()));
    for (std::size_t i = 0; i < shape.rank(); ++i) EXPECT_EQ(dims->d[i], shape[i]);
    EXPECT_EQ(shape_of(*dims), shape);
  }
}

TEST(TensorrtShapes, WhatIsNotKnownIsDynamic) {
  nvinfer1::Dims dims{};
  dims.nbDims = 3;
  dims.d[0] = -1;
  dims.d[1] = -2;
  dims.d[2] = 5;
  EXPECT_EQ(shape_of(dims), (Shape{kDynamic, kDynamic, 5}));
  dims.nbDims = -1;  // of a tensor that is not there
  EXPECT_EQ(shape_of(dims), Shape{});
}

}  // namespace
}  // namespace millrace::tensorrt
