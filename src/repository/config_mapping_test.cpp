#include "repository/config_mapping.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace millrace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using namespace std::chrono_literals;

constexpr DeviceId kBoth[] = {DeviceId::cuda(0), DeviceId::cuda(1), DeviceId::host(0)};
constexpr DeviceId kHost[] = {DeviceId::host(0)};

Result<ConfigMapping> mapped(std::string_view content, std::span<const DeviceId> devices = kBoth) {
  Result<ConfigText> text = ConfigText::parse(content, "a/config.pbtxt");
  if (!text) return std::move(text).error();
  return map_config(*text, *ModelFiles::of_contents({{"1/model.onnx", ""}}), devices);
}

ConfigMapping good(std::string_view content, std::span<const DeviceId> devices = kBoth) {
  Result<ConfigMapping> mapping = mapped(content, devices);
  EXPECT_TRUE(mapping.ok()) << mapping.error().message;
  return mapping.ok() ? std::move(*mapping) : ConfigMapping{};
}

std::string refusal(std::string_view content, std::span<const DeviceId> devices = kBoth) {
  const Result<ConfigMapping> mapping = mapped(content, devices);
  return mapping ? "accepted" : mapping.error().message;
}

TEST(ConfigMapping, NothingStatedLeavesEverythingToTheModel) {
  const ConfigMapping mapping = good("");
  EXPECT_EQ(mapping.engine.batching.max_items, 0);
  EXPECT_EQ(mapping.engine.lanes, 0);
  EXPECT_EQ(mapping.engine.backend, "auto");
  EXPECT_THAT(mapping.engine.devices, IsEmpty());
  EXPECT_THAT(mapping.hints, IsEmpty());
  EXPECT_EQ(mapping.requests.terms(3, 5ms).timeout, 5ms);
  EXPECT_EQ(mapping.requests.terms(3, 5ms).priority, 0);
}

TEST(ConfigMapping, ErrorsNameFileLineAndColumn) {
  EXPECT_THAT(refusal("max_batch_size: 4\n  dynamic_batchin { }"),
              StartsWith("a/config.pbtxt:2:3: "));
  EXPECT_THAT(refusal("max_batch_size: 4\n  dynamic_batchin { }"),
              HasSubstr("Did you mean \"dynamic_batching\"?"));
  EXPECT_THAT(refusal("max_batch_size: \"4\""), StartsWith("a/config.pbtxt:1:17: "));
  EXPECT_THAT(refusal("max_batch_size: 4\nmax_batch_size: 5"), StartsWith("a/config.pbtxt:2:"));
  EXPECT_THAT(refusal("max_batch_size: 4\ndynamic_batching {\n  preferred_batch_size: [ 2, 8 ]\n}"),
              StartsWith("a/config.pbtxt:3:3: dynamic_batching.preferred_batch_size[1]: "));
  EXPECT_THAT(refusal("input { name: \"a\"\n"), StartsWith("a/config.pbtxt:2:1: "));
  EXPECT_THAT(refusal("input: [ { name: \"a\" },\n { name: \"b\"\n   optional: true } ]"),
              StartsWith("a/config.pbtxt:3:4: input[1].optional: not supported"));
}

TEST(ConfigMapping, RefusesContradictions) {
  EXPECT_THAT(refusal("max_batch_size: -1"), HasSubstr("max_batch_size"));
  EXPECT_THAT(refusal("max_batch_size: 0 dynamic_batching { preferred_batch_size: 2 }"),
              HasSubstr("up to max_batch_size (0)"));
  EXPECT_THAT(refusal("dynamic_batching { preferred_batch_size: 0 }"), HasSubstr("at least 1"));
  EXPECT_THAT(refusal("dynamic_batching { priority_levels: 3 }"),
              HasSubstr("expected 1 to priority_levels (3), got 0"));
  EXPECT_THAT(refusal("dynamic_batching { priority_levels: 3 default_priority_level: 4 }"),
              HasSubstr("got 4"));
  EXPECT_THAT(refusal("dynamic_batching { default_priority_level: 4 }"),
              HasSubstr("expected priority_levels as well"));
  EXPECT_THAT(refusal("dynamic_batching { priority_queue_policy { key: 1 value { } } }"),
              HasSubstr("got 1"));
  EXPECT_THAT(refusal("dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 }"),
              HasSubstr("a day"));
  EXPECT_THAT(refusal("platform: \"tensorrt_plan\" backend: \"onnxruntime\""),
              HasSubstr("does not go with"));
  EXPECT_THAT(refusal("platform: \"ensemble\""), HasSubstr("needs ensemble_scheduling"));
  EXPECT_THAT(refusal("backend: \"reference\" ensemble_scheduling { }"), HasSubstr("alone"));
  EXPECT_THAT(refusal("ensemble_scheduling { }"), HasSubstr("at least one step"));
  EXPECT_THAT(refusal("max_batch_size: 4 model_warmup { batch_size: 5 }"),
              HasSubstr("at most max_batch_size (4)"));
  EXPECT_THAT(refusal("model_warmup { inputs { key: \"x\" value { } } }"),
              HasSubstr("expected one of"));
  EXPECT_THAT(refusal("default_model_filename: \"../other\""), HasSubstr("within"));
  EXPECT_THAT(refusal("model_operations { op_library_filename: \"/lib/x.so\" }"),
              HasSubstr("within"));
}

