#include "backends/reference/options.h"

#include <gtest/gtest.h>

#include "backends/test_harness.h"

namespace millrace::reference {
namespace {

using std::chrono::microseconds;

TEST(ReferenceOptions, DefaultsOfAKind) {
  const auto identity = parse_options("reference:identity");
  ASSERT_TRUE(identity.ok());
  EXPECT_EQ(identity->kind, Kind::identity);
  EXPECT_EQ(identity->types, std::vector{DataType::fp32});
  EXPECT_EQ(identity->shape, Shape({16}));
  EXPECT_TRUE(identity->batched);
  EXPECT_EQ(identity->max_items, 0);
  EXPECT_EQ(identity->batch_time, microseconds(0));
  EXPECT_EQ(parse_options("busy")->batch_time, microseconds(1000));
  EXPECT_EQ(parse_options("hang")->at, 1U);
  EXPECT_EQ(parse_options("fail?every=3")->at, 0U);
}

TEST(ReferenceOptions, ReadsEachOption) {
  const auto all = parse_options(
      "reference:identity?type=INT64,BYTES&shape=3x-1&inputs=2&max_items=8&batched=1&batch_us=1.5&"
      "item_us=2"
      "&mode=compute&first_run_us=3&fail_load=1&fail_lane=2&fail_prepare=true&output_sized_late=1&"
      "blocking=1"
      "&own_stream=1&wants_prepare=1&only_prepared=1&terminable=1&graphs=1&not_captured=1&avoids_"
      "eager=1&lanes=5&share_weights=0&weights_"
      "bytes=1KiB"
      "&lane_bytes=2048&prepared_bytes=1MiB&load_us=7&prepare_us=8");
  ASSERT_TRUE(all.ok()) << all.error().message;
  EXPECT_EQ(all->types, (std::vector{DataType::int64, DataType::bytes}));
  EXPECT_EQ(all->type_of(1), DataType::bytes);
  EXPECT_EQ(all->shape, Shape({3, kDynamic}));
  EXPECT_EQ(all->inputs, 2);
  EXPECT_EQ(all->max_items, 8);
  EXPECT_EQ(all->batch_time, std::chrono::nanoseconds(1500));
  EXPECT_EQ(all->item_time, microseconds(2));
  EXPECT_EQ(all->mode, BusyMode::compute);
  EXPECT_EQ(all->first_run_time, microseconds(3));
  EXPECT_TRUE(all->fail_load && all->fail_prepare && all->output_sized_late && all->blocking);
  EXPECT_TRUE(all->graphs && all->not_captured && all->avoids_eager && !all->host_input);
  EXPECT_TRUE(all->own_stream && all->wants_prepare && all->only_prepared && all->terminable);
  EXPECT_EQ(all->fail_lane, 2);
  EXPECT_EQ(all->lanes, 5);
  EXPECT_FALSE(all->share_weights);
  EXPECT_EQ(all->weights_bytes, 1024U);
  EXPECT_EQ(all->lane_bytes, 2048U);
  EXPECT_EQ(all->prepared_bytes, 1U << 20);
  EXPECT_EQ(all->load_time, microseconds(7));
  EXPECT_EQ(all->prepare_time, microseconds(8));
  const auto fail = parse_options("fail?at=4&every=2&when=enqueue&code=gpu_fault&scope=process");
  ASSERT_TRUE(fail.ok()) << fail.error().message;
  EXPECT_EQ(fail->at, 4U);
  EXPECT_EQ(fail->every, 2U);
  EXPECT_EQ(fail->when, FailWhen::enqueue);
  EXPECT_EQ(fail->code, ErrorCode::gpu_fault);
  EXPECT_EQ(fail->scope, Scope::process);
  EXPECT_TRUE(parse_options("checksum?no_read=1")->no_read);
}

TEST(ReferenceOptions, OptionsFromElsewhereCountMore) {
  const auto options = parse_options("busy?batch_us=5&lanes=2", {{"batch_us", "9"}});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->batch_time, microseconds(9));
  EXPECT_EQ(options->lanes, 2);
}

TEST(ReferenceOptions, ReadsJson) {
  const auto options = parse_json_options(
      R"({"kind": "busy", "options": {"batch_us": 100, "shape": [2, 3], "type": "INT8", "blocking": true}})");
  ASSERT_TRUE(options.ok()) << options.error().message;
  EXPECT_EQ(options->kind, Kind::busy);
  EXPECT_EQ(options->batch_time, microseconds(100));
  EXPECT_EQ(options->shape, Shape({2, 3}));
  EXPECT_EQ(options->types, std::vector{DataType::int8});
  EXPECT_TRUE(options->blocking);
}

struct Bad {
  std::string_view text;
  std::string_view says;
};
void PrintTo(const Bad& bad, std::ostream* out) { *out << bad.text; }

class ReferenceOptionsRefused : public ::testing::TestWithParam<Bad> {};

TEST_P(ReferenceOptionsRefused, SaysWhatIsWrong) {
  const std::string_view text = GetParam().text;
  const auto options = text.starts_with('{') || text.starts_with('[') ? parse_json_options(text)
                                                                      : parse_options(text);
  MILLRACE_EXPECT_ERROR(options, ErrorCode::invalid_argument, GetParam().says);
}

INSTANTIATE_TEST_SUITE_P(
    All, ReferenceOptionsRefused,
    ::testing::Values(
        Bad{"reference:", "there are identity, busy, add"},
        Bad{"reference:idle", "no reference model \"idle\""},
        Bad{"identity?speed=1", "has no option \"speed\"; it has type, shape"},
        Bad{"identity?at=1", "has no option \"at\""},
        Bad{"add?inputs=3", "has no option \"inputs\""},
        Bad{"identity?lanes", "expected reference:KIND?option=value"},
        Bad{"identity?=1", "expected reference:KIND"},
        Bad{"identity?lanes=1&lanes=2", "\"lanes\" is given twice"},
        Bad{"identity?lanes=0", "expected a whole number from 1 to 1024, got \"0\""},
        Bad{"identity?lanes=-1", "from 1 to 1024"}, Bad{"identity?lanes=1e9", "from 1 to 1024"},
        Bad{"identity?batched=yes", "expected 0 or 1, got \"yes\""},
        Bad{"busy?batch_us=-1", "microseconds"}, Bad{"busy?batch_us=1e300", "microseconds"},
        Bad{"busy?mode=spin", "one of sleep, compute"}, Bad{"identity?type=FP31", "FP31"},
        Bad{"identity?type=FP32,INT8", "2 types for 1 inputs"},
        Bad{"identity?shape=1,2,3,4,5,6,7,8", "at most 7 dimensions"}, Bad{"identity?shape=a", "a"},
        Bad{"identity?weights_bytes=much", "a size as in"},
        Bad{"add?type=BYTES", "cannot add BYTES"}, Bad{"add?type=BOOL", "cannot add BOOL"},
        Bad{"nonzero?type=BYTES", "does not take BYTES"},
        Bad{"identity?fixed_addresses=1&type=BYTES", "does not go with BYTES"},
        Bad{"identity?fixed_addresses=1&shape=-1", "known before the run"},
        Bad{"identity?output_sized_late=1&shape=[]", "at least one dimension"},
        Bad{"checksum?output_sized_late=1", "output_sized_late"},
        Bad{"identity?batched=0&max_items=4", "does not go with batched=0"},
        Bad{"fail?code=fine", "one of invalid_argument"}, Bad{"hang?at=0", "whole number from 1"},
        Bad{"{", "not JSON at byte"}, Bad{R"({"kind": 1e999})", "number that no type can hold"},
        Bad{"[1]", "found no object"}, Bad{R"({"options": {}})", "found no \"kind\""},
        Bad{R"({"kind": 3})", "\"kind\" of another type"},
        Bad{R"({"kind": "add", "extra": 1})", "found \"extra\""},
        Bad{R"({"kind": "add", "options": {"lanes": null}})", "got \"null\""}));

TEST(ReferenceOptions, RecognizesItsModels) {
  EXPECT_TRUE(is_reference_path("reference:identity"));
  EXPECT_TRUE(is_reference_path("models/slow.reference.json"));
  EXPECT_FALSE(is_reference_path("models/digits.onnx"));
  EXPECT_TRUE(is_reference_content(" \n{\"kind\""));
  EXPECT_FALSE(is_reference_content("\x08\x0a"));
  EXPECT_FALSE(is_reference_content(""));
}

}  // namespace
}  // namespace millrace::reference
