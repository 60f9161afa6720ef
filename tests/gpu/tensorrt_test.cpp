// The digits model through TensorRT, against ONNX Runtime on the CPU, over every way that data may
// take. Skipped, and said so, without a GPU or TensorRT.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include <millrace/build.h>
#include <millrace/engine.h>

#include "tests/gpu/sync_watch.h"

namespace millrace {
namespace {

constexpr std::int64_t kPixels = 64;
constexpr std::int64_t kClasses = 10;
const char* const kDigits = MILLRACE_SOURCE_DIR "/examples/digits/digits.onnx";

template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(result).value();
}
void must(const Result<void>& result) {
  if (!result) throw std::runtime_error(result.error().message);
}

std::vector<float> random_images(std::int64_t items, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> pixel(0.0F, 16.0F);
  std::vector<float> images(static_cast<std::size_t>(items * kPixels));
  for (float& value : images) value = pixel(random);
  return images;
}

// One engine with a GPU and a host device, both with the digits model, for all tests.
class TensorRt : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const BackendInfo backend = backend_infos().front();
    if (!backend.usable) {
      reason = "NOT CHECKED: " + backend.reason;
      return;
    }
    folder = std::filesystem::temp_directory_path() / ("millrace-gpu-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder);
    BuildOptions build;
    build.model = kDigits;
    build.precision = Precision::fp32;
    build.max_batch = 32;
    build.optimization_level = 1;
    const Result<BuildReport> built = build_engine(build, plan_file());
    if (!built) {
      reason = "NOT CHECKED: " + built.error().message;
      return;
    }
    EngineOptions options;
    options.devices.devices = {"cuda:0", "host:0"};
    engine = std::make_unique<Engine>(must(Engine::create(options)));
    gpu = load("gpu", plan_file(), DeviceId::cuda(0), {});
    eager = load("eager", plan_file(), DeviceId::cuda(0), {{"graphs", "off"}});
    cpu = load("cpu", kDigits, DeviceId::host(0), {});
  }
  static void TearDownTestSuite() {
    gpu = {};
    eager = {};
    cpu = {};
    engine.reset();
    std::error_code error;
    if (!folder.empty()) std::filesystem::remove_all(folder, error);
  }
  void SetUp() override {
    if (!engine) GTEST_SKIP() << reason;
  }

  static std::string plan_file() { return (folder / "digits.plan").string(); }

  static Model load(const std::string& name, const std::string& path, DeviceId device,
                    std::map<std::string, std::string> backend_options) {
    ModelConfig config;
    config.name = name;
    config.path = path;
    config.devices = {device};
    config.batching.max_items = 32;
    config.options = std::move(backend_options);
    return must(engine->load(config));
  }

  static Request request_of(const TensorView& images, const Lease& lease = {}) {
    Request request;
    request.inputs.push_back({"images", images, lease});
    return request;
  }

  static std::vector<float> expected(const std::vector<float>& images) {
    const auto items = static_cast<std::int64_t>(images.size()) / kPixels;
    const Response response =
        must(cpu.infer(request_of(TensorView::of(images.data(), {items, 1, 8, 8}))));
    const auto* values = response.outputs[0].view.as<float>();
    return {values, values + items * kClasses};
  }

  static void expect_near(const float* found, const std::vector<float>& expected) {
    for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(found[i], expected[i], 2e-4) << i;
  }

  static Tensor on_device(const std::vector<float>& values, const Shape& shape) {
    const DeviceId id = DeviceId::cuda(0);
    Tensor tensor = must(engine->new_tensor(DataType::fp32, shape, id));
    copy(tensor.view().data, values.data(), values.size() * sizeof(float));
    return tensor;
  }
  static void copy(void* target, const void* source, std::size_t bytes) {
    const Stream stream = must(engine->devices()[0]->new_stream({}));
    must(stream.ref().copy(target, source, bytes));
    must(stream.ref().synchronize());
  }
  static std::vector<float> fetch(const TensorView& view) {
    std::vector<float> values(must(view.bytes()) / sizeof(float));
    copy(values.data(), view.data, values.size() * sizeof(float));
    return values;
  }

  static inline std::filesystem::path folder;
  static inline std::string reason;
  static inline std::unique_ptr<Engine> engine;
  static inline Model gpu, eager, cpu;
};

