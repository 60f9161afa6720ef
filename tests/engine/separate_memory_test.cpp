// Devices with memory of their own, as GPUs have: what is copied in, what is used where it lies,
// and where the answers end up. Reference models fail a batch whose tensors are not the device's.
#include <algorithm>
#include <future>
#include <optional>

#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAreArray;

constexpr DeviceId kDevice = DeviceId::host(0);

EngineOptions apart(int count = 1) {
  EngineOptions options = host_devices(count);
  HostDeviceOptions host;
  host.separate_memory = true;
  options.devices.host.assign(static_cast<std::size_t>(count), host);
  return options;
}

/// New memory of the engine's that holds the numbers.
Tensor filled(const Engine& engine, const Numbers& numbers, DeviceId device = {}) {
  Tensor tensor = must(engine.new_tensor(DataType::fp32, numbers.shape(), device));
  std::memcpy(tensor.view().data, numbers.values().data(), numbers.values().size() * sizeof(float));
  return tensor;
}

Request request_of(const Tensor& tensor, EventRef ready = {}) {
  Request request;
  request.inputs.push_back({"input", tensor.view(), tensor.lease()});
  request.inputs[0].view.ready = ready;
  return request;
}

enum class Place { automatic, device, pinned, pageable, on_device };
constexpr Place kPlaces[] = {Place::automatic, Place::device, Place::pinned, Place::pageable,
                             Place::on_device};

/// One output of one request: asks for it in some place and looks whether it came there.
class Wish {
 public:
  Wish(const Engine& engine, Place place, std::string name, DataType type, const Shape& shape)
      : place_(place), name_(std::move(name)), shape_(shape) {
    if (place == Place::pinned) target_ = must(engine.new_tensor(type, shape));
    if (place == Place::pageable) target_ = must(Tensor::allocate(type, shape));
    if (place == Place::on_device) target_ = must(engine.new_tensor(type, shape, kDevice));
    if (target_) std::memset(target_.view().data, 0xee, must(target_.view().bytes()));
  }

  [[nodiscard]] RequestedOutput output() const {
    if (place_ == Place::automatic) return placed(name_, OutputPlacement::automatic);
    if (place_ == Place::device) return placed(name_, OutputPlacement::device);
    return into(name_, target_.view(), target_.lease());
  }
  template <class T>
  void expect(const NamedTensor& found, const std::vector<T>& values) const {
    SCOPED_TRACE("place " + std::to_string(static_cast<int>(place_)));
    EXPECT_EQ(found.name, name_);
    ASSERT_EQ(found.view.shape, shape_);
    ASSERT_NE(found.view.data, nullptr);
    EXPECT_TRUE(found.lease);
    const bool stays = place_ == Place::device || place_ == Place::on_device;
    EXPECT_EQ(found.view.device, stays ? kDevice : DeviceId::host_memory());
    if (target_) {
      EXPECT_EQ(found.view.data, target_.view().data);
    }
    std::vector<T> data(values.size());
    ASSERT_EQ(must(found.view.bytes()), values.size() * sizeof(T));
    std::memcpy(data.data(), found.view.data, values.size() * sizeof(T));
    EXPECT_THAT(data, ElementsAreArray(values));
  }

 private:
  Place place_;
  std::string name_;
  Shape shape_;
  Tensor target_;
};

/// Everything about lanes that decides how tensors get to them and away again.
constexpr const char* kLanes[] = {"",
                                  "wants_prepare=1",
                                  "only_prepared=1",
                                  "fixed_addresses=1",
                                  "fixed_addresses=1&only_prepared=1",
                                  "fixed_addresses=1&only_prepared=1&blocking=1",
                                  "fixed_addresses=1&own_stream=1",
                                  "own_stream=1",
                                  "blocking=1",
                                  "shape=-1",
                                  "shape=-1&blocking=1",
                                  "output_sized_late=1&blocking=1",
                                  "output_sized_late=1&blocking=1&own_stream=1"};

ModelConfig identity(const std::string& options, std::int64_t max_items = 4) {
  ModelConfig config = one_at_a_time("reference:identity?" + options);
  config.batching.max_items = max_items;
  return config;
}

/// Submits a request that holds up the model's one lane until the gate opens.
Future hold_up(const Engine& engine, const Model& model, const Gate& gate, const Numbers& numbers) {
  Future future = model.submit(request_of(filled(engine, numbers), gate.event()));
  EXPECT_TRUE(eventually([&] { return model.statistics().running_batches == 1; }));
  return future;
}

// -------------------------------------------------------------------------------------------------
// every way in and out

TEST(SeparateMemory, EveryKindOfLaneReadsEveryInputAndFillsEveryPlace) {
  for (const char* options : kLanes) {
    SCOPED_TRACE(options);
    Engine engine = make_engine(apart());
    const Model model = must(engine.load(identity(options)));
    for (std::int64_t items = 1; items <= 4; ++items) {
      const Numbers numbers(items, static_cast<float>(100 * items));
      const Tensor inputs[] = {Tensor(numbers.view(), {}), filled(engine, numbers),
                               filled(engine, numbers, kDevice)};
      for (const Tensor& input : inputs) {
        for (const Place place : kPlaces) {
          const Wish wish(engine, place, "output", DataType::fp32, numbers.shape());
          Request request = request_of(input);
          request.outputs.push_back(wish.output());
          const Result<Response> response = get(model.submit(std::move(request)));
          ASSERT_TRUE(response.ok()) << text_of(response);
          wish.expect(response->outputs[0], numbers.values());
        }
        expect_echo(get(model.submit(request_of(input))), numbers);
      }
    }
  }
}

TEST(SeparateMemory, OneBatchServesEveryPlace) {
  for (const char* options : kLanes) {
    SCOPED_TRACE(options);
    Engine engine = make_engine(apart());
    const Model model = must(engine.load(identity(options, 16)));
    const Numbers first;
    Gate gate(engine.devices()[0]);
    Future held = hold_up(engine, model, gate, first);
    std::vector<Wish> wishes;
    std::vector<Numbers> numbers;
    std::vector<Future> futures;
    numbers.reserve(10);
    for (std::int64_t i = 0; i < 10; ++i) {  // 15 items
      const Numbers& own = numbers.emplace_back(1 + i % 2, static_cast<float>(1000 * i));
      const Wish& wish =
          wishes.emplace_back(engine, kPlaces[i % 5], "output", DataType::fp32, own.shape());
      Request request = i % 3 == 0
                            ? own.request()
                            : request_of(filled(engine, own, i % 3 == 1 ? kDevice : DeviceId()));
      request.outputs.push_back(wish.output());
      futures.push_back(model.submit(std::move(request)));
    }
    futures.push_back(model.submit(first.request()));  // the outputs not named
    gate.open();
    expect_echo(held, first);
    for (std::size_t i = 0; i < wishes.size(); ++i) {
      SCOPED_TRACE(i);
      const Result<Response> response = get(futures[i]);
      ASSERT_TRUE(response.ok()) << text_of(response);
      EXPECT_EQ(response->batch_items, 16);
      wishes[i].expect(response->outputs[0], numbers[i].values());
    }
    expect_echo(futures.back(), first);
  }
}

