// The soak of tests/gpu/soak, for a moment, on host devices. Nothing here is timed.
#include "tests/soak/soak.h"

#include <gtest/gtest.h>

namespace millrace::soak {
namespace {

ModelConfig model(const char* name, const char* path) {
  ModelConfig config;
  config.name = name;
  config.path = path;
  config.lanes = 2;
  config.batching.max_items = 8;
  return config;
}

Options options(const char* path, bool apart) {
  Options options;
  options.engine.devices.devices = {"host:0", "host:1"};
  HostDeviceOptions host;
  host.separate_memory = apart;
  options.engine.devices.host.assign(2, host);
  options.stays = model("stays", path);
  options.comes = model("comes", path);
  options.time = std::chrono::milliseconds(1500);
  options.warm_up = std::chrono::milliseconds(300);
  return options;
}

void expect_sound(const Result<Report>& report) {
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->wrong, 0u) << report->first_wrong;
  EXPECT_GT(report->right, 0u);
  EXPECT_GT(report->cancelled + report->expired + report->refused, 0u);
  EXPECT_GT(report->loads, 0u);
  ASSERT_EQ(report->device_growth.size(), 2u);
}

TEST(Soak, OnReferenceModels) {
  for (const char* path :
       {"reference:identity?batch_us=100", "reference:identity?batch_us=100&fixed_addresses=1"}) {
    SCOPED_TRACE(path);
    expect_sound(run(options(path, false)));
    expect_sound(run(options(path, true)));
  }
}

TEST(Soak, OnTheDigitsModel) {
  expect_sound(run(options(MILLRACE_SOURCE_DIR "/examples/digits/digits.onnx", false)));
}

TEST(Soak, FindsAnErrorWhereThereIsOne) {
  Options broken = options("reference:identity", false);
  broken.stays = model("stays", "reference:fail?at=300");
  const Result<Report> report = run(broken);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_GT(report->wrong, 0u);
  EXPECT_NE(report->first_wrong.find("as asked"), std::string::npos) << report->first_wrong;
}

}  // namespace
}  // namespace millrace::soak
