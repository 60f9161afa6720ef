// Tensors in every kind of memory that a caller may have, on their way through a GPU.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "device/cuda/gather.h"
#include "tests/gpu/hold.h"
#include "tests/gpu/need.h"
#include "tests/gpu/tensorrt_models.h"

namespace millrace::testing {
namespace {

constexpr std::int64_t kSide = 112;
constexpr std::int64_t kPlane = kSide * kSide;

#define CUDA_OK(call)                                                             \
  do {                                                                            \
    const cudaError_t status_of_call = (call);                                    \
    ASSERT_EQ(status_of_call, cudaSuccess) << cudaGetErrorString(status_of_call); \
  } while (false)

/// [items,3,112,112] that knows its averages.
struct Pictures {
  explicit Pictures(std::int64_t count, unsigned seed)
      : items(count), values(static_cast<std::size_t>(count * 3 * kPlane)) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> pixel(-1.0F, 1.0F);
    for (float& value : values) value = pixel(random);
    for (std::int64_t plane = 0; plane < 3 * count; ++plane) {
      const auto first = values.begin() + plane * kPlane;
      averages.push_back(static_cast<float>(std::accumulate(first, first + kPlane, 0.0) / kPlane));
    }
  }
  [[nodiscard]] Shape shape() const { return {items, 3, kSide, kSide}; }
  [[nodiscard]] std::size_t bytes() const { return values.size() * sizeof(float); }
  [[nodiscard]] TensorView view(void* data, DeviceId device) const {
    return TensorView::of(DataType::fp32, data, shape(), device);
  }
  void expect(const Result<Response>& response) const {
    ASSERT_TRUE(response.ok()) << response.error().message;
    const TensorView& view = response->outputs[0].view;
    ASSERT_TRUE(view.device.is_host_memory());
    expect(view.as<float>());
  }
  void expect(const float* found) const {
    for (std::size_t i = 0; i < averages.size(); ++i) {
      ASSERT_NEAR(found[i], averages[i], 1e-4) << "plane " << i;
    }
  }
  std::int64_t items;
  std::vector<float> values;
  std::vector<float> averages;
};

Request request_of(const TensorView& view, const Lease& lease = {}) {
  Request request;
  request.inputs.push_back({"input", view, lease});
  return request;
}

/// Memory of cudaMalloc and the like: what callers bring.
class Malloced {
 public:
  Malloced() = default;
  explicit Malloced(std::size_t bytes, int gpu = 0) {
    EXPECT_EQ(cudaSetDevice(gpu), cudaSuccess);
    EXPECT_EQ(cudaMalloc(&data_, bytes), cudaSuccess);
  }
  Malloced(const Malloced&) = delete;
  Malloced& operator=(const Malloced&) = delete;
  ~Malloced() { free(); }
  void free() {
    if (data_) {
      EXPECT_EQ(cudaFree(data_), cudaSuccess);
    }
    data_ = nullptr;
  }
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
};

class GpuData : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    reason = why_no_tensorrt();
    if (!reason.empty()) return;
    try {
      gpus = std::make_unique<GpuEngine>(1);
      graphs = gpus->load("average");
      eager = gpus->load("average", "off");
    } catch (const std::exception& error) {
      failure = error.what();
    }
  }
  static void TearDownTestSuite() {
    graphs = {};
    eager = {};
    gpus.reset();
  }
  void SetUp() override {
    REQUIRE_GPUS(1);
    if (!reason.empty()) GTEST_SKIP() << "NOT CHECKED: " << reason;
    ASSERT_TRUE(failure.empty()) << failure;
  }
  static inline std::string reason, failure;
  static inline std::unique_ptr<GpuEngine> gpus;
  static inline Model graphs, eager;
};

