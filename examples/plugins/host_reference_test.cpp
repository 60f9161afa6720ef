// The host references against the textbook formulas in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <vector>

#include "mish.h"
#include "yolo_decode.h"

namespace millrace::plugins {
namespace {

double logistic(double x) { return 1.0 / (1.0 + std::exp(-x)); }

TEST(MishHost, IsTheFormula) {
  std::vector<float> inputs;
  for (int i = -10'000; i <= 10'000; ++i) inputs.push_back(static_cast<float>(i) * 0.01F);
  for (const float x : {0.0F, -0.0F, 1e-30F, -1e-30F, 19.999F, 20.0F, 20.001F, 44.5F, 89.0F, 1e30F,
                        -1e30F, std::numeric_limits<float>::infinity()}) {
    inputs.push_back(x);
  }
  std::vector<float> outputs(inputs.size());
  mish_host(inputs.data(), outputs.data(), inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const double x = inputs[i];
    const double expected = x * std::tanh(std::log1p(std::exp(x)));
    if (std::isinf(expected)) {
      ASSERT_EQ(outputs[i], expected);
    } else {
      // exp(-87) is the last normal float; below it the result has ever fewer digits.
      ASSERT_NEAR(outputs[i], expected, 1e-6 * std::abs(expected) + 1e-36) << "at " << x;
    }
  }
}

TEST(MishHost, KeepsWhatIsNoNumber) {
  const float input = std::numeric_limits<float>::quiet_NaN();
  float output = 0;
  mish_host(&input, &output, 1);
  EXPECT_TRUE(std::isnan(output));
}

TEST(MishHost, WorksInPlace) {
  std::vector<float> values{-1.0F, 0.0F, 2.0F};
  std::vector<float> expected(values.size());
  mish_host(values.data(), expected.data(), values.size());
  mish_host(values.data(), values.data(), values.size());
  EXPECT_EQ(values, expected);
}

TEST(YoloDecodeHost, IsTheFormula) {
  YoloHead head{.batch = 2,
                .height = 3,
                .width = 5,
                .anchors = 3,
                .classes = 7,
                .stride = 16,
                .scale_xy = 1.1F,
                .anchor = {12, 16, 19, 36, 40, 28}};
  const std::int64_t cells = head.height * head.width;
  const std::int64_t planes = 5 + head.classes;
  std::mt19937 random(3);
  std::uniform_real_distribution<float> value(-5, 5);
  std::vector<float> input(static_cast<std::size_t>(head.batch * head.anchors * planes * cells));
  for (float& x : input) x = value(random);

  const auto count = static_cast<std::size_t>(head.batch * head.anchors * cells);
  std::vector<float> boxes(count * 4);
  std::vector<float> scores(count * static_cast<std::size_t>(head.classes));
  yolo_decode_host(input.data(), boxes.data(), scores.data(), head);

  // The input as the model means it: [N][A][5 + C][H][W].
  const auto raw = [&](std::int64_t n, std::int64_t a, std::int64_t k, std::int64_t y,
                       std::int64_t x) -> double {
    return input[static_cast<std::size_t>(
        (((n * head.anchors + a) * planes + k) * head.height + y) * head.width + x)];
  };
  std::size_t row = 0;
  for (std::int64_t n = 0; n < head.batch; ++n) {
    for (std::int64_t a = 0; a < head.anchors; ++a) {
      for (std::int64_t y = 0; y < head.height; ++y) {
        for (std::int64_t x = 0; x < head.width; ++x, ++row) {
          const double scale = head.scale_xy;
          const auto along = [&](double logit, std::int64_t cell) {
            return (logistic(logit) * scale - (scale - 1) / 2 + static_cast<double>(cell)) * 16.0;
          };
          const double centre_x = along(raw(n, a, 0, y, x), x);
          const double centre_y = along(raw(n, a, 1, y, x), y);
          const double width = std::exp(raw(n, a, 2, y, x)) * head.anchor[2 * a];
          const double height = std::exp(raw(n, a, 3, y, x)) * head.anchor[2 * a + 1];
          const double expected[] = {centre_x - width / 2, centre_y - height / 2,
                                     centre_x + width / 2, centre_y + height / 2};
          const double extent = std::abs(centre_x) + std::abs(centre_y) + width + height;
          for (std::size_t k = 0; k < 4; ++k) {
            ASSERT_NEAR(boxes[row * 4 + k], expected[k], 1e-6 * extent) << "box " << row;
          }
          for (std::int64_t k = 0; k < head.classes; ++k) {
            const double score = logistic(raw(n, a, 4, y, x)) * logistic(raw(n, a, 5 + k, y, x));
            ASSERT_NEAR(scores[row * 7 + static_cast<std::size_t>(k)], score, 1e-6 * score)
                << "box " << row << ", class " << k;
          }
        }
      }
    }
  }
  ASSERT_EQ(row, count);
}

TEST(YoloDecodeHost, AZeroHeadIsTheMiddleOfEachCell) {
  const YoloHead head{.batch = 1,
                      .height = 1,
                      .width = 2,
                      .anchors = 1,
                      .classes = 1,
                      .stride = 8,
                      .scale_xy = 2,
                      .anchor = {10, 20}};
  const std::vector<float> input(12, 0.0F);
  std::vector<float> boxes(8);
  std::vector<float> scores(2);
  yolo_decode_host(input.data(), boxes.data(), scores.data(), head);
  EXPECT_EQ(boxes, (std::vector<float>{-1, -6, 9, 14, 7, -6, 17, 14}));
  EXPECT_EQ(scores, (std::vector<float>{0.25F, 0.25F}));
}

TEST(YoloDecodeHost, TouchesNothingForAnEmptyBatch) {
  const YoloHead head{
      .batch = 0, .height = 4, .width = 4, .anchors = 1, .classes = 2, .stride = 8, .anchor = {}};
  yolo_decode_host(nullptr, nullptr, nullptr, head);
}

}  // namespace
}  // namespace millrace::plugins