TEST(SeparateMemory, EachOfSeveralOutputsHasAPlaceOfItsOwn) {
  for (const char* options : {"inputs=5", "inputs=5&fixed_addresses=1&only_prepared=1",
                              "inputs=5&output_sized_late=1&blocking=1"}) {
    SCOPED_TRACE(options);
    Engine engine = make_engine(apart());
    const Model model = must(engine.load(identity(options)));
    for (const std::int64_t items : {4, 3}) {
      for (int shift = 0; shift < 5; ++shift) {
        Request request;
        std::vector<Numbers> numbers;
        std::vector<Wish> wishes;
        numbers.reserve(5);
        for (int i = 0; i < 5; ++i) {
          const Numbers& own = numbers.emplace_back(items, static_cast<float>(1000 * i));
          request.inputs.push_back({"input" + std::to_string(i), own.view(), {}});
        }
        for (int i = 4; i > 0; --i) {  // one is not asked for, the others come from behind
          const Place place = kPlaces[(i + shift) % 5];
          wishes.emplace_back(engine, place, "output" + std::to_string(i), DataType::fp32,
                              numbers[0].shape());
          request.outputs.push_back(wishes.back().output());
        }
        const Result<Response> response = get(model.submit(std::move(request)));
        ASSERT_TRUE(response.ok()) << text_of(response);
        ASSERT_EQ(response->outputs.size(), 4u);
        for (std::size_t i = 0; i < 4; ++i) {
          wishes[i].expect(response->outputs[i], numbers[4 - i].values());
        }
      }
    }
  }
}

TEST(SeparateMemory, AnOutputAskedForTwiceComesToBothPlaces) {
  for (const char* options : {"", "fixed_addresses=1&only_prepared=1", "shape=-1"}) {
    SCOPED_TRACE(options);
    Engine engine = make_engine(apart());
    const Model model = must(engine.load(identity(options)));
    const Numbers numbers(2, 7);
    for (const Place one : kPlaces) {
      for (const Place other : kPlaces) {
        const Wish first(engine, one, "output", DataType::fp32, numbers.shape());
        const Wish second(engine, other, "output", DataType::fp32, numbers.shape());
        Request request = numbers.request();
        request.outputs.push_back(first.output());
        request.outputs.push_back(second.output());
        const Result<Response> response = get(model.submit(std::move(request)));
        ASSERT_TRUE(response.ok()) << text_of(response);
        first.expect(response->outputs[0], numbers.values());
        second.expect(response->outputs[1], numbers.values());
      }
    }
  }
}

TEST(SeparateMemory, SumsOfTensorsFromDifferentPlaces) {
  for (const char* options : {"", "?fixed_addresses=1&only_prepared=1"}) {
    SCOPED_TRACE(options);
    Engine engine = make_engine(apart());
    ModelConfig config = one_at_a_time(std::string("reference:add") + options);
    config.batching.max_items = 4;
    const Model model = must(engine.load(config));
    const Numbers a(3, 1), b(3, 1000);
    const Tensor pinned = filled(engine, b), on_device = filled(engine, b, kDevice);
    for (const TensorView& second : {b.view(), pinned.view(), on_device.view()}) {
      Request request;
      request.inputs.push_back({"a", a.view(), {}});
      request.inputs.push_back({"b", second, {}});
      const Response response = must(model.infer(std::move(request)));
      const std::vector<float> sum = floats(response.outputs[0].view);
      for (std::size_t k = 0; k < sum.size(); ++k) ASSERT_EQ(sum[k], a.values()[k] + b.values()[k]);
    }
  }
}

TEST(SeparateMemory, ManyRequestsFromManyThreads) {
  Engine engine = make_engine(apart());
  ModelConfig config = from("reference:identity?fixed_addresses=1");
  config.lanes = 2;
  config.batching.max_items = 8;
  const Model model = must(engine.load(config));
  std::vector<std::thread> threads;
  threads.reserve(3);
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&engine, &model, t] {
      for (int i = 0; i < 60; ++i) {
        const Numbers numbers(1 + i % 3, static_cast<float>(10000 * t + 100 * i));
        const Wish wish(engine, kPlaces[(t + i) % 5], "output", DataType::fp32, numbers.shape());
        Request request = i % 2 == 0 ? numbers.request() : request_of(filled(engine, numbers));
        request.outputs.push_back(wish.output());
        const Result<Response> response = get(model.submit(std::move(request)));
        ASSERT_TRUE(response.ok()) << text_of(response);
        wish.expect(response->outputs[0], numbers.values());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// -------------------------------------------------------------------------------------------------
// inputs

// What is written before the input is ready counts: nobody has copied it before.
TEST(SeparateMemory, PinnedInputsAreReadWhereTheyLie) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(identity("")));
  const Numbers numbers(2, 5);
  const std::size_t bytes = numbers.values().size() * sizeof(float);
  const Tensor from_engine = must(engine.new_tensor(DataType::fp32, numbers.shape()));
  const Buffer from_device = must(engine.devices()[0]->allocate(bytes, MemoryKind::pinned));
  for (void* data : {from_engine.view().data, from_device.data()}) {
    Gate gate(engine.devices()[0]);
    TensorView view = TensorView::of(DataType::fp32, data, numbers.shape());
    view.ready = gate.event();
    Request request;
    request.inputs.push_back({"input", view, {}});
    Future future = model.submit(std::move(request));
    std::memcpy(data, numbers.values().data(), bytes);
    gate.open();
    expect_echo(future, numbers);
  }
  EXPECT_EQ(model.statistics().bound_in_place, 0u);
}