TEST_F(TensorRt, AnswersAsTheCpuDoesInEveryBatchSize) {
  for (const Model& model : {gpu, eager}) {
    for (const std::int64_t items : {1, 2, 3, 5, 8, 13, 31, 32}) {
      const std::vector<float> images = random_images(items, static_cast<unsigned>(items));
      const Response response =
          must(model.infer(request_of(TensorView::of(images.data(), {items, 1, 8, 8}))));
      EXPECT_TRUE(response.outputs[0].view.device.is_host_memory());
      expect_near(response.outputs[0].view.as<float>(), expected(images));
    }
  }
}

TEST_F(TensorRt, CombinesConcurrentRequestsFromEveryKindOfMemory) {
  for (const Model& model : {gpu, eager}) {
    constexpr int kRequests = 300;
    std::vector<std::vector<float>> images;
    std::vector<Tensor> tensors;
    std::vector<Future> futures;
    for (int i = 0; i < kRequests; ++i) {
      const std::int64_t items = 1 + i % 3;
      images.push_back(random_images(items, static_cast<unsigned>(i)));
      const Shape shape = {items, 1, 8, 8};
      TensorView view = TensorView::of(images.back().data(), shape);
      if (i % 3 == 1) {
        tensors.push_back(must(engine->new_tensor(DataType::fp32, shape)));
        std::memcpy(tensors.back().view().data, images.back().data(),
                    images.back().size() * sizeof(float));
        view = tensors.back().view();
      } else if (i % 3 == 2) {
        tensors.push_back(on_device(images.back(), shape));
        view = tensors.back().view();
      }
      futures.push_back(model.submit(request_of(view)));
    }
    for (int i = 0; i < kRequests; ++i) {
      const Response response = must(futures[static_cast<std::size_t>(i)].get());
      expect_near(response.outputs[0].view.as<float>(),
                  expected(images[static_cast<std::size_t>(i)]));
    }
  }
}

TEST_F(TensorRt, OutputsGoWhereTheyAreWanted) {
  constexpr std::int64_t kItems = 4;
  const std::vector<float> images = random_images(kItems, 77);
  const std::vector<float> right = expected(images);
  const Shape shape = {kItems, kClasses};
  for (const Model& model : {gpu, eager}) {
    const auto ask = [&](const RequestedOutput& output) {
      Request request = request_of(TensorView::of(images.data(), {kItems, 1, 8, 8}));
      request.outputs.push_back(output);
      return must(model.infer(std::move(request)));
    };
    const Response kept = ask({"probabilities", OutputPlacement::device, {}, {}});
    EXPECT_EQ(kept.outputs[0].view.device, DeviceId::cuda(0));
    expect_near(fetch(kept.outputs[0].view).data(), right);

    std::vector<float> pageable(right.size(), -1.0F);
    (void)ask(
        {"probabilities", OutputPlacement::target, TensorView::of(pageable.data(), shape), {}});
    expect_near(pageable.data(), right);

    const Tensor pinned = must(engine->new_tensor(DataType::fp32, shape));
    (void)ask({"probabilities", OutputPlacement::target, pinned.view(), pinned.lease()});
    expect_near(pinned.as<float>(), right);

    const Tensor device = must(engine->new_tensor(DataType::fp32, shape, DeviceId::cuda(0)));
    (void)ask({"probabilities", OutputPlacement::target, device.view(), device.lease()});
    expect_near(fetch(device.view()).data(), right);
  }
}

TEST_F(TensorRt, DeviceInputsAreBoundWhereTheyLie) {
  const std::vector<float> images = random_images(8, 9);  // a size that is not padded
  const Tensor input = on_device(images, {8, 1, 8, 8});
  const std::uint64_t before = eager.statistics().bound_in_place;
  const Response response = must(eager.infer(request_of(input.view(), input.lease())));
  expect_near(response.outputs[0].view.as<float>(), expected(images));
  EXPECT_EQ(eager.statistics().bound_in_place, before + 1);
}

