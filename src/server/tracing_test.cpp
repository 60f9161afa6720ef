#include "server/tracing.h"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "server/otlp_exporter.h"
#include "server/otlp_json.h"

namespace millrace::server {
namespace {

using std::chrono::microseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr const char* kParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContextTest, IsReadAndWritten) {
  const auto context = parse_traceparent(kParent);
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->trace_high, 0x0af7651916cd43ddU);
  EXPECT_EQ(context->trace_low, 0x8448eb211c80319cU);
  EXPECT_EQ(context->span, 0xb7ad6b7169203331U);
  EXPECT_TRUE(context->sampled);
  EXPECT_EQ(to_traceparent(*context), kParent);
}

TEST(TraceContextTest, TheSampledFlagIsTheLowestBit) {
  const auto flags = [](std::string_view digits) {
    return parse_traceparent(std::string(kParent).substr(0, 53) + std::string(digits));
  };
  EXPECT_FALSE(flags("00")->sampled);
  EXPECT_FALSE(flags("02")->sampled);
  EXPECT_TRUE(flags("03")->sampled);
  EXPECT_TRUE(flags("ff")->sampled);
}

TEST(TraceContextTest, OfVersionsToComeTheKnownPartIsRead) {
  EXPECT_TRUE(parse_traceparent("01" + std::string(kParent).substr(2)).has_value());
  EXPECT_TRUE(parse_traceparent("cc" + std::string(kParent).substr(2) + "-what-is-new"));
  EXPECT_FALSE(parse_traceparent("cc" + std::string(kParent).substr(2) + "what-is-new"));
  EXPECT_FALSE(parse_traceparent("ff" + std::string(kParent).substr(2)));
}

TEST(TraceContextTest, AnythingElseIsNone) {
  const std::string good = kParent;
  for (const std::string& bad : std::vector<std::string>{
           std::string(),
           std::string("00"),
           good.substr(0, 54),
           good + "0",
           good + "-00",
           " " + good,
           "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",  // capitals
           "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
           "00-00000000000000000000000000000000-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
           "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331_01",
           "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
       }) {
    EXPECT_FALSE(parse_traceparent(bad).has_value()) << bad;
  }
  // Half of a trace's name may be zero.
  EXPECT_TRUE(parse_traceparent("00-00000000000000008448eb211c80319c-b7ad6b7169203331-01"));
}

TEST(TraceContextTest, NumbersDoNotRepeat) {
  std::set<std::uint64_t> numbers;
  for (int i = 0; i < 1000; ++i) numbers.insert(new_trace_number());
  EXPECT_EQ(numbers.size(), 1000u);
  EXPECT_FALSE(numbers.contains(0));
}

// -------------------------------------------------------------------------------------------------
// which requests

class BeginTraceTest : public ::testing::Test {
 protected:
  void set(const std::string& model, Settings settings) {
    ASSERT_TRUE(settings_.change(model, settings).ok());
  }
  RequestTracePtr begin(std::string_view traceparent = {}, std::string_view model = "m") {
    return begin_trace(queue_, settings_, model, traceparent, "http", Clock::now());
  }
  int traced(int requests, std::string_view traceparent = {}, std::string_view model = "m") {
    int count = 0;
    for (int i = 0; i < requests; ++i) count += begin(traceparent, model) ? 1 : 0;
    return count;
  }

  TraceSettings settings_;
  std::shared_ptr<TraceQueue> queue_ = std::make_shared<TraceQueue>(100);
};

constexpr const char* kUnsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

TEST_F(BeginTraceTest, NoneWhileItIsOff) { EXPECT_EQ(traced(10, kParent), 0); }

TEST_F(BeginTraceTest, NoneWithoutAnyoneToExportThem) {
  set("", {{"trace_level", "TIMESTAMPS"}, {"trace_rate", std::int64_t{1}}});
  queue_.reset();
  EXPECT_EQ(traced(10), 0);
}

TEST_F(BeginTraceTest, OneOfSoManyUnlessTheCallerSaysSo) {
  set("", {{"trace_level", "TIMESTAMPS"}, {"trace_rate", std::int64_t{5}}});
  EXPECT_EQ(traced(20), 4);
  EXPECT_EQ(traced(20, kParent), 20);
  EXPECT_EQ(traced(20, kUnsampled), 0);
  EXPECT_EQ(traced(20, "nonsense"), 4);
}

TEST_F(BeginTraceTest, AModelMayDiffer) {
  set("", {{"trace_level", "TIMESTAMPS"}, {"trace_rate", std::int64_t{5}}});
  set("often", {{"trace_rate", std::int64_t{1}}});
  set("never", {{"trace_level", "OFF"}});
  EXPECT_EQ(traced(20, {}, "often"), 20);
  EXPECT_EQ(traced(20, {}, "never"), 0);
  EXPECT_EQ(traced(20, kParent, "never"), 0);
  EXPECT_EQ(traced(20, {}, "other"), 4);
}

