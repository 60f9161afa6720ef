#include "engine/executor.h"

#include <atomic>
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

INSTANTIATE_TEST_SUITE_P(Spin, ExecutorTest, testing::Values(0, 200));

}  // namespace
}  // namespace millrace
