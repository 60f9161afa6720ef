#include "engine/request_state.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(RequestState, OnlyOneClaimWins) {
  for (int round = 0; round < 200; ++round) {
    const Lease lease = Lease::adopt(RequestState::make());
    RequestState* const state = RequestState::make();
    const Lease held = Lease::adopt(state);
    std::atomic<int> winners{0};
    std::atomic<bool> go{false};
    {
      std::vector<std::jthread> threads;
      for (const auto to : {RequestState::Stage::running, RequestState::Stage::withdrawn}) {
        threads.emplace_back([&, to] {
          while (!go) std::this_thread::yield();
          if (state->claim(to)) winners.fetch_add(1);
        });
      }
      go = true;
    }
    ASSERT_EQ(winners, 1);
    ASSERT_NE(state->stage.load(), RequestState::Stage::queued);
    ASSERT_FALSE(state->claim(RequestState::Stage::running));
  }
}

TEST(RequestState, WaitsUntilFulfilled) {
  RequestState* const state = RequestState::make();
  const Lease held = Lease::adopt(state);
  EXPECT_FALSE(state->fulfilled());
  EXPECT_FALSE(state->wait(Clock::now() + milliseconds(5)));
  std::jthread answers([state] {
    std::this_thread::sleep_for(milliseconds(5));
    state->answer.emplace(Error{ErrorCode::cancelled, "taken back"});
    state->fulfil();
  });
  EXPECT_TRUE(state->wait(Clock::now() + seconds(60)));
  EXPECT_TRUE(state->fulfilled());
  EXPECT_EQ(state->answer->error().message, "taken back");
  EXPECT_TRUE(state->wait(TimePoint::min())) << "what is there needs no waiting";
}

TEST(RequestState, SeveralThreadsMayWait) {
  RequestState* const state = RequestState::make();
  const Lease held = Lease::adopt(state);
  std::atomic<int> woken{0};
  std::vector<std::jthread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      if (state->wait(Clock::now() + seconds(60))) woken.fetch_add(1);
    });
  }
  state->fulfil();
  threads.clear();
  EXPECT_EQ(woken, 4);
}

TEST(RequestState, LetsGoOfTensorsOnceAndOnlyThen) {
  RequestState* const state = RequestState::make();
  const Lease held = Lease::adopt(state);
  int released = 0;
  NamedTensor& input = state->request.inputs.emplace_back();
  input.lease = Lease::on_release([&released] { ++released; });
  RequestedOutput& output = state->request.outputs.emplace_back();
  output.lease = Lease::on_release([&released] { released += 10; });
  EXPECT_EQ(released, 0);
  state->release_tensors();
  EXPECT_EQ(released, 11);
  state->release_tensors();
  EXPECT_EQ(released, 11);
}

TEST(RequestState, IsHeldByAnyLease) {
  int released = 0;
  RequestState* const state = RequestState::make();
  Lease engines = Lease::adopt(state);
  Lease callers = engines;
  state->request.inputs.emplace_back().lease = Lease::on_release([&released] { ++released; });
  engines.reset();
  EXPECT_EQ(released, 0);
  callers.reset();
  EXPECT_EQ(released, 1);
}

// A recycled state must be as new: whatever one request leaves behind would be taken for the next
// one's.
TEST(RequestState, IsRecycledAsNew) {
  RequestState* const used = RequestState::make();
  {
    const Lease held = Lease::adopt(used);
    used->items = 7;
    used->bytes = 70;
    used->shape_key = 700;
    used->location = 3;
    used->deadline = TimePoint();
    used->wanted.push_back(5);
    used->callback = [](const Result<Response>&, bool) {};
    used->request.priority = 9;
    used->request.id = "old";
    used->request.deadline = TimePoint();
    used->request.intended = TimePoint();
    used->request.sequence.id = 4;
    used->request.inputs.emplace_back();
    used->request.outputs.emplace_back();
    used->order_ready = true;
    used->answer.emplace(Response());
    ASSERT_TRUE(used->claim(RequestState::Stage::running));
    used->fulfil();
  }
  RequestState* const state = RequestState::make();
  const Lease held = Lease::adopt(state);
  ASSERT_EQ(state, used) << "the pool hands out the last one returned";
  EXPECT_EQ(state->model, nullptr);
  EXPECT_EQ(state->items, 1);
  EXPECT_EQ(state->bytes, 0u);
  EXPECT_EQ(state->shape_key, 0u);
  EXPECT_EQ(state->location, 0u);
  EXPECT_EQ(state->deadline, TimePoint::max());
  EXPECT_TRUE(state->wanted.empty());
  EXPECT_FALSE(state->callback);
  EXPECT_EQ(state->request.priority, 0);
  EXPECT_TRUE(state->request.id.empty());
  EXPECT_FALSE(state->request.deadline);
  EXPECT_FALSE(state->request.intended);
  EXPECT_EQ(state->request.sequence.id, 0u);
  EXPECT_TRUE(state->request.inputs.empty());
  EXPECT_TRUE(state->request.outputs.empty());
  EXPECT_FALSE(state->order_ready);
  EXPECT_FALSE(state->answer);
  EXPECT_EQ(state->stage, RequestState::Stage::queued);
  EXPECT_FALSE(state->fulfilled());
}

}  // namespace
}  // namespace millrace