TEST_F(BeginTraceTest, ACountLimitsThemAll) {
  set("", {{"trace_level", "TIMESTAMPS"},
           {"trace_rate", std::int64_t{1}},
           {"trace_count", std::int64_t{7}}});
  set("often", {{"trace_rate", std::int64_t{1}}});
  EXPECT_EQ(traced(3, kParent), 3);
  EXPECT_EQ(traced(3, {}, "often"), 3);  // the server's count is this model's too
  EXPECT_EQ(traced(10), 1);
  EXPECT_EQ(traced(10, kParent), 0);
}

TEST_F(BeginTraceTest, TheCallersTraceGoesOn) {
  set("", {{"trace_level", "TIMESTAMPS"}});
  const RequestTracePtr trace = begin(kParent);
  ASSERT_TRUE(trace);
  EXPECT_EQ(trace->context().trace_high, 0x0af7651916cd43ddU);
  EXPECT_EQ(trace->context().trace_low, 0x8448eb211c80319cU);
  EXPECT_NE(trace->context().span, 0xb7ad6b7169203331U);
  EXPECT_TRUE(trace->context().sampled);
}

TEST_F(BeginTraceTest, ARequestThatIsLetGoIsWrittenDownAsFailed) {
  set("", {{"trace_level", "TIMESTAMPS"}, {"trace_rate", std::int64_t{1}}});
  begin()->over(200, false, Clock::now());
  begin().reset();
  const auto records = queue_->take(10);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].status, 200);
  EXPECT_FALSE(records[0].failed);
  EXPECT_EQ(records[1].status, -1);
  EXPECT_TRUE(records[1].failed);
}

TEST(TraceQueueTest, WhatComesWhileItIsFullIsCounted) {
  TraceQueue queue(4);
  int pressed = 0;
  queue.on_pressure([&pressed] { ++pressed; });
  for (int i = 0; i < 10; ++i) {
    TraceRecord record;
    record.status = i;
    queue.push(std::move(record));
  }
  EXPECT_EQ(queue.counters().traced, 10u);
  EXPECT_EQ(queue.counters().dropped, 6u);
  EXPECT_EQ(pressed, 1);
  EXPECT_EQ(queue.take(3).size(), 3u);
  const auto rest = queue.take(3);
  ASSERT_EQ(rest.size(), 1u);
  EXPECT_EQ(rest[0].status, 3);  // the oldest are kept
  EXPECT_TRUE(queue.take(3).empty());
}

// -------------------------------------------------------------------------------------------------
// what is exported

/// A request at the times that its batch has, 10 us apart, which came at 1,000 us of 1970.
struct Sample {
  TimePoint epoch = Clock::now();
  TraceRecord record;
  BatchTimeline batch;

  [[nodiscard]] TimePoint at(int microsecond) const { return epoch + microseconds(microsecond); }
  Sample() {
    record.context = *parse_traceparent(kParent);
    record.parent_span = 0xabc;
    record.protocol = "http";
    record.model = "quote\"model";
    record.version = "3";
    record.id = "seven";
    record.received = at(1000);
    record.times = {at(1010), at(1020), at(1030), at(1080)};
    record.device = {DeviceKind::host, 0};
    record.lane = 1;
    record.batch_items = 8;
    record.ended = at(1090);
    record.status = 200;
    batch.device = record.device;
    batch.lane = 1;
    batch.picked = at(1020);
    batch.started = at(1035);
    batch.copied_in = at(1040);
    batch.computed = at(1060);
    batch.copied_out = at(1070);
    batch.completed = at(1080);
  }
  [[nodiscard]] Json spans(bool timed = true) const {
    const std::string text =
        otlp_json({record}, timed ? std::span(&batch, 1) : std::span<const BatchTimeline>(), epoch);
    return Json::parse(text).at("resourceSpans").at(0).at("scopeSpans").at(0).at("spans");
  }
};

std::vector<std::string> names(const Json& spans) {
  std::vector<std::string> out;
  for (const Json& span : spans) out.push_back(span.at("name"));
  return out;
}

Json attributes(const Json& span) {
  Json out;
  for (const Json& attribute : span.at("attributes")) {
    out[attribute.at("key")] = attribute.at("value");
  }
  return out;
}

