#include "engine/executor.h"

#include <atomic>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <millrace/log.h>

#include "device/host/host_queue.h"
#include "engine/model_state.h"

namespace millrace {
namespace {

using testing::Contains;
using testing::IsEmpty;

/// The parameter: how many microseconds a thread looks for more before it sleeps.
class ExecutorTest : public testing::TestWithParam<int> {
 protected:
  void start(int threads) {
    executor_ = std::make_unique<Executor>(threads, std::chrono::microseconds(GetParam()));
  }
  // An answered request whose callback is `callback`.
  RequestState* answered(Callback callback, Result<Response> answer = Response()) {
    RequestState* state = RequestState::make();
    state->model = &model_;
    state->callback = std::move(callback);
    state->answer.emplace(std::move(answer));
    return state;
  }
  void post(std::size_t key, Callback callback) {
    std::vector<RequestState*> batch = {answered(std::move(callback))};
    executor_->post(key, batch);
    EXPECT_THAT(batch, IsEmpty());
  }
  static ModelConfig config() {
    ModelConfig config;
    config.name = "m";
    config.batching.max_items = 1;
    return config;
  }

  Executor unused_{1};
  ModelState model_{config(), {}, unused_, {}};
  std::unique_ptr<Executor> executor_;
};

TEST_P(ExecutorTest, CallsEachOnceWithItsAnswer) {
  start(1);
  std::vector<std::string> seen;
  std::vector<RequestState*> batch;
  for (const char* id : {"a", "b"}) {
    Response response;
    response.id = id;
    batch.push_back(answered(
        [&seen](Result<Response> given, bool last) {
          EXPECT_TRUE(last);
          seen.push_back(given->id);
        },
        std::move(response)));
  }
  batch.push_back(answered(
      [&seen](Result<Response> given, bool last) {
        EXPECT_TRUE(last);
        seen.push_back(given.error().message);
      },
      Error{ErrorCode::cancelled, "gone"}));
  executor_->post(0, batch);
  executor_.reset();  // runs what was posted
  EXPECT_THAT(seen, testing::ElementsAre("a", "b", "gone"));
}

TEST_P(ExecutorTest, LetsGoOfTheRequestAndTellsItsModel) {
  start(1);
  auto held = std::make_shared<int>(0);
  const std::int64_t before = model_.outstanding();
  post(0, [held](const Result<Response>&, bool) {});
  executor_.reset();
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_EQ(model_.outstanding(), before - 1);
}

TEST_P(ExecutorTest, EqualKeysKeepTheirOrderOnOneThread) {
  start(4);
  std::mutex mutex;
  std::map<std::size_t, std::vector<int>> order;
  std::map<std::size_t, std::vector<std::thread::id>> threads;
  for (int i = 0; i < 400; ++i) {
    const auto key = static_cast<std::size_t>(i % 8);
    post(key, [&, key, i](const Result<Response>&, bool) {
      const std::lock_guard lock(mutex);
      order[key].push_back(i);
      threads[key].push_back(std::this_thread::get_id());
    });
  }
  executor_.reset();
  ASSERT_EQ(order.size(), 8u);
  for (const auto& [key, seen] : order) {
    EXPECT_EQ(seen.size(), 50u);
    EXPECT_TRUE(std::ranges::is_sorted(seen));
    EXPECT_THAT(threads[key], testing::Each(threads[key].front()));
  }
}

TEST_P(ExecutorTest, ACallbackThatBlocksHoldsUpItsOwnThreadOnly) {
  start(2);
  std::promise<void> open;
  std::promise<void> other;
  std::atomic<bool> behind{false};
  post(0, [&](const Result<Response>&, bool) { open.get_future().wait(); });
  post(0, [&](const Result<Response>&, bool) { behind = true; });
  post(1, [&](const Result<Response>&, bool) { other.set_value(); });
  other.get_future().wait();
  EXPECT_FALSE(behind);
  open.set_value();
  executor_.reset();
  EXPECT_TRUE(behind);
}

TEST_P(ExecutorTest, ACallbackThatThrowsIsLoggedAndTheNextIsCalled) {
  std::mutex mutex;
  std::vector<std::string> log;
  log_to([&](LogLevel, std::string_view message) {
    const std::lock_guard lock(mutex);
    log.emplace_back(message);
  });
  start(1);
  bool called = false;
  post(0, [](const Result<Response>&, bool) { throw std::runtime_error("the reason"); });
  post(0, [](const Result<Response>&, bool) { throw 7; });
  post(0, [&](const Result<Response>&, bool) { called = true; });
  executor_.reset();
  log_to({});
  EXPECT_TRUE(called);
  EXPECT_THAT(log, Contains("model \"m\": a callback threw: the reason"));
  EXPECT_THAT(log, Contains("model \"m\": a callback threw"));
}

TEST_P(ExecutorTest, ACallbackMayPost) {
  start(1);
  std::promise<void> done;
  post(0, [&](const Result<Response>&, bool) {
    post(0, [&](const Result<Response>&, bool) { done.set_value(); });
  });
  done.get_future().wait();
}

/// A waker that answers requests on the thread that wakes it, as a host device does that finds its
/// work done.
class Answering : public ExecutorTest {
 protected:
  Answering() {
    waker_.redirect([](void* self) noexcept { static_cast<Answering*>(self)->answer(); }, this);
  }
  void answer() noexcept {
    std::vector<RequestState*> batch;
    batch.swap(due_);
    executor_->post(0, batch);
  }
  // An answer that comes when the calling thread says what it has put off.
  RequestState* due(Callback callback, bool brief, std::size_t bytes = 0) {
    Response response;
    response.outputs.push_back(
        {"out", Tensor::allocate(DataType::uint8, {static_cast<std::int64_t>(bytes)})->view(), {}});
    RequestState* state = answered(std::move(callback), std::move(response));
    state->request.brief_callback = brief;
    due_.push_back(state);
    return state;
  }
  // Runs `what` on a thread that serves callers.
  static void serve(const std::function<void()>& what) {
    std::thread([&what] {
      DeferredWakes::enable();
      what();
    }).join();
  }
  [[nodiscard]] static Callback note(std::promise<std::thread::id>& who) {
    return [&who](const Result<Response>&, bool) { who.set_value(std::this_thread::get_id()); };
  }

