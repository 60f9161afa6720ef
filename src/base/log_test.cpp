#include "base/log.h"

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

class Log : public ::testing::Test {
 protected:
  void SetUp() override {
    level_ = log_level();
    set_log_level(LogLevel::warning);
    log_to(
        [this](LogLevel level, std::string_view message) { lines_.emplace_back(level, message); });
  }
  void TearDown() override {
    log_to({});
    set_log_level(level_);
  }
  LogLevel level_ = LogLevel::warning;
  std::vector<std::pair<LogLevel, std::string>> lines_;
};

struct CountsItsText {
  int* times;
};
std::string to_string(const CountsItsText& value) { return std::to_string(++*value.times); }

TEST_F(Log, PassesMessagesAtOrAboveTheLevel) {
  log_info("quiet");
  log_warning("lane ", 3, " is overdue by ", 1.5, " s");
  log_error("gone");
  ASSERT_EQ(lines_.size(), 2u);
  EXPECT_EQ(lines_[0],
            std::make_pair(LogLevel::warning, std::string("lane 3 is overdue by 1.5 s")));
  EXPECT_EQ(lines_[1].first, LogLevel::error);
}

TEST_F(Log, BuildsNoTextBelowTheLevel) {
  int times = 0;
  log_debug(CountsItsText{&times});
  EXPECT_EQ(times, 0);
  log_error(CountsItsText{&times});
  EXPECT_EQ(times, 1);
}

TEST_F(Log, LevelsAreNamed) {
  EXPECT_TRUE(set_log_level("DEBUG"));
  EXPECT_EQ(log_level(), LogLevel::debug);
  EXPECT_FALSE(set_log_level("loud"));
  EXPECT_EQ(log_level(), LogLevel::debug);
  EXPECT_TRUE(set_log_level("off"));
  log_error("nobody hears this");
  EXPECT_TRUE(lines_.empty());
}

TEST_F(Log, CallsTheSinkOnceAtATime) {
  std::atomic<int> inside{0};
  std::atomic<bool> overlapped{false};
  int calls = 0;  // not atomic: the log's own lock must do
  log_to([&](LogLevel, std::string_view) {
    if (inside.fetch_add(1) != 0) overlapped = true;
    std::this_thread::yield();
    ++calls;
    inside.fetch_sub(1);
  });
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 200; ++i) log_error("message ", i);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(overlapped);
  EXPECT_EQ(calls, 800);
}

TEST_F(Log, SurvivesASinkThatThrowsOrLogs) {
  ::testing::internal::CaptureStderr();
  log_to([](LogLevel, std::string_view) { throw std::runtime_error("disk full"); });
  log_error("first");
  log_to([](LogLevel, std::string_view) { log_error("from inside"); });
  log_error("second");
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("the log sink threw: disk full"), std::string::npos) << text;
  EXPECT_NE(text.find("millrace: error: from inside"), std::string::npos) << text;
}

TEST_F(Log, WritesToStandardErrorByDefault) {
  log_to({});
  ::testing::internal::CaptureStderr();
  log_warning("slow");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "millrace: warning: slow\n");
}

}  // namespace
}  // namespace millrace
