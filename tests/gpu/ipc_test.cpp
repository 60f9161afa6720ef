// Memory and events of another process. The other process is this program once more, running the
// one disabled test below; it talks through two pipes.
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <millrace/ipc.h>

#include "device/cuda/cuda_device.h"
#include "tests/gpu/need.h"
#include "tests/gpu/tensorrt_models.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): not in every libc's unistd.h

namespace millrace::testing {
namespace {

constexpr int kFromParent = 3;
constexpr int kToParent = 4;
constexpr std::int64_t kItems = 8;
constexpr std::size_t kNumbers = kItems * 4;
/// Where in the owner's allocation its tensor begins.
constexpr std::size_t kOffset = 4096;

struct Hello {
  bool ok = false;
  char why[500] = {};
  IpcMemoryHandle memory;
  IpcEventHandle event;
};

bool write_all(int file, const void* data, std::size_t bytes) {
  return write(file, data, bytes) == static_cast<ssize_t>(bytes);
}
bool read_all(int file, void* data, std::size_t bytes) {
  auto* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = read(file, at, bytes);
    if (got <= 0) return false;
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

std::vector<float> numbers_from(float first) {
  std::vector<float> numbers(kNumbers);
  for (std::size_t i = 0; i < kNumbers; ++i) numbers[i] = first + static_cast<float>(i);
  return numbers;
}

/// Owns the memory: fills it with other numbers whenever it is told to.
Result<void> own_memory(Hello& hello) {
  const std::unique_ptr<Device> device = must(open_cuda_device(0));
  void* memory = nullptr;
  if (cudaMalloc(&memory, kOffset + kNumbers * sizeof(float)) != cudaSuccess) {
    return Error{ErrorCode::out_of_memory, "cudaMalloc"};
  }
  auto* numbers = static_cast<std::byte*>(memory) + kOffset;
  const TensorView view = TensorView::of(DataType::fp32, numbers, {kItems, 4}, DeviceId::cuda(0));
  Result<IpcMemoryHandle> exported = export_memory(view);
  if (!exported) return exported.error();
  const Event filled = must(new_shared_event(DeviceId::cuda(0)));
  Result<IpcEventHandle> event = export_event(filled);
  if (!event) return event.error();
  hello.ok = true;
  hello.memory = *exported;
  hello.event = *event;
  if (!write_all(kToParent, &hello, sizeof hello)) return {};
  const Stream stream = must(device->new_stream({}));
  const Buffer staged = must(device->allocate(kNumbers * sizeof(float), MemoryKind::pinned));
  float first = 0;
  while (read_all(kFromParent, &first, sizeof first)) {
    const std::vector<float> values = numbers_from(first);
    must(stream.ref().synchronize());
    std::memcpy(staged.data(), values.data(), values.size() * sizeof(float));
    must(stream.ref().copy(numbers, staged.data(), staged.bytes()));
    must(stream.ref().record(filled));
    if (!write_all(kToParent, &first, sizeof first)) break;
  }
  return {};
}

TEST(IpcPeer, DISABLED_Owner) {
  Hello hello;
  Result<void> served;
  try {
    served = own_memory(hello);
  } catch (const std::exception& error) {
    served = Error{ErrorCode::internal, error.what()};
  }
  if (served || hello.ok) return;
  std::strncpy(hello.why, served.error().message.c_str(), sizeof hello.why - 1);
  (void)write_all(kToParent, &hello, sizeof hello);
}

/// The other process.
class Owner {
 public:
  Owner() {
    int down[2];
    int up[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) return;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    // Out of the way first: 3 and 4 may be among the pipes' own numbers.
    const int from = fcntl(down[0], F_DUPFD_CLOEXEC, 10);
    const int to = fcntl(up[1], F_DUPFD_CLOEXEC, 10);
    posix_spawn_file_actions_adddup2(&actions, from, kFromParent);
    posix_spawn_file_actions_adddup2(&actions, to, kToParent);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    std::string program = "/proc/self/exe";
    std::string filter = "--gtest_filter=IpcPeer.DISABLED_Owner";
    std::string disabled = "--gtest_also_run_disabled_tests";
    char* arguments[] = {program.data(), filter.data(), disabled.data(), nullptr};
    if (posix_spawn(&process_, program.c_str(), &actions, nullptr, arguments, environ) != 0) {
      process_ = -1;
    }
    posix_spawn_file_actions_destroy(&actions);
    for (const int file : {down[0], up[1], from, to}) close(file);
    to_owner_ = down[1];
    from_owner_ = up[0];
    if (process_ > 0 && !read_all(from_owner_, &hello_, sizeof hello_)) {
      std::strcpy(hello_.why, "it ended without a word");
    }
  }
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;
  ~Owner() {
    close(to_owner_);
    end(false);
    close(from_owner_);
  }
  [[nodiscard]] const Hello& hello() const { return hello_; }
  /// Returns when the copy is enqueued there and its event recorded.
  [[nodiscard]] bool fill(float first) const {
    float answer = -1;
    return write_all(to_owner_, &first, sizeof first) &&
           read_all(from_owner_, &answer, sizeof answer) && answer == first;
  }
  void end(bool kill_it) {
    if (process_ <= 0) return;
    if (kill_it) kill(process_, SIGKILL);
    int status = 0;
    waitpid(process_, &status, 0);
    process_ = -1;
  }

 private:
  pid_t process_ = -1;
  int to_owner_ = -1, from_owner_ = -1;
  Hello hello_;
};

class GpuIpc : public ::testing::Test {
 protected:
  void SetUp() override {
    REQUIRE_GPUS(1);
    if (const std::string reason = why_no_tensorrt(); !reason.empty()) {
      GTEST_SKIP() << "NOT CHECKED: " << reason;
    }
    owner_ = std::make_unique<Owner>();
    if (!owner_->hello().ok) {
      GTEST_SKIP() << "NOT CHECKED: this machine exports no memory: " << owner_->hello().why;
    }
    Result<Tensor> memory = import_memory(owner_->hello().memory, DataType::fp32, {kItems, 4});
    if (!memory)
      GTEST_SKIP() << "NOT CHECKED: this machine imports no memory: " << memory.error().message;
    memory_ = *std::move(memory);
    Result<Event> event = import_event(owner_->hello().event);
    if (!event)
      GTEST_SKIP() << "NOT CHECKED: this machine imports no events: " << event.error().message;
    filled_ = *std::move(event);
    gpus_ = std::make_unique<GpuEngine>(1);
    graphs_ = gpus_->load("identity_fp32");
    eager_ = gpus_->load("identity_fp32", "off");
  }
  void TearDown() override {
    graphs_ = {};
    eager_ = {};
    gpus_.reset();
  }
  [[nodiscard]] Request request() const {
    Request request;
    request.inputs.push_back({"input", memory_.view(), memory_.lease()});
    request.inputs[0].view.ready = filled_;
    return request;
  }
  static void expect(const Response& response, float first) {
    const auto* found = response.outputs[0].view.as<float>();
    EXPECT_EQ(std::vector<float>(found, found + kNumbers), numbers_from(first));
  }

  std::unique_ptr<Owner> owner_;
  Tensor memory_;
  Event filled_;
  std::unique_ptr<GpuEngine> gpus_;
  Model graphs_, eager_;
};

TEST_F(GpuIpc, AnotherProcesssMemoryIsAnInputWithItsEvent) {
  const std::uint64_t bound = eager_.statistics().bound_in_place;
  for (int i = 0; i < 30; ++i) {
    const float first = 100.0F * static_cast<float>(i);
    ASSERT_TRUE(owner_->fill(first));
    expect(must(graphs_.infer(request())), first);
    expect(must(eager_.infer(request())), first);
  }
  EXPECT_EQ(eager_.statistics().bound_in_place, bound + 30) << "used where it lies";
}

TEST_F(GpuIpc, MemoryIsMappedOnceHoweverOftenItIsImported) {
  const Tensor again = must(import_memory(owner_->hello().memory, DataType::fp32, {kItems, 4}));
  EXPECT_EQ(again.view().data, memory_.view().data);
  const Tensor part = must(import_memory(owner_->hello().memory, DataType::uint8, {16}));
  EXPECT_EQ(part.view().data, memory_.view().data);
  EXPECT_EQ(again.view().device, DeviceId::cuda(0));
}

TEST_F(GpuIpc, AnotherProcesssMemoryIsATarget) {
  const std::vector<float> values = numbers_from(7);
  Request request;
  request.inputs.push_back({"input", TensorView::of(values.data(), {kItems, 4}), {}});
  request.outputs.push_back({"output", OutputPlacement::target, memory_.view(), memory_.lease()});
  (void)must(graphs_.infer(std::move(request)));
  std::vector<float> found(kNumbers);
  ASSERT_EQ(cudaMemcpy(found.data(), memory_.view().data, kNumbers * sizeof(float),
                       cudaMemcpyDeviceToHost),
            cudaSuccess);
  EXPECT_EQ(found, values);
}

TEST_F(GpuIpc, AnOwnerThatIsKilledTakesNobodyWithIt) {
  ASSERT_TRUE(owner_->fill(5));
  expect(must(graphs_.infer(request())), 5);
  std::atomic<bool> stop{false};
  std::atomic<int> answered{0}, failed{0};
  std::string error;  // the worker's
  std::thread worker([&] {
    while (!stop) {
      std::vector<Future> futures;
      futures.reserve(8);
      for (int i = 0; i < 8; ++i) futures.push_back(graphs_.submit(request()));
      for (Future& future : futures) {
        const Result<Response> response = future.get();
        (response ? answered : failed).fetch_add(1);
        if (!response) error = response.error().message;
      }
    }
  });
  while (answered + failed < 100) std::this_thread::yield();
  owner_->end(true);  // with requests on their way
  const int before = answered + failed;
  while (answered + failed < before + 200) std::this_thread::yield();
  stop = true;
  worker.join();
  RecordProperty("failed_after_death", failed.load());
  if (failed > 0) std::fprintf(stderr, "after the owner's death: %s\n", error.c_str());
  // What needs nothing of the owner goes on.
  const std::vector<float> values = numbers_from(9);
  Request own;
  own.inputs.push_back({"input", TensorView::of(values.data(), {kItems, 4}), {}});
  expect(must(graphs_.infer(std::move(own))), 9);
  memory_ = {};
  filled_ = {};
  // Its memory was held by our mapping alone; a new import finds nobody.
  Request again;
  again.inputs.push_back({"input", TensorView::of(values.data(), {kItems, 4}), {}});
  expect(must(eager_.infer(std::move(again))), 9);
}

TEST(GpuIpcHere, HandlesOfOnesOwnAndOfPoolsAreRefused) {
  REQUIRE_GPUS(1);
  const std::unique_ptr<Device> device = must(open_cuda_device(0));
  const Buffer pooled = must(device->allocate(4096, MemoryKind::device));
  const Result<IpcMemoryHandle> refused =
      export_memory(TensorView::of(DataType::uint8, pooled.data(), {4096}, DeviceId::cuda(0)));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported) << refused.error().message;
  EXPECT_NE(refused.error().message.find("cudaMalloc"), std::string::npos);

  void* memory = nullptr;
  ASSERT_EQ(cudaMalloc(&memory, 4096), cudaSuccess);
  const Result<IpcMemoryHandle> handle =
      export_memory(TensorView::of(DataType::uint8, memory, {4096}, DeviceId::cuda(0)));
  if (handle) {
    const Result<Tensor> own = import_memory(*handle, DataType::uint8, {4096});
    EXPECT_FALSE(own.ok());
    if (!own) {
      EXPECT_NE(own.error().message.find("this very one"), std::string::npos)
          << own.error().message;
    }
  }
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
}

}  // namespace
}  // namespace millrace::testing
