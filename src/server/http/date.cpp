#include "server/http/date.h"

#include <array>
#include <cstdio>

#include "base/text.h"

namespace millrace::server {

// Not by strftime, whose names follow the locale.
std::string http_date(std::time_t time) {
  constexpr std::array kDays = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr std::array kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  std::tm utc{};
  gmtime_r(&time, &utc);
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%s, %02d %s %04d %02d:%02d:%02d GMT",
                kDays[static_cast<std::size_t>(utc.tm_wday)], utc.tm_mday,
                kMonths[static_cast<std::size_t>(utc.tm_mon)], utc.tm_year + 1900, utc.tm_hour,
                utc.tm_min, utc.tm_sec);
  return text.data();
}

std::string_view date_field() {
  struct Kept {
    std::time_t second = -1;
    std::string field;
  };
  thread_local Kept kept;
  std::timespec now{};
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  if (now.tv_sec != kept.second) {
    kept = {now.tv_sec, concat("Date: ", http_date(now.tv_sec), "\r\n")};
  }
  return kept.field;
}

}  // namespace millrace::server