TEST(SeparateMemory, PageableInputsAreReadOnceTheyAreReady) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(identity("")));
  Numbers numbers(2, 5);
  const std::vector<float> values = numbers.values();
  std::fill(numbers.values().begin(), numbers.values().end(), -1.0F);
  Gate gate(engine.devices()[0]);
  std::promise<void> starts;
  auto answered = std::async(std::launch::async, [&] {
    starts.set_value();
    return get(model.submit(numbers.request(gate.event())));
  });
  starts.get_future().wait();
  EXPECT_EQ(answered.wait_for(milliseconds(20)), std::future_status::timeout);
  numbers.values() = values;
  gate.open();
  expect_echo(answered.get(), numbers);
}

TEST(SeparateMemory, AnInputOnTheDeviceIsBoundWhereItLies) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(identity("")));
  const Numbers numbers(3, 9);
  Gate gate(engine.devices()[0]);
  const Tensor input = must(engine.new_tensor(DataType::fp32, numbers.shape(), kDevice));
  Future future = model.submit(request_of(input, gate.event()));
  std::memcpy(input.view().data, numbers.values().data(), numbers.values().size() * sizeof(float));
  gate.open();
  expect_echo(future, numbers);
  EXPECT_EQ(model.statistics().bound_in_place, 1u);
  expect_echo(model.infer(numbers.request()), numbers);
  expect_echo(model.infer(request_of(filled(engine, numbers))), numbers);
  EXPECT_EQ(model.statistics().bound_in_place, 1u) << "of host memory nothing is";
}

TEST(SeparateMemory, InputsOnTheDeviceAreGatheredWhereTheyCannotBeBound) {
  Engine engine = make_engine(apart());
  const Numbers a(1, 1), b(2, 100);
  {
    const Model model = must(engine.load(identity("")));  // several in a batch
    Gate gate(engine.devices()[0]);
    Future held = hold_up(engine, model, gate, a);
    Future first = model.submit(request_of(filled(engine, a, kDevice)));
    Future second = model.submit(request_of(filled(engine, b, kDevice)));
    gate.open();
    expect_echo(held, a);
    expect_echo(first, a);
    const Result<Response> response = get(second);
    expect_echo(response, b);
    EXPECT_EQ(response->batch_items, 3);
    EXPECT_EQ(model.statistics().bound_in_place, 0u);
    must(engine.unload(model.info().name));
  }
  for (const char* options :
       {"only_prepared=1", "fixed_addresses=1&only_prepared=1"}) {  // padded; fixed addresses
    const Numbers three(3, 50);
    const Model model = must(engine.load(identity(options)));
    expect_echo(model.infer(request_of(filled(engine, three, kDevice))), three);
    EXPECT_EQ(model.statistics().bound_in_place, 0u) << options;
    must(engine.unload(model.info().name));
  }
}

TEST(SeparateMemory, MisalignedViewsOfTheDevicesMemory) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(identity("")));
  const Numbers numbers(2, 3);
  const std::size_t bytes = numbers.values().size() * sizeof(float);
  const auto misaligned = [&](DeviceId device) {
    const auto size = static_cast<std::int64_t>(bytes) + 4;
    Tensor room = must(engine.new_tensor(DataType::uint8, {size}, device));
    std::byte* data = static_cast<std::byte*>(room.view().data) + 2;
    return Tensor(TensorView::of(DataType::fp32, data, numbers.shape(), device), room.lease());
  };
  for (const DeviceId device : {kDevice, DeviceId::host_memory()}) {
    const Tensor input = misaligned(device), target = misaligned(device);
    std::memcpy(input.view().data, numbers.values().data(), bytes);
    Request request = request_of(input);
    request.outputs.push_back(into("output", target.view(), target.lease()));
    expect_echo(model.infer(std::move(request)), numbers);
  }
  EXPECT_EQ(model.statistics().bound_in_place, 0u);
}

TEST(SeparateMemory, StridedHostInputsAreMadeContiguous) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(identity("shape=2")));
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};  // read by columns
  const Tensor pinned = must(engine.new_tensor(DataType::fp32, {2, 3}));
  std::memcpy(pinned.view().data, values.data(), values.size() * sizeof(float));
  for (const TensorView& memory : {pinned.view(), TensorView::of(values.data(), {2, 3})}) {
    Request request;
    request.inputs.push_back({"input", memory, {}});
    request.inputs[0].view.shape = {3, 2};
    request.inputs[0].view.strides = {1, 3};
    const Response response = must(model.infer(std::move(request)));
    EXPECT_THAT(floats(response.outputs[0].view), ElementsAreArray({1, 4, 2, 5, 3, 6}));
  }
}

/// [items, 4, 4] in memory whose rows are `pitch` numbers apart.
TensorView pitched(const Tensor& memory, std::int64_t items, std::int64_t pitch) {
  TensorView view = memory.view();
  view.shape = {items, 4, 4};
  view.strides = {4 * pitch, pitch, 1};
  auto* numbers = view.as<float>();
  for (std::int64_t row = 0; row < 4 * items; ++row) {
    for (std::int64_t i = 0; i < pitch; ++i) {
      *numbers++ = i < 4 ? static_cast<float>(4 * row + i) : -1.0F;
    }
  }
  return view;
}

TEST(SeparateMemory, PitchedInputsOnADeviceAreGatheredRowByRow) {
  for (const char* options : {"shape=4x4", "shape=4x4&fixed_addresses=1&only_prepared=1"}) {
    SCOPED_TRACE(options);
    Engine engine = make_engine(apart(2));
    ModelConfig config = identity(options, 16);
    config.devices = {kDevice};
    const Model model = must(engine.load(config));
    Gate gate(engine.devices()[0]);
    const Tensor first = must(engine.new_tensor(DataType::fp32, {1, 4, 4}, kDevice));
    Future held = model.submit(request_of(first, gate.event()));
    ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 1; }));
    std::vector<Tensor> memory;
    std::vector<Future> futures;
    std::vector<float> expected;
    for (const std::int64_t items : {1, 2, 3, 2}) {
      const DeviceId where = DeviceId::host(items == 3 ? 1 : 0);  // one is on the other device
      memory.push_back(must(engine.new_tensor(DataType::fp32, {items, 4, 7}, where)));
      Request request;
      request.inputs.push_back(
          {"input", pitched(memory.back(), items, 4 + items), memory.back().lease()});
      futures.push_back(model.submit(std::move(request)));
    }
    gate.open();
    must(get(held));
    const std::uint64_t bound = model.statistics().bound_in_place;  // the first may have been
    for (Future& future : futures) {
      const Response response = must(get(future));
      EXPECT_EQ(response.batch_items, 8) << "all of one batch";
      expected.resize(16 * static_cast<std::size_t>(response.outputs[0].view.shape[0]));
      std::iota(expected.begin(), expected.end(), 0.0F);
      EXPECT_THAT(floats(response.outputs[0].view), ElementsAreArray(expected));
    }
    Request alone;  // a batch by itself is not bound where it lies
    alone.inputs.push_back({"input", pitched(memory[0], 1, 6), memory[0].lease()});
    expected.resize(16);
    EXPECT_THAT(floats(must(model.infer(std::move(alone))).outputs[0].view),
                ElementsAreArray(expected));
    EXPECT_EQ(model.statistics().bound_in_place, bound);
  }
}

