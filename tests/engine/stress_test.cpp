// Many threads, many models, everything at once; every answer is checked.
#include <algorithm>
#include <array>
#include <optional>
#include <random>

#include "engine/executor.h"
#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kRequestsPerThread = 400;
#else
constexpr int kRequestsPerThread = 3000;
#endif
constexpr int kThreads = 6;

struct Variant {
  const char* path;
  bool late_only = false;  // no target: its outputs come without a known size
};

constexpr std::array<Variant, 9> kVariants = {{
    {"reference:identity"},
    {"reference:identity?blocking=1&lanes=2"},
    {"reference:identity?own_stream=1&lanes=2"},
    {"reference:identity?only_prepared=1&fixed_addresses=1"},
    {"reference:identity?wants_prepare=1&lanes=3"},
    {"reference:identity?output_sized_late=1"},
    {"reference:busy?batch_us=50&item_us=5&lanes=2"},
    {"reference:fail?every=13"},
    {"reference:fail?every=17&when=enqueue&lanes=2"},
}};

// One request of a random kind and all that belongs to it. Counts how often it was answered.
struct Asked {
  explicit Asked(std::mt19937& random)
      : numbers(1 + static_cast<std::int64_t>(random() % 5), static_cast<float>(random() % 4096)),
        target(numbers.values().size(), -1.0F) {}
  Numbers numbers;
  std::vector<float> target;
  LeaseCount leases;
  int expected_leases = 0;
  bool may_fail = false;
  bool has_deadline = false;
  bool cancelled = false;
  std::atomic<int> answers{0};

  Request request(std::mt19937& random) {
    Request asked = numbers.request();
    asked.brief_callback = random() % 2 == 0;
    asked.priority = static_cast<int>(random() % 3);
    if (random() % 2) {
      asked.inputs[0].lease = leases.lease();
      ++expected_leases;
    }
    switch (random() % 4) {
      case 0:
        asked.outputs.push_back(
            into("output", TensorView::of(target.data(), numbers.shape()), leases.lease()));
        ++expected_leases;
        break;
      case 1:
        asked.outputs.push_back(placed("output", OutputPlacement::device));
        break;
      default:
        break;
    }
    if (random() % 8 == 0) {
      has_deadline = true;
      asked.deadline = Clock::now() + microseconds(random() % 3000);
    }
    if (random() % 3 == 0)
      asked.inputs[0].view.device = DeviceId::host(static_cast<std::int32_t>(random() % 3));
    return asked;
  }
  void check(const Result<Response>& response) {
    ++answers;
    if (response.ok()) {
      expect_echo(response, numbers);
      return;
    }
    switch (response.error().code) {
      case ErrorCode::deadline_exceeded:
        EXPECT_TRUE(has_deadline) << response.error().message;
        break;
      case ErrorCode::cancelled:
        EXPECT_TRUE(cancelled) << response.error().message;
        break;
      case ErrorCode::internal:
        EXPECT_TRUE(may_fail) << response.error().message;
        break;
      case ErrorCode::queue_full:
        break;
      default:
        ADD_FAILURE() << text_of(response);
    }
  }
};