  Waker waker_;
  std::vector<RequestState*> due_;
};

TEST_P(Answering, BriefCallbacksRunOnTheThreadThatServes) {
  start(1);
  serve([&] {
    std::promise<std::thread::id> brief;
    std::promise<std::thread::id> other;
    due(note(brief), true);
    due(note(other), false);
    ASSERT_TRUE(DeferredWakes::put_off(waker_));
    DeferredWakes::flush();
    EXPECT_EQ(brief.get_future().get(), std::this_thread::get_id());
    EXPECT_NE(other.get_future().get(), std::this_thread::get_id());
  });
}

TEST_P(Answering, LargeAnswersAreForTheExecutor) {
  start(1);
  serve([&] {
    std::promise<std::thread::id> large;
    due(note(large), true, 1 << 20);
    ASSERT_TRUE(DeferredWakes::put_off(waker_));
    DeferredWakes::flush();
    EXPECT_NE(large.get_future().get(), std::this_thread::get_id());
  });
}

TEST_P(Answering, OneRoundTakesSoMuchAndNoMore) {
  start(1);
  serve([&] {
    std::atomic<int> here{0};
    std::atomic<int> elsewhere{0};
    for (int i = 0; i < 100; ++i) {
      due(
          [&, own = std::this_thread::get_id()](const Result<Response>&, bool) {
            ++(std::this_thread::get_id() == own ? here : elsewhere);
          },
          true, 4096);
    }
    ASSERT_TRUE(DeferredWakes::put_off(waker_));
    DeferredWakes::flush();
    executor_.reset();
    EXPECT_EQ(here, 16);
    EXPECT_EQ(elsewhere, 84);
  });
}

TEST_P(Answering, AModelThatKeepsTheOrderAnswersThroughTheExecutor) {
  start(1);
  ModelConfig ordered = config();
  ordered.batching.preserve_order = true;
  ModelState model(ordered, {}, unused_, {});
  serve([&] {
    std::promise<std::thread::id> who;
    due(note(who), true)->model = &model;
    ASSERT_TRUE(DeferredWakes::put_off(waker_));
    DeferredWakes::flush();
    EXPECT_NE(who.get_future().get(), std::this_thread::get_id());
  });
  executor_.reset();
}

TEST_P(Answering, WhoWaitsRunsNoCallbacks) {
  start(1);
  serve([&] {
    std::promise<std::thread::id> who;
    due(note(who), true);
    ASSERT_TRUE(DeferredWakes::put_off(waker_));
    DeferredWakes::flush_to_wait();
    EXPECT_NE(who.get_future().get(), std::this_thread::get_id());
  });
}

/// A host stream's work that is enqueued when somebody is woken.
class Lone : public Answering {
 protected:
  Lone() {
    waker_.redirect(
        [](void* self) noexcept {
          auto& test = *static_cast<Lone*>(self);
          const HeldWakes held(test.takes_);
          test.queue_->push(
              HostQueue::Run{[&test] { test.here_ = std::this_thread::get_id() == test.own_; }});
        },
        this);
  }
  ~Lone() override { queue_->finish(); }
  // Whether the thread that serves did the work that `submissions` brought.
  bool served(bool rested, int submissions = 1) {
    while (!queue_->asleep()) std::this_thread::sleep_for(std::chrono::microseconds(100));
    own_ = std::this_thread::get_id();
    if (rested) DeferredWakes::rested();
    for (int i = 0; i < submissions; ++i) EXPECT_TRUE(DeferredWakes::put_off(waker_));
    DeferredWakes::flush();
    queue_->await(queue_->last());
    return here_;
  }

