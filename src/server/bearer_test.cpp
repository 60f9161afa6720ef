#include "server/bearer.h"

#include <gtest/gtest.h>

namespace millrace::server {
namespace {

const std::vector<std::string> kNone;
const std::vector<std::string> kTokens = {"first", "second"};
const std::vector<std::string> kControl = {"control"};

TEST(Bearer, WithoutTokensAllIsOpen) {
  for (const bool control : {false, true}) {
    EXPECT_EQ(admission("", control, kNone, kNone), Admission::admitted);
    EXPECT_EQ(admission("Bearer any", control, kNone, kNone), Admission::admitted);
  }
}

TEST(Bearer, AnyOfTheTokensOpensWhatIsNotControl) {
  for (const char* const known :
       {"Bearer first", "Bearer second", "bearer second", "Bearer  first "}) {
    EXPECT_EQ(admission(known, false, kTokens, kControl), Admission::admitted) << known;
    EXPECT_EQ(admission(known, true, kTokens, kControl), Admission::not_allowed) << known;
    EXPECT_EQ(admission(known, true, kTokens, kNone), Admission::admitted) << known;
  }
  for (const char* const unknown :
       {"", "Bearer", "Bearer ", "Bearer firs", "Bearer firstt", "Bearer fiRst", "first",
        "Basic first", "Bearer first second"}) {
    for (const bool control : {false, true}) {
      EXPECT_EQ(admission(unknown, control, kTokens, kControl), Admission::unknown) << unknown;
    }
  }
}

TEST(Bearer, AControlTokenOpensEverything) {
  EXPECT_EQ(admission("Bearer control", true, kTokens, kControl), Admission::admitted);
  EXPECT_EQ(admission("Bearer control", false, kTokens, kControl), Admission::admitted);
  EXPECT_EQ(admission("", true, kNone, kControl), Admission::unknown);
  EXPECT_EQ(admission("", false, kNone, kControl), Admission::admitted) << "only control is closed";
}

}  // namespace
}  // namespace millrace::server