TEST(ConfigMapping, RefusesBackendsThatThereAreNot) {
  EXPECT_THAT(refusal("backend: \"python\""),
              HasSubstr("expected one of onnxruntime, tensorrt, reference; got \"python\""));
  EXPECT_THAT(refusal("platform: \"pytorch_libtorch\""), HasSubstr("which Millrace does not run"));
}

TEST(ConfigMapping, InstancesAreLanesOnDevices) {
  const ConfigMapping both = good("instance_group { kind: KIND_GPU count: 2 }");
  EXPECT_THAT(both.engine.devices, ElementsAre(DeviceId::cuda(0), DeviceId::cuda(1)));
  EXPECT_EQ(both.engine.lanes, 2);
  const ConfigMapping sum = good(
      "instance_group { kind: KIND_GPU count: 2 gpus: 1 } instance_group { gpus: 1 count: 1 }");
  EXPECT_THAT(sum.engine.devices, ElementsAre(DeviceId::cuda(1)));
  EXPECT_EQ(sum.engine.lanes, 3);
  const ConfigMapping uneven =
      good("instance_group { kind: KIND_GPU count: 2 gpus: 0 } instance_group { kind: KIND_CPU }");
  EXPECT_THAT(uneven.engine.devices, ElementsAre(DeviceId::cuda(0), DeviceId::host(0)));
  EXPECT_EQ(uneven.engine.lanes, 2);
  EXPECT_THAT(uneven.hints, ElementsAre(HasSubstr("host:0 gets 2 instances instead of 1")));
  EXPECT_THAT(refusal("instance_group { kind: KIND_GPU }", kHost),
              HasSubstr("KIND_GPU, and the engine has no GPU; it has host:0"));
  EXPECT_THAT(refusal("instance_group { gpus: [ 0, 7 ] }"), HasSubstr("has no GPU 7"));
  EXPECT_THAT(refusal("instance_group { kind: KIND_CPU gpus: 0 }"), HasSubstr("expected none"));
  EXPECT_THAT(refusal("instance_group { count: -2 }"), HasSubstr("got -2"));
  EXPECT_THAT(refusal("instance_group { } instance_group { kind: KIND_CPU }"),
              HasSubstr("name them in both"));
}

TEST(ConfigMapping, ReadsItsOwnParameters) {
  const ConfigMapping mapping = good(R"(
    parameters { key: "millrace.lanes" value { string_value: "3" } }
    parameters { key: "millrace.slots" value { string_value: "4" } }
    parameters { key: "millrace.weight" value { string_value: "2.5" } }
    parameters { key: "millrace.priority_class" value { string_value: "-1" } }
    parameters { key: "millrace.hang_timeout" value { string_value: "5s" } }
    parameters { key: "millrace.max_queue_bytes" value { string_value: "64MiB" } }
    parameters { key: "millrace.devices" value { string_value: "cuda:1, host" } }
    parameters { key: "millrace.backend" value { string_value: "onnxruntime" } }
    parameters { key: "millrace.evict" value { string_value: "no" } }
    parameters { key: "millrace.option.spinning" value { string_value: "1" } })");
  EXPECT_EQ(mapping.engine.lanes, 3);
  EXPECT_EQ(mapping.engine.slots, 4);
  EXPECT_EQ(mapping.engine.weight, 2.5);
  EXPECT_EQ(mapping.engine.priority_class, -1);
  EXPECT_EQ(mapping.engine.hang_timeout, 5s);
  EXPECT_EQ(mapping.engine.limits.max_bytes, std::size_t{64} << 20);
  EXPECT_THAT(mapping.engine.devices, ElementsAre(DeviceId::cuda(1), DeviceId::host(0)));
  EXPECT_EQ(mapping.engine.backend, "onnxruntime");
  EXPECT_FALSE(mapping.evictable);
  EXPECT_EQ(mapping.engine.options, (std::map<std::string, std::string>{{"spinning", "1"}}));
  EXPECT_THAT(mapping.hints, IsEmpty());
}