  Duration takes_ = std::chrono::microseconds(500);
  std::thread::id own_;
  bool here_ = false;
  std::shared_ptr<HostQueue> queue_ = HostQueue::start("lone").value();
};

TEST_P(Lone, LongerWorkIsDoneWhenRequestsComeOneAtATime) {
  serve([&] {
    for (int i = 0; i < 7; ++i) EXPECT_FALSE(served(true)) << i;
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(served(true)) << i;
    EXPECT_FALSE(served(true, 2)) << "two at a time";
    for (int i = 0; i < 7; ++i) EXPECT_FALSE(served(true)) << i;
    EXPECT_TRUE(served(true));
  });
}

TEST_P(Lone, LongerWorkIsLeftWhenRequestsWaitForIt) {
  serve([&] {
    for (int i = 0; i < 20; ++i) (void)served(true);
    EXPECT_TRUE(served(false)) << "one that came right behind an answer";
    EXPECT_TRUE(served(true));
    for (int i = 0; i < 8; ++i) (void)served(false);
    EXPECT_FALSE(served(false));
    EXPECT_FALSE(served(true));
  });
}

TEST_P(Lone, ButNotForVeryLong) {
  takes_ = std::chrono::milliseconds(2);
  serve([&] {
    for (int i = 0; i < 20; ++i) EXPECT_FALSE(served(true)) << i;
  });
}

TEST_P(Lone, BriefWorkIsDoneInAnyCase) {
  takes_ = std::chrono::microseconds(20);
  serve([&] {
    EXPECT_TRUE(served(false, 3));
    EXPECT_TRUE(served(true));
  });
}

INSTANTIATE_TEST_SUITE_P(Spin, Lone, testing::Values(0));

TEST_P(Answering, ABurstEndsWithWhatWasPutOff) {
  start(1);
  std::promise<std::thread::id> brief;
  std::promise<std::thread::id> other;
  due(note(brief), true);
  due(note(other), false);
  EXPECT_FALSE(DeferredWakes::put_off(waker_));
  {
    const Burst outer;
    {
      const Burst inner;
      EXPECT_TRUE(DeferredWakes::put_off(waker_));
    }
    EXPECT_EQ(due_.size(), 2u) << "the outermost counts";
  }
  EXPECT_EQ(brief.get_future().get(), std::this_thread::get_id());
  EXPECT_NE(other.get_future().get(), std::this_thread::get_id());
  EXPECT_FALSE(DeferredWakes::put_off(waker_));
}

TEST_P(Answering, ABurstWithinAWakeFlushesNothing) {
  start(1);
  bool within = true;
  Waker other;
  auto wakes = [&] { within = DeferredWakes::begin_burst(); };
  other.redirect([](void* call) noexcept { (*static_cast<decltype(wakes)*>(call))(); }, &wakes);
  serve([&] {
    ASSERT_TRUE(DeferredWakes::put_off(other));
    DeferredWakes::flush();
  });
  EXPECT_FALSE(within);
}

TEST_P(Answering, ALongBurstWakesAsItGoes) {
  start(1);
  std::promise<std::thread::id> who;
  due(note(who), true);
  const Burst burst;
  EXPECT_TRUE(DeferredWakes::put_off(waker_));
  EXPECT_EQ(due_.size(), 1u);
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(DeferredWakes::put_off(waker_));
  EXPECT_NE(who.get_future().get(), std::this_thread::get_id()) << "within the submission";
}

TEST_P(Answering, AThreadOfTheExecutorRunsWhatItsCallbacksBring) {
  start(2);
  std::promise<std::thread::id> outer;
  std::promise<std::thread::id> inner;
  post(1, [&](const Result<Response>&, bool) {
    due(note(inner), false);
    EXPECT_TRUE(DeferredWakes::put_off(waker_));
    outer.set_value(std::this_thread::get_id());
  });
  EXPECT_EQ(outer.get_future().get(), inner.get_future().get());
}

TEST_P(Answering, OthersGetTheirTurnAmongCallbacksThatBringMore) {
  start(1);
  int here = 0;
  int left = 100;
  std::promise<void> done;
  serve([&] {
    const std::thread::id own = std::this_thread::get_id();
    std::function<void()> again = [&] {
      due(
          [&, own](const Result<Response>&, bool) {
            if (std::this_thread::get_id() != own) return done.set_value();
            ++here;
            if (--left == 0) return done.set_value();
            again();
          },
          true);
      EXPECT_TRUE(DeferredWakes::put_off(waker_));
    };
    again();
    DeferredWakes::flush();  // returns
    done.get_future().wait();
  });
  EXPECT_GE(here, 1);
  EXPECT_GT(left, 0);
}

TEST_P(Answering, PostsGetTheirTurnAmongCallbacksThatBringMore) {
  start(1);
  std::atomic<bool> over{false};
  std::promise<void> begun;
  std::promise<void> other;
  int rounds = 0;
  std::function<void()> again = [&] {
    due(
        [&](const Result<Response>&, bool) {
          if (++rounds == 3) begun.set_value();
          if (!over) again();
        },
        false);
    EXPECT_TRUE(DeferredWakes::put_off(waker_));
  };
  post(0, [&](const Result<Response>&, bool) { again(); });
  begun.get_future().wait();
  post(0, [&](const Result<Response>&, bool) { other.set_value(); });
  other.get_future().wait();
  over = true;
  executor_->stop();
  EXPECT_GE(rounds, 3);
}

INSTANTIATE_TEST_SUITE_P(Spin, Answering, testing::Values(0, 200));
INSTANTIATE_TEST_SUITE_P(Spin, ExecutorTest, testing::Values(0, 200));

}  // namespace
}  // namespace millrace