TEST(OtlpJsonTest, ARequestIsASpanAndItsPhasesAreBelow) {
  const Json spans = Sample().spans();
  EXPECT_THAT(names(spans), ElementsAre("infer quote\"model", "receive", "queue", "stage",
                                        "copy_in", "compute", "copy_out", "complete", "send"));
  EXPECT_EQ(spans[0].at("parentSpanId"), "0000000000000abc");
  EXPECT_EQ(spans[0].at("spanId"), "b7ad6b7169203331");
  EXPECT_EQ(spans[0].at("kind"), 2);
  std::set<std::string> ids;
  std::string before = "1000000";
  for (const Json& span : spans) {
    EXPECT_EQ(span.at("traceId"), "0af7651916cd43dd8448eb211c80319c");
    EXPECT_TRUE(ids.insert(span.at("spanId")).second);
    if (span == spans[0]) continue;
    EXPECT_EQ(span.at("parentSpanId"), spans[0].at("spanId"));
    EXPECT_EQ(span.at("kind"), 1);
    EXPECT_EQ(span.at("startTimeUnixNano"), before) << span;
    before = span.at("endTimeUnixNano");
  }
  EXPECT_EQ(before, "1090000");
  EXPECT_EQ(spans[5].at("startTimeUnixNano"), "1040000");
  EXPECT_EQ(spans[5].at("endTimeUnixNano"), "1060000");
  EXPECT_EQ(spans[0].at("startTimeUnixNano"), "1000000");
  EXPECT_EQ(spans[0].at("endTimeUnixNano"), "1090000");
}

TEST(OtlpJsonTest, AttributesSayWhatRanWhere) {
  const Json found = attributes(Sample().spans()[0]);
  EXPECT_EQ(found.at("millrace.model").at("stringValue"), "quote\"model");
  EXPECT_EQ(found.at("millrace.version").at("stringValue"), "3");
  EXPECT_EQ(found.at("millrace.request_id").at("stringValue"), "seven");
  EXPECT_EQ(found.at("millrace.protocol").at("stringValue"), "http");
  EXPECT_EQ(found.at("millrace.batch_items").at("intValue"), "8");
  EXPECT_EQ(found.at("millrace.device").at("stringValue"), "host:0");
  EXPECT_EQ(found.at("millrace.lane").at("intValue"), "1");
  EXPECT_EQ(found.at("http.response.status_code").at("intValue"), "200");
}

TEST(OtlpJsonTest, WithoutDeviceTimesOnePhaseStandsForThem) {
  EXPECT_THAT(names(Sample().spans(false)),
              ElementsAre("infer quote\"model", "receive", "queue", "stage", "run", "send"));
  Sample other;
  other.batch.lane = 0;  // the batch of another lane
  EXPECT_EQ(other.spans().size(), 6u);
}

TEST(OtlpJsonTest, TimesOfADeviceThatAreOffStayWithinTheRequest) {
  Sample sample;
  sample.batch.started = sample.at(900);
  sample.batch.computed = sample.at(2000);
  const Json spans = sample.spans();
  std::int64_t before = 1'000'000;
  for (std::size_t i = 1; i < spans.size(); ++i) {
    EXPECT_EQ(std::stoll(spans[i].at("startTimeUnixNano").get<std::string>()), before);
    before = std::stoll(spans[i].at("endTimeUnixNano").get<std::string>());
    EXPECT_LE(before, 1'090'000);
  }
  EXPECT_EQ(before, 1'090'000);
}

TEST(OtlpJsonTest, AFailureSaysWhy) {
  Sample sample;
  sample.record.times = {};
  sample.record.failed = true;
  sample.record.error = "it \"broke\"\n";
  sample.record.status = 500;
  sample.record.parent_span = 0;
  sample.record.batch_items = 0;
  const Json spans = sample.spans();
  ASSERT_EQ(spans.size(), 1u);
  EXPECT_FALSE(spans[0].contains("parentSpanId"));
  EXPECT_EQ(spans[0].at("status").at("code"), 2);
  EXPECT_EQ(spans[0].at("status").at("message"), "it \"broke\"\n");
  EXPECT_FALSE(attributes(spans[0]).contains("millrace.lane"));
}

TEST(OtlpExporterTest, AddressesAreReadStrictly) {
  for (const char* bad :
       {"", "https://example.org/v1/traces", "h:4318", "http://", "http://:4318", "http://h:0",
        "http://h:70000", "http://x host", "http://a@b:4318/v1/traces"}) {
    const auto started = OtlpExporter::start({.url = bad}, {});
    ASSERT_FALSE(started.ok()) << bad;
    EXPECT_THAT(started.error().message, HasSubstr("--otlp-url"));
  }
  for (const char* good : {"http://h:4318/v1/traces", "http://127.0.0.1", "http://[::1]:1"}) {
    EXPECT_TRUE(OtlpExporter::start({.url = good}, {}).ok()) << good;
  }
}

}  // namespace
}  // namespace millrace::server
