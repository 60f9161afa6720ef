// Loading and unloading while there is work, and the end of the engine.
#include <optional>

#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Lifecycle, UnloadingWaitsForWhatIsQueuedAndRunning) {
  Engine engine = make_engine();
  ModelConfig config = named_one("m", "reference:identity");
  config.batching.max_items = 1;
  const Model model = must(engine.load(config));
  Gate gate(engine.devices()[0]);
  Requests requests(model);
  requests.submit(1, gate.event());
  for (int i = 0; i < 5; ++i) requests.submit();
  std::atomic<bool> unloaded{false};
  std::jthread unloader([&] {
    must(engine.unload("m", kGuard));
    unloaded = true;
  });
  const Numbers numbers;
  ASSERT_TRUE(eventually([&] {
    Future probe = model.submit(numbers.request());
    return probe.ready();  // refused: it is unloading
  }));
  expect_error(model.infer(numbers.request()), ErrorCode::unavailable, {"being unloaded"});
  EXPECT_FALSE(unloaded);
  gate.open();
  requests.batches();
  unloader.join();
  EXPECT_TRUE(unloaded);
}

TEST(Lifecycle, DataOnADeviceDoesNotReachAModelThatIsGone) {
  Engine engine = make_engine();
  const Model model = must(engine.load(named_one("m", "reference:identity")));
  must(engine.unload("m", kGuard));
  const Numbers numbers;
  Request request = numbers.request();
  request.inputs[0].view.device = engine.devices()[0]->id();
  expect_error(model.infer(std::move(request)), ErrorCode::unavailable);
}

TEST(Lifecycle, UnloadingThatTakesTooLongSaysSoAndMayBeAskedForAgain) {
  Engine engine = make_engine();
  const Model model = must(engine.load(named_one("m", "reference:identity")));
  Gate gate(engine.devices()[0]);
  const Numbers numbers;
  Future held = model.submit(numbers.request(gate.event()));
  expect_error(engine.unload("m", milliseconds(20)), ErrorCode::deadline_exceeded,
               {"\"m\"", "1 requests", "call again"});
  expect_error(model.infer(numbers.request()), ErrorCode::unavailable);
  expect_error(engine.load(named("m", "reference:identity")), ErrorCode::invalid_argument,
               {"loaded already"});
  gate.open();
  expect_echo(held, numbers);
  must(engine.unload("m", kGuard));
  must(engine.load(named("m", "reference:identity")));
}

TEST(Lifecycle, OneOfManyWhoUnloadSucceeds) {
  Engine engine = make_engine();
  for (int round = 0; round < 20; ++round) {
    must(engine.load(named("m", "reference:identity")));
    std::atomic<int> successes{0};
    {
      std::vector<std::jthread> threads;
      threads.reserve(3);
      for (int i = 0; i < 3; ++i) {
        threads.emplace_back([&] {
          const Result<void> unloaded = engine.unload("m", kGuard);
          if (unloaded.ok()) {
            ++successes;
          } else {
            expect_error(unloaded, ErrorCode::not_found);
          }
        });
      }
    }
    ASSERT_EQ(successes, 1);
  }
}

TEST(Lifecycle, OneOfManyWhoLoadANameSucceeds) {
  Engine engine = make_engine();
  std::atomic<int> successes{0};
  {
    std::vector<std::jthread> threads;
    threads.reserve(4);
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        const Result<Model> loaded = engine.load(named("m", "reference:identity?load_us=2000"));
        if (loaded.ok()) {
          ++successes;
        } else {
          expect_error(loaded, ErrorCode::invalid_argument, {"loaded already"});
        }
      });
    }
  }
  EXPECT_EQ(successes, 1);
  EXPECT_THAT(engine.model_names(), ElementsAre("m"));
}

TEST(Lifecycle, ModelsLoadSideBySide) {
  Engine engine = make_engine(host_devices(2));
  std::vector<Model> models(6);
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < models.size(); ++i) {
      threads.emplace_back([&, i] {
        models[i] =
            must(engine.load(named("m" + std::to_string(i), "reference:identity?wants_prepare=1")));
      });
    }
  }
  const Numbers numbers;
  for (const Model& model : models) expect_echo(model.infer(numbers.request()), numbers);
}

