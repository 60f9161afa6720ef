#include "cli/bench_startup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace millrace::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

StartupSample sample(double first_inference_s, std::optional<std::uint64_t> gpu_bytes) {
  StartupSample sample;
  sample.ready_s = first_inference_s / 2;
  sample.first_inference_s = first_inference_s;
  sample.host_bytes = std::uint64_t{1} << 30;
  sample.gpu_bytes = gpu_bytes;
  return sample;
}

StartupResult on_a_gpu() {
  StartupResult result;
  result.model = "m.onnx";
  result.backend = "tensorrt";
  result.devices = {"cuda:0"};
  result.gpu_memory = "by NVML";
  result.lazy = {sample(2, 1000), sample(4, 1000), sample(3, 1000)};
  result.eager = {sample(4, 1500), sample(8, 1500), sample(6, 1500)};
  return result;
}

TEST(BenchStartup, AChildGetsTheSameCommandLineAndProbes) {
  EXPECT_THAT(
      probe_arguments({"--log", "info", "bench", "m.onnx", "--startup", "--json"}),
      ElementsAre("--log", "info", "bench", "--startup-probe", "m.onnx", "--startup", "--json"));
}

TEST(BenchStartup, AChildGetsTheEnvironmentButForTheVariable) {
  EXPECT_THAT(with_loading({"A=1", "CUDA_MODULE_LOADING=LAZY", "CUDA_MODULE_LOADING_X=2"}, "EAGER"),
              ElementsAre("A=1", "CUDA_MODULE_LOADING_X=2", "CUDA_MODULE_LOADING=EAGER"));
}

TEST(BenchStartup, ComparesTheKinds) {
  Json json = startup_json(on_a_gpu());
  EXPECT_EQ(json["loading"][0]["loading"], "LAZY");
  EXPECT_EQ(json["loading"][0]["first_inference_s"]["median"], 3);
  EXPECT_EQ(json["loading"][1]["first_inference_s"]["max"], 8);
  EXPECT_EQ(json["loading"][1]["samples"].size(), 3U);
  EXPECT_EQ(json["eager_to_lazy"]["first_inference_s"]["median"], 2);
  EXPECT_EQ(json["eager_to_lazy"]["gpu_bytes"]["median"], 1.5);
  EXPECT_EQ(json["remark"], "by NVML");
  const std::string text = startup_text(on_a_gpu());
  EXPECT_THAT(text, HasSubstr("Startup of m.onnx with tensorrt on cuda:0"));
  EXPECT_THAT(text, HasSubstr("3.00 s"));
  EXPECT_THAT(text, HasSubstr("2.00 s to 4.00 s"));
  EXPECT_THAT(text, HasSubstr("2.000"));
  EXPECT_THAT(text, HasSubstr("Medians of 3 fresh processes each"));
}

TEST(BenchStartup, WithoutAGpuTheVariableChangesNothing) {
  StartupResult host = on_a_gpu();
  host.devices = {"host:0"};
  host.lazy = {sample(2, std::nullopt)};
  host.eager = {sample(2, std::nullopt)};
  EXPECT_THAT(startup_text(host), HasSubstr("changes nothing there"));
  Json json = startup_json(host);
  EXPECT_EQ(json["loading"][0]["gpu_bytes"], nullptr);
  EXPECT_EQ(json["loading"][0]["samples"][0]["gpu_bytes"], nullptr);
  EXPECT_EQ(json["eager_to_lazy"]["gpu_bytes"], nullptr);
}

}  // namespace
}  // namespace millrace::cli
