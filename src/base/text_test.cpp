#include "base/text.h"

#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

using namespace std::chrono_literals;

TEST(Text, ConcatenatesAndJoins) {
  EXPECT_EQ(concat("a", 1, '-', std::uint8_t{200}, " ", -3, " ", true, " ", 0.25, std::string("z")),
            "a1-200 -3 true 0.25z");
  EXPECT_EQ(join(std::vector<int>{1, 2, 3}, ", "), "1, 2, 3");
  EXPECT_EQ(join(std::vector<std::string>{}, ", "), "");
}

TEST(Text, QuotesWhatCannotBePrinted) {
  EXPECT_EQ(quote("plain"), "\"plain\"");
  EXPECT_EQ(quote("a\"b\\c\n\x01\xff"), R"("a\"b\\c\x0a\x01\xff")");
  const std::string cut = quote(std::string(10000, 'x'));
  EXPECT_LT(cut.size(), 200u);
  EXPECT_NE(cut.find("..."), std::string::npos);
}

TEST(Text, Trims) {
  EXPECT_EQ(trimmed("  a b\t\n"), "a b");
  EXPECT_EQ(trimmed(" \t "), "");
}

TEST(Text, ComparesWithoutCase) {
  EXPECT_TRUE(equal_ignoring_case("Fp32", "fP32"));
  EXPECT_FALSE(equal_ignoring_case("fp32", "fp3"));
  EXPECT_FALSE(equal_ignoring_case("[", "{"));
}

TEST(Text, FormatsBytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1 KiB");
  EXPECT_EQ(format_bytes(1572864), "1.5 MiB");
  EXPECT_EQ(format_bytes(1024 * 1024 - 1), "1 MiB");
  EXPECT_EQ(format_bytes(std::numeric_limits<std::uint64_t>::max()), "16 EiB");
}

TEST(Text, FormatsDurations) {
  EXPECT_EQ(format_duration(0ns), "0 ns");
  EXPECT_EQ(format_duration(950ns), "950 ns");
  EXPECT_EQ(format_duration(12300ns), "12.3 us");
  EXPECT_EQ(format_duration(4560us), "4.56 ms");
  EXPECT_EQ(format_duration(1500ms), "1.5 s");
  EXPECT_EQ(format_duration(999999ns), "1 ms");
  EXPECT_EQ(format_duration(125s), "2 min 5 s");
  EXPECT_EQ(format_duration(2h + 3min), "2 h 3 min");
  EXPECT_EQ(format_duration(-2ms), "-2 ms");
}

TEST(Text, ParsesIntegersStrictly) {
  EXPECT_EQ(parse_integer("42", "n").value(), 42);
  EXPECT_EQ(parse_integer("-42", "n").value(), -42);
  EXPECT_EQ(parse_integer("9223372036854775807", "n").value(),
            std::numeric_limits<std::int64_t>::max());
  for (const char* text :
       {"", " 1", "1 ", "+1", "1.0", "0x10", "1e3", "9223372036854775808", "one"}) {
    EXPECT_FALSE(parse_integer(text, "n").ok()) << text;
  }
  EXPECT_EQ(parse_integer("0", "--lanes", 1, 64).error().message,
            "--lanes: expected a whole number from 1 to 64, got \"0\"");
  EXPECT_EQ(parse_integer("65", "--lanes", 1, 64).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(parse_integer("-1", "--count", 0).error().message,
            "--count: expected a whole number of at least 0, got \"-1\"");
}

TEST(Text, ParsesNumbers) {
  EXPECT_EQ(parse_number("1.5e3", "rate").value(), 1500);
  for (const char* text : {"", "nan", "inf", "1e999", "1,5", "1.5x"}) {
    EXPECT_FALSE(parse_number(text, "rate").ok()) << text;
  }
}

TEST(Text, ParsesDurations) {
  EXPECT_EQ(parse_duration("500us", "d").value(), 500us);
  EXPECT_EQ(parse_duration("2ms", "d").value(), 2ms);
  EXPECT_EQ(parse_duration("1.5s", "d").value(), 1500ms);
  EXPECT_EQ(parse_duration(" 3 min ", "d").value(), 3min);
  EXPECT_EQ(parse_duration("0", "d").value(), 0ns);
  EXPECT_EQ(parse_duration("1H", "d").value(), 1h);
  for (const char* text :
       {"", "5", "ms", "-1ms", "1 week", "1e30s", "1e3s", "infs", "300000000h", "2ms3"}) {
    EXPECT_FALSE(parse_duration(text, "d").ok()) << text;
  }
  EXPECT_EQ(parse_duration("5", "--duration").error().message,
            "--duration: expected a duration such as 500us, 2ms or 1.5s, got \"5\"");
}

TEST(Text, ParsesByteSizes) {
  EXPECT_EQ(parse_bytes("4096", "b").value(), 4096u);
  EXPECT_EQ(parse_bytes("10 B", "b").value(), 10u);
  EXPECT_EQ(parse_bytes("64MiB", "b").value(), 64u << 20);
  EXPECT_EQ(parse_bytes("1.5 GiB", "b").value(), 3ull << 29);
  EXPECT_EQ(parse_bytes("2gb", "b").value(), 2000000000u);
  EXPECT_EQ(parse_bytes("9007199254740993", "b").value(), 9007199254740993u);
  for (const char* text : {"", "-1", "1.5", "MiB", "1XB", "9e9TiB", "99999999TiB", "1 MiB x"}) {
    EXPECT_FALSE(parse_bytes(text, "b").ok()) << text;
  }
}

}  // namespace
}  // namespace millrace
