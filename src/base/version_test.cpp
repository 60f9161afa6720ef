#include <millrace/version.h>

#include <algorithm>

#include <gtest/gtest.h>

namespace millrace {
namespace {

TEST(Version, NamesWhatABugReportNeeds) {
  EXPECT_EQ(std::count(version().begin(), version().end(), '.'), 2);
  const auto versions = component_versions();
  const auto find = [&](std::string_view component) {
    const auto it = std::find_if(versions.begin(), versions.end(), [&](const ComponentVersion& v) {
      return v.component == component;
    });
    return it == versions.end() ? std::string() : it->version;
  };
  EXPECT_EQ(find("millrace"), version());
  EXPECT_NE(find("compiler").find('.'), std::string::npos);
  EXPECT_NE(find("C library").find("glibc 2."), std::string::npos);
  EXPECT_FALSE(find("build").empty());
}

}  // namespace
}  // namespace millrace
