// What the backend decides and refuses before it touches a GPU or TensorRT's libraries.
#include "backends/tensorrt/tensorrt.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <millrace/build.h>

#include "backends/tensorrt/test_device.h"
#include "backends/test_harness.h"

namespace millrace::tensorrt {
namespace {

namespace fs = std::filesystem;
using testing::Host;
using testing::NoGpu;

ModelSpec spec_of(std::string path, std::map<std::string, std::string> options = {}) {
  ModelSpec spec;
  spec.name = "m";
  spec.path = std::move(path);
  spec.options = std::move(options);
  return spec;
}

TEST(TensorrtBackend, TakesPlansAndOnnxFilesOnGpus) {
  NoGpu gpu;
  const Backend tensorrt = backend();
  EXPECT_EQ(tensorrt.name, "tensorrt");
  for (const char* path : {"m.plan", "a/m.engine", "m.trt"}) {
    const Support support = tensorrt.supports(spec_of(path), &gpu);
    EXPECT_TRUE(support.supported) << path;
    EXPECT_EQ(support.reason, "the file's name says TensorRT engine");
  }
  const Support onnx = tensorrt.supports(spec_of("m.onnx"), &gpu);
  EXPECT_TRUE(onnx.supported);
  EXPECT_EQ(onnx.reason, "an ONNX file on a GPU: an engine is built for it once");
  for (const char* path : {"", "m", "plan", "m.plan.gz", "m.pt", "reference:identity"}) {
    const Support support = tensorrt.supports(spec_of(path), &gpu);
    EXPECT_FALSE(support.supported) << path;
    EXPECT_EQ(support.reason, "takes TensorRT engines (.plan, .engine) and ONNX files (.onnx)");
  }
}

TEST(TensorrtBackend, TakesNothingOnTheHost) {
  Host host;
  for (const char* path : {"m.plan", "m.onnx"}) {
    const Support support = backend().supports(spec_of(path), host.device());
    EXPECT_FALSE(support.supported);
    EXPECT_EQ(support.reason, "runs on GPUs only");
  }
  MILLRACE_EXPECT_ERROR(choose_backend("auto", spec_of("m.plan"), host.device()),
                        ErrorCode::unsupported, "tensorrt: runs on GPUs only");
  MILLRACE_EXPECT_ERROR(choose_backend("tensorrt", spec_of("m.onnx"), host.device()),
                        ErrorCode::unsupported,
                        "backend \"tensorrt\" cannot run it: runs on GPUs only");
}

/// Where TensorRT is looked for, there is none.
class TensorrtLoad : public ::testing::Test {
 protected:
  TensorrtLoad()
      : folder_(fs::path(::testing::TempDir()) / ("load" + std::to_string(getpid()))),
        ledger_(gpu_) {
    fs::create_directories(folder_);
    setenv("MILLRACE_TENSORRT", folder_.c_str(), 1);
  }
  ~TensorrtLoad() override {
    unsetenv("MILLRACE_TENSORRT");
    fs::remove_all(folder_);
  }

  std::string file(const std::string& name, const std::string& content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return (folder_ / name).string();
  }
  auto load(const ModelSpec& spec) { return backend().load(spec, &gpu_, ledger_); }

  const fs::path folder_;
  NoGpu gpu_;
  MemoryLedger ledger_;
};

TEST_F(TensorrtLoad, RefusesOptionsByNameBeforeAnythingElse) {
  MILLRACE_EXPECT_ERROR(load(spec_of("nowhere.plan", {{"speed", "high"}})),
                        ErrorCode::invalid_argument,
                        "model \"m\": the tensorrt backend has no option \"speed\"; it has ");
  MILLRACE_EXPECT_ERROR(load(spec_of("nowhere.plan", {{"batch", "0"}})),
                        ErrorCode::invalid_argument, "model \"m\": option \"batch\": expected ");
}

TEST_F(TensorrtLoad, SaysWhichFileIsMissingOrEmpty) {
  for (const char* name : {"nowhere.plan", "nowhere.onnx"}) {
    MILLRACE_EXPECT_ERROR(load(spec_of(name)), ErrorCode::not_found,
                          std::string("model \"m\": cannot read \"") + name + '"');
  }
  for (const char* name : {"empty.plan", "empty.onnx"}) {
    const std::string path = file(name, "");
    MILLRACE_EXPECT_ERROR(load(spec_of(path)), ErrorCode::invalid_argument,
                          "model \"m\": \"" + path + "\" is empty");
  }
  fs::create_directories(folder_ / "folder.plan");
  MILLRACE_EXPECT_ERROR(load(spec_of(folder_ / "folder.plan")), ErrorCode::invalid_argument,
                        "it is a folder");
}

TEST_F(TensorrtLoad, SaysWhereItLookedForTheLibrary) {
  for (const char* name : {"m.plan", "m.onnx"}) {
    MILLRACE_EXPECT_ERROR(load(spec_of(file(name, "content"))), ErrorCode::unavailable,
                          folder_.string() + "/libnvinfer.so.");
  }
  EXPECT_EQ(ledger_.reserved_bytes(), 0u);
  const BackendInfo info = backend().info();
  EXPECT_FALSE(info.usable);
  EXPECT_EQ(info.version, "");
  EXPECT_NE(info.reason, "");
}

class TensorrtBuild : public TensorrtLoad {
 protected:
  TensorrtBuild() { options_.model = file("m.onnx", "no model"); }
  auto build() { return build_engine(options_, (folder_ / "out.plan").string()); }
  BuildOptions options_;
};

TEST_F(TensorrtBuild, ChecksWhatIsAskedFor) {
  struct Row {
    std::int64_t min, opt, max;
  };
  for (const Row& row : {Row{0, 0, 8}, Row{-1, 0, 8}, Row{9, 0, 8}, Row{1, 9, 8}, Row{4, 2, 8},
                         Row{1, -1, 8}, Row{1, 0, 0}}) {
    options_.min_batch = row.min;
    options_.opt_batch = row.opt;
    options_.max_batch = row.max;
    MILLRACE_EXPECT_ERROR(build(), ErrorCode::invalid_argument,
                          "a batch of " + std::to_string(row.min) + "..");
  }
  options_ = BuildOptions{.model = options_.model};
  for (const int level : {-1, 6}) {
    options_.optimization_level = level;
    MILLRACE_EXPECT_ERROR(
        build(), ErrorCode::invalid_argument,
        "the optimization level is " + std::to_string(level) + ", expected 0 to 5");
  }
  options_ = BuildOptions{.model = options_.model};
  for (const DeviceId device : {DeviceId::host(0), DeviceId::host_memory()}) {
    options_.device = device;
    MILLRACE_EXPECT_ERROR(build(), ErrorCode::invalid_argument,
                          "for a GPU, as in cuda:0; got " + to_string(device));
  }
  EXPECT_FALSE(fs::exists(folder_ / "out.plan"));
}

TEST_F(TensorrtBuild, SaysWhichModelOrGpuIsMissing) {
  options_.device = DeviceId::cuda(99);
  MILLRACE_EXPECT_ERROR(build(), ErrorCode::not_found, "cuda:99");
  options_.model = (folder_ / "nowhere.onnx").string();
  MILLRACE_EXPECT_ERROR(build(), ErrorCode::not_found,
                        "cannot read \"" + options_.model + "\": No such file");
  options_.model = folder_.string();
  MILLRACE_EXPECT_ERROR(build(), ErrorCode::invalid_argument, "it is a folder");
  EXPECT_FALSE(fs::exists(folder_ / "out.plan"));
}

}  // namespace
}  // namespace millrace::tensorrt
