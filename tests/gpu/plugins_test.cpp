// The kernels of examples/plugins against their host references. TensorRT is not needed.
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "examples/plugins/mish.h"
#include "examples/plugins/yolo_decode.h"

namespace millrace::plugins {
namespace {

/// Device memory of T, filled with 0xFF bytes: as float or FP16, what is not written stays NaN.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::size_t count) : bytes_(count * sizeof(T)) {
    EXPECT_EQ(cudaMalloc(&data_, std::max<std::size_t>(bytes_, 1)), cudaSuccess);
    EXPECT_EQ(cudaMemset(data_, 0xFF, bytes_), cudaSuccess);
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), bytes_, cudaMemcpyHostToDevice), cudaSuccess);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(data_); }

  [[nodiscard]] T* data() const { return static_cast<T*>(data_); }
  [[nodiscard]] std::vector<T> read() const {
    std::vector<T> values(bytes_ / sizeof(T));
    EXPECT_EQ(cudaMemcpy(values.data(), data_, bytes_, cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  std::size_t bytes_;
  void* data_ = nullptr;
};

std::vector<float> random_values(std::size_t count, float limit) {
  std::mt19937 random(11);
  std::uniform_real_distribution<float> value(-limit, limit);
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return value(random); });
  return values;
}

std::vector<__half> to_half(const std::vector<float>& values) {
  std::vector<__half> halves(values.size());
  std::transform(values.begin(), values.end(), halves.begin(),
                 [](float value) { return __float2half_rn(value); });
  return halves;
}

std::vector<float> to_float(const std::vector<__half>& halves) {
  std::vector<float> values(halves.size());
  std::transform(halves.begin(), halves.end(), values.begin(),
                 [](__half value) { return __half2float(value); });
  return values;
}

class PluginKernels : public testing::Test {
 protected:
  void SetUp() override {
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) {
      GTEST_SKIP() << "NOT CHECKED: needs 1 GPU, this machine has none";
    }
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  void TearDown() override {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  void finish() { ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess); }

  cudaStream_t stream_ = nullptr;
};

/// Mish of `count` elements that start `skew` elements into aligned memory, with nothing written
/// around them.
void check_mish_fp32(std::size_t count, std::size_t skew, cudaStream_t stream) {
  std::vector<float> values = random_values(count + skew, 30.0F);
  const OnDevice<float> input(values);
  const OnDevice<float> output(count + skew + 1);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  ASSERT_EQ(launch_mish(input.data() + skew, output.data() + skew, count, Precision::fp32, stream),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  mish_host(values.data(), values.data(), values.size());
  const std::vector<float> found = output.read();
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (i < skew || i >= skew + count) {
      ASSERT_TRUE(std::isnan(found[i])) << "element " << i << " is outside";
    } else {
      ASSERT_NEAR(found[i], values[i], 1e-6F * std::abs(values[i]) + 1e-30F) << "element " << i;
    }
  }
}

/// The same in FP16, against the reference on the same inputs, rounded to FP16.
void check_mish_fp16(std::size_t count, std::size_t skew, cudaStream_t stream) {
  const std::vector<__half> halves = to_half(random_values(count + skew, 30.0F));
  const OnDevice<__half> input(halves);
  const OnDevice<__half> output(count + skew + 1);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  ASSERT_EQ(launch_mish(input.data() + skew, output.data() + skew, count, Precision::fp16, stream),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  std::vector<float> expected = to_float(halves);
  mish_host(expected.data(), expected.data(), expected.size());
  const std::vector<float> found = to_float(output.read());
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (i < skew || i >= skew + count) {
      ASSERT_TRUE(std::isnan(found[i])) << "element " << i << " is outside";
    } else {
      // Half a unit in the last place, of normal and of subnormal FP16, and the error of FP32.
      ASSERT_NEAR(found[i], expected[i], 4.9e-4F * std::abs(expected[i]) + 3e-8F)
          << "element " << i;
    }
  }
}

TEST_F(PluginKernels, MishInEverySizeAndAlignment) {
  for (const std::size_t count : {1U, 3U, 4U, 7U, 8U, 9U, 255U, 1023U, 1025U, 12'345U}) {
    for (std::size_t skew = 0; skew < 9; ++skew) {
      ASSERT_NO_FATAL_FAILURE(check_mish_fp32(count, skew, stream_)) << count << ", " << skew;
      ASSERT_NO_FATAL_FAILURE(check_mish_fp16(count, skew, stream_)) << count << ", " << skew;
    }
  }
}

TEST_F(PluginKernels, MishOfMoreThanTheGridHolds) {
  check_mish_fp32(9'000'001, 0, stream_);
  check_mish_fp16(9'000'001, 1, stream_);
}

TEST_F(PluginKernels, MishInPlace) {
  std::vector<float> values = random_values(1001, 10.0F);
  const OnDevice<float> buffer(values);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  ASSERT_EQ(launch_mish(buffer.data(), buffer.data(), values.size(), Precision::fp32, stream_),
            cudaSuccess);
  finish();
  mish_host(values.data(), values.data(), values.size());
  const std::vector<float> found = buffer.read();
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], values[i], 1e-6F * std::abs(values[i]) + 1e-30F) << "element " << i;
  }
}

TEST_F(PluginKernels, MishOfNothing) {
  EXPECT_EQ(launch_mish(nullptr, nullptr, 0, Precision::fp32, stream_), cudaSuccess);
  EXPECT_EQ(launch_mish(nullptr, nullptr, 0, Precision::fp16, stream_), cudaSuccess);
  finish();
}

struct Shape {
  std::int64_t batch, height, width;
  std::int32_t anchors, classes;
};

