#include "server/http/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace millrace::server {
namespace {

using ::testing::HasSubstr;
using namespace std::string_literals;

std::string error_of(std::string_view text) {
  JsonReader json(text);
  json.skip();
  return json.finish() ? "" : json.error().message;
}

std::string string_of(std::string_view text) {
  JsonReader json(text);
  std::string value;
  json.read_string(value);
  return json.finish() ? value : json.error().message;
}

TEST(Json, WalksOverEverything) {
  JsonReader json(R"( {"a": [1, -2.5e3, "x\ny", true, null, {}], "b\u00e9": {"c": []}} )");
  std::vector<std::string> keys;
  std::string_view key;
  json.begin_object();
  while (json.next_key(key)) {
    keys.emplace_back(key);
    json.skip();
  }
  EXPECT_TRUE(json.finish()) << json.error().message;
  EXPECT_THAT(keys, ::testing::ElementsAre("a", "b\xC3\xA9"));
}

TEST(Json, ReadsNumbersExactly) {
  JsonReader json("[9223372036854775807, -9223372036854775808, 18446744073709551615, 1e-400, 0.1]");
  std::int64_t whole = 0;
  std::uint64_t large = 0;
  double real = 0;
  json.begin_array();
  EXPECT_TRUE(json.next_element() && json.read_integer(whole));
  EXPECT_EQ(whole, std::numeric_limits<std::int64_t>::max());
  EXPECT_TRUE(json.next_element() && json.read_integer(whole));
  EXPECT_EQ(whole, std::numeric_limits<std::int64_t>::min());
  EXPECT_TRUE(json.next_element() && json.read_unsigned(large));
  EXPECT_EQ(large, std::numeric_limits<std::uint64_t>::max());
  EXPECT_TRUE(json.next_element() && json.read_double(real));
  EXPECT_EQ(real, 0.0);
  EXPECT_TRUE(json.next_element() && json.read_double(real));
  EXPECT_EQ(real, 0.1);
  EXPECT_FALSE(json.next_element());
  EXPECT_TRUE(json.finish());
}

TEST(Json, RefusesNumbersThatDoNotFit) {
  std::int64_t whole = 0;
  for (const std::string_view text : {"9223372036854775808", "1.0", "1e2", "-"}) {
    JsonReader json(text);
    EXPECT_FALSE(json.read_integer(whole)) << text;
  }
  double real = 0;
  JsonReader json("1e400");
  EXPECT_FALSE(json.read_double(real));
  EXPECT_THAT(json.error().message, HasSubstr("too large"));
}

TEST(Json, ReadsStrings) {
  EXPECT_EQ(string_of(R"("plain")"), "plain");
  EXPECT_EQ(string_of(R"("\"\\\/\b\f\n\r\t")"), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(string_of(R"("\u0000\u20ac\ud83d\ude00")"), "\0\xE2\x82\xAC\xF0\x9F\x98\x80"s);
  EXPECT_EQ(string_of("\"\xC3\xA9\""), "\xC3\xA9");
}

TEST(Json, RefusesWhatIsNone) {
  for (const std::string_view text : {"",
                                      " ",
                                      "{",
                                      "[",
                                      "[1",
                                      "[1,",
                                      "[1,]",
                                      "[,1]",
                                      "{\"a\"}",
                                      "{\"a\":}",
                                      "{\"a\":1,}",
                                      "{a:1}",
                                      "tru",
                                      "nul",
                                      "+1",
                                      "01",
                                      "1.",
                                      ".5",
                                      "1e",
                                      "--1",
                                      "1 2",
                                      "{} x",
                                      "\"",
                                      "\"\\\"",
                                      "\"\\x\"",
                                      "\"\\u12\"",
                                      "\"\\ud800\"",
                                      "\"\\ud800\\u0041\"",
                                      "\"\\udc00\"",
                                      "\"\x01\"",
                                      "\"\xFF\"",
                                      "\"\xC0\x80\"",
                                      "\"\xED\xA0\x80\"",
                                      "\"\xF5\x80\x80\x80\"",
                                      "\"\\n\xFF\"",
                                      "'a'",
                                      "NaN",
                                      "[1}",
                                      "{\"a\":1]"}) {
    EXPECT_THAT(error_of(text), HasSubstr("JSON, byte ")) << text;
  }
}

TEST(Json, BoundsTheDepth) {
  const std::string deep(JsonReader::kMaxDepth, '[');
  EXPECT_EQ(error_of(deep + std::string(deep.size(), ']')), "");
  EXPECT_THAT(error_of('[' + deep), HasSubstr("nested deeper"));
  EXPECT_THAT(error_of(std::string(1 << 20, '[')), HasSubstr("nested deeper"));
}

TEST(Json, WritesWhatItReads) {
  for (const std::string& text : {"plain"s, "\"\\\n\x01\0"s, "\xE2\x82\xAC"s}) {
    std::string out;
    append_json_string(out, text);
    EXPECT_EQ(string_of(out), text);
  }
  std::string out;
  append_json_string(out, "a\xFFz");
  EXPECT_EQ(string_of(out), "a\xEF\xBF\xBDz");
  out.clear();
  append_json_number(out, 0.1F);
  out += ' ';
  append_json_number(out, 1e300);
  EXPECT_EQ(out, "0.1 1e+300");
}

}  // namespace
}  // namespace millrace::server
