#include "cli/compare_outputs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace millrace::cli {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const float kNan = std::nanf("");

OutputComparison compare(const std::vector<float>& reference, const std::vector<float>& found,
                         const Shape& shape) {
  OutputComparison output("y");
  output.add(TensorView::of(reference.data(), shape), TensorView::of(found.data(), shape));
  return output;
}

TEST(OutputComparison, EqualAnswersDifferInNothing) {
  const OutputComparison output = compare({3, 4, 0}, {3, 4, 0}, {3});
  EXPECT_EQ(output.elements(), 3U);
  EXPECT_EQ(output.max_error(), 0);
  EXPECT_EQ(output.mean_error(), 0);
  EXPECT_EQ(output.relative_error(), 0);
  EXPECT_DOUBLE_EQ(output.cosine(), 1);
  EXPECT_FALSE(output.counts_agreement()) << "one dimension is no score of classes";
  EXPECT_EQ(output.agreement(), 1);
  EXPECT_EQ(problem_of(output, {0, 1}), "");
}

TEST(OutputComparison, ErrorsAreMeasuredOverAllAnswers) {
  OutputComparison output("y");
  const std::vector<float> a = {3, 0}, b = {3, 1}, c = {0, 4}, d = {-1, 4};
  output.add(TensorView::of(a.data(), {2}), TensorView::of(b.data(), {2}));
  output.add(TensorView::of(c.data(), {2}), TensorView::of(d.data(), {2}));
  EXPECT_EQ(output.max_error(), 1);
  EXPECT_DOUBLE_EQ(output.mean_error(), 0.5);
  EXPECT_DOUBLE_EQ(output.relative_error(), std::sqrt(2.0 / 25));
  EXPECT_DOUBLE_EQ(output.cosine(), 25 / std::sqrt(25.0 * 27));
  EXPECT_EQ(problem_of(output, {0.3, 1}), "");
  EXPECT_EQ(problem_of(output, {0.2, 1}), "relative error 0.282843, at most 0.2 allowed");
}

TEST(OutputComparison, ScaleMattersNotToTheAngle) {
  const OutputComparison output = compare({1, 2}, {2, 4}, {2});
  EXPECT_DOUBLE_EQ(output.cosine(), 1);
  EXPECT_DOUBLE_EQ(output.relative_error(), 1);
  EXPECT_DOUBLE_EQ(compare({1, 2}, {-1, -2}, {2}).cosine(), -1);
}

TEST(OutputComparison, WhereTheReferenceIsZero) {
  EXPECT_EQ(compare({0, 0}, {0, 0}, {2}).cosine(), 1);
  const OutputComparison output = compare({0, 0}, {0, 1e-9F}, {2});
  EXPECT_EQ(output.cosine(), 0);
  EXPECT_EQ(output.relative_error(), kInfinity);
  EXPECT_NE(problem_of(output, {1e9, 0}), "");
}

TEST(OutputComparison, WhatIsNotFiniteMustBeSoInBoth) {
  const auto infinity = static_cast<float>(kInfinity);
  EXPECT_EQ(compare({kNan, infinity, 1}, {kNan, infinity, 1}, {3}).not_finite(), 0U);
  const OutputComparison output = compare({1, infinity, 2, 1}, {kNan, -infinity, 2, infinity}, {4});
  EXPECT_EQ(output.not_finite(), 3U);
  EXPECT_EQ(output.relative_error(), 0) << "of the others";
  EXPECT_EQ(problem_of(output, {1, 0}),
            "3 of 4 values are not finite where the reference's are, or the other way round");
}

TEST(OutputComparison, BestClassesAreCounted) {
  const OutputComparison output =
      compare({1, 2, 3, 9, 1, 2, 5, 4, 3, 0, 7, 1}, {1, 2, 4, 8, 1, 2, 4, 5, 3, 0, 6, 1}, {4, 3});
  EXPECT_TRUE(output.counts_agreement());
  EXPECT_DOUBLE_EQ(output.agreement(), 0.75);
  EXPECT_EQ(problem_of(output, {1, 0.75}), "");
  EXPECT_EQ(problem_of(output, {1, 0.8}), "agreement 75.0%, at least 80.0% expected");
  EXPECT_EQ(problem_of(output, {1, 0}), "") << "not judged";
}

TEST(OutputComparison, IntegersAreRightOrWrong) {
  const std::vector<std::int64_t> a = {1, 2, 3, 4}, b = {1, 2, 3, 5};
  OutputComparison output("classes");
  output.add(TensorView::of(a.data(), {2, 2}), TensorView::of(b.data(), {2, 2}));
  EXPECT_TRUE(output.counts_agreement());
  EXPECT_DOUBLE_EQ(output.agreement(), 0.75);
}

TEST(OutputComparison, OtherTypesOfTheSameShapeAreCompared) {
  const std::vector<std::uint16_t> half = {0x3c00, 0x4000};  // 1, 2
  const std::vector<float> single = {1, 2};
  OutputComparison output("y");
  output.add(TensorView::of(single.data(), {2}), TensorView::of(DataType::fp16, half.data(), {2}));
  EXPECT_EQ(output.max_error(), 0);
  EXPECT_EQ(output.elements(), 2U);
}

TEST(OutputComparison, AnotherShapeIsAProblem) {
  const std::vector<float> values(6);
  OutputComparison output("y");
  output.add(TensorView::of(values.data(), {2, 3}), TensorView::of(values.data(), {3, 2}));
  EXPECT_EQ(problem_of(output, {1, 0}), "expected FP32 [2,3], got FP32 [3,2]");
}

TEST(OutputComparison, LessPrecisionMayLoseMore) {
  const std::string_view names[] = {"fp32", "tf32", "fp16", "bf16", "int8", "fp8"};
  for (std::size_t i = 1; i < std::size(names); ++i) {
    EXPECT_GT(usual_limits(names[i]).relative_error, usual_limits(names[i - 1]).relative_error);
    EXPECT_LE(usual_limits(names[i]).agreement, usual_limits(names[i - 1]).agreement);
  }
  EXPECT_EQ(usual_limits("typed").relative_error, usual_limits("fp16").relative_error);
}

}  // namespace
}  // namespace millrace::cli