TEST(SeparateMemory, ElementsThatAreApartOnADeviceAreRefused) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(identity("shape=2")));
  const Tensor tensor = must(engine.new_tensor(DataType::fp32, {2, 3}, kDevice));
  Request request = request_of(tensor);
  request.inputs[0].view.shape = {3, 2};
  request.inputs[0].view.strides = {1, 3};
  expect_error(get(model.submit(std::move(request))), ErrorCode::unsupported,
               {"\"input\"", "host:0", "gaps between the elements", "make it contiguous first"});
}

TEST(SeparateMemory, BorrowedMemoryThatIsNotTheDevicesIsRefused) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(identity("")));
  const Numbers numbers;
  Request request = numbers.request();
  request.inputs[0].view.device = kDevice;
  expect_error(get(model.submit(std::move(request))), ErrorCode::invalid_argument,
               {"\"input\"", "expected 64 bytes of memory on host:0", "freed"});
  std::vector<float> target(16);
  request = numbers.request();
  request.outputs.push_back(
      into("output", TensorView::of(DataType::fp32, target.data(), {1, 16}, kDevice)));
  expect_error(get(model.submit(std::move(request))), ErrorCode::invalid_argument,
               {"\"output\"", "expected 64 bytes of memory on host:0"});
  Buffer freed = must(engine.devices()[0]->allocate(64, MemoryKind::device));
  request = Request();
  request.inputs.push_back(
      {"input", TensorView::of(DataType::fp32, freed.data(), {1, 16}, kDevice), {}});
  must(model.infer(request));
  freed = Buffer();
  expect_error(get(model.submit(std::move(request))), ErrorCode::invalid_argument, {"freed"});
  expect_echo(model.infer(numbers.request()), numbers);
}

// A lease says that its owner keeps the memory: nobody looks.
TEST(SeparateMemory, LeasedInputsThatAreNotWhereTheySayFailTheirBatchOnly) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(identity("")));
  const Numbers numbers;
  Request request = numbers.request();
  request.inputs[0].view.device = kDevice;
  request.inputs[0].lease = LeaseCount().lease();
  expect_error(model.infer(std::move(request)), ErrorCode::internal,
               {"an input lies outside the device's memory"});
  expect_echo(model.infer(numbers.request()), numbers);
}

TEST(SeparateMemory, ManagedInputsAreReadWhereTheyLie) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(identity("")));
  const Numbers numbers;
  const Buffer managed = must(engine.devices()[0]->allocate(64, MemoryKind::managed));
  Gate gate(engine.devices()[0]);
  Request request;
  request.inputs.push_back({"input", TensorView::of(DataType::fp32, managed.data(), {1, 16}), {}});
  request.inputs[0].view.ready = gate.event();
  Future future = model.submit(std::move(request));
  std::memcpy(managed.data(), numbers.values().data(), 64);  // nobody has copied it before
  gate.open();
  expect_echo(future, numbers);
}

// In every layout, and by every kind of lane, what is not ready when it is submitted holds up
// neither the caller nor the driver.
TEST(SeparateMemory, PageableInputsThatAreNotReadyHoldNobodyUp) {
  for (const char* options : kLanes) {
    SCOPED_TRACE(options);
    for (const bool strided : {false, true}) {
      Engine engine = make_engine(apart());
      const Model model = must(engine.load(identity(options)));
      std::vector<float> memory(2 * 20, -1.0F);
      const std::int64_t pitch = strided ? 20 : 16;
      Gate gate(engine.devices()[0]);
      LeaseCount leases;
      Request request;
      TensorView view = TensorView::of(memory.data(), {2, 16});
      if (strided) view.strides = {pitch, 1};
      view.ready = gate.event();
      request.inputs.push_back({"input", view, leases.lease()});
      Future future = model.submit(std::move(request));  // returns
      EXPECT_FALSE(future.wait_until(Clock::now() + milliseconds(5)));
      const Numbers numbers(2, 5);
      for (std::int64_t i = 0; i < 32; ++i) {
        memory[static_cast<std::size_t>(i / 16 * pitch + i % 16)] =
            numbers.values()[static_cast<std::size_t>(i)];
      }
      EXPECT_EQ(leases.released(), 0);
      gate.open();
      expect_echo(future, numbers);
      EXPECT_TRUE(eventually([&] { return leases.released() == 1; }));
    }
  }
}

TEST(SeparateMemory, StridedInputsOfPlainHostDevicesThatAreNotReadyHoldNobodyUp) {
  Engine engine = make_engine();
  const Model model = must(engine.load(identity("")));
  std::vector<float> memory(2 * 20, -1.0F);
  Gate gate(engine.devices()[0]);
  TensorView view = TensorView::of(memory.data(), {2, 16});
  view.strides = {20, 1};
  view.ready = gate.event();
  Request request;
  request.inputs.push_back({"input", view, {}});
  Future future = model.submit(std::move(request));
  const Numbers numbers(2, 5);
  for (std::size_t i = 0; i < 32; ++i) memory[i / 16 * 20 + i % 16] = numbers.values()[i];
  gate.open();
  expect_echo(future, numbers);
}

TEST(SeparateMemory, LargePageableInputsArriveWhole) {
  EngineOptions options = apart();
  options.cpu_threads = 8;  // so that there are threads that help with copies
  Engine engine = make_engine(options);
  const Model model = must(engine.load(identity("shape=-1")));
  const std::int64_t count = 1'000'003;
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 0.0F);
  for (int i = 0; i < 5; ++i) {
    values.front() = static_cast<float>(-i);
    Request request;
    request.inputs.push_back({"input", TensorView::of(values.data(), {1, count}), {}});
    EXPECT_EQ(floats(must(model.infer(std::move(request))).outputs[0].view), values);
  }
}

// -------------------------------------------------------------------------------------------------
// tensors on devices that the model does not run on