TEST(ConfigMapping, RefusesParametersThatItDoesNotKnow) {
  const auto parameter = [](std::string_view name, std::string_view value) {
    return refusal(
        concat("parameters { key: \"", name, "\" value { string_value: \"", value, "\" } }"));
  };
  EXPECT_THAT(parameter("millrace.lane", "1"), HasSubstr("did you mean \"millrace.lanes\""));
  EXPECT_THAT(parameter("millrace.lanes", "0"), HasSubstr("millrace.lanes"));
  EXPECT_THAT(parameter("millrace.evict", "maybe"), HasSubstr("\"maybe\""));
  EXPECT_THAT(parameter("millrace.devices", "gpu:0"), HasSubstr("gpu:0"));
  EXPECT_THAT(parameter("millrace.weight", "nan"), HasSubstr("nan"));
  EXPECT_THAT(good("parameters { key: \"other\" value { string_value: \"x\" } }").hints,
              ElementsAre(HasSubstr("\"other\": kept for clients to read")));
}

TEST(RequestPolicy, LevelsBecomePrioritiesThatGrow) {
  const ConfigMapping mapping =
      good("dynamic_batching { priority_levels: 3 default_priority_level: 2 }");
  const RequestPolicy& policy = mapping.requests;
  EXPECT_GT(policy.terms(1, {}).priority, policy.terms(2, {}).priority);
  EXPECT_GT(policy.terms(2, {}).priority, policy.terms(3, {}).priority);
  EXPECT_EQ(policy.terms(0, {}).priority, policy.terms(2, {}).priority);
  EXPECT_EQ(policy.terms(9, {}).priority, policy.terms(2, {}).priority);
}

TEST(RequestPolicy, TimeoutsAreShortenedWhereThatIsAllowed) {
  const auto timeout = [](std::string_view policy, Duration asked) {
    const ConfigMapping mapping =
        good(concat("dynamic_batching { default_queue_policy { ", policy, " } }"));
    return mapping.requests.terms(0, asked).timeout.value_or(Duration::zero());
  };
  EXPECT_EQ(timeout("default_timeout_microseconds: 5000", 1ms), 5ms);
  EXPECT_EQ(timeout("default_timeout_microseconds: 5000 allow_timeout_override: true", 1ms), 1ms);
  EXPECT_EQ(timeout("default_timeout_microseconds: 5000 allow_timeout_override: true", 9ms), 5ms);
  EXPECT_EQ(timeout("default_timeout_microseconds: 5000 allow_timeout_override: true", 0ms), 5ms);
  EXPECT_EQ(timeout("allow_timeout_override: true", 9ms), 9ms);
  EXPECT_EQ(timeout("", 9ms), 0ms);
  EXPECT_EQ(timeout("timeout_action: DELAY default_timeout_microseconds: 5000", 9ms), 0ms);
}

TEST(RequestPolicy, LevelsHaveTimeoutsOfTheirOwn) {
  const ConfigMapping mapping = good(
      "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
      "default_queue_policy { default_timeout_microseconds: 7000 } "
      "priority_queue_policy { key: 2 value { default_timeout_microseconds: 5000 "
      "max_queue_size: 3 } } }");
  EXPECT_EQ(mapping.requests.terms(1, {}).timeout, 7ms);
  EXPECT_EQ(mapping.requests.terms(2, {}).timeout, 5ms);
  EXPECT_THAT(mapping.hints, ElementsAre(HasSubstr("all levels share one queue")));
}

TEST(ChooseVersions, NamesOneThatIsNotThere) {
  const Result<ConfigText> text =
      ConfigText::parse("version_policy { specific { versions: [ 2, 9 ] } }", "a/config.pbtxt");
  ASSERT_TRUE(text.ok());
  const auto versions = choose_versions(*text, {1, 2});
  ASSERT_FALSE(versions.ok());
  EXPECT_THAT(versions.error().message, HasSubstr("there is no version 9; there are: 1, 2"));
}

}  // namespace
}  // namespace millrace
