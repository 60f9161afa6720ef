// The library as TensorRT's registry sees it: its two functions, and plug-ins made from attributes.
// No TensorRT and no GPU is needed.
#include <gtest/gtest.h>

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <NvInfer.h>

namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

using PluginPointer = std::unique_ptr<nvinfer1::IPluginV3>;

class Recorder final : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity == Severity::kERROR) last = message;
  }
  nvinfer1::ILogger* findLogger() override { return this; }
  std::string last;
};

class Library : public testing::Test {
 protected:
  void SetUp() override {
    void* const library = dlopen(MILLRACE_PLUGINS_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    const auto set_logger_finder =
        reinterpret_cast<void (*)(nvinfer1::ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
    const auto creators =
        reinterpret_cast<nvinfer1::IPluginCreatorInterface* const* (*)(std::int32_t&)>(
            dlsym(library, "getCreators"));
    ASSERT_NE(set_logger_finder, nullptr);
    ASSERT_NE(creators, nullptr);
    set_logger_finder(&log_);
    std::int32_t count = 0;
    nvinfer1::IPluginCreatorInterface* const* const found = creators(count);
    for (std::int32_t i = 0; i < count; ++i) {
      ASSERT_EQ(std::string(found[i]->getInterfaceInfo().kind), "PLUGIN CREATOR_V3ONE");
      creators_.push_back(static_cast<nvinfer1::IPluginCreatorV3One*>(found[i]));
    }
  }

  /// The plug-in `name` with these attributes; null when the library refuses.
  PluginPointer make(const std::string& name, std::vector<PluginField> fields) {
    for (nvinfer1::IPluginCreatorV3One* creator : creators_) {
      if (creator->getPluginName() != name) continue;
      EXPECT_EQ(std::string(creator->getPluginVersion()), "1");
      EXPECT_EQ(std::string(creator->getPluginNamespace()), "");
      const PluginFieldCollection collection{static_cast<std::int32_t>(fields.size()),
                                             fields.data()};
      return PluginPointer(
          creator->createPlugin("node", &collection, nvinfer1::TensorRTPhase::kBUILD));
    }
    ADD_FAILURE() << "no creator of " << name;
    return nullptr;
  }

  template <class Capability>
  static Capability& as(nvinfer1::IPluginV3& plugin, nvinfer1::PluginCapabilityType type) {
    return *static_cast<Capability*>(plugin.getCapabilityInterface(type));
  }
  static nvinfer1::IPluginV3OneBuild& build(nvinfer1::IPluginV3& plugin) {
    return as<nvinfer1::IPluginV3OneBuild>(plugin, nvinfer1::PluginCapabilityType::kBUILD);
  }
  static nvinfer1::IPluginV3OneRuntime& runtime(nvinfer1::IPluginV3& plugin) {
    return as<nvinfer1::IPluginV3OneRuntime>(plugin, nvinfer1::PluginCapabilityType::kRUNTIME);
  }

  /// Whether the last of tensors of these types is taken, beside the others.
  static bool takes(nvinfer1::IPluginV3& plugin, std::vector<nvinfer1::DataType> types,
                    bool linear = true) {
    std::vector<nvinfer1::DynamicPluginTensorDesc> tensors(types.size());
    for (std::size_t i = 0; i < types.size(); ++i) {
      tensors[i].desc.type = types[i];
      tensors[i].desc.format =
          linear ? nvinfer1::TensorFormat::kLINEAR : nvinfer1::TensorFormat::kCHW32;
    }
    const auto position = static_cast<std::int32_t>(types.size()) - 1;
    return build(plugin).supportsFormatCombination(position, tensors.data(), 1, position);
  }

  Recorder log_;
  std::vector<nvinfer1::IPluginCreatorV3One*> creators_;
  std::vector<float> anchors_{12, 16, 19, 36, 40, 28};
  float stride_ = 8;
  std::int32_t classes_ = 80;
  std::vector<PluginField> yolo_fields_{{"anchors", anchors_.data(), PluginFieldType::kFLOAT32, 6},
                                        {"stride", &stride_, PluginFieldType::kFLOAT32, 1},
                                        {"classes", &classes_, PluginFieldType::kINT32, 1}};
};

constexpr auto kFloat = nvinfer1::DataType::kFLOAT;
constexpr auto kHalf = nvinfer1::DataType::kHALF;
constexpr auto kInt32 = nvinfer1::DataType::kINT32;

TEST_F(Library, HasTwoPlugins) {
  std::vector<std::string> names;
  names.reserve(creators_.size());
  for (nvinfer1::IPluginCreatorV3One* creator : creators_) {
    names.emplace_back(creator->getPluginName());
  }
  EXPECT_EQ(names, (std::vector<std::string>{"MillraceMish", "YoloDecode"}));
}

TEST_F(Library, MishKeepsTypeAndTakesLinearFloats) {
  const PluginPointer plugin = make("MillraceMish", {});
  ASSERT_NE(plugin, nullptr);
  EXPECT_TRUE(takes(*plugin, {kFloat}));
  EXPECT_TRUE(takes(*plugin, {kHalf, kHalf}));
  EXPECT_FALSE(takes(*plugin, {kHalf, kFloat}));
  EXPECT_FALSE(takes(*plugin, {kInt32}));
  EXPECT_FALSE(takes(*plugin, {kFloat}, false));
  nvinfer1::DataType output = kFloat;
  EXPECT_EQ(build(*plugin).getOutputDataTypes(&output, 1, &kHalf, 1), 0);
  EXPECT_EQ(output, kHalf);
  EXPECT_EQ(runtime(*plugin).getFieldsToSerialize()->nbFields, 0);
}

TEST_F(Library, YoloDecodeAnswersInFp32) {
  const PluginPointer plugin = make("YoloDecode", yolo_fields_);
  ASSERT_NE(plugin, nullptr);
  EXPECT_TRUE(takes(*plugin, {kHalf}));
  EXPECT_TRUE(takes(*plugin, {kHalf, kFloat}));
  EXPECT_TRUE(takes(*plugin, {kFloat, kFloat, kFloat}));
  EXPECT_FALSE(takes(*plugin, {kHalf, kHalf}));
  EXPECT_FALSE(takes(*plugin, {kHalf, kFloat}, false));
}

TEST_F(Library, AttributesSurviveAPlan) {
  const float scale_xy = 1.05F;
  yolo_fields_.emplace_back("scale_xy", &scale_xy, PluginFieldType::kFLOAT32, 1);
  PluginPointer plugin = make("YoloDecode", yolo_fields_);
  ASSERT_NE(plugin, nullptr);
  const PluginPointer clone(plugin->clone());
  plugin.reset();
  const PluginFieldCollection& saved = *runtime(*clone).getFieldsToSerialize();
  const PluginPointer again =
      make("YoloDecode", std::vector<PluginField>(saved.fields, saved.fields + saved.nbFields));
  ASSERT_NE(again, nullptr);
  const PluginFieldCollection& fields = *runtime(*again).getFieldsToSerialize();
  ASSERT_EQ(fields.nbFields, 4);
  ASSERT_EQ(fields.fields[0].length, 6);
  const auto* const anchors = static_cast<const float*>(fields.fields[0].data);
  EXPECT_TRUE(std::equal(anchors_.begin(), anchors_.end(), anchors));
  EXPECT_EQ(*static_cast<const float*>(fields.fields[1].data), stride_);
  EXPECT_EQ(*static_cast<const std::int32_t*>(fields.fields[2].data), classes_);
  EXPECT_EQ(*static_cast<const float*>(fields.fields[3].data), scale_xy);
}

TEST_F(Library, YoloDecodeChecksTheChannels) {
  const PluginPointer plugin = make("YoloDecode", yolo_fields_);
  ASSERT_NE(plugin, nullptr);
  nvinfer1::DynamicPluginTensorDesc input{};
  input.desc.dims = {4, {-1, 255, -1, -1}};
  EXPECT_EQ(build(*plugin).configurePlugin(&input, 1, nullptr, 2), 0);
  input.desc.dims.d[1] = 252;
  EXPECT_NE(build(*plugin).configurePlugin(&input, 1, nullptr, 2), 0);
  EXPECT_NE(log_.last.find("YoloDecode"), std::string::npos);
}

TEST_F(Library, WrongAttributesAreRefusedWithAMessage) {
  const auto refused = [&](std::vector<PluginField> fields) {
    log_.last.clear();
    return make("YoloDecode", std::move(fields)) == nullptr &&
           log_.last.find("expected") != std::string::npos;
  };
  EXPECT_TRUE(refused({}));
  for (std::size_t left_out = 0; left_out < yolo_fields_.size(); ++left_out) {
    std::vector<PluginField> fields = yolo_fields_;
    fields.erase(fields.begin() + static_cast<std::ptrdiff_t>(left_out));
    EXPECT_TRUE(refused(fields)) << left_out;
  }
  std::vector<PluginField> odd = yolo_fields_;
  odd[0].length = 5;
  EXPECT_TRUE(refused(odd));
  const std::vector<float> many(34, 1.0F);
  std::vector<PluginField> too_many = yolo_fields_;
  too_many[0] = {"anchors", many.data(), PluginFieldType::kFLOAT32, 34};
  EXPECT_TRUE(refused(too_many));
}

}  // namespace