TEST(SeparateMemory, TensorsOnOtherDevicesOfTheEngineAreBroughtOver) {
  EngineOptions options = apart(3);
  options.devices.host[2].separate_memory = false;  // its memory is the host's
  Engine engine = make_engine(options);
  ModelConfig config = identity("fixed_addresses=1");
  config.devices = {kDevice};
  const Model model = must(engine.load(config));
  for (const DeviceId elsewhere : {DeviceId::host(1), DeviceId::host(2)}) {
    const Numbers numbers(3, 50);
    const Tensor target = must(engine.new_tensor(DataType::fp32, numbers.shape(), elsewhere));
    Gate gate(engine.devices()[1]);
    Request request = request_of(filled(engine, numbers, elsewhere), gate.event());
    request.outputs.push_back(into("output", target.view(), target.lease()));
    Future future = model.submit(std::move(request));
    EXPECT_FALSE(future.wait_until(Clock::now() + milliseconds(5)));
    gate.open();
    const Response response = must(get(future));
    EXPECT_EQ(response.device, kDevice);
    EXPECT_EQ(response.outputs[0].view.device, elsewhere);
    EXPECT_EQ(floats(target.view()), numbers.values());
  }
}

TEST(SeparateMemory, TensorsOnDevicesNotInUseAreRefused) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(identity("")));
  const Numbers numbers;
  Request request = numbers.request();
  request.inputs[0].view.device = DeviceId::cuda(1);
  expect_error(get(model.submit(std::move(request))), ErrorCode::invalid_argument,
               {"\"input\"", "lies on cuda:1, which this engine does not use", "host:0"});
  request = numbers.request();
  request.outputs.push_back(into("output", numbers.view()));
  request.outputs[0].target.device = DeviceId::cuda(0);
  expect_error(get(model.submit(std::move(request))), ErrorCode::invalid_argument,
               {"\"output\"", "lies on cuda:0, which this engine does not use"});
}

TEST(SeparateMemory, LeasesOfInputsAreDroppedWithTheAnswer) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(identity("")));
  const Numbers numbers;
  const Tensor pinned = filled(engine, numbers), on_device = filled(engine, numbers, kDevice);
  LeaseCount count;
  for (const TensorView& view : {numbers.view(), pinned.view(), on_device.view()}) {
    Request request;
    request.inputs.push_back({"input", view, count.lease()});
    expect_echo(model.infer(std::move(request)), numbers);
  }
  EXPECT_TRUE(eventually([&] { return count.released() == 3; }));
}

// -------------------------------------------------------------------------------------------------
// outputs

TEST(SeparateMemory, AnswersOutliveTheirBatchAndTheEngine) {
  for (const char* options : {"", "fixed_addresses=1&only_prepared=1", "shape=-1"}) {
    SCOPED_TRACE(options);
    const Numbers numbers(2, 40), others(2, 9000);
    std::vector<Response> responses;
    std::vector<Wish> wishes;
    {
      Engine engine = make_engine(apart());
      const Model model = must(engine.load(identity(options)));
      for (const Place place : kPlaces) {
        wishes.emplace_back(engine, place, "output", DataType::fp32, numbers.shape());
        Request request = numbers.request();
        request.outputs.push_back(wishes.back().output());
        responses.push_back(must(model.infer(std::move(request))));
      }
      for (int i = 0; i < 20; ++i) expect_echo(model.infer(others.request()), others);
      for (std::size_t i = 0; i < wishes.size(); ++i) {
        wishes[i].expect(responses[i].outputs[0], numbers.values());
      }
    }
    for (std::size_t i = 0; i < wishes.size(); ++i) {
      wishes[i].expect(responses[i].outputs[0], numbers.values());
    }
  }
}

TEST(SeparateMemory, TargetsAreWrittenOnceTheyAreReady) {
  for (const char* options : {"", "shape=-1"}) {
    SCOPED_TRACE(options);
    Engine engine = make_engine(apart());
    const Model model = must(engine.load(identity(options)));
    const Numbers numbers;
    for (const Place place : {Place::pinned, Place::pageable, Place::on_device}) {
      SCOPED_TRACE(static_cast<int>(place));
      const Wish wish(engine, place, "output", DataType::fp32, numbers.shape());
      Gate gate(engine.devices()[0]);
      Request request = request_of(filled(engine, numbers));
      request.outputs.push_back(wish.output());
      request.outputs[0].target.ready = gate.event();
      Future future = model.submit(std::move(request));
      EXPECT_FALSE(future.wait_until(Clock::now() + milliseconds(20)));
      const auto* bytes = static_cast<const unsigned char*>(wish.output().target.data);
      EXPECT_THAT(std::vector<unsigned char>(bytes, bytes + 64), Each(0xee));
      gate.open();
      const Result<Response> response = get(future);
      ASSERT_TRUE(response.ok()) << text_of(response);
      wish.expect(response->outputs[0], numbers.values());
    }
  }
}

TEST(SeparateMemory, TargetsThatDoNotFitAreRefused) {
  Engine engine = make_engine(apart(2));
  ModelConfig config = identity("");
  config.devices = {kDevice};
  const Model model = must(engine.load(config));
  const Numbers numbers(2);
  for (const DeviceId device : {kDevice, DeviceId::host_memory()}) {
    const Tensor small = must(engine.new_tensor(DataType::fp32, {31}, device));
    Request request = numbers.request();
    request.outputs.push_back(into("output", small.view()));
    expect_error(get(model.submit(std::move(request))), ErrorCode::invalid_argument,
                 {"\"output\"", "expected at least 128 bytes, got 124"});
  }
  Request request = numbers.request();
  std::vector<std::vector<float>> targets(65, std::vector<float>(32));
  request = numbers.request();
  for (std::vector<float>& target : targets) {
    request.outputs.push_back(into("output", TensorView::of(target.data(), {2, 16})));
  }
  expect_error(get(model.submit(std::move(request))), ErrorCode::invalid_argument,
               {"pageable memory is supported for the first 64 outputs only"});
}