// Such runs count themselves, others are told of by a word behind them: an answer that came too
// early would show what was there before.
TEST_F(TensorRt, RunsOnCallersMemoryAreOverWhenTheyAreAnswered) {
  constexpr std::int64_t kItems = 8;
  constexpr int kPairs = 6;
  constexpr int kRounds = 300;
  const Shape in = {kItems, 1, 8, 8};
  const Shape out = {kItems, kClasses};
  std::vector<std::vector<float>> images;
  std::vector<std::vector<float>> right;
  std::vector<Tensor> inputs;
  std::vector<Tensor> targets;
  for (int i = 0; i < kPairs + 1; ++i) {
    images.push_back(random_images(kItems, 100 + static_cast<unsigned>(i)));
    right.push_back(expected(images.back()));
    inputs.push_back(on_device(images.back(), in));
    targets.push_back(must(engine->new_tensor(DataType::fp32, out, DeviceId::cuda(0))));
  }
  const std::uint64_t before = gpu.statistics().bound_in_place;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<Future> futures;
    for (std::size_t pair = 0; pair < kPairs; ++pair) {
      const std::size_t content = (pair + static_cast<std::size_t>(round)) % images.size();
      copy(inputs[pair].view().data, images[content].data(), images[content].size() * 4);
      Request request = request_of(inputs[pair].view());
      request.outputs.push_back(
          {"probabilities", OutputPlacement::target, targets[pair].view(), {}});
      futures.push_back(gpu.submit(std::move(request)));
    }
    // Another batch of the same lanes, with copies behind its run.
    futures.push_back(gpu.submit(request_of(TensorView::of(images[0].data(), in))));
    for (std::size_t pair = 0; pair < kPairs; ++pair) {
      (void)must(futures[pair].get());
      const std::size_t content = (pair + static_cast<std::size_t>(round)) % images.size();
      expect_near(fetch(targets[pair].view()).data(), right[content]);
      ASSERT_FALSE(HasFailure()) << "round " << round << ", pair " << pair;
    }
    expect_near(must(futures.back().get()).outputs[0].view.as<float>(), right[0]);
  }
  EXPECT_GT(gpu.statistics().bound_in_place - before, std::uint64_t{kRounds});
}

TEST_F(TensorRt, WaitsForAnInputsReadyEventOnTheStream) {
  const std::vector<float> images = random_images(3, 10);
  Device& device = *engine->devices()[0];
  Tensor input = must(engine->new_tensor(DataType::fp32, {3, 1, 8, 8}, DeviceId::cuda(0)));
  Tensor staged = must(engine->new_tensor(DataType::fp32, {3, 1, 8, 8}));
  std::memcpy(staged.view().data, images.data(), images.size() * sizeof(float));
  const Stream stream = must(device.new_stream({}));
  const Event ready = must(device.new_event(EventTiming::untimed));
  std::atomic<bool> open{false};
  must(stream.ref().run([&open] {
    while (!open.load()) std::this_thread::yield();
  }));
  must(stream.ref().copy(input.view().data, staged.view().data, images.size() * sizeof(float)));
  must(stream.ref().record(ready));
  input.view().ready = ready;
  Future future = gpu.submit(request_of(input.view()));
  EXPECT_FALSE(future.wait_until(Clock::now() + std::chrono::milliseconds(50)));
  open.store(true);
  expect_near(must(future.get()).outputs[0].view.as<float>(), expected(images));
}

TEST_F(TensorRt, ASteadyStateNeitherWaitsNorAllocates) {
  Result<std::unique_ptr<SyncWatch>> watch = SyncWatch::start();
  if (!watch) GTEST_SKIP() << "NOT CHECKED: " << watch.error().message;
  (*watch)->allow_threads_named("mr-waiter-0");
  constexpr std::int64_t kItems = 8;
  const std::vector<float> images = random_images(kItems, 5);
  const Shape shape = {kItems, 1, 8, 8};
  const Tensor pinned = must(engine->new_tensor(DataType::fp32, shape));
  std::memcpy(pinned.view().data, images.data(), images.size() * sizeof(float));
  const Tensor device = on_device(images, shape);
  const auto round = [&](const Model& model, const TensorView& view, bool keep) {
    std::vector<Future> futures;
    for (int i = 0; i < 40; ++i) {
      Request request = request_of(view);
      if (keep) request.outputs.push_back({"probabilities", OutputPlacement::device, {}, {}});
      futures.push_back(model.submit(std::move(request)));
    }
    for (Future& future : futures) (void)must(future.get());
  };
  for (const Model& model : {gpu, eager}) {
    for (const bool resident : {false, true}) {
      const TensorView view = resident ? device.view() : pinned.view();
      for (int i = 0; i < 5; ++i) round(model, view, resident);  // fills the pools
      (*watch)->clear();
      (*watch)->arm();
      for (int i = 0; i < 10; ++i) round(model, view, resident);
      (*watch)->disarm();
      EXPECT_TRUE((*watch)->violations().empty())
          << model.info().name << (resident ? ", resident" : ", host") << "\n"
          << to_string((*watch)->violations());
    }
  }
}

