#include "device/select_devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace millrace {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::vector<GpuIdentity> kGpus = {{"GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "A"},
                                        {"GPU-8932aaaa-0000-4106-c12f-20bd9faed9f6", "B"},
                                        {"GPU-11112222-3333-4444-5555-666677778888", "C"}};

TEST(ParseVisibleDevices, TakesIndicesInTheirOrder) {
  EXPECT_THAT(parse_visible_devices("0", kGpus), ElementsAre(0u));
  EXPECT_THAT(parse_visible_devices("2,0", kGpus), ElementsAre(2u, 0u));
  EXPECT_THAT(parse_visible_devices(" 1 , 2 ", kGpus), ElementsAre(1u, 2u));
}

TEST(ParseVisibleDevices, TakesTheNumberThatAnEntryStartsWith) {
  EXPECT_THAT(parse_visible_devices("1x,+2,0x1", kGpus), ElementsAre(1u, 2u, 0u));
  EXPECT_THAT(parse_visible_devices("00", kGpus), ElementsAre(0u));
  EXPECT_THAT(parse_visible_devices("2;1", kGpus), ElementsAre(2u));
}

TEST(ParseVisibleDevices, TakesUuidsAndTheirPrefixes) {
  EXPECT_THAT(parse_visible_devices(kGpus[1].uuid, kGpus), ElementsAre(1u));
  EXPECT_THAT(parse_visible_devices("GPU-1,GPU-8932F", kGpus), ElementsAre(2u, 0u));
  EXPECT_THAT(parse_visible_devices("GPU-8932", kGpus), IsEmpty());  // fits two
  EXPECT_THAT(parse_visible_devices("GPU-1,GPU-8932", kGpus), ElementsAre(2u));
  EXPECT_THAT(parse_visible_devices("GPU-", std::span(kGpus).first(1)), IsEmpty());
  EXPECT_THAT(parse_visible_devices("gpu-1", kGpus), IsEmpty());
  EXPECT_THAT(parse_visible_devices("GPU-9", kGpus), IsEmpty());
  EXPECT_THAT(parse_visible_devices("8932f937", kGpus), IsEmpty());
}

TEST(ParseVisibleDevices, EndsAtTheFirstEntryThatNamesNone) {
  EXPECT_THAT(parse_visible_devices("0,2,-1,1", kGpus), ElementsAre(0u, 2u));
  EXPECT_THAT(parse_visible_devices("0,3,1", kGpus), ElementsAre(0u));
  EXPECT_THAT(parse_visible_devices("1,,2", kGpus), ElementsAre(1u));
  EXPECT_THAT(parse_visible_devices("1,", kGpus), ElementsAre(1u));
  EXPECT_THAT(parse_visible_devices("GPU-1,0", kGpus), ElementsAre(2u));
  EXPECT_THAT(parse_visible_devices("0,GPU-1,2", kGpus), ElementsAre(0u));
  EXPECT_THAT(parse_visible_devices("0,99999999999999999999999", kGpus), ElementsAre(0u));
}

TEST(ParseVisibleDevices, MayHideAll) {
  for (const char* text : {"", "-1", "none", " ", ",", "NoDevFiles"}) {
    EXPECT_THAT(parse_visible_devices(text, kGpus), IsEmpty()) << text;
  }
  EXPECT_THAT(parse_visible_devices("0", {}), IsEmpty());
  EXPECT_THAT(parse_visible_devices("0,1,0", kGpus), IsEmpty());  // a GPU named twice
}

TEST(SelectDevices, ReadsEveryKindOfName) {
  const std::vector<std::string> names{"2", "cuda:0", "gpu-8932a", "host", "host:7"};
  EXPECT_THAT(select_devices(names, kGpus, "").value(),
              ElementsAre(DeviceId::cuda(2), DeviceId::cuda(0), DeviceId::cuda(1),
                          DeviceId::host(0), DeviceId::host(7)));
  EXPECT_THAT(select_devices({}, kGpus, "").value(), IsEmpty());
}

TEST(SelectDevices, ListsWhatThereIsWhenADeviceIsNot) {
  const std::vector<std::string> too_high{"cuda:3"};
  const auto one = select_devices(too_high, kGpus, "");
  ASSERT_FALSE(one.ok());
  EXPECT_EQ(one.error().code, ErrorCode::not_found);
  EXPECT_THAT(one.error().message, HasSubstr("cuda:3"));
  EXPECT_THAT(one.error().message,
              HasSubstr("cuda:2 (C, GPU-11112222-3333-4444-5555-666677778888)"));
  EXPECT_THAT(one.error().message, HasSubstr("host:0"));

  const std::vector<std::string> zero{"0"};
  const auto none = select_devices(zero, {}, "no driver: it is not there");
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::not_found);
  EXPECT_THAT(none.error().message, HasSubstr("no driver: it is not there"));

  const std::vector<std::string> unknown{"GPU-9"};
  EXPECT_EQ(select_devices(unknown, kGpus, "").error().code, ErrorCode::not_found);
}

TEST(SelectDevices, RefusesWhatIsAmbiguousUnreadableOrNamedTwice) {
  const std::vector<std::vector<std::string>> bad{
      {"GPU-8932"}, {""}, {"tpu:0"}, {"host", "host:0"}, {"2", "0", "cuda:2"}, {"0", "GPU-8932f"}};
  for (const auto& names : bad) {
    const auto ids = select_devices(names, kGpus, "");
    ASSERT_FALSE(ids.ok()) << names.front();
    EXPECT_EQ(ids.error().code, ErrorCode::invalid_argument) << ids.error().message;
  }
  EXPECT_THAT(select_devices(bad[4], kGpus, "").error().message, HasSubstr("already named \"2\""));
}

TEST(SelectDevices, KnowsWhichNamesNeedTheDriver) {
  EXPECT_TRUE(names_gpu("0"));
  EXPECT_TRUE(names_gpu("cuda:4"));
  EXPECT_TRUE(names_gpu("GPU-1"));
  EXPECT_FALSE(names_gpu("host"));
  EXPECT_FALSE(names_gpu("host:1"));
  EXPECT_FALSE(names_gpu("nonsense"));
}

}  // namespace
}  // namespace millrace
