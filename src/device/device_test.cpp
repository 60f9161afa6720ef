#include <millrace/device.h>

#include <string>

#include <gtest/gtest.h>

namespace millrace {
namespace {

TEST(DeviceId, Prints) {
  EXPECT_EQ(to_string(DeviceId()), "host");
  EXPECT_EQ(to_string(DeviceId::host_memory()), "host");
  EXPECT_EQ(to_string(DeviceId::host(0)), "host:0");
  EXPECT_EQ(to_string(DeviceId::cuda(12)), "cuda:12");
}

TEST(DeviceId, IsReadFromItsNames) {
  EXPECT_EQ(parse_device_id("0").value(), DeviceId::cuda(0));
  EXPECT_EQ(parse_device_id("17").value(), DeviceId::cuda(17));
  EXPECT_EQ(parse_device_id("cuda:1").value(), DeviceId::cuda(1));
  EXPECT_EQ(parse_device_id("host").value(), DeviceId::host(0));
  EXPECT_EQ(parse_device_id("host:2").value(), DeviceId::host(2));
  EXPECT_EQ(parse_device_id(to_string(DeviceId::host(5))).value(), DeviceId::host(5));
}

TEST(DeviceId, RefusesOtherText) {
  for (const char* text : {"", " 0", "0 ", "-1", "+1", "host:", "host:-1", "cuda",
                           "cuda:", "cuda:x", "gpu:0", "host:1x", "0x1", "2147483648",
                           "host:99999999999", "HOST:0", "GPU-8932f937", "cuda:1,cuda:2"}) {
    const auto id = parse_device_id(text);
    ASSERT_FALSE(id.ok()) << text;
    EXPECT_EQ(id.error().code, ErrorCode::invalid_argument);
    EXPECT_NE(id.error().message.find("expected"), std::string::npos) << id.error().message;
  }
}

TEST(Refs, NameNothingByDefault) {
  EXPECT_FALSE(EventRef());
  EXPECT_FALSE(StreamRef());
  EXPECT_TRUE(EventRef().query().value());
  EXPECT_TRUE(EventRef().synchronize().ok());
  EXPECT_EQ(EventRef().time().error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(StreamRef().query().error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(StreamRef().native_handle(), nullptr);
  EXPECT_TRUE(StreamRef().device().is_host_memory());
  Stream none;
  none.abandon();
  EXPECT_FALSE(none);
}

}  // namespace
}  // namespace millrace