TEST(Lifecycle, DrainingWaitsForAllModels) {
  Engine engine = make_engine();
  must(engine.drain(Duration::zero()));
  const Model a = must(engine.load(named("a", "reference:identity")));
  const Model b = must(engine.load(named("b", "reference:identity")));
  Gate gate(engine.devices()[0]);
  const Numbers numbers;
  Future held = b.submit(numbers.request(gate.event()));
  expect_error(engine.drain(milliseconds(10)), ErrorCode::deadline_exceeded,
               {"\"b\"", "1 requests"});
  expect_echo(a.infer(numbers.request()), numbers);  // draining refuses nobody
  gate.open();
  must(engine.drain(kGuard));
  EXPECT_TRUE(held.ready());
}

TEST(Lifecycle, SubmittingWhileUnloadingIsAnsweredOneWayOrTheOther) {
  for (const bool callbacks : {false, true}) {
    for (const bool in_order : {false, true}) {
      SCOPED_TRACE(::testing::Message() << callbacks << in_order);
      Engine engine = make_engine(host_devices(2));
      for (int round = 0; round < 10; ++round) {
        ModelConfig config =
            named("m", "reference:identity?wants_prepare=" + std::to_string(round % 2));
        config.lanes = 2;
        config.batching.preserve_order = in_order;
        config.batching.max_items = 4;
        Model model = must(engine.load(config));
        std::atomic<int> answered{0}, refused{0}, submitted{0};
        const Numbers numbers;
        const auto check = [&](const Result<Response>& response) {
          if (response.ok()) {
            ++answered;
            expect_echo(response, numbers);
          } else {
            ++refused;
            expect_error(response, ErrorCode::unavailable, {"\"m\""});
          }
        };
        {
          std::vector<std::jthread> threads;
          threads.reserve(3);
          for (int i = 0; i < 3; ++i) {
            threads.emplace_back([&, mine = model] {
              while (refused == 0) {
                ++submitted;
                if (!callbacks) {
                  check(get(mine.submit(numbers.request())));
                } else if (const Result<Ticket> ticket = mine.submit(
                               numbers.request(),
                               [&](const Result<Response>& response, bool) { check(response); });
                           !ticket.ok()) {
                  check(ticket.error());
                }
              }
              (void)mine.statistics();  // of a model that is gone or about to
            });
          }
          model = Model();
          EXPECT_TRUE(eventually([&] { return answered >= (round % 3) * 10; }));
          must(engine.unload("m", kGuard));
        }
        EXPECT_EQ(answered + refused, submitted);
      }
    }
  }
}

TEST(Lifecycle, ReloadingUnderLoadLosesNothing) {
  Engine engine = make_engine(host_devices(2));
  must(engine.load(named("m", "reference:identity")));
  std::atomic<bool> over{false};
  std::atomic<int> answered{0}, turned_away{0};
  std::vector<std::jthread> threads;
  threads.reserve(3);
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      const Numbers numbers(1 + t, static_cast<float>(100 * t));
      while (!over) {
        const Result<Model> model = engine.find("m");
        if (!model.ok()) {
          expect_error(model, ErrorCode::not_found);
          ++turned_away;
          std::this_thread::yield();
          continue;
        }
        const Result<Response> response = get(model->submit(numbers.request()));
        if (response.ok()) {
          expect_echo(response, numbers);
          ++answered;
        } else {
          expect_error(response, ErrorCode::unavailable);
          ++turned_away;
        }
      }
    });
  }
  for (int round = 0; round < 15; ++round) {
    const int before = answered;
    EXPECT_TRUE(eventually([&] { return answered > before; }));
    must(engine.unload("m", kGuard));
    must(engine.load(
        named("m", round % 2 ? "reference:identity" : "reference:identity?blocking=1&lanes=2")));
  }
  over = true;
  threads.clear();
  EXPECT_GT(answered, 15);
}

