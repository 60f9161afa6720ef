#include "base/thread.h"

#include <pthread.h>

#include <atomic>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/log.h"

namespace millrace {
namespace {

TEST(Thread, IsNamedAndJoined) {
  std::string name;
  {
    const Thread thread("millrace-driver-0", [&] {
      char text[16] = {};
      pthread_getname_np(pthread_self(), text, sizeof text);
      name = text;
    });
    EXPECT_TRUE(thread.joinable());
  }
  EXPECT_EQ(name, "millrace-driver");  // the system keeps 15 bytes
}

TEST(Thread, WhatItThrowsIsLogged) {
  std::vector<std::string> lines;
  log_to([&](LogLevel, std::string_view message) { lines.emplace_back(message); });
  Thread("worker", [] { throw std::runtime_error("out of cheese"); }).join();
  Thread("worker", [] { throw 7; }).join();
  log_to({});
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], "thread \"worker\" ended by an exception: out of cheese");
  EXPECT_NE(lines[1].find("unknown type"), std::string::npos);
}

TEST(Thread, AssignmentJoinsTheOldOne) {
  std::atomic<int> ended{0};
  Thread thread("a", [&] { ++ended; });
  thread = Thread("b", [&] { ++ended; });
  EXPECT_GE(ended, 1);
  thread.join();
  EXPECT_EQ(ended, 2);
  thread.join();
  EXPECT_FALSE(thread.joinable());
}

TEST(Thread, MayBeDestroyedByItself) {
  const auto assigned = std::make_shared<std::promise<void>>();
  const auto done = std::make_shared<std::promise<void>>();
  auto* thread = new Thread;
  *thread = Thread("self", [thread, assigned, done] {
    assigned->get_future().wait();
    delete thread;
    done->set_value();
  });
  assigned->set_value();
  done->get_future().wait();
}

TEST(Thread, StartsWithAResult) {
  std::atomic<bool> ran{false};
  auto thread = Thread::start("ok", [&] { ran = true; });
  ASSERT_TRUE(thread.ok());
  thread->join();
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace millrace