TEST(SeparateMemory, OutputsSizedLateComeToEveryPlace) {
  Engine engine = make_engine(apart());
  ModelConfig config = one_at_a_time("reference:nonzero?shape=4&blocking=1");
  config.batching.max_items = 4;
  const Model model = must(engine.load(config));
  const std::vector<float> values = {0, 2, 0, 4, 5, 6, 0, 0};
  const std::vector<std::int64_t> indices = {1, 3, 0, 1};
  const auto request = [&] {
    Request made;
    made.inputs.push_back({"input", TensorView::of(values.data(), {2, 4}), {}});
    return made;
  };
  for (const Place place : kPlaces) {
    const Wish wish(engine, place, "indices", DataType::int64, {2, 2});
    Request wanted = request();
    wanted.outputs.push_back(wish.output());
    const Result<Response> response = get(model.submit(std::move(wanted)));
    ASSERT_TRUE(response.ok()) << text_of(response);
    wish.expect(response->outputs[0], indices);
  }
  for (const Place place : {Place::pinned, Place::pageable, Place::on_device}) {
    const Wish small(engine, place, "indices", DataType::int64, {3});
    Request wanted = request();
    wanted.outputs.push_back(small.output());
    expect_error(get(model.submit(std::move(wanted))), ErrorCode::invalid_argument,
                 {"output \"indices\" came out as [2,2], 32 bytes; its target has room for 24"});
  }
  const std::vector<float> zeros(8);  // nothing comes out
  Request empty = request();
  empty.inputs[0].view.data = const_cast<float*>(zeros.data());
  const Response response = must(model.infer(std::move(empty)));
  EXPECT_EQ(response.outputs[0].view.shape, Shape({2, 0}));
}

TEST(SeparateMemory, OutputsSizedLateNeedALaneThatBlocks) {
  Engine engine = make_engine(apart());
  for (const char* path : {"reference:nonzero", "reference:identity?output_sized_late=1",
                           "reference:add?output_sized_late=1&wants_prepare=1"}) {
    expect_error(engine.load(named("m", path)), ErrorCode::unsupported,
                 {"\"m\"", "host:0", "has memory of its own", "blocking=1"});
    EXPECT_TRUE(engine.model_names().empty());
    Engine plain = make_engine();
    must(plain.load(named("m", path)));
  }
}

TEST(SeparateMemory, StringsAreRefusedAtLoading) {
  Engine engine = make_engine(apart());
  for (const char* path :
       {"reference:identity?type=BYTES&blocking=1", "reference:checksum?type=BYTES",
        "reference:identity?inputs=2&type=FP32,BYTES&blocking=1"}) {
    expect_error(engine.load(named("m", path)), ErrorCode::unsupported,
                 {"\"m\"", "host:0", "is BYTES", "computes in host memory"});
    EXPECT_TRUE(engine.model_names().empty());
  }
  EXPECT_EQ(engine.device_reports()[0].memory.used_bytes, 0u);
}

// -------------------------------------------------------------------------------------------------
// inputs that the host reads

TEST(SeparateMemory, WhatTheHostReadsStaysWithTheHost) {
  Engine engine = make_engine(apart());
  ModelConfig config = one_at_a_time("reference:identity?inputs=2&batched=0&host_input=1&shape=4");
  const Model model = must(engine.load(config));
  ASSERT_EQ(model.info().inputs.size(), 2u);
  EXPECT_FALSE(model.info().inputs[0].on_host);
  EXPECT_TRUE(model.info().inputs[1].on_host);
  const std::string second = model.info().inputs[1].name;
  const std::vector<float> a = {1, 2, 3, 4}, b = {5, 6, 7, 8};
  const auto request = [&](const TensorView& last, const Lease& lease = {}) {
    Request made;
    made.inputs.push_back({model.info().inputs[0].name, TensorView::of(a.data(), {4}), {}});
    made.inputs.push_back({second, last, lease});
    return made;
  };
  for (int i = 0; i < 3; ++i) {
    const Response response = must(model.infer(request(TensorView::of(b.data(), {4}))));
    EXPECT_EQ(floats(response.outputs[0].view), a);
    EXPECT_EQ(floats(response.outputs[1].view), b);
  }
  const Tensor there = must(engine.new_tensor(DataType::fp32, {4}, kDevice));
  expect_error(model.infer(request(there.view(), there.lease())), ErrorCode::invalid_argument,
               {second, "expected host memory, since the host reads its values"});
}

TEST(SeparateMemory, TensorsMayBeEmpty) {
  Engine engine = make_engine(apart());
  const Model model = must(engine.load(one_at_a_time("reference:identity?shape=-1")));
  for (const std::int64_t width : {0, 3, 0}) {
    const std::vector<float> values(static_cast<std::size_t>(2 * width), 7.0F);
    Request request;
    request.inputs.push_back({"input", TensorView::of(values.data(), {2, width}), {}});
    const Response response = must(model.infer(std::move(request)));
    EXPECT_EQ(response.outputs[0].view.shape, (Shape{2, width}));
    EXPECT_EQ(floats(response.outputs[0].view), values);
  }
}

TEST(SeparateMemory, TheCallerWaitsForWhatTheHostReads) {
  Engine engine = make_engine(apart());
  const Model model = must(
      engine.load(one_at_a_time("reference:identity?inputs=2&batched=0&host_input=1&shape=4")));
  std::vector<float> a = {1, 2, 3, 4}, b = {0, 0, 0, 0};
  Gate gate(engine.devices()[0]);
  std::atomic<bool> submitted{false};
  std::thread caller([&] {
    Request request;
    request.inputs.push_back({model.info().inputs[0].name, TensorView::of(a.data(), {4}), {}});
    TensorView last = TensorView::of(b.data(), {4});
    last.ready = gate.event();
    request.inputs.push_back({model.info().inputs[1].name, last, {}});
    Future future = model.submit(std::move(request));
    submitted = true;
    const Result<Response> response = get(future);
    ASSERT_TRUE(response.ok()) << text_of(response);
    EXPECT_EQ(floats(response->outputs[1].view), (std::vector<float>{5, 6, 7, 8}));
  });
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_FALSE(submitted.load());
  b = {5, 6, 7, 8};
  gate.open();
  caller.join();
}

// -------------------------------------------------------------------------------------------------
// failures

TEST(SeparateMemory, AFailedBatchFailsAloneWhereverItsOutputsGo) {
  for (const char* options : {"when=run", "when=enqueue", "when=run&blocking=1",
                              "when=run&fixed_addresses=1&only_prepared=1",
                              "when=run&output_sized_late=1&blocking=1", "when=run&shape=-1"}) {
    SCOPED_TRACE(options);
    Engine engine = make_engine(apart());
    ModelConfig config = one_at_a_time("reference:fail?every=4&" + std::string(options));
    config.batching.max_items = 1;
    const Model model = must(engine.load(config));
    const Numbers numbers;
    int failed = 0;
    for (int i = 0; i < 20; ++i) {
      const Wish wish(engine, kPlaces[i % 5], "output", DataType::fp32, numbers.shape());
      Request request =
          i % 2 == 0 ? numbers.request() : request_of(filled(engine, numbers, kDevice));
      request.outputs.push_back(wish.output());
      const Result<Response> response = get(model.submit(std::move(request)));
      if (response.ok()) {
        wish.expect(response->outputs[0], numbers.values());
        continue;
      }
      ++failed;
      expect_error(response, ErrorCode::internal, {"fails, as asked"});
    }
    EXPECT_EQ(failed, 5);  // at every place
  }
}

