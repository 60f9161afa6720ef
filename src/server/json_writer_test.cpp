#include "server/json_writer.h"

#include <gtest/gtest.h>

namespace millrace::server {
namespace {

TEST(JsonWriter, PutsCommasBetweenWhatIsInOne) {
  JsonWriter out;
  out.open("", '{');
  out.text("a", "\"x\"");
  out.number("b", std::int64_t{-7});
  out.open("c", '[');
  out.text("", "first");
  out.open("", '{');
  out.close('}');
  out.number("", 1.5);
  out.close(']');
  out.open("d", '{');
  out.number("e", std::int64_t{1});
  out.close('}');
  out.close('}');
  EXPECT_EQ(out.take(), R"({"a":"\"x\"","b":-7,"c":["first",{},1.5],"d":{"e":1}})");
}

}  // namespace
}  // namespace millrace::server
