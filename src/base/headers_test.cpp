// Every public header stands alone, and is compiled without a warning by who sees only the public
// folder.
#include <cstdlib>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>
#include <millrace/data_type.h>
#include <millrace/device.h>
#include <millrace/dlpack.h>
#include <millrace/error.h>
#include <millrace/inline_vector.h>
#include <millrace/lease.h>
#include <millrace/log.h>
#include <millrace/shape.h>
#include <millrace/statistics.h>
#include <millrace/tensor.h>
#include <millrace/version.h>

#ifndef MILLRACE_SOURCE_DIR
#define MILLRACE_SOURCE_DIR "."
#endif

namespace millrace {
namespace {

TEST(Headers, StandAlone) {
  const std::filesystem::path include = std::filesystem::path(MILLRACE_SOURCE_DIR) / "include";
  const char* compiler = std::getenv("CXX");
  int headers = 0;
  for (const auto& entry : std::filesystem::directory_iterator(include / "millrace")) {
    if (entry.path().extension() != ".h") continue;
    ++headers;
    const std::string command =
        std::string(compiler ? compiler : "c++") +
        " -std=c++20 -fsyntax-only -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -I '" +
        include.string() + "' -include 'millrace/" + entry.path().filename().string() +
        "' -x c++ /dev/null";
    EXPECT_EQ(std::system(command.c_str()), 0) << "see above, from: " << command;
  }
  EXPECT_GE(headers, 11);
}

}  // namespace
}  // namespace millrace