TEST(Lifecycle, AModelsFiguresCanBeReadWhenItIsGone) {
  Engine engine = make_engine();
  const Model model = must(engine.load(named("m", "reference:identity")));
  const Numbers numbers;
  expect_echo(model.infer(numbers.request()), numbers);
  must(engine.unload("m"));
  const ModelStatistics statistics = model.statistics();
  EXPECT_EQ(statistics.succeeded, 1u);
  EXPECT_EQ(statistics.batches, 1u);
  EXPECT_EQ(statistics.phase(Phase::total).count(), 1u);
  EXPECT_EQ(model.info().name, "m");
}

// -------------------------------------------------------------------------------------------------
// the engine's end

TEST(Lifecycle, AnEngineGoesWithoutEverHavingWorked) {
  { const Engine engine = make_engine(); }
  { const Engine engine = make_engine(host_devices(4)); }
  Engine engine = make_engine();
  must(engine.load(named("m", "reference:identity?shape=100000")));
}

TEST(Lifecycle, ItsEndAnswersWhatIsQueuedAndWaitsForWhatRuns) {
  std::optional<Engine> engine = make_engine();
  ModelConfig config = named_one("m", "reference:identity");
  config.batching.max_items = 1;
  Model model = must(engine->load(config));
  Gate gate(engine->devices()[0]);
  const Numbers numbers;
  LeaseCount leases;
  const auto request = [&](EventRef ready = {}) {
    Request leased = numbers.request(ready);
    leased.inputs[0].lease = leases.lease();
    return leased;
  };
  Future running = model.submit(request(gate.event()));
  ASSERT_TRUE(eventually([&] { return model.statistics().running_batches == 1; }));
  Future queued = model.submit(request());
  Answers answers;
  must(model.submit(request(), answers.callback(0)));
  model = Model();
  std::jthread opener([&] {
    // The end is on its way: what was queued is answered while the lane is still shut.
    expect_error(get(queued), ErrorCode::cancelled, {"shutting down"});
    EXPECT_FALSE(running.ready());
    gate.open();
  });
  engine.reset();
  EXPECT_TRUE(running.ready());
  expect_echo(running, numbers);
  EXPECT_THAT(answers.order(), ElementsAre(0));
  expect_error(answers.results()[0], ErrorCode::cancelled);
  EXPECT_EQ(leases.released(), 3);
}

TEST(Lifecycle, ItsEndWaitsForCallbacks) {
  std::atomic<int> called{0};
  {
    Engine engine = make_engine();
    const Model model = must(engine.load(named("m", "reference:identity")));
    const Numbers numbers;
    for (int i = 0; i < 50; ++i) {
      must(model.submit(numbers.request(), [&](Result<Response> response, bool) {
        std::this_thread::sleep_for(microseconds(200));
        EXPECT_TRUE(response.ok() || response.error().code == ErrorCode::cancelled);
        ++called;
      }));
    }
    must(engine.drain(kGuard));
  }
  EXPECT_EQ(called, 50);
}

TEST(Lifecycle, EnginesComeAndGoUnderCancellation) {
  for (int round = 0; round < 30; ++round) {
    const Numbers numbers;
    std::vector<Ticket> tickets;
    Answers answers;
    std::jthread canceller;
    {
      Engine engine = make_engine();
      ModelConfig config = named("m", "reference:identity");
      config.batching.preserve_order = round % 2 == 0;
      config.batching.max_items = 4;
      config.batching.max_delay = kAges;
      const Model model = must(engine.load(config));
      for (int i = 0; i < 11; ++i)
        tickets.push_back(must(model.submit(numbers.request(), answers.callback(i))));
      canceller = std::jthread([&] {
        for (Ticket& ticket : tickets) ticket.cancel();
      });
    }
    canceller.join();
    EXPECT_EQ(answers.order().size(), 11u);
  }
}

TEST(Lifecycle, TwoEnginesKnowNothingOfEachOther) {
  Engine first = make_engine(), second = make_engine();
  const Model a = must(first.load(named("m", "reference:identity")));
  const Model b = must(second.load(named("m", "reference:identity")));
  const Numbers numbers;
  expect_echo(a.infer(numbers.request()), numbers);
  must(first.unload("m"));
  EXPECT_THAT(first.model_names(), IsEmpty());
  expect_echo(b.infer(numbers.request()), numbers);
  EXPECT_EQ(b.statistics().succeeded, 1u);
}

}  // namespace
}  // namespace millrace::testing
