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
  const std::vector<std::string_view> names = {"tensorrt", "onnxruntime", "reference"};
  const std::vector<BackendInfo> infos = backend_infos();
  ASSERT_EQ(backends().size(), names.size());
  ASSERT_EQ(infos.size(), names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(backends()[i].name, names[i]);
    EXPECT_EQ(infos[i].name, names[i]);
  }
  EXPECT_NE(infos[0].usable, infos[0].version.empty());
  EXPECT_EQ(infos[0].usable, infos[0].reason.empty());
  EXPECT_TRUE(infos[1].usable) << infos[1].reason;
  EXPECT_FALSE(infos[1].version.empty());
  EXPECT_TRUE(infos[2].usable);
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
  MILLRACE_EXPECT_ERROR(choose_backend("auto", spec_of("notes.txt"), host.device()),
                        ErrorCode::unsupported,
                        "no backend can run \"notes.txt\" on host:0:\n  tensorrt: ");
  MILLRACE_EXPECT_ERROR(choose_backend("auto", spec_of("notes.txt"), host.device()),
                        ErrorCode::unsupported, "\n  onnxruntime: takes ONNX models");
  MILLRACE_EXPECT_ERROR(choose_backend("auto", spec_of("notes.txt"), host.device()),
                        ErrorCode::unsupported, "\n  reference: takes \"reference:KIND?");
}

TEST(Backends, OnesWithoutPluginsRunNoModelThatNamesSome) {
  Host host;
  ModelSpec spec = spec_of("reference:add");
  spec.plugins = {"libmish.so"};
  MILLRACE_EXPECT_ERROR(choose_backend("reference", spec, host.device()), ErrorCode::unsupported,
                        "backend \"reference\" cannot run it: takes no plug-in libraries, and the "
                        "model names \"libmish.so\"");
  MILLRACE_EXPECT_ERROR(choose_backend("auto", spec, host.device()), ErrorCode::unsupported,
                        "\n  reference: takes no plug-in libraries");
}

TEST(Backends, CanBeAskedForByName) {
  Host host;
  const auto choice = choose_backend("reference", spec_of("reference:add"), host.device());
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->reason, "asked for");
  MILLRACE_EXPECT_ERROR(choose_backend("reference", spec_of("m.onnx"), host.device()),
                        ErrorCode::unsupported, "backend \"reference\" cannot run it");
  MILLRACE_EXPECT_ERROR(
      choose_backend("tensorflow", spec_of("m.onnx"), host.device()), ErrorCode::not_found,
      "no backend \"tensorflow\"; there are auto, tensorrt, onnxruntime, reference");
}

}  // namespace
}  // namespace millrace