TEST_F(GpuData, EveryMethodOfAGatherBringsTheSame) {
  Device& gpu = gpus->gpu();
  const Stream stream = must(gpu.new_stream({}));
  std::mt19937 random(5);
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{1000}, std::size_t{65536},
                                  std::size_t{150528}, std::size_t{602113}}) {
    for (const MemoryKind kind : {MemoryKind::pinned, MemoryKind::device, MemoryKind::managed}) {
      constexpr std::size_t kPieces = 70;
      const std::size_t step = bytes + 8;
      const Buffer host = must(gpu.allocate(kPieces * step, MemoryKind::pinned));
      auto* values = static_cast<std::uint8_t*>(host.data());
      for (std::size_t i = 0; i < kPieces * step; ++i) {
        values[i] = static_cast<std::uint8_t>(random());
      }
      const Buffer source = must(gpu.allocate(kPieces * step, kind));
      must(stream.ref().copy(source.data(), host.data(), kPieces * step));
      std::vector<std::uint8_t> expected;
      for (std::size_t i = 0; i < kPieces; ++i) {
        expected.insert(expected.end(), values + i * step, values + i * step + bytes);
      }
      for (const GatherMethod method : {GatherMethod::automatic, GatherMethod::each,
                                        GatherMethod::batch, GatherMethod::kernel}) {
        const Buffer target = must(gpu.allocate(kPieces * bytes, MemoryKind::device));
        must(stream.ref().fill(target.data(), 0, kPieces * bytes));
        std::vector<CopyPiece> pieces;
        for (std::size_t i = 0; i < kPieces; ++i) {
          pieces.push_back({static_cast<std::byte*>(target.data()) + i * bytes,
                            static_cast<std::byte*>(source.data()) + i * step, bytes});
        }
        must(gather_pieces(pieces, method, stream.ref().native_handle()));
        const Buffer back = must(gpu.allocate(kPieces * bytes, MemoryKind::pinned));
        must(stream.ref().copy(back.data(), target.data(), kPieces * bytes));
        must(stream.ref().synchronize());
        ASSERT_EQ(std::memcmp(back.data(), expected.data(), expected.size()), 0)
            << bytes << " bytes, kind " << static_cast<int>(kind) << ", method "
            << static_cast<int>(method);
      }
    }
  }
}

// As cv::cuda::GpuMat has it: rows that begin at a pitch of the driver's choice.
TEST_F(GpuData, PitchedMemoryIsGatheredOnTheDevice) {
  for (const Model& model : {graphs, eager}) {
    constexpr std::size_t kRowBytes = kSide * sizeof(float);
    std::vector<Pictures> pictures;
    std::vector<void*> memory;
    std::vector<Future> futures;
    for (const std::int64_t items : {1, 2, 3, 1, 4}) {
      const Pictures& own = pictures.emplace_back(items, static_cast<unsigned>(memory.size()));
      void* data = nullptr;
      std::size_t pitch = 0;
      const auto rows = static_cast<std::size_t>(items * 3 * kSide);
      CUDA_OK(cudaMallocPitch(&data, &pitch, kRowBytes + 100, rows));
      memory.push_back(data);
      CUDA_OK(cudaMemcpy2D(data, pitch, own.values.data(), kRowBytes, kRowBytes, rows,
                           cudaMemcpyHostToDevice));
      TensorView view = own.view(data, DeviceId::cuda(0));
      const auto row = static_cast<std::int64_t>(pitch / sizeof(float));
      view.strides = {3 * kSide * row, kSide * row, row, 1};
      ASSERT_FALSE(view.contiguous());
      futures.push_back(model.submit(request_of(view)));
    }
    for (std::size_t i = 0; i < futures.size(); ++i) pictures[i].expect(futures[i].get());
    for (void* data : memory) CUDA_OK(cudaFree(data));
  }
}

TEST_F(GpuData, MisalignedMemoryIsCopiedIntoTheSlot) {
  const Pictures pictures(2, 3);
  const Malloced memory(pictures.bytes() + 4);
  CUDA_OK(cudaMemcpy(memory.data() + 4, pictures.values.data(), pictures.bytes(),
                     cudaMemcpyHostToDevice));
  for (const Model& model : {graphs, eager}) {
    const std::uint64_t bound = model.statistics().bound_in_place;
    for (int i = 0; i < 6; ++i) {
      pictures.expect(model.infer(request_of(pictures.view(memory.data() + 4, DeviceId::cuda(0)))));
    }
    EXPECT_EQ(model.statistics().bound_in_place, bound);
  }
}

TEST_F(GpuData, MemoryFreedByItsOwnerIsAnErrorAndNoFault) {
  const Pictures pictures(2, 4);
  Malloced memory(std::size_t{8} << 20);
  CUDA_OK(
      cudaMemcpy(memory.data(), pictures.values.data(), pictures.bytes(), cudaMemcpyHostToDevice));
  const TensorView view = pictures.view(memory.data(), DeviceId::cuda(0));
  for (int i = 0; i < 20; ++i)
    pictures.expect(graphs.infer(request_of(view)));  // a graph of its own
  memory.free();
  const Result<Response> refused = graphs.infer(request_of(view));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument) << refused.error().message;
  EXPECT_NE(refused.error().message.find("freed"), std::string::npos) << refused.error().message;
  pictures.expect(
      graphs.infer(request_of(TensorView::of(pictures.values.data(), pictures.shape()))));
}

