// What is refused, and how, where there is no GPU to share. The rest is in tests/gpu.
#include <gtest/gtest.h>

#include <string_view>
#include <vector>

#include <millrace/ipc.h>

namespace millrace {
namespace {

template <class T>
void expect_refused(const Result<T>& result, ErrorCode code, std::string_view words) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, code) << result.error().message;
  EXPECT_NE(result.error().message.find(words), std::string::npos) << result.error().message;
}

TEST(Ipc, SharesMemoryOfGpusOnly) {
  std::vector<float> values(6);
  TensorView view = TensorView::of(values.data(), {2, 3});
  expect_refused(export_memory(view), ErrorCode::unsupported, "expected memory of a GPU");
  view.device = DeviceId::host(0);
  expect_refused(export_memory(view), ErrorCode::unsupported, "got memory on host:0");
  expect_refused(new_shared_event(DeviceId::host(0)), ErrorCode::unsupported, "got host:0");
  expect_refused(export_event({}), ErrorCode::invalid_argument, "names none");
}

TEST(Ipc, SharesWholeTensorsOnly) {
  std::vector<float> values(6);
  TensorView view = TensorView::of(DataType::fp32, values.data(), {2, 2}, DeviceId::cuda(0));
  view.strides = {3, 1};
  expect_refused(export_memory(view), ErrorCode::invalid_argument, "expected contiguous memory");
  view = TensorView::of(DataType::fp32, values.data(), {0, 2}, DeviceId::cuda(0));
  expect_refused(export_memory(view), ErrorCode::invalid_argument, "there is nothing");
}

TEST(Ipc, RefusesHandlesThatNameTooLittleOrNoGpuHere) {
  IpcMemoryHandle handle;
  handle.bytes = 16;
  expect_refused(import_memory(handle, DataType::fp32, {5}), ErrorCode::invalid_argument,
                 "takes 20 bytes, the handle names 16");
  expect_refused(import_memory(handle, DataType::bytes, {1}), ErrorCode::unsupported, "BYTES");
#if MILLRACE_WITH_CUDA
  std::string_view("GPU-of-nobody").copy(handle.device.data(), handle.device.size());
  expect_refused(import_memory(handle, DataType::fp32, {4}), ErrorCode::not_found,
                 "\"GPU-of-nobody\", which is not visible here");
  handle.device.fill('x');  // not ended by a zero
  expect_refused(import_memory(handle, DataType::fp32, {4}), ErrorCode::not_found, "xxx");
  expect_refused(import_event({}), ErrorCode::not_found, "not visible here");
  if (cuda_status().visible_gpus == 0) {
    expect_refused(new_shared_event(DeviceId::cuda(0)), ErrorCode::not_found, "0 GPUs");
  }
#else
  expect_refused(import_memory(handle, DataType::fp32, {4}), ErrorCode::unsupported,
                 "built without CUDA");
  expect_refused(import_event({}), ErrorCode::unsupported, "built without CUDA");
  expect_refused(new_shared_event(DeviceId::cuda(0)), ErrorCode::unsupported, "built without CUDA");
#endif
}

}  // namespace
}  // namespace millrace