TEST(SeparateMemory, TooLittleOfItFailsTheRequestsAndNothingElse) {
  EngineOptions options = apart();
  options.devices.host[0].memory_limit_bytes = std::size_t{1} << 20;
  Engine engine = make_engine(options);
  const Model model = must(engine.load(identity("shape=-1", 1)));
  expect_error(engine.new_tensor(DataType::uint8, {2 << 20}, kDevice), ErrorCode::out_of_memory,
               {"host:0"});
  const std::vector<float> large(std::size_t{1} << 19);  // 2 MiB
  Request request;
  request.inputs.push_back({"input", TensorView::of(large.data(), {1, 1 << 19}), {}});
  expect_error(model.infer(std::move(request)), ErrorCode::out_of_memory, {"host:0"});
  const Numbers numbers;
  expect_echo(model.infer(numbers.request()), numbers);
}

// -------------------------------------------------------------------------------------------------
// more than one model or device

TEST(SeparateMemory, StepsOfAnEnsembleHandTheirTensorsOn) {
  Engine engine = make_engine(apart());
  must(engine.load(named_one("first", "reference:identity?fixed_addresses=1")));
  must(engine.load(named_one("second", "reference:identity")));
  ModelConfig config;
  config.name = "both";
  config.ensemble = {{"first", {{"input", "in"}}, {{"output", "middle"}}},
                     {"second", {{"input", "middle"}}, {{"output", "output"}}}};
  config.ensemble_outputs = {"output"};
  const Model model = must(engine.load(config));
  const Numbers numbers(3, 70);
  for (const Place place : kPlaces) {
    const Wish wish(engine, place, "output", DataType::fp32, numbers.shape());
    Request request;
    request.inputs.push_back({"in", numbers.view(), {}});
    request.outputs.push_back(wish.output());
    const Result<Response> response = get(model.submit(std::move(request)));
    ASSERT_TRUE(response.ok()) << text_of(response);
    wish.expect(response->outputs[0], numbers.values());
  }
  EXPECT_EQ(must(engine.find("second")).statistics().bound_in_place, 5u)
      << "what stays on the device is used there";
}

TEST(SeparateMemory, AModelOnSeveralDevicesOfBothKinds) {
  EngineOptions options = apart(3);
  options.devices.host[1].separate_memory = false;
  Engine engine = make_engine(options);
  ModelConfig config = from("reference:identity?batch_us=200");
  config.batching.max_items = 2;
  const Model model = must(engine.load(config));
  ASSERT_EQ(model.info().placements.size(), 3u);
  std::vector<Numbers> numbers;
  std::vector<Future> futures;
  numbers.reserve(90);
  for (int i = 0; i < 90; ++i) {
    const Numbers& own = numbers.emplace_back(1, static_cast<float>(100 * i));
    const int where = i % 5;
    const DeviceId device = where < 3 ? DeviceId::host(where) : DeviceId::host_memory();
    futures.push_back(
        model.submit(where == 4 ? own.request() : request_of(filled(engine, own, device))));
  }
  for (std::size_t i = 0; i < futures.size(); ++i) expect_echo(futures[i], numbers[i]);
}

// -------------------------------------------------------------------------------------------------
// memory for callers

TEST(SeparateMemory, NewTensorsLieWhereTheyAreAskedFor) {
  Engine engine = make_engine(apart(2));
  for (const DeviceId device : {DeviceId::host(0), DeviceId::host(1), DeviceId::host_memory()}) {
    const Tensor tensor = must(engine.new_tensor(DataType::fp16, {3, 5}, device));
    EXPECT_EQ(tensor.type(), DataType::fp16);
    EXPECT_EQ(tensor.shape(), Shape({3, 5}));
    EXPECT_EQ(tensor.view().device, device);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.view().data) % 256, 0u);
    const bool pinned =
        std::any_of(engine.devices().begin(), engine.devices().end(),
                    [&](DeviceRef each) { return each->pinned(tensor.view().data, 30); });
    EXPECT_EQ(pinned, device.is_host_memory());
  }
  EXPECT_TRUE(must(engine.new_tensor(DataType::fp32, {0, 4}, kDevice)));
  expect_error(engine.new_tensor(DataType::fp32, {1}, DeviceId::host(2)), ErrorCode::not_found,
               {"host:2"});
  expect_error(engine.new_tensor(DataType::fp32, {1}, DeviceId::cuda(0)), ErrorCode::not_found,
               {"cuda:0"});
  expect_error(engine.new_tensor(DataType::bytes, {1}), ErrorCode::invalid_argument,
               {"BYTES", "Tensor::of_strings"});
  expect_error(engine.new_tensor(DataType::fp32, {kDynamic, 4}), ErrorCode::invalid_argument);
}

TEST(SeparateMemory, NewTensorsOutliveTheEngineAndAreUsedAgain) {
  std::optional<Tensor> kept;
  {
    Engine engine = make_engine(apart());
    const void* data = nullptr;
    {
      const Tensor tensor = must(engine.new_tensor(DataType::fp32, {16}, kDevice));
      data = tensor.view().data;
    }
    kept = must(engine.new_tensor(DataType::fp32, {16}, kDevice));
    EXPECT_EQ(kept->view().data, data);
  }
  std::memset(kept->view().data, 1, 64);
}

// -------------------------------------------------------------------------------------------------
// several devices

TEST(SeparateDevices, WhatMovingCostsIsMeasuredBetweenEveryTwo) {
  EngineOptions options = apart(3);
  options.devices.devices.push_back("host:3");  // without memory of its own
  const Engine engine = make_engine(options);
  const std::vector<DeviceReport> reports = engine.device_reports();
  for (std::int32_t to = 0; to < 3; ++to) {
    std::vector<DeviceId> from;
    for (const TransferCost& cost : reports[static_cast<std::size_t>(to)].transfers) {
      from.push_back(cost.from);
      EXPECT_GT(cost.latency, Duration::zero());
      EXPECT_GT(cost.bytes_per_second, 0.0);
    }
    std::vector<DeviceId> others;
    for (std::int32_t i = 0; i < 3; ++i) {
      if (i != to) others.push_back(DeviceId::host(i));
    }
    EXPECT_THAT(from, ElementsAreArray(others));
    EXPECT_EQ(reports[static_cast<std::size_t>(to)].memory.used_bytes, 0u);
  }
  EXPECT_TRUE(reports[3].transfers.empty());
}

