#include "engine/task_thread.h"

#include <atomic>
#include <future>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <millrace/log.h>

namespace millrace {
namespace {

using testing::ElementsAre;

// Gathers log messages while it lives.
class Log {
 public:
  Log() {
    log_to([this](LogLevel, std::string_view message) {
      const std::lock_guard lock(mutex_);
      messages_.emplace_back(message);
    });
  }
  ~Log() { log_to({}); }
  std::vector<std::string> messages() const {
    const std::lock_guard lock(mutex_);
    return messages_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> messages_;
};

TEST(TaskThread, DoesTasksInTheirOrderOnAThreadOfItsOwn) {
  std::vector<int> done;
  std::thread::id where;
  {
    TaskThread thread("tasks");
    for (int i = 0; i < 100; ++i) thread.post([&done, i] { done.push_back(i); });
    thread.post([&where] { where = std::this_thread::get_id(); });
  }  // does what was posted before
  std::vector<int> expected(100);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(done, expected);
  EXPECT_NE(where, std::thread::id());
  EXPECT_NE(where, std::this_thread::get_id());
}

TEST(TaskThread, PostReturnsBeforeTheTaskIsDone) {
  std::promise<void> open;
  std::atomic<bool> done{false};
  TaskThread thread("tasks");
  thread.post([&] {
    open.get_future().wait();
    done = true;
  });
  EXPECT_FALSE(done);
  open.set_value();
  thread.call([] {});
  EXPECT_TRUE(done);
}

TEST(TaskThread, CallReturnsWhenTheTaskAndAllBeforeItAreDone) {
  TaskThread thread("tasks");
  std::vector<int> done;
  thread.post([&done] { done.push_back(1); });
  thread.call([&done] { done.push_back(2); });
  EXPECT_THAT(done, ElementsAre(1, 2));
}

TEST(TaskThread, ATaskMayPostAnother) {
  std::promise<void> second;
  TaskThread thread("tasks");
  thread.post([&] { thread.post([&] { second.set_value(); }); });
  second.get_future().wait();
}

TEST(TaskThread, ATaskThatThrowsIsLoggedAndTheNextIsDone) {
  Log log;
  TaskThread thread("tasks");
  bool done = false;
  thread.post([] { throw std::runtime_error("the reason"); });
  thread.post([] { throw 5; });
  thread.call([] { throw std::runtime_error("within a call"); });
  thread.call([&done] { done = true; });
  EXPECT_TRUE(done);
  EXPECT_THAT(log.messages(), ElementsAre("a task threw: the reason", "a task threw",
                                          "a task threw: within a call"));
}

TEST(TaskThread, WhatATaskHoldsIsReleasedAfterIt) {
  auto held = std::make_shared<int>(1);
  TaskThread thread("tasks");
  thread.call([held] { EXPECT_GE(held.use_count(), 2); });
  thread.call([] {});
  thread.call([] {});
  EXPECT_EQ(held.use_count(), 1);
}

TEST(TaskThread, AnAbandonedThreadIsNotWaitedFor) {
  auto open = std::make_shared<std::promise<void>>();
  auto ended = std::make_shared<std::promise<void>>();
  auto started = std::make_shared<std::promise<void>>();
  std::atomic<bool> never{false};
  {
    TaskThread thread("tasks");
    thread.post([open, ended, started] {
      started->set_value();
      open->get_future().wait();
      ended->set_value();
    });
    started->get_future().wait();
    thread.post([&never] { never = true; });
    thread.abandon();
  }  // does not hang
  open->set_value();
  ended->get_future().wait();
  EXPECT_FALSE(never) << "it was told nothing any more";
}

}  // namespace
}  // namespace millrace
