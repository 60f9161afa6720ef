#include "server/http/date.h"

#include <gtest/gtest.h>

namespace millrace::server {
namespace {

TEST(HttpDate, IsWrittenAsTheStandardSays) {
  EXPECT_EQ(http_date(784111777), "Sun, 06 Nov 1994 08:49:37 GMT");
  EXPECT_EQ(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
  EXPECT_EQ(http_date(1709164799), "Wed, 28 Feb 2024 23:59:59 GMT");
}

TEST(HttpDate, OfTheFieldIsNow) {
  std::string before, field, after;
  do {  // not at the turn of a second
    before = "Date: " + http_date(std::time(nullptr)) + "\r\n";
    field = date_field();
    after = "Date: " + http_date(std::time(nullptr)) + "\r\n";
  } while (before != after);
  // The clock that is read ticks every few milliseconds.
  const std::string last = "Date: " + http_date(std::time(nullptr) - 1) + "\r\n";
  EXPECT_TRUE(field == before || field == last) << field << before;
}

}  // namespace
}  // namespace millrace::server
