// The loops that the engine is compared with do what they say they do.
#include "direct/direct.h"

#include <filesystem>
#include <numeric>

#include <gtest/gtest.h>

#include "direct/machine.h"

namespace direct {
namespace {

const std::string kModels = std::string(MILLRACE_SOURCE_DIR) + "/tests/models/";
const std::string kLibrary =
    std::filesystem::path(MILLRACE_BINARY).replace_filename("libonnxruntime.so.1");

TEST(Latencies, QuantilesLieWithinTheBucketsWidth) {
  Latencies latencies;
  for (std::uint64_t us = 1; us <= 1000; ++us) latencies.record(us * 1000);
  EXPECT_NEAR(latencies.quantile_us(0.5), 500, 500 * 0.016);
  EXPECT_NEAR(latencies.quantile_us(0.99), 990, 990 * 0.016);
  EXPECT_NEAR(latencies.quantile_us(1), 1000, 1000 * 0.016);
  EXPECT_NEAR(latencies.mean_us(), 500.5, 1e-6);
  EXPECT_EQ(latencies.count(), 1000U);
}

TEST(Latencies, SmallValuesAreExactAndHugeOnesKept) {
  Latencies latencies;
  latencies.record(7);
  EXPECT_DOUBLE_EQ(latencies.quantile_us(0.5), 0.007);
  latencies.clear();
  EXPECT_EQ(latencies.quantile_us(0.5), 0);
  latencies.record(~std::uint64_t{0});
  EXPECT_EQ(latencies.count(), 1U);
  EXPECT_GT(latencies.quantile_us(0.5), 1e9);
}

TEST(Latencies, MergingAddsUp) {
  Latencies a;
  Latencies b;
  a.record(100);
  b.record(300);
  a.merge(b);
  EXPECT_EQ(a.count(), 2U);
  EXPECT_DOUBLE_EQ(a.mean_us(), 0.2);
}

TEST(Machine, MeasuresSomething) {
  EXPECT_GE(usable_cores(), 1);
  EXPECT_GT(measure_wake(0.02).p50_us, 0);
  EXPECT_GT(measure_timer_lag(0.05).p99_us, 0);
}

class PipelineOf : public ::testing::TestWithParam<PipelineSetup> {};

TEST_P(PipelineOf, AnswersEveryRequestRightlyAndComesToRest) {
  const std::unique_ptr<Loop> pipeline = make_pipeline(GetParam());
  for (int i = 0; i < 3; ++i) {
    const Figures figures = pipeline->run(0.01, 0.05);
    EXPECT_GT(figures.requests, 100U);
    EXPECT_EQ(figures.items,
              figures.requests * static_cast<std::uint64_t>(GetParam().request_items));
    EXPECT_EQ(figures.latency.count(), figures.requests);
    EXPECT_EQ(figures.wrong, 0U);
    EXPECT_GE(figures.seconds, 0.05);
  }
}

INSTANTIATE_TEST_SUITE_P(Setups, PipelineOf,
                         ::testing::Values(PipelineSetup{256, 1, 64, 1, 2, 64},
                                           PipelineSetup{1, 1, 1, 1, 1, 64},
                                           PipelineSetup{16, 4, 32, 3, 2, 8},
                                           PipelineSetup{2, 8, 1, 1, 2, 64}));

class Onnx : public ::testing::Test {
 protected:
  OnnxSetup identity(std::int64_t items, int batches) {
    OnnxSetup setup;
    setup.library = kLibrary;
    setup.model = kModels + "identity_fp32.onnx";
    setup.items = items;
    for (int i = 0; i < batches; ++i) {
      auto& values = memory_.emplace_back(static_cast<std::size_t>(items) * kItem);
      std::iota(values.begin(), values.end(), static_cast<float>(100 * i));
      setup.batches.push_back(
          {{input_, 1, shape(items), values.data(), values.size() * sizeof(float)}});
    }
    setup.outputs = {{output_, 1, shape(items), nullptr,
                      static_cast<std::size_t>(items) * kItem * sizeof(float)}};
    return setup;
  }
  static std::vector<std::int64_t> shape(std::int64_t items) {
    return {items, static_cast<std::int64_t>(kItem)};
  }

  static constexpr std::size_t kItem = 4;
  std::string input_ = "input";
  std::string output_ = "output";
  std::vector<std::vector<float>> memory_;
};

TEST_F(Onnx, EachLoopRunsTheModel) {
  for (const bool naive : {false, true}) {
    OnnxSetup setup = identity(4, 6);
    setup.threads = 2;
    setup.naive = naive;
    std::string error;
    const auto loop = make_onnx_loop(setup, error);
    ASSERT_TRUE(loop) << error;
    for (std::size_t batch : {0U, 5U}) {
      const std::vector<std::string> outputs = loop->run_once(batch, error);
      ASSERT_EQ(outputs.size(), 1U) << error;
      EXPECT_EQ(
          outputs[0],
          std::string(reinterpret_cast<const char*>(memory_[memory_.size() - 6 + batch].data()),
                      4 * kItem * sizeof(float)));
    }
    for (int i = 0; i < 2; ++i) {
      const Figures figures = loop->run(0.01, 0.05);
      EXPECT_EQ(figures.error, "");
      EXPECT_GT(figures.requests, 10U);
      EXPECT_EQ(figures.items, 4 * figures.requests);
    }
  }
}

TEST_F(Onnx, OutputsOfUnknownSizeAreLeftToTheLibrary) {
  OnnxSetup setup = identity(2, 2);
  setup.outputs[0].shape = {-1, static_cast<std::int64_t>(kItem)};
  std::string error;
  const auto loop = make_onnx_loop(setup, error);
  ASSERT_TRUE(loop) << error;
  const Figures figures = loop->run(0.01, 0.05);
  EXPECT_EQ(figures.error, "");
  EXPECT_GT(figures.requests, 10U);
}

TEST_F(Onnx, AFailingRunIsTold) {
  OnnxSetup setup = identity(2, 1);
  setup.batches[0][0].name = "no_such_input";
  std::string error;
  const auto loop = make_onnx_loop(setup, error);
  ASSERT_TRUE(loop) << error;
  EXPECT_TRUE(loop->run_once(0, error).empty());
  EXPECT_NE(error.find("no_such_input"), std::string::npos) << error;
  EXPECT_NE(loop->run(0, 0.02).error, "");
}

TEST_F(Onnx, WhatCannotStartSaysWhy) {
  std::string error;
  OnnxSetup setup = identity(1, 1);
  setup.model = "/nowhere/model.onnx";
  EXPECT_FALSE(make_onnx_loop(setup, error));
  EXPECT_NE(error.find("/nowhere/model.onnx"), std::string::npos) << error;
  setup.library = "/nowhere/libonnxruntime.so.1";
  EXPECT_FALSE(make_onnx_loop(setup, error));
  EXPECT_NE(error.find("/nowhere/libonnxruntime.so.1"), std::string::npos) << error;
  setup = identity(1, 1);
  setup.batches.clear();
  EXPECT_FALSE(make_onnx_loop(setup, error));
}

}  // namespace
}  // namespace direct
