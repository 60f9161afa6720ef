#include <millrace/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "tensor/layout.h"

namespace millrace {
namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

TEST(TensorView, TakesItsTypeFromThePointer) {
  const std::vector<float> data(6);
  const TensorView view = TensorView::of(data.data(), {2, 3});
  EXPECT_EQ(view.type, DataType::fp32);
  EXPECT_TRUE(view.contiguous());
  EXPECT_EQ(view.bytes().value(), 24u);
  EXPECT_EQ(view.as<const float>(), data.data());
  EXPECT_TRUE(view.device.is_host_memory());
  EXPECT_TRUE(validate(view, "input \"x\"").ok());
}

TEST(Tensor, AllocatesAlignedMemoryForEveryType) {
  for (const DataType type : all_data_types()) {
    if (type == DataType::bytes) continue;
    auto tensor = Tensor::allocate(type, {3, 5});
    ASSERT_TRUE(tensor.ok());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor->view().data) % 64, 0u);
    EXPECT_EQ(tensor->view().bytes().value(), 15 * size_of(type));
    std::fill_n(static_cast<std::uint8_t*>(tensor->view().data), 15 * size_of(type),
                std::uint8_t{0xa5});
    EXPECT_TRUE(validate(tensor->view(), "t").ok());
  }
  EXPECT_TRUE(Tensor::allocate(DataType::fp32, {0, 4}).value().view().data != nullptr);
}

TEST(Tensor, KeepsItsMemoryWhileACopyLives) {
  Tensor copy;
  EXPECT_FALSE(static_cast<bool>(copy));
  {
    Tensor tensor = Tensor::allocate(DataType::int32, {4}).value();
    tensor.as<std::int32_t>()[3] = 42;
    copy = tensor;
  }
  EXPECT_EQ(copy.as<std::int32_t>()[3], 42);
}

