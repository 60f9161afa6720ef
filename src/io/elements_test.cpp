#include "io/elements.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace millrace {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Elements, Fp16ValuesAreThoseOfTheStandard) {
  EXPECT_EQ(fp16_value(0x3C00), 1.0F);
  EXPECT_EQ(fp16_value(0xC000), -2.0F);
  EXPECT_EQ(fp16_value(0x7BFF), 65504.0F);
  EXPECT_EQ(fp16_value(0x0001), std::ldexp(1.0F, -24));
  EXPECT_EQ(fp16_value(0x0400), std::ldexp(1.0F, -14));
  EXPECT_EQ(fp16_value(0x7C00), kInfinity);
  EXPECT_TRUE(std::isnan(fp16_value(0x7C01)));
  EXPECT_TRUE(std::signbit(fp16_value(0x8000)));
}

TEST(Elements, Fp16RoundTripsAllBits) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = fp16_value(static_cast<std::uint16_t>(bits));
    if (!std::isnan(value)) {
      EXPECT_EQ(fp16_bits(value), bits);
    }
  }
}

TEST(Elements, Fp16RoundsToNearestEven) {
  EXPECT_EQ(fp16_bits(1.0F + std::ldexp(1.0F, -11)), 0x3C00);      // a tie, to even
  EXPECT_EQ(fp16_bits(1.0F + 3 * std::ldexp(1.0F, -11)), 0x3C02);  // a tie, to even
  EXPECT_EQ(fp16_bits(std::nextafter(1.0F + std::ldexp(1.0F, -11), 2.0F)), 0x3C01);
  EXPECT_EQ(fp16_bits(65519.0F), 0x7BFF);
  EXPECT_EQ(fp16_bits(65520.0F), 0x7C00);
  EXPECT_EQ(fp16_bits(1e30F), 0x7C00);
  EXPECT_EQ(fp16_bits(std::ldexp(1.0F, -25)), 0x0000);  // a tie, to even
  EXPECT_EQ(fp16_bits(std::nextafter(std::ldexp(1.0F, -25), 1.0F)), 0x0001);
  EXPECT_EQ(fp16_bits(-kInfinity), 0xFC00);
  EXPECT_TRUE(std::isnan(fp16_value(fp16_bits(std::nanf("")))));
}

TEST(Elements, Bf16RoundTripsAndRounds) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = bf16_value(static_cast<std::uint16_t>(bits));
    if (!std::isnan(value)) {
      EXPECT_EQ(bf16_bits(value), bits);
    }
  }
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x3F808000U)), 0x3F80);
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x3F818000U)), 0x3F82);
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x3F808001U)), 0x3F81);
}

TEST(Elements, Fp8ValuesAreThoseOfTheStandard) {
  EXPECT_EQ(fp8_e4m3_value(0x38), 1.0F);
  EXPECT_EQ(fp8_e4m3_value(0x7E), 448.0F);
  EXPECT_TRUE(std::isnan(fp8_e4m3_value(0x7F)));
  EXPECT_EQ(fp8_e4m3_value(0x01), std::ldexp(1.0F, -9));
  EXPECT_EQ(fp8_e5m2_value(0x3C), 1.0F);
  EXPECT_EQ(fp8_e5m2_value(0x7B), 57344.0F);
  EXPECT_EQ(fp8_e5m2_value(0xFC), -kInfinity);
  EXPECT_EQ(fp8_e5m2_value(0x01), std::ldexp(1.0F, -16));
}

TEST(Elements, ReadsEveryType) {
  const std::int32_t integers[] = {5, -7};
  EXPECT_EQ(element_value(TensorView::of(integers, {2}), 1), -7);
  const std::uint64_t large[] = {1ULL << 63};
  EXPECT_EQ(element_value(TensorView::of(large, {1}), 0), std::ldexp(1.0, 63));
  const double doubles[] = {0.1};
  EXPECT_EQ(element_value(TensorView::of(doubles, {1}), 0), 0.1);
  const std::uint16_t half[] = {0x3800};
  EXPECT_EQ(element_value(TensorView::of(DataType::fp16, half, {1}), 0), 0.5);
}

}  // namespace
}  // namespace millrace