TEST_F(TensorRt, RefusesPlansThatCannotBeUsed) {
  std::ifstream file(plan_file(), std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  ASSERT_GT(whole.size(), 1000U);
  const auto try_load = [&](const std::string& name, const std::string& content) {
    const std::string path = (folder / (name + ".plan")).string();
    std::ofstream(path, std::ios::binary) << content;
    ModelConfig config;
    config.name = name;
    config.path = path;
    config.devices = {DeviceId::cuda(0)};
    const Result<Model> model = engine->load(config);
    EXPECT_FALSE(model.ok()) << name;
    if (!model) {
      EXPECT_NE(model.error().message.find(name), std::string::npos) << model.error().message;
      EXPECT_EQ(model.error().code, ErrorCode::invalid_argument) << model.error().message;
    }
  };
  try_load("empty", "");
  try_load("truncated", whole.substr(0, whole.size() / 2));
  try_load("no_plan", "this is no engine at all");
  EXPECT_TRUE(gpu.infer(request_of(TensorView::of(random_images(1, 1).data(), {1, 1, 8, 8}))).ok());
}

TEST_F(TensorRt, BuildsForAnOnnxFileOnceAndFindsItAgain) {
  const std::string cache = (folder / "cache").string();
  // Building again would replace the file.
  const auto engine_after_loading = [&](const std::string& name) {
    (void)load(name, kDigits, DeviceId::cuda(0),
               {{"cache", cache}, {"optimization_level", "0"}, {"precision", "fp16"}});
    must(engine->unload(name));
    std::vector<std::filesystem::path> plans;
    for (const auto& entry : std::filesystem::directory_iterator(cache)) {
      if (entry.path().extension() == ".plan") plans.push_back(entry.path());
    }
    EXPECT_EQ(plans.size(), 1u);
    return plans.empty() ? std::filesystem::file_time_type{}
                         : std::filesystem::last_write_time(plans.front());
  };
  const auto first = engine_after_loading("first");
  EXPECT_EQ(engine_after_loading("again"), first);
}

TEST_F(TensorRt, AnOperatorThatIsNotSupportedIsNamedWithItsNode) {
  BuildOptions build;
  build.model = MILLRACE_SOURCE_DIR "/tests/models/unknown_operator.onnx";
  const std::string path = (folder / "unknown.plan").string();
  const Result<BuildReport> report = build_engine(build, path);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::unsupported) << report.error().message;
  for (const char* const words : {"operator ", " of node "}) {
    EXPECT_NE(report.error().message.find(words), std::string::npos) << report.error().message;
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

// The ranges of a calibration by TensorRT 10: a line for each tensor, its scale as the bits of a
// float in hexadecimal.
TEST_F(TensorRt, BuildsInInt8WithRangesThatWereFoundBefore) {
  const std::string cache = (folder / "ranges.cache").string();
  {
    std::ofstream file(cache);
    file << "TRT-100600-EntropyCalibration2\n";
    for (const char* const tensor :
         {"images", "scaled", "conv1", "conv1.relu", "conv2", "conv2.relu", "conv3", "conv3.relu",
          "conv4", "conv4.relu", "conv5", "conv5.relu", "pool", "flat", "dense1", "dense1.relu",
          "dense2", "probabilities"}) {
      file << tensor << ": 3e008081\n";  // 16/127
    }
  }
  BuildOptions build;
  build.model = kDigits;
  build.precision = Precision::int8;
  build.calibration_cache = cache;
  build.optimization_level = 1;
  const Result<BuildReport> report = build_engine(build, (folder / "int8.plan").string());
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->precision, Precision::int8);
}

TEST_F(TensorRt, CancelledBuildsLeaveNothing) {
  std::atomic<bool> cancel{true};
  BuildOptions build;
  build.model = kDigits;
  build.cancel = &cancel;
  const std::string path = (folder / "cancelled.plan").string();
  const Result<BuildReport> report = build_engine(build, path);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::cancelled) << report.error().message;
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(TensorRt, UnloadsUnderLoadAndGivesItsMemoryBack) {
  const auto used = [] { return engine->device_reports()[0].memory.used_bytes; };
  (void)load("warm", plan_file(), DeviceId::cuda(0), {});
  must(engine->unload("warm"));
  const std::size_t before = used();
  for (int i = 0; i < 3; ++i) {
    const Model model = load("again", plan_file(), DeviceId::cuda(0), {});
    const std::vector<float> images = random_images(2, 3);
    std::vector<Future> futures;
    futures.reserve(200);
    for (int k = 0; k < 200; ++k) {
      futures.push_back(model.submit(request_of(TensorView::of(images.data(), {2, 1, 8, 8}))));
    }
    must(engine->unload("again"));
    for (Future& future : futures) EXPECT_TRUE(future.get().ok());
  }
  EXPECT_LE(used(), before + (std::size_t{1} << 20));
}

}  // namespace
}  // namespace millrace
