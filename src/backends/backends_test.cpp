#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "backends/backend.h"
#include "backends/test_harness.h"

namespace millrace {
namespace {

using testing::Host;
using testing::text_of;

ModelSpec spec_of(std::string path) {
  ModelSpec spec;
  spec.name = "m";
  spec.path = std::move(path);
  return spec;
}

TEST(Backends, AreListedBestFirst) {
  ASSERT_EQ(backends().size(), 2U);
  EXPECT_EQ(backends()[0].name, "onnxruntime");
  EXPECT_EQ(backends()[1].name, "reference");
  const std::vector<BackendInfo> infos = backend_infos();
  ASSERT_EQ(infos.size(), 2U);
  EXPECT_EQ(infos[0].name, "onnxruntime");
  EXPECT_TRUE(infos[0].usable) << infos[0].reason;
  EXPECT_FALSE(infos[0].version.empty());
  EXPECT_TRUE(infos[1].usable);
}

TEST(Backends, AutoChoosesByFileAndSaysWhy) {
  Host host;
  const auto chosen = [&](const ModelSpec& spec) {
    const auto choice = choose_backend("auto", spec, host.device());
    return choice.ok() ? std::string(choice->backend->name) + ": " + choice->reason
                       : text_of(choice);
  };
  EXPECT_EQ(chosen(spec_of("a/model.onnx")), "onnxruntime: the file's name says ONNX");
  EXPECT_EQ(chosen(spec_of("reference:identity")),
            "reference: the name says that it is a reference model");
  EXPECT_EQ(chosen(spec_of("b.reference.json")),
            "reference: the name says that it is a reference model");
  ModelSpec memory = spec_of("x");
  memory.content = std::make_shared<const std::string>("\x08\x0a");
  EXPECT_EQ(chosen(memory), "onnxruntime: a model in memory is taken for ONNX");
  memory.content = std::make_shared<const std::string>(" {\"kind\": \"add\"}");
  EXPECT_TRUE(chosen(memory).starts_with("reference: "));
}

TEST(Backends, AutoLooksAtTheFirstBytes) {
  const auto path =
      std::filesystem::path(::testing::TempDir()) / ("model" + std::to_string(getpid()) + ".bin");
  std::filesystem::copy_file(MILLRACE_SOURCE_DIR "/tests/models/linear.onnx", path);
  Host host;
  const auto choice = choose_backend("auto", spec_of(path), host.device());
  std::filesystem::remove(path);
  ASSERT_TRUE(choice.ok()) << text_of(choice);
  EXPECT_EQ(choice->reason, "the file begins as ONNX files do");
}

TEST(Backends, WhatNoneCanRunIsRefusedWithEachOnesReason) {
  Host host;
  MILLRACE_EXPECT_ERROR(
      choose_backend("auto", spec_of("notes.txt"), host.device()), ErrorCode::unsupported,
      "no backend can run \"notes.txt\" on host:0:\n  onnxruntime: takes ONNX models");
  MILLRACE_EXPECT_ERROR(choose_backend("auto", spec_of("notes.txt"), host.device()),
                        ErrorCode::unsupported, "\n  reference: takes \"reference:KIND?");
  for (const std::string name : {"net.plan", "net.engine"}) {
    MILLRACE_EXPECT_ERROR(choose_backend("auto", spec_of(name), host.device()),
                          ErrorCode::unsupported, "the TensorRT backend is not in this build yet");
  }
}

TEST(Backends, CanBeAskedForByName) {
  Host host;
  const auto choice = choose_backend("reference", spec_of("reference:add"), host.device());
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->reason, "asked for");
  MILLRACE_EXPECT_ERROR(choose_backend("reference", spec_of("m.onnx"), host.device()),
                        ErrorCode::unsupported, "backend \"reference\" cannot run it");
  MILLRACE_EXPECT_ERROR(choose_backend("tensorrt", spec_of("m.onnx"), host.device()),
                        ErrorCode::not_found,
                        "no backend \"tensorrt\"; there are auto, onnxruntime, reference");
}

}  // namespace
}  // namespace millrace