TEST_F(GpuData, MemoryOnGpusNotInUseIsRefused) {
  const Pictures pictures(1, 4);
  const Malloced memory(pictures.bytes());
  const Result<Response> refused =
      graphs.infer(request_of(pictures.view(memory.data(), DeviceId::cuda(99))));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_NE(refused.error().message.find("lies on cuda:99, which this engine does not use"),
            std::string::npos)
      << refused.error().message;
}

TEST_F(GpuData, ManagedMemoryIsReadWhereItLies) {
  const Pictures pictures(3, 6);
  void* managed = nullptr;
  CUDA_OK(cudaMallocManaged(&managed, pictures.bytes()));
  std::memcpy(managed, pictures.values.data(), pictures.bytes());
  EXPECT_TRUE(gpus->gpu().pinned(managed, pictures.bytes()));
  EXPECT_TRUE(gpus->gpu().owns(managed, pictures.bytes()));
  for (const DeviceId where : {DeviceId::host_memory(), DeviceId::cuda(0)}) {
    for (int i = 0; i < 5; ++i) {
      pictures.expect(graphs.infer(request_of(pictures.view(managed, where))));
    }
  }
  CUDA_OK(cudaFree(managed));
  const Result<Buffer> too_large = gpus->gpu().allocate(std::size_t{1} << 45, MemoryKind::managed);
  ASSERT_FALSE(too_large.ok());
  EXPECT_EQ(too_large.error().code, ErrorCode::out_of_memory);
}

TEST_F(GpuData, PageableInputsThatAreNotReadyHoldNobodyUp) {
  const Pictures pictures(2, 8);
  std::vector<float> late(pictures.values.size(), -7.0F);
  Device& gpu = gpus->gpu();
  const Stream stream = must(gpu.new_stream({}));
  const Event ready = must(gpu.new_event(EventTiming::untimed));
  const auto open = std::make_shared<std::atomic<bool>>(false);
  must(hold_stream(stream, open));
  must(stream.ref().record(ready));
  TensorView view = TensorView::of(late.data(), pictures.shape());
  view.ready = ready;
  Future future = graphs.submit(request_of(view));  // returns
  EXPECT_FALSE(future.wait_until(Clock::now() + std::chrono::milliseconds(30)));
  late = pictures.values;
  open->store(true);
  open->notify_all();
  pictures.expect(future.get());
}

TEST_F(GpuData, StreamsOfOthersRecordAndWait) {
  Device& gpu = gpus->gpu();
  const Pictures pictures(2, 9);
  const Malloced memory(pictures.bytes());
  const Tensor staged = must(gpus->engine().new_tensor(DataType::fp32, pictures.shape()));
  std::memcpy(staged.view().data, pictures.values.data(), pictures.bytes());
  cudaStream_t theirs = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&theirs, cudaStreamNonBlocking));
  for (cudaStream_t native : {theirs, cudaStream_t{nullptr}}) {
    const Event ready = must(gpu.new_event(EventTiming::untimed));
    {
      const Stream borrowed = must(gpu.borrow_stream(native));
      const auto open = std::make_shared<std::atomic<bool>>(false);
      must(hold_stream(borrowed, open));
      CUDA_OK(cudaMemcpyAsync(memory.data(), staged.view().data, pictures.bytes(),
                              cudaMemcpyHostToDevice, native));
      must(borrowed.ref().record(ready));
      std::thread later([open] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        open->store(true);
        open->notify_all();
      });
      TensorView view = pictures.view(memory.data(), DeviceId::cuda(0));
      view.ready = ready;
      pictures.expect(eager.infer(request_of(view)));
      later.join();
    }  // the stream is still theirs
    CUDA_OK(cudaStreamSynchronize(native));
  }
  CUDA_OK(cudaStreamDestroy(theirs));
}

// -------------------------------------------------------------------------------------------------
// two GPUs

class TwoGpus : public ::testing::Test {
 protected:
  void SetUp() override {
    REQUIRE_GPUS(2);
    if (const std::string reason = why_no_tensorrt(); !reason.empty()) {
      GTEST_SKIP() << "NOT CHECKED: " << reason;
    }
    gpus_ = std::make_unique<GpuEngine>(2);
  }
  std::unique_ptr<GpuEngine> gpus_;
};

