#include <millrace/dlpack.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tensor/dlpack_abi.h"

// What dlpack.h defines, in the same form, behind our header: both can be in one program.
typedef struct DLManagedTensor {
  millrace::dlpack::Tensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(struct DLManagedTensor* self);
} DLManagedTensor;
typedef struct DLManagedTensorVersioned {
  millrace::dlpack::Version version;
  void* manager_ctx;
  void (*deleter)(struct DLManagedTensorVersioned* self);
  std::uint64_t flags;
  millrace::dlpack::Tensor dl_tensor;
} DLManagedTensorVersioned;

namespace millrace {
namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

// A producer's tensor: 2 x 3 of FP32, counting the calls of its deleter.
struct Produced {
  Produced() {
    managed.version = {1, 0};
    managed.manager_ctx = &deleted;
    managed.deleter = [](DLManagedTensorVersioned* self) {
      ++*static_cast<int*>(self->manager_ctx);
    };
    managed.flags = 0;
    managed.dl_tensor = {data.data(),  {dlpack::kCpu, 0}, 2, {dlpack::kFloat, 32, 1},
                         shape.data(), strides.data(),    0};
  }
  Produced(const Produced&) = delete;
  Produced& operator=(const Produced&) = delete;

  std::vector<float> data = std::vector<float>(32);
  std::vector<std::int64_t> shape = {2, 3};
  std::vector<std::int64_t> strides = {3, 1};
  int deleted = 0;
  DLManagedTensorVersioned managed{};
};

TEST(Dlpack, ImportsWithoutACopy) {
  Produced produced;
  produced.managed.dl_tensor.byte_offset = 8;
  int dummy = 0;
  const EventRef ready(reinterpret_cast<EventImpl*>(&dummy));
  {
    Tensor tensor = from_dlpack(&produced.managed, ready).value();
    EXPECT_EQ(tensor.type(), DataType::fp32);
    EXPECT_EQ(tensor.shape(), (Shape{2, 3}));
    EXPECT_TRUE(tensor.view().strides.empty());
    EXPECT_EQ(tensor.view().data, produced.data.data() + 2);
    EXPECT_TRUE(tensor.view().device.is_host_memory());
    EXPECT_EQ(tensor.view().ready, ready);
    const Tensor copy = tensor;
    tensor = {};
    EXPECT_EQ(produced.deleted, 0);
  }
  EXPECT_EQ(produced.deleted, 1);
}

TEST(Dlpack, ImportsTheOlderStructure) {
  Produced produced;
  DLManagedTensor old{};
  old.dl_tensor = produced.managed.dl_tensor;
  old.dl_tensor.strides = nullptr;
  old.manager_ctx = &produced.deleted;
  old.deleter = [](DLManagedTensor* self) { ++*static_cast<int*>(self->manager_ctx); };
  EXPECT_EQ(from_dlpack(&old).value().shape(), (Shape{2, 3}));
  EXPECT_EQ(produced.deleted, 1);
  old.deleter = nullptr;  // nothing to release
  EXPECT_TRUE(from_dlpack(&old).ok());
  EXPECT_FALSE(from_dlpack(static_cast<DLManagedTensor*>(nullptr)).ok());
}

TEST(Dlpack, KeepsStrides) {
  Produced produced;
  produced.strides = {1, 2};
  EXPECT_EQ(from_dlpack(&produced.managed).value().view().strides, (Strides{1, 2}));
  produced.strides = {0, 1};
  EXPECT_EQ(from_dlpack(&produced.managed).value().view().strides, (Strides{0, 1}));
}

TEST(Dlpack, ImportsScalarsAndEmptyTensors) {
  Produced produced;
  dlpack::Tensor& tensor = produced.managed.dl_tensor;
  tensor.rank = 0;
  tensor.shape = tensor.strides = nullptr;
  EXPECT_EQ(from_dlpack(&produced.managed).value().shape(), Shape{});
  tensor.rank = 2;
  tensor.shape = produced.shape.data();
  produced.shape[1] = 0;
  tensor.data = nullptr;
  EXPECT_EQ(from_dlpack(&produced.managed).value().shape(), (Shape{2, 0}));
}

TEST(Dlpack, KnowsTheDevices) {
  Produced produced;
  const auto device = [&](std::int32_t type, std::int32_t index) {
    produced.managed.dl_tensor.device = {type, index};
    return from_dlpack(&produced.managed).value().view().device;
  };
  EXPECT_EQ(device(dlpack::kCuda, 3), DeviceId::cuda(3));
  EXPECT_EQ(device(dlpack::kCudaHost, 0), DeviceId::host_memory());
  EXPECT_EQ(device(dlpack::kCudaManaged, 0), DeviceId::host_memory());
}

TEST(Dlpack, RefusesHostileStructures) {
  struct Case {
    const char* says;
    ErrorCode code;
    std::function<void(Produced&)> spoil;
  };
  using enum ErrorCode;
  const Case cases[] = {
      {"expected version 1.x, got 2.7", unsupported,
       [](Produced& p) {
         p.managed.version = {2, 7};
       }},
      {"expected version 1.x, got 0.8", unsupported,
       [](Produced& p) {
         p.managed.version = {0, 8};
       }},
      {"is negative: -1", invalid_argument, [](Produced& p) { p.managed.dl_tensor.rank = -1; }},
      {"of at most 8 dimensions", unsupported, [](Produced& p) { p.managed.dl_tensor.rank = 9; }},
      {"of at most 8 dimensions", unsupported,
       [](Produced& p) { p.managed.dl_tensor.rank = std::numeric_limits<std::int32_t>::max(); }},
      {"the shape is null", invalid_argument,
       [](Produced& p) { p.managed.dl_tensor.shape = nullptr; }},
      {"expected sizes of zero or more, got -2", invalid_argument,
       [](Produced& p) { p.shape[1] = -2; }},
      {"expected sizes of zero or more, got -1", invalid_argument,
       [](Produced& p) { p.shape[0] = -1; }},
      {"63 bits", invalid_argument,
       [](Produced& p) {
         p.shape = {kLargest, kLargest};
       }},
      {"63 bits", invalid_argument,
       [](Produced& p) {
         p.shape = {kLargest, 1};
       }},
      {"63 bits", invalid_argument,
       [](Produced& p) {  // one row repeated: little in memory, but not when copied
         p.shape = {kLargest / 6, 3};
         p.strides = {0, 1};
       }},
      {"address space", invalid_argument,
       [](Produced& p) {
         p.shape = {kLargest / 4, 1};
         p.managed.dl_tensor.byte_offset = 64;
       }},
      {"address space", invalid_argument,
       [](Produced& p) { p.managed.dl_tensor.byte_offset = ~std::uint64_t{0}; }},
      {"address space", invalid_argument,
       [](Produced& p) { p.managed.dl_tensor.byte_offset = static_cast<std::uint64_t>(kLargest); }},
      {"negative strides", unsupported, [](Produced& p) { p.strides[1] = -1; }},
      {"63 bits", invalid_argument, [](Produced& p) { p.strides[0] = kLargest; }},
      {"got a null pointer", invalid_argument,
       [](Produced& p) { p.managed.dl_tensor.data = nullptr; }},
      {"4 lanes", unsupported, [](Produced& p) { p.managed.dl_tensor.type.lanes = 4; }},
      {"0 lanes", unsupported, [](Produced& p) { p.managed.dl_tensor.type.lanes = 0; }},
      {"4 bits", unsupported,
       [](Produced& p) {
         p.managed.dl_tensor.type = {dlpack::kInt, 4, 1};
       }},
      {"code 5", unsupported,
       [](Produced& p) {
         p.managed.dl_tensor.type = {5, 64, 1};
       }},
      {"code 255", unsupported, [](Produced& p) { p.managed.dl_tensor.type.code = 255; }},
      {"device type 10", unsupported, [](Produced& p) { p.managed.dl_tensor.device.type = 10; }},
      {"device type -7", unsupported, [](Produced& p) { p.managed.dl_tensor.device.type = -7; }},
      {"got -1", invalid_argument,
       [](Produced& p) {
         p.managed.dl_tensor.device = {dlpack::kCuda, -1};
       }},
  };
  for (const Case& c : cases) {
    Produced produced;
    c.spoil(produced);
    produced.managed.dl_tensor.strides = produced.strides.data();
    if (produced.managed.dl_tensor.shape) produced.managed.dl_tensor.shape = produced.shape.data();
    const auto result = from_dlpack(&produced.managed);
    ASSERT_FALSE(result.ok()) << c.says;
    EXPECT_EQ(result.error().code, c.code) << result.error().message;
    EXPECT_NE(result.error().message.find(c.says), std::string::npos) << result.error().message;
    EXPECT_TRUE(result.error().message.starts_with("DLPack tensor: ")) << result.error().message;
    EXPECT_EQ(produced.deleted, 0) << c.says;
  }
  EXPECT_FALSE(from_dlpack(static_cast<DLManagedTensorVersioned*>(nullptr)).ok());
}

TEST(Dlpack, ExportsComeBackTheSame) {
  for (const DataType type : all_data_types()) {
    if (type == DataType::bytes) continue;
    int released = 0;
    std::vector<std::uint64_t> memory(64);
    TensorView view = TensorView::of(type, memory.data(), {2, 3, 4});
    view.strides = {1, 2, 6};
    view.device = type == DataType::fp16 ? DeviceId::cuda(1) : DeviceId::host_memory();
    Tensor tensor(view, Lease::on_release([&] { ++released; }));
    DLManagedTensorVersioned* exported = to_dlpack(tensor, true).value();
    EXPECT_EQ(exported->version.major, 1u);
    EXPECT_EQ(exported->flags, 1u);
    EXPECT_EQ(exported->dl_tensor.byte_offset, 0u);
    tensor = {};
    EXPECT_EQ(released, 0);
    {
      const Tensor back = from_dlpack(exported).value();
      EXPECT_EQ(back.type(), type);
      EXPECT_EQ(back.shape(), view.shape);
      EXPECT_EQ(back.view().strides, view.strides);
      EXPECT_EQ(back.view().data, view.data);
      EXPECT_EQ(back.view().device, view.device);
    }
    EXPECT_EQ(released, 1);
  }
}

TEST(Dlpack, ExportsAlwaysHaveStrides) {
  const Tensor tensor = Tensor::allocate(DataType::int8, {2, 3}).value();
  DLManagedTensorVersioned* exported = to_dlpack(tensor).value();
  ASSERT_NE(exported->dl_tensor.strides, nullptr);
  EXPECT_EQ(exported->dl_tensor.strides[0], 3);
  EXPECT_EQ(exported->dl_tensor.strides[1], 1);
  EXPECT_EQ(exported->flags, 0u);
  exported->deleter(exported);

  const Tensor empty = Tensor::allocate(DataType::int8, {0, 3}).value();
  exported = to_dlpack(empty).value();
  EXPECT_EQ(exported->dl_tensor.data, nullptr);
  exported->deleter(exported);
}

TEST(Dlpack, DoesNotExportWhatItCannotSay) {
  const std::string_view values[] = {"a"};
  const Tensor strings = Tensor::of_strings(values, {1}).value();
  EXPECT_EQ(to_dlpack(strings).error().code, ErrorCode::unsupported);
  const Tensor nothing;
  EXPECT_FALSE(to_dlpack(nothing).ok());
}

TEST(Dlpack, ExportsTheOlderStructureAsWell) {
  int released = 0;
  std::vector<float> data(6);
  TensorView view = TensorView::of(DataType::fp32, data.data(), {2, 3}, DeviceId::cuda(1));
  DLManagedTensor* managed =
      to_dlpack_unversioned(Tensor(view, Lease::on_release([&] { ++released; }))).value();
  EXPECT_EQ(managed->dl_tensor.data, data.data());
  EXPECT_EQ(managed->dl_tensor.device.type, dlpack::kCuda);
  EXPECT_EQ(managed->dl_tensor.device.index, 1);
  ASSERT_EQ(managed->dl_tensor.rank, 2);
  EXPECT_EQ(managed->dl_tensor.shape[1], 3);
  EXPECT_EQ(managed->dl_tensor.strides[0], 3);
  Tensor back = from_dlpack(managed).value();
  EXPECT_EQ(back.view().data, data.data());
  EXPECT_EQ(back.view().device, DeviceId::cuda(1));
  EXPECT_EQ(released, 0);
  back = {};
  EXPECT_EQ(released, 1);
  view.type = DataType::bytes;
  EXPECT_FALSE(to_dlpack_unversioned(Tensor(view, {})).ok());
}

}  // namespace
}  // namespace millrace