TEST(SeparateDevices, DataIsComputedWhereItLiesUntilMovingItIsCheaper) {
  Engine engine = make_engine(apart(4));
  const Model model = must(engine.load(identity("", 1)));
  const Numbers numbers;
  const Tensor input = filled(engine, numbers, DeviceId::host(1));
  const auto moved = [&] {
    std::uint64_t sum = 0;
    for (const DeviceStatistics& device : model.statistics().devices) sum += device.moved_requests;
    return sum;
  };
  constexpr int kRequests = 50;
  for (int i = 0; i < kRequests; ++i) {
    const Result<Response> response = model.infer(request_of(input));
    expect_echo(response, numbers);
  }
  // The machine may have held up that device's thread for longer than a move takes.
  EXPECT_EQ(moved(),
            static_cast<std::uint64_t>(kRequests) - model.statistics().devices[1].requests);
  EXPECT_EQ(model.statistics().bound_in_place + moved(), static_cast<std::uint64_t>(kRequests));
  EXPECT_GT(model.statistics().devices[1].requests, 0u);

  Gate gate(engine.devices()[1]);
  const std::uint64_t before = moved();
  Future held = model.submit(request_of(input, gate.event()));
  ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 1; }));
  for (int i = 0; i < 10; ++i) {
    const Result<Response> response = get(model.submit(request_of(input)));
    expect_echo(response, numbers);
    EXPECT_NE(response->device, DeviceId::host(1));
  }
  EXPECT_GE(moved(), before + 10);
  gate.open();
  expect_echo(held, numbers);
}

// -------------------------------------------------------------------------------------------------
// ensembles

class SeparateEnsembles : public ::testing::Test {
 protected:
  /// A chain of two models on the devices given; answers by where the tensor between them lay.
  void expect_chain(std::vector<DeviceId> first, std::vector<DeviceId> second, bool stays) {
    EngineOptions options = apart(2);
    options.devices.devices.push_back("host:2");  // without memory of its own
    Engine engine = make_engine(options);
    ModelConfig config = named_one("first", "reference:identity");
    config.devices = std::move(first);
    must(engine.load(config));
    config.name = "second";
    config.devices = std::move(second);
    const Model taker = must(engine.load(config));
    const auto step = [](std::string model, std::string from, std::string to) {
      return EnsembleStep{
          std::move(model), {{"input", std::move(from)}}, {{"output", std::move(to)}}};
    };
    ModelConfig chain;
    chain.name = "chain";
    chain.ensemble = {step("first", "x", "y"), step("second", "y", "z")};
    chain.ensemble_outputs = {"z"};
    const Model whole = must(engine.load(chain));
    const auto used = [&] {  // of the devices that have their own
      const std::vector<DeviceReport> reports = engine.device_reports();
      return reports[0].memory.used_bytes + reports[1].memory.used_bytes;
    };
    const std::size_t before = used();
    const Numbers numbers(3, 5);
    Request request = numbers.request();
    request.inputs[0].name = "x";
    const Response response = must(whole.infer(std::move(request)));
    EXPECT_EQ(floats(response.outputs[0].view), numbers.values());
    EXPECT_EQ(used() > before, stays) << "a block of device memory for the tensor between";
    if (!stays) return;
    const bool same = taker.info().placements.front().device == DeviceId::host(0);
    EXPECT_EQ(taker.statistics().bound_in_place, same ? 1u : 0u);
  }
};

TEST_F(SeparateEnsembles, ATensorStaysWhereTheNextStepRuns) {
  expect_chain({DeviceId::host(0)}, {DeviceId::host(0)}, true);
  expect_chain({DeviceId::host(0)}, {DeviceId::host(0), DeviceId::host(1)}, true);
}

TEST_F(SeparateEnsembles, ATensorGoesFromDeviceToDevice) {
  expect_chain({DeviceId::host(0)}, {DeviceId::host(1)}, true);
}

TEST_F(SeparateEnsembles, ATensorComesToHostMemoryForAStepThatRunsElsewhere) {
  expect_chain({DeviceId::host(0)}, {DeviceId::host(2)}, false);
  expect_chain({DeviceId::host(0), DeviceId::host(1)}, {DeviceId::host(2)}, false);
  expect_chain({DeviceId::host(0)}, {DeviceId::host(1), DeviceId::host(2)}, false);
}

TEST_F(SeparateEnsembles, AStepOnTheHostTakesWhatADeviceComputed) {
  Engine engine = [] {
    EngineOptions options = apart(1);
    options.devices.devices.push_back("host:1");
    return make_engine(options);
  }();
  ModelConfig config = named_one("gpu", "reference:identity");
  config.devices = {DeviceId::host(0)};
  must(engine.load(config));
  config = named_one("cpu", "reference:add");
  config.devices = {DeviceId::host(1)};
  must(engine.load(config));
  ModelConfig chain;
  chain.name = "chain";
  chain.ensemble = {EnsembleStep{"gpu", {{"input", "x"}}, {{"output", "y"}}},
                    EnsembleStep{"cpu", {{"a", "y"}, {"b", "x"}}, {{"sum", "z"}}}};
  chain.ensemble_outputs = {"z"};
  const Model whole = must(engine.load(chain));
  const Numbers numbers(2, 3);
  std::vector<Future> futures;
  for (int i = 0; i < 20; ++i) {
    Request request = numbers.request();
    request.inputs[0].name = "x";
    futures.push_back(whole.submit(std::move(request)));
  }
  for (Future& future : futures) {
    const Response response = must(get(future));
    const std::vector<float> sums = floats(response.outputs[0].view);
    for (std::size_t k = 0; k < sums.size(); ++k) ASSERT_EQ(sums[k], 2 * numbers.values()[k]);
  }
  EXPECT_EQ(engine.device_reports()[0].memory.used_bytes,
            engine.device_reports()[0].held.front().bytes)
      << "nothing stays on the device for a step that cannot read it";
}

}  // namespace
}  // namespace millrace::testing
