// What is found wrong with plug-in libraries, and what is found in good ones. TensorRT is not
// needed.
#include "backends/tensorrt/plugins.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "backends/test_harness.h"

// The registry's old functions have to be there.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace millrace::tensorrt {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::text_of;

std::string wrong(const std::string& name) {
  return std::string(MILLRACE_WRONG_PLUGINS) + "/libwrong_plugins_" + name + ".so";
}

TEST(Plugins, TheCreatorsOfALibraryAreFound) {
  const Result<PluginLibrary> ours = open_plugins(MILLRACE_PLUGINS_LIBRARY);
  ASSERT_TRUE(ours.ok()) << text_of(ours);
  EXPECT_THAT(ours->names, ElementsAre("MillraceMish 1", "YoloDecode 1"));
  EXPECT_EQ(ours->creators.size(), 2u);
  const Result<PluginLibrary> other = open_plugins(MILLRACE_MISBEHAVING_LIBRARY);
  ASSERT_TRUE(other.ok()) << text_of(other);
  EXPECT_THAT(other->names, ElementsAre("Misbehave 1"));
}

TEST(Plugins, WhatIsNoneIsRefusedByName) {
  struct Row {
    std::string path;
    ErrorCode code;
    const char* words;
  };
  const fs::path text =
      fs::path(::testing::TempDir()) / ("plugins" + std::to_string(getpid()) + ".so");
  std::ofstream(text) << "this is no library";
  for (const Row& row : {
           Row{"/nowhere/libmish.so", ErrorCode::not_found,
               "plug-in library \"/nowhere/libmish.so\": there is no such file"},
           Row{MILLRACE_WRONG_PLUGINS, ErrorCode::not_found, "there is no such file"},
           Row{"libm.so.6", ErrorCode::not_found, "there is no such file"},
           Row{text.string(), ErrorCode::invalid_argument, "cannot be opened: "},
           Row{wrong("none"), ErrorCode::invalid_argument,
               "has no plug-ins: expected a function getCreators"},
           Row{wrong("old"), ErrorCode::invalid_argument, "has plug-ins of IPluginV2 only"},
           Row{wrong("empty"), ErrorCode::invalid_argument,
               "has no plug-ins: its getCreators gives none"},
           Row{wrong("kind"), ErrorCode::invalid_argument,
               "has a creator of the kind \"PLUGIN CREATOR_V9\"; expected IPluginCreatorV3One"},
           Row{wrong("major"), ErrorCode::invalid_argument,
               "was made for TensorRT 8 (it needs libnvinfer.so.8); build it with the headers of "
               "TensorRT 10"},
       }) {
    SCOPED_TRACE(row.path);
    const Result<PluginLibrary> library = open_plugins(row.path);
    MILLRACE_EXPECT_ERROR(library, row.code, row.words);
    EXPECT_NE(library.error().message.find(fs::path(row.path).filename().string()),
              std::string::npos)
        << library.error().message;
  }
  fs::remove(text);
}

/// As much of TensorRT's registry as registering needs.
class Registry final : public nvinfer1::IPluginRegistry {
 public:
  nvinfer1::IPluginRegistry::PluginLibraryHandle loadLibrary(
      nvinfer1::AsciiChar const* path) noexcept override {
    loaded.emplace_back(path);
    return takes ? this : nullptr;
  }
  std::vector<std::string> loaded;
  bool takes = true;

  bool registerCreator(nvinfer1::IPluginCreator&, const char*) noexcept override { return false; }
  nvinfer1::IPluginCreator* const* getPluginCreatorList(std::int32_t*) const noexcept override {
    return nullptr;
  }
  nvinfer1::IPluginCreator* getPluginCreator(const char*, const char*,
                                             const char*) noexcept override {
    return nullptr;
  }
  void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept override {}
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  bool deregisterCreator(const nvinfer1::IPluginCreator&) noexcept override { return false; }
  bool isParentSearchEnabled() const noexcept override { return false; }
  void setParentSearchEnabled(bool) noexcept override {}
  void deregisterLibrary(PluginLibraryHandle) noexcept override {}
  bool registerCreator(nvinfer1::IPluginCreatorInterface&, const char*) noexcept override {
    return false;
  }
  nvinfer1::IPluginCreatorInterface* const* getAllCreators(std::int32_t*) const noexcept override {
    return nullptr;
  }
  nvinfer1::IPluginCreatorInterface* const* getAllCreatorsRecursive(
      std::int32_t*) noexcept override {
    return nullptr;
  }
  nvinfer1::IPluginCreatorInterface* getCreator(const char*, const char*,
                                                const char*) noexcept override {
    return nullptr;
  }
  bool deregisterCreator(const nvinfer1::IPluginCreatorInterface&) noexcept override {
    return false;
  }
  nvinfer1::IPluginResource* acquirePluginResource(const char*,
                                                   nvinfer1::IPluginResource*) noexcept override {
    return nullptr;
  }
  std::int32_t releasePluginResource(const char*) noexcept override { return 0; }
};

TEST(Plugins, AreRegisteredOnceAndUnderOneName) {
  Registry registry;
  Library library;
  library.text = "10.6.0";
  library.plugins = &registry;
  registry.takes = false;
  const std::string ours = MILLRACE_PLUGINS_LIBRARY;
  MILLRACE_EXPECT_ERROR(register_plugins(library, {{ours}}), ErrorCode::invalid_argument,
                        "is not taken by TensorRT 10.6.0");
  registry.takes = true;
  EXPECT_TRUE(register_plugins(library, {{ours, MILLRACE_MISBEHAVING_LIBRARY}}).ok());
  EXPECT_EQ(registry.loaded.size(), 3u);
  const fs::path folder = fs::path(::testing::TempDir()) / ("p" + std::to_string(getpid()));
  fs::create_directories(folder);
  fs::create_symlink(ours, folder / "link.so");
  EXPECT_TRUE(register_plugins(library, {{ours, (folder / "link.so").string()}}).ok());
  EXPECT_EQ(registry.loaded.size(), 3u) << "the same file";
  fs::copy_file(ours, folder / "copy.so");
  MILLRACE_EXPECT_ERROR(
      register_plugins(library, {{(folder / "copy.so").string()}}), ErrorCode::invalid_argument,
      "has the plug-in \"MillraceMish 1\", which \"" + ours + "\" has registered already");
  EXPECT_EQ(registry.loaded.size(), 3u);
  MILLRACE_EXPECT_ERROR(register_plugins(library, {{"/nowhere.so"}}), ErrorCode::not_found,
                        "/nowhere.so");
  fs::remove_all(folder);
}

}  // namespace
}  // namespace millrace::tensorrt
