#include "server/worker_link.h"

#include <gtest/gtest.h>

namespace millrace::server {
namespace {

TEST(WorkerStart, IsReadAsItWasWritten) {
  WorkerStart start{4, -1, 5, 6, {7, std::chrono::milliseconds(8)}, TimePoint(Duration(9))};
  const WorkerStart read = *parse_worker_start(to_string(start));
  EXPECT_EQ(read.http, 4);
  EXPECT_EQ(read.metrics, -1);
  EXPECT_EQ(read.grpc, 5);
  EXPECT_EQ(read.link, 6);
  EXPECT_EQ(read.history.restarts, 7u);
  EXPECT_EQ(read.history.down, std::chrono::milliseconds(8));
  EXPECT_EQ(read.unserved_since, TimePoint(Duration(9)));

  start.unserved_since.reset();
  EXPECT_FALSE(parse_worker_start(to_string(start))->unserved_since);
}

TEST(WorkerStart, SaysWhatItIsFor) {
  for (const char* const text : {"", "http=1", "link", "link=x", "link=3,down_ns=-1", "sink=3",
                                 "link=-2", "link=3,restarts=-1", "link=99999999999999999999"}) {
    const auto read = parse_worker_start(text);
    ASSERT_FALSE(read.ok()) << text;
    EXPECT_NE(read.error().message.find("--worker"), std::string::npos);
  }
}

}  // namespace
}  // namespace millrace::server
