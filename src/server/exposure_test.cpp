#include "server/exposure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace millrace::server {
namespace {

TEST(CheckExposure, LoopbackNeedsNothing) {
  for (const char* const address : {"127.0.0.1", "127.3.2.1", "::1"}) {
    EXPECT_TRUE(check_exposure(address, {}, {}, false).ok()) << address;
  }
}

TEST(CheckExposure, ElsewhereNeedsTlsATokenOrToBeAllowed) {
  for (const char* const address : {"0.0.0.0", "10.0.0.1", "::", "127.example", "localhost", ""}) {
    const Result<void> refused = check_exposure(address, {}, {}, false);
    ASSERT_FALSE(refused.ok()) << address;
    EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
    EXPECT_THAT(refused.error().message, ::testing::HasSubstr("--allow-open"));
    EXPECT_TRUE(check_exposure(address, {"cert.pem", "key.pem", ""}, {}, false).ok());
    EXPECT_TRUE(check_exposure(address, {}, {"secret"}, false).ok());
    EXPECT_TRUE(check_exposure(address, {}, {}, true).ok());
  }
}

}  // namespace
}  // namespace millrace::server