TEST(Stress, EveryRequestIsAnsweredOnceAndRight) {
  Log log;
  EngineOptions options = host_devices(3);
  options.callback_threads = 2;
  options.trace_capacity = 64;
  Engine engine = make_engine(options);
  std::vector<Model> models;
  for (std::size_t i = 0; i < kVariants.size(); ++i) {
    ModelConfig config = named("m" + std::to_string(i), kVariants[i].path);
    config.batching.max_items = 8;
    if (i % 3 == 1) config.batching.max_delay = microseconds(300);
    if (i % 3 == 2) config.batching.preferred_items = {4};
    config.batching.preserve_order = i % 4 == 0;
    config.limits.max_requests = 200;
    config.priority_class = static_cast<int>(i % 2);
    config.weight = 1.0 + static_cast<double>(i);
    if (i % 2)
      config.devices = {DeviceId::host(static_cast<std::int32_t>(i % 3)),
                        DeviceId::host(static_cast<std::int32_t>((i + 1) % 3))};
    models.push_back(must(engine.load(config)));
  }
  std::vector<std::vector<std::unique_ptr<Asked>>> asked(kThreads);
  std::atomic<bool> over{false};
  std::jthread reader([&] {
    while (!over) {
      for (const Model& model : models) (void)model.statistics();
      (void)engine.timelines();
      (void)engine.device_reports();
      std::this_thread::sleep_for(milliseconds(1));
    }
  });
  {
    std::vector<std::jthread> threads;
    threads.reserve(kThreads);
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 random(static_cast<unsigned>(1000 + t));
        if (t % 2) DeferredWakes::enable();  // as threads of a server do
        std::vector<std::pair<Future, Asked*>> waiting;
        const auto take_one = [&] {
          waiting.back().second->check(get(waiting.back().first));
          waiting.pop_back();
        };
        for (int i = 0; i < kRequestsPerThread; ++i) {
          const std::size_t which = random() % models.size();
          asked[static_cast<std::size_t>(t)].push_back(std::make_unique<Asked>(random));
          Asked& mine = *asked[static_cast<std::size_t>(t)].back();
          mine.may_fail =
              std::string_view(kVariants[which].path).find("fail") != std::string_view::npos;
          mine.cancelled = random() % 10 == 0;
          std::optional<Burst> burst;
          if (random() % 4 == 0) burst.emplace();
          if (random() % 2) {
            Result<Ticket> ticket = models[which].submit(
                mine.request(random),
                [&mine](const Result<Response>& response, bool) { mine.check(response); });
            if (!ticket.ok()) {
              mine.check(ticket.error());
            } else if (mine.cancelled) {
              ticket->cancel();
            }
          } else {
            waiting.emplace_back(models[which].submit(mine.request(random)), &mine);
            if (mine.cancelled) waiting.back().first.cancel();
            while (waiting.size() > random() % 32) take_one();
          }
          DeferredWakes::flush_if_old();
          if (random() % 16 == 0) DeferredWakes::flush();
        }
        while (!waiting.empty()) take_one();
        DeferredWakes::flush();
      });
    }
  }
  must(engine.drain(kGuard));
  over = true;
  reader.join();
  for (const auto& of_thread : asked) {
    for (const auto& one : of_thread) {
      ASSERT_EQ(one->answers, 1);
      ASSERT_EQ(one->leases.released(), one->expected_leases);
    }
  }
  std::uint64_t answered = 0;
  for (const Model& model : models) {
    const ModelStatistics statistics = model.statistics();
    answered += statistics.requests;
    EXPECT_GT(statistics.succeeded, 0u) << model.info().path;
    EXPECT_EQ(statistics.queued_requests, 0u);
    EXPECT_EQ(statistics.running_batches, 0u);
    EXPECT_EQ(statistics.batch_items.count(), statistics.batches);
  }
  EXPECT_EQ(answered, static_cast<std::uint64_t>(kThreads) * kRequestsPerThread);
  for (const Model& model : models) must(engine.unload(model.info().name, kGuard));
  for (const DeviceReport& report : engine.device_reports()) EXPECT_TRUE(report.held.empty());
}

// Two models on two devices that steal each other's work all the time: nothing may be left lying
// while a lane is free.
TEST(Stress, NothingIsLeftLyingWhileALaneIsFree) {
  Engine engine = make_engine(host_devices(2));
  std::vector<Model> models;
  for (const char* name : {"a", "b"}) {
    ModelConfig config = named_one(name, "reference:identity");
    config.batching.max_items = 4;
    models.push_back(must(engine.load(config)));
  }
  std::vector<std::jthread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const Numbers numbers(1 + t % 3, static_cast<float>(t));
      for (int i = 0; i < kRequestsPerThread; ++i) {
        Future first = models[static_cast<std::size_t>((i + t) % 2)].submit(numbers.request());
        if (i % 3 == 0) {
          Future second = models[static_cast<std::size_t>(t % 2)].submit(numbers.request());
          expect_echo(second, numbers);
        }
        expect_echo(first, numbers);
        if (::testing::Test::HasFatalFailure()) return;
      }
    });
  }
}

}  // namespace
}  // namespace millrace::testing
