#include "io/fields.h"

#include <gtest/gtest.h>

#include <array>

namespace millrace {
namespace {

constexpr std::array<std::string_view, 4> kKnown = {"lanes", "slots", "max_delay", "weight"};

TEST(NearestName, FindsTypingErrors) {
  EXPECT_EQ(nearest_name("lane", kKnown), "lanes");
  EXPECT_EQ(nearest_name("solts", kKnown), "slots");
  EXPECT_EQ(nearest_name("delay", kKnown), "max_delay");
  EXPECT_EQ(nearest_name("wieght", kKnown), "weight");
  EXPECT_EQ(nearest_name("colour", kKnown), "");
  EXPECT_EQ(nearest_name("", kKnown), "");
  EXPECT_EQ(nearest_name(std::string(100000, 'a'), kKnown), "");
}

TEST(UnknownField, NamesTheNearestOrAll) {
  EXPECT_EQ(unknown_field("lane", kKnown), "unknown field \"lane\"; did you mean \"lanes\"?");
  EXPECT_EQ(unknown_field("colour", kKnown),
            "unknown field \"colour\"; known are lanes, slots, max_delay, weight");
}

TEST(ParseJson, SaysWhere) {
  const Result<nlohmann::json> result = parse_json("{\n  \"a\": 1,\n  b\n}", "x.json");
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message.find("x.json: expected JSON; line 3: syntax error"), 0U)
      << result.error().message;
}

TEST(ParseJson, RefusesAFieldThatComesTwice) {
  EXPECT_EQ(parse_json(R"({"a": {"b": 1, "b": 2}})", "x").error().message,
            "x: the field \"b\" comes twice");
  EXPECT_TRUE(parse_json(R"({"a": {"b": 1}, "b": [{"b": 2}, {"b": 3}]})", "x").ok());
}

TEST(ParseJson, LimitsNesting) {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(parse_json(nested(60), "x").ok());
  for (const std::size_t depth : {std::size_t{100}, std::size_t{100000}}) {
    EXPECT_EQ(parse_json(nested(depth), "x").error().message,
              "x: expected at most 64 levels of nesting");
    EXPECT_FALSE(parse_json(std::string(depth, '['), "x").ok());
    EXPECT_FALSE(parse_json("{\"a\": " + nested(depth) + ", \"a\": {\"b\": 1}}", "x").ok());
  }
}

TEST(Fields, KeepsTheFirstError) {
  const nlohmann::json value = {{"lanes", -1}, {"slots", "two"}};
  Fields fields(value, "x", kKnown);
  int lanes = 7;
  int slots = 7;
  fields.integer("lanes", lanes, 1, 10);
  fields.integer("slots", slots, 1, 10);
  EXPECT_EQ(fields.finish().error().message,
            "x: lanes: expected a whole number from 1 to 10, got -1");
  EXPECT_EQ(lanes, 7);
  EXPECT_EQ(slots, 7);
}

TEST(Fields, RefusesNumbersThatAreNoWholeOnes) {
  for (const char* text :
       {"1.0", "true", "\"1\"", "18446744073709551615", "-9223372036854775808", "null"}) {
    const nlohmann::json value = {{"lanes", nlohmann::json::parse(text)}};
    Fields fields(value, "x", kKnown);
    int lanes = 0;
    fields.integer("lanes", lanes, 0, 10);
    EXPECT_FALSE(fields.ok()) << text;
  }
}

}  // namespace
}  // namespace millrace
