#include "engine/waiting_caller.h"

#include <array>
#include <thread>

#include <gtest/gtest.h>

namespace millrace {
namespace {

TEST(WaitingCaller, WaitsForTheFirstThatItsThreadSubmits) {
  RequestState first, second;
  const std::array<RequestState*, 1> of_first = {&first};
  const std::array<RequestState*, 2> of_both = {&second, &first};
  const std::array<RequestState*, 1> of_second = {&second};
  WaitingCaller::submits(first);
  EXPECT_FALSE(WaitingCaller::waits_for(of_first)) << "nobody waits";
  {
    const WaitingCaller caller;
    EXPECT_FALSE(WaitingCaller::waits_for(of_first));
    WaitingCaller::submits(first);
    WaitingCaller::submits(second);  // a step of an ensemble, say
    EXPECT_TRUE(WaitingCaller::waits_for(of_first));
    EXPECT_TRUE(WaitingCaller::waits_for(of_both));
    EXPECT_FALSE(WaitingCaller::waits_for(of_second));
    EXPECT_FALSE(WaitingCaller::waits_for({}));
    std::thread([&] { EXPECT_FALSE(WaitingCaller::waits_for(of_first)); }).join();
    {
      const WaitingCaller inner;
      EXPECT_FALSE(WaitingCaller::waits_for(of_first));
      WaitingCaller::submits(second);
      EXPECT_TRUE(WaitingCaller::waits_for(of_second));
    }
    EXPECT_TRUE(WaitingCaller::waits_for(of_first));
  }
  EXPECT_FALSE(WaitingCaller::waits_for(of_first));
}

}  // namespace
}  // namespace millrace