TEST(Tensor, RefusesWhatItCannotAllocate) {
  EXPECT_EQ(Tensor::allocate(DataType::fp32, {-1, 4}).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(Tensor::allocate(DataType::fp32, {kLargest, 4}).error().code,
            ErrorCode::invalid_argument);
  EXPECT_EQ(Tensor::allocate(DataType::bytes, {4}).error().code, ErrorCode::invalid_argument);
  const Error error = Tensor::allocate(DataType::uint8, {std::int64_t{1} << 62}).error();
  EXPECT_EQ(error.code, ErrorCode::out_of_memory);
  EXPECT_EQ(error.message, "no host memory for a tensor of 4 EiB");
}

TEST(Tensor, HoldsStrings) {
  const std::string_view values[] = {"one", "", std::string_view("t\0o", 3), "three"};
  const Tensor tensor = Tensor::of_strings(values, {2, 2}).value();
  EXPECT_EQ(tensor.type(), DataType::bytes);
  EXPECT_EQ(tensor.view().bytes().value(), 11u);
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(tensor.string_at(i), values[i]);
  EXPECT_TRUE(validate(tensor.view(), "t").ok());

  const Tensor none = Tensor::of_strings({}, {0, 2}).value();
  EXPECT_EQ(none.view().bytes().value(), 0u);
  EXPECT_TRUE(validate(none.view(), "t").ok());
  EXPECT_EQ(Tensor::of_strings(values, {3}).error().message,
            "expected 3 strings for shape [3], got 4");
  EXPECT_FALSE(Tensor::of_strings(values, {-1}).ok());
}

TEST(TensorView, SlicesRows) {
  std::vector<std::int16_t> data(12);
  const TensorView view = TensorView::of(data.data(), {4, 3});
  const TensorView part = slice(view, 1, 2);
  EXPECT_EQ(part.shape, (Shape{2, 3}));
  EXPECT_EQ(part.data, &data[3]);
  EXPECT_EQ(slice(view, 4, 0).shape, (Shape{0, 3}));
  EXPECT_EQ(slice(TensorView::of(data.data(), {0, kLargest, kLargest}), 0, 0).data, data.data());
}

TEST(TensorView, SlicesStrings) {
  const std::string_view values[] = {"a", "bb", "ccc", "dddd", "eeeee", "ffffff"};
  const Tensor tensor = Tensor::of_strings(values, {3, 2}).value();
  const Tensor part(slice(tensor.view(), 1, 2), tensor.lease());
  EXPECT_EQ(part.shape(), (Shape{2, 2}));
  EXPECT_EQ(part.view().data, tensor.view().data);
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(part.string_at(i), values[i + 2]);
  EXPECT_EQ(part.view().bytes().value(), 18u);
}

TEST(Validate, SaysWhatIsWrong) {
  float data[6] = {};
  const auto message = [](const TensorView& view) {
    const Result<void> result = validate(view, "input \"x\"");
    return result.ok() ? std::string() : result.error().message;
  };
  TensorView view = TensorView::of(data, {2, 3});
  EXPECT_EQ(message(view), "");
  view.shape = {2, -1};
  EXPECT_EQ(
      message(view),
      "input \"x\": shape [2,-1]: expected sizes of zero or more, got -1 (a size not known yet)");
  view = TensorView::of<float>(nullptr, {2, 3});
  EXPECT_EQ(message(view),
            "input \"x\": expected 24 bytes of FP32 of shape [2,3], got a null pointer");
  view.shape = {2, 0};
  EXPECT_EQ(message(view), "");
  view = TensorView::of(data, {2, 3});
  view.strides = {3};
  EXPECT_EQ(message(view),
            "input \"x\": expected as many strides as dimensions, got strides [3] for shape [2,3]");
  view.strides = {-3, 1};
  EXPECT_NE(message(view).find("negative strides are not supported"), std::string::npos);
  view.strides = {kLargest, 1};
  EXPECT_NE(message(view).find("reach beyond 63 bits"), std::string::npos);
  view.strides = {kLargest / 4, 1};  // elements fit, bytes do not
  EXPECT_NE(message(view).find("reach beyond 63 bits"), std::string::npos);
  view.strides = {0, 2};
  EXPECT_EQ(message(view), "");
}

TEST(Validate, ReadsStringOffsets) {
  const char data[] = "abcdef";
  const std::uint64_t good[] = {1, 3, 3};
  const std::uint64_t bad[] = {1, 3, 2};
  TensorView view = TensorView::of(DataType::bytes, data, {2});
  EXPECT_FALSE(validate(view, "t").ok());
  view.offsets = good;
  EXPECT_TRUE(validate(view, "t").ok());
  view.offsets = bad;
  EXPECT_EQ(validate(view, "t").error().message,
            "t: expected ascending BYTES offsets, got 3 followed by 2 at element 1");
  view.offsets = good;
  view.data = nullptr;
  EXPECT_FALSE(validate(view, "t").ok());
  view.data = const_cast<char*>(data);
  view.strides = {2};
  EXPECT_EQ(validate(view, "t").error().code, ErrorCode::unsupported);
  view.strides = {};
  view.device = DeviceId::cuda(0);
  EXPECT_EQ(validate(view, "t").error().code, ErrorCode::unsupported);
}

TEST(Layout, ExtentReachesTheLastElement) {
  EXPECT_EQ(extent({2, 3}, {}).value(), 6);
  EXPECT_EQ(extent({2, 3}, {10, 2}).value(), 15);
  EXPECT_EQ(extent({2, 3}, {0, 0}).value(), 1);
  EXPECT_EQ(extent({}, {}).value(), 1);
  EXPECT_EQ(extent({0, kLargest}, {kLargest, kLargest}).value(), 0);
  EXPECT_EQ(extent({2}, {kLargest - 1}).value(), kLargest);
  EXPECT_FALSE(extent({2}, {kLargest}).ok());
  EXPECT_FALSE(extent({3, 3}, {kLargest / 2, 2}).ok());
}

TEST(Layout, CopiesStridedTensors) {
  std::vector<std::int32_t> data(24);
  for (std::int32_t i = 0; i < 24; ++i) data[static_cast<std::size_t>(i)] = i;
  const auto copied = [&](const Shape& shape, const Strides& strides) {
    TensorView view = TensorView::of(data.data(), shape);
    view.strides = strides;
    EXPECT_TRUE(validate(view, "t").ok());
    std::vector<std::int32_t> out(static_cast<std::size_t>(element_count(shape).value()));
    copy_to_contiguous(view, out.data());
    return out;
  };
  EXPECT_EQ(copied({3, 2}, {1, 3}), (std::vector{0, 3, 1, 4, 2, 5}));  // transposed
  EXPECT_EQ(copied({2, 2}, {12, 1}), (std::vector{0, 1, 12, 13}));     // rows apart
  EXPECT_EQ(copied({2, 3}, {0, 1}), (std::vector{0, 1, 2, 0, 1, 2}));  // repeated
  EXPECT_EQ(copied({2, 2, 2}, {12, 2, 6}), (std::vector{0, 6, 2, 8, 12, 18, 14, 20}));
  EXPECT_EQ(copied({2, 3}, {}), (std::vector{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(copied({4}, {5}), (std::vector{0, 5, 10, 15}));
  EXPECT_EQ(copied({0, 2}, {1, 3}), std::vector<std::int32_t>{});
}

/// What the pieces make of the memory, as a device would.
std::vector<std::uint8_t> gathered(const TensorView& view, std::size_t bytes) {
  std::vector<std::uint8_t> target(bytes, 0xee);
  std::vector<CopyPiece> pieces;
  append_pieces(view, target.data(), pieces);
  EXPECT_EQ(pieces.size(), count_pieces(view).value());
  for (const CopyPiece& piece : pieces) {
    for (std::size_t i = 0; i < piece.rows; ++i) {
      std::copy_n(static_cast<const std::uint8_t*>(piece.source) + i * piece.source_pitch,
                  piece.bytes, static_cast<std::uint8_t*>(piece.target) + i * piece.bytes);
    }
  }
  return target;
}

TEST(Pieces, BringEveryLayoutTogetherAsACopyByElementsDoes) {
  std::vector<std::uint8_t> memory(40000);
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::uint8_t>(i * 31);
  struct Case {
    DataType type;
    Shape shape;
    Strides strides;
    std::size_t pieces;
  };
  const std::vector<Case> cases = {
      {DataType::uint8, {4, 6}, {}, 1},
      {DataType::uint8, {1, 20, 10, 3}, {640, 32, 3, 1}, 1},     // rows of a picture
      {DataType::uint8, {2, 20, 10, 3}, {640, 32, 3, 1}, 1},     // and a second one behind it
      {DataType::uint8, {2, 20, 10, 3}, {1000, 32, 3, 1}, 2},    // and one further away
      {DataType::fp32, {2, 3, 8, 8}, {640, 160, 16, 1}, 6},      // planes with gaps between them
      {DataType::fp32, {2, 3, 8, 8}, {3 * 128, 128, 16, 1}, 1},  // planes of padded rows
      {DataType::fp32, {5, 1}, {7, 1}, 1},                       // a column
      {DataType::fp32, {5, 1}, {7, 9}, 1},  // the stride of one element says nothing
      {DataType::fp64, {3, 4}, {0, 1}, 1},  // one row again and again
      {DataType::int16, {3, 1, 4}, {8, 5, 1}, 1},
      {DataType::fp32, {0, 4}, {9, 1}, 0},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(to_string(each.shape) + " " + to_string(each.strides));
    TensorView view = TensorView::of(each.type, memory.data(), each.shape);
    view.strides = each.strides;
    ASSERT_EQ(count_pieces(view).value(), each.pieces);
    std::vector<std::uint8_t> expected(byte_count(each.type, each.shape).value(), 0xee);
    copy_to_contiguous(view, expected.data());
    EXPECT_EQ(gathered(view, expected.size()), expected);
  }
}

TEST(Pieces, RefuseElementsThatAreApartAndTooManyRowsAtDifferentDistances) {
  std::vector<float> memory(1);
  TensorView view = TensorView::of(memory.data(), {3, 2});
  view.strides = {1, 3};
  Result<std::size_t> refused = count_pieces(view);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
  EXPECT_NE(refused.error().message.find("gaps between the elements"), std::string::npos);
  view = TensorView::of(memory.data(), {1025, 2, 3});
  view.strides = {100, 10, 1};
  refused = count_pieces(view);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("more than 1024 pieces"), std::string::npos);
  view.shape[0] = 1024;
  EXPECT_EQ(count_pieces(view).value(), 1024u);
}

}  // namespace
}  // namespace millrace
