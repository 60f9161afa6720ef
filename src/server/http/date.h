// The time of an answer, as HTTP writes it.
#pragma once

#include <ctime>
#include <string>
#include <string_view>

namespace millrace::server {

/// "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, 5.6.7).
[[nodiscard]] std::string http_date(std::time_t time);

/// The field with its end of line, as of this second. Good until the thread asks again.
[[nodiscard]] std::string_view date_field();

}  // namespace millrace::server
