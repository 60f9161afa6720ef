#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include <millrace/statistics.h>

#include "base/file.h"

namespace millrace {
namespace {

using nlohmann::json;
using std::chrono::microseconds;

class Trace : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }

  // A batch whose phases take 10, 20, 30, 40, 50 and 60 us from `start` on.
  static BatchTimeline batch(std::uint64_t number, int start_us, bool sampled,
                             DeviceId device = DeviceId::host(0), int lane = 0) {
    const TimePoint start = TimePoint{} + std::chrono::hours(1) + microseconds(start_us);
    BatchTimeline out;
    out.model = "digits";
    out.device = device;
    out.lane = lane;
    out.batch = number;
    out.items = 8;
    out.requests = 4;
    out.submitted = start;
    out.picked = start + microseconds(10);
    out.staged = start + microseconds(30);
    if (sampled) {
      out.started = out.staged;
      out.copied_in = start + microseconds(60);
      out.computed = start + microseconds(100);
      out.copied_out = start + microseconds(150);
    }
    out.completed = start + microseconds(210);
    return out;
  }

  json written(std::span<const BatchTimeline> timelines) {
    const Result<void> done = write_chrome_trace(timelines, path_);
    EXPECT_TRUE(done.ok()) << (done.ok() ? "" : done.error().message);
    return json::parse(*read_file(path_)).at("traceEvents");
  }
  static std::vector<json> spans(const json& events) {
    std::vector<json> out;
    for (const json& event : events) {
      if (event["ph"] == "X") out.push_back(event);
    }
    return out;
  }
  static std::map<std::pair<int, int>, std::string> tracks(const json& events) {
    std::map<std::pair<int, int>, std::string> out;
    for (const json& event : events) {
      if (event["ph"] == "M" && event["name"] == "thread_name") {
        out[{event["pid"].get<int>(), event["tid"].get<int>()}] =
            event["args"]["name"].get<std::string>();
      }
    }
    return out;
  }

  std::string path_ = testing::TempDir() + "trace_test." + std::to_string(::getpid()) + ".json";
};

TEST_F(Trace, ShowsEveryPhaseOfASampledBatch) {
  const BatchTimeline one = batch(7, 0, true);
  std::map<std::string, std::pair<double, double>> found;
  for (const json& span : spans(written({&one, 1}))) {
    found[span["cat"]] = {span["ts"], span["dur"]};
    EXPECT_EQ(span["name"], "digits");
    EXPECT_EQ(span["args"]["batch"], 7);
    EXPECT_EQ(span["args"]["items"], 8);
    EXPECT_EQ(span["args"]["requests"], 4);
  }
  const std::map<std::string, std::pair<double, double>> expected = {
      {"queue", {0, 10}},    {"stage", {10, 20}},     {"copy in", {30, 30}},
      {"compute", {60, 40}}, {"copy out", {100, 50}}, {"complete", {150, 60}}};
  EXPECT_EQ(found, expected);
}

TEST_F(Trace, ShowsTheDevicesPartAsOneWhenNotSampled) {
  const BatchTimeline one = batch(7, 0, false);
  const std::vector<json> found = spans(written({&one, 1}));
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[2]["cat"], "on the device");
  EXPECT_EQ(found[2]["ts"], 30);
  EXPECT_EQ(found[2]["dur"], 180);
}

TEST_F(Trace, HasAProcessPerDeviceAndATrackPerLaneAndPhase) {
  const std::vector<BatchTimeline> all = {batch(1, 0, true),
                                          batch(2, 1000, true, DeviceId::host(0), 1),
                                          batch(3, 2000, true, DeviceId::cuda(3), 0)};
  const json events = written(all);
  std::map<int, std::string> processes;
  for (const json& event : events) {
    if (event["name"] == "process_name")
      processes[event["pid"].get<int>()] = event["args"]["name"].get<std::string>();
  }
  EXPECT_EQ(processes, (std::map<int, std::string>{{1, "host:0"}, {2, "cuda:3"}}));
  const auto names = tracks(events);
  EXPECT_EQ(names.size(), 18U) << "three lanes of six phases";
  for (const json& span : spans(events)) {
    const auto track = names.find({span["pid"].get<int>(), span["tid"].get<int>()});
    ASSERT_NE(track, names.end());
    EXPECT_NE(track->second.find(span["cat"].get<std::string>()), std::string::npos);
  }
}

TEST_F(Trace, SpansOfATrackFollowOneAnother) {
  std::vector<BatchTimeline> all;
  all.reserve(20);
  for (int i = 0; i < 20; ++i)
    all.push_back(batch(static_cast<std::uint64_t>(i), (i * 37) % 200,
                        i % 3 == 0));  // overlapping, in no order
  const json events = written(all);
  std::map<std::pair<int, int>, double> ends;
  double before = 0;
  const std::vector<json> found = spans(events);
  EXPECT_EQ(found.size(), 7U * 6 + 13 * 3);
  for (const json& span : found) {
    const double start = span["ts"].get<double>();
    EXPECT_GE(start, before);
    before = start;
    double& end = ends[{span["pid"].get<int>(), span["tid"].get<int>()}];
    EXPECT_GE(start, end);
    end = start + span["dur"].get<double>();
  }
}

TEST_F(Trace, LeavesOutWhatNeverHappened) {
  BatchTimeline failed = batch(1, 0, false);
  failed.failed = true;
  failed.staged = {};
  const std::vector<json> found = spans(written({&failed, 1}));
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0]["cat"], "queue");
  EXPECT_EQ(found[0]["args"]["failed"], true);
}

TEST_F(Trace, EscapesNames) {
  BatchTimeline odd = batch(1, 0, true);
  odd.model = "a\"b\n\xff";
  EXPECT_EQ(spans(written({&odd, 1}))[0]["name"].get<std::string>().find("a\"b\n"), 0U);
}

TEST_F(Trace, IsValidWithoutBatches) { EXPECT_TRUE(written({}).empty()); }

TEST_F(Trace, SaysWhenTheDiskIsFull) {
  const BatchTimeline one = batch(1, 0, true);
  const Result<void> done = write_chrome_trace({&one, 1}, "/dev/full");
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().code, ErrorCode::unavailable);
  EXPECT_NE(done.error().message.find("No space left on device"), std::string::npos);
}

}  // namespace
}  // namespace millrace