YoloHead head_of(const Shape& shape) {
  YoloHead head{.batch = shape.batch,
                .height = shape.height,
                .width = shape.width,
                .anchors = shape.anchors,
                .classes = shape.classes,
                .stride = 16,
                .scale_xy = 1.05F,
                .anchor = {}};
  for (std::int32_t i = 0; i < 2 * shape.anchors; ++i) {
    head.anchor[i] = 10.0F + 7.5F * static_cast<float>(i);
  }
  return head;
}

void check_yolo(const Shape& shape, Precision precision, cudaStream_t stream) {
  const YoloHead head = head_of(shape);
  const auto rows = static_cast<std::size_t>(head.batch * head.anchors * head.height * head.width);
  const auto classes = static_cast<std::size_t>(head.classes);
  std::vector<float> values = random_values(rows * (5 + classes), 5.0F);
  const std::vector<__half> halves = to_half(values);
  if (precision == Precision::fp16) values = to_float(halves);
  const OnDevice<float> input(values);
  const OnDevice<__half> half_input(halves);
  const OnDevice<float> boxes(rows * 4);
  const OnDevice<float> scores(rows * classes);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const void* const given = precision == Precision::fp16
                                ? static_cast<const void*>(half_input.data())
                                : static_cast<const void*>(input.data());
  ASSERT_EQ(launch_yolo_decode(given, boxes.data(), scores.data(), head, precision, stream),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);

  std::vector<float> expected_boxes(rows * 4);
  std::vector<float> expected_scores(rows * classes);
  yolo_decode_host(values.data(), expected_boxes.data(), expected_scores.data(), head);
  const std::vector<float> found_boxes = boxes.read();
  const std::vector<float> found_scores = scores.read();
  for (std::size_t i = 0; i < found_boxes.size(); ++i) {
    // A corner is a difference: its error is that of the centre and of the size.
    const float* const box = &expected_boxes[i / 4 * 4];
    const float extent = std::abs(box[0]) + std::abs(box[1]) + std::abs(box[2]) + std::abs(box[3]);
    ASSERT_NEAR(found_boxes[i], expected_boxes[i], 1e-6F * extent) << "box " << i / 4;
  }
  for (std::size_t i = 0; i < found_scores.size(); ++i) {
    ASSERT_NEAR(found_scores[i], expected_scores[i], 2e-6F * expected_scores[i])
        << "box " << i / classes << ", class " << i % classes;
  }
}

TEST_F(PluginKernels, YoloDecodeInOddShapes) {
  for (const Shape& shape : {Shape{1, 1, 1, 1, 1}, Shape{1, 1, 31, 1, 3}, Shape{2, 4, 8, 3, 80},
                             Shape{3, 7, 13, 3, 33}, Shape{1, 19, 19, 3, 80}, Shape{2, 5, 3, 16, 2},
                             Shape{1, 3, 11, 2, 0}, Shape{2, 76, 76, 3, 80}}) {
    const auto where = [&] {
      return testing::Message() << shape.batch << " x " << shape.anchors << " anchors x "
                                << shape.classes << " classes, " << shape.height << " x "
                                << shape.width;
    };
    ASSERT_NO_FATAL_FAILURE(check_yolo(shape, Precision::fp32, stream_)) << where();
    ASSERT_NO_FATAL_FAILURE(check_yolo(shape, Precision::fp16, stream_)) << where();
  }
}

TEST_F(PluginKernels, YoloDecodeOfNothing) {
  for (const Shape& shape : {Shape{0, 4, 4, 3, 80}, Shape{2, 0, 4, 3, 80}, Shape{2, 4, 0, 3, 80}}) {
    EXPECT_EQ(
        launch_yolo_decode(nullptr, nullptr, nullptr, head_of(shape), Precision::fp32, stream_),
        cudaSuccess);
  }
  finish();
}

TEST_F(PluginKernels, YoloDecodeRefusesWhatCannotBe) {
  for (const auto& change : std::vector<void (*)(YoloHead&)>{
           [](YoloHead& head) { head.anchors = 0; },
           [](YoloHead& head) { head.anchors = kMaxAnchors + 1; },
           [](YoloHead& head) { head.classes = -1; }, [](YoloHead& head) { head.batch = -1; },
           [](YoloHead& head) { head.batch = std::int64_t{1} << 40; }}) {
    YoloHead head = head_of({1, 4, 4, 3, 80});
    change(head);
    EXPECT_EQ(launch_yolo_decode(nullptr, nullptr, nullptr, head, Precision::fp32, stream_),
              cudaErrorInvalidValue);
  }
}

TEST_F(PluginKernels, CanBeCapturedOnceLoaded) {
  ASSERT_EQ(load_mish(), cudaSuccess);
  ASSERT_EQ(load_yolo_decode(), cudaSuccess);
  const Shape shape{2, 5, 7, 3, 10};
  const YoloHead head = head_of(shape);
  constexpr std::size_t kRows = 210;  // 2 images, 3 anchors, 5 by 7 cells
  const std::vector<float> values = random_values(kRows * 15, 5.0F);
  const OnDevice<float> input(values);
  const OnDevice<float> active(values.size());
  const OnDevice<float> boxes(kRows * 4);
  const OnDevice<float> scores(kRows * 10);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), cudaSuccess);
  EXPECT_EQ(launch_mish(input.data(), active.data(), values.size(), Precision::fp32, stream_),
            cudaSuccess);
  EXPECT_EQ(launch_yolo_decode(active.data(), boxes.data(), scores.data(), head, Precision::fp32,
                               stream_),
            cudaSuccess);
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(executable, stream_), cudaSuccess);
  finish();
  for (const float score : scores.read()) ASSERT_FALSE(std::isnan(score));
  for (const float corner : boxes.read()) ASSERT_FALSE(std::isnan(corner));
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

}  // namespace
}  // namespace millrace::plugins