TEST_F(TwoGpus, TensorsOnTheOtherGpuAreBroughtOverByEvents) {
  RecordProperty("peer_access", gpus_->gpu(0).reaches(DeviceId::cuda(1)) ? "yes" : "no");
  const Model model = gpus_->load("average");  // on GPU 0 alone
  Device& other = gpus_->gpu(1);
  const Stream producer = must(other.new_stream({}));
  for (const bool from_cuda_malloc : {false, true}) {
    const Pictures pictures(2, 20);
    const Malloced malloced(pictures.bytes(), 1);
    const Tensor pooled =
        must(gpus_->engine().new_tensor(DataType::fp32, pictures.shape(), DeviceId::cuda(1)));
    TensorView view =
        from_cuda_malloc ? pictures.view(malloced.data(), DeviceId::cuda(1)) : pooled.view();
    const Tensor staged = must(gpus_->engine().new_tensor(DataType::fp32, pictures.shape()));
    std::memcpy(staged.view().data, pictures.values.data(), pictures.bytes());
    const Tensor target =
        must(gpus_->engine().new_tensor(DataType::fp32, {2, 3, 1, 1}, DeviceId::cuda(1)));
    const Event ready = must(other.new_event(EventTiming::untimed));
    const auto open = std::make_shared<std::atomic<bool>>(false);
    must(hold_stream(producer, open));
    must(producer.ref().copy(view.data, staged.view().data, pictures.bytes()));
    must(producer.ref().record(ready));
    view.ready = ready;
    Request request = request_of(view);
    RequestedOutput into{"output", OutputPlacement::target, target.view(), target.lease()};
    request.outputs.push_back(into);
    Future future = model.submit(std::move(request));  // waits for nothing
    EXPECT_FALSE(future.wait_until(Clock::now() + std::chrono::milliseconds(30)));
    open->store(true);
    open->notify_all();
    const Response response = must(future.get());
    EXPECT_EQ(response.device, DeviceId::cuda(0));
    EXPECT_EQ(response.outputs[0].view.device, DeviceId::cuda(1));
    std::vector<float> found(6);
    CUDA_OK(cudaMemcpy(found.data(), response.outputs[0].view.data, found.size() * sizeof(float),
                       cudaMemcpyDeviceToHost));
    pictures.expect(found.data());
  }
}

TEST_F(TwoGpus, ManyRequestsFromBothGpusAndTheHostMakeBatchesOnOne) {
  const Model model = gpus_->load("average");
  std::vector<Pictures> pictures;
  std::vector<Tensor> tensors;
  std::vector<Future> futures;
  pictures.reserve(60);
  tensors.reserve(60);
  futures.reserve(60);
  for (int i = 0; i < 60; ++i) {
    const Pictures& own = pictures.emplace_back(1 + i % 2, static_cast<unsigned>(i));
    const DeviceId where = i % 3 == 2 ? DeviceId::host_memory() : DeviceId::cuda(i % 3);
    tensors.push_back(must(gpus_->engine().new_tensor(DataType::fp32, own.shape(), where)));
    CUDA_OK(
        cudaMemcpy(tensors.back().view().data, own.values.data(), own.bytes(), cudaMemcpyDefault));
  }
  for (const Tensor& tensor : tensors) {
    futures.push_back(model.submit(request_of(tensor.view(), tensor.lease())));
  }
  for (std::size_t i = 0; i < futures.size(); ++i) pictures[i].expect(futures[i].get());
}

TEST_F(TwoGpus, PitchedMemoryOfTheOtherGpuIsGatheredAcross) {
  const Model model = gpus_->load("average");
  const Pictures pictures(2, 30);
  constexpr std::size_t kRowBytes = kSide * sizeof(float);
  constexpr std::size_t rows = std::size_t{2} * 3 * kSide;
  const Malloced memory(rows * 512, 1);
  CUDA_OK(cudaMemcpy2D(memory.data(), 512, pictures.values.data(), kRowBytes, kRowBytes, rows,
                       cudaMemcpyHostToDevice));
  TensorView view = pictures.view(memory.data(), DeviceId::cuda(1));
  view.strides = {3 * kSide * 128, kSide * 128, 128, 1};
  const Result<Response> response = model.infer(request_of(view));
  if (!gpus_->gpu(0).reaches(DeviceId::cuda(1))) {
    ASSERT_FALSE(response.ok());
    EXPECT_EQ(response.error().code, ErrorCode::unsupported) << response.error().message;
    return;
  }
  pictures.expect(response);
}

}  // namespace
}  // namespace millrace::testing
