#include "repository/config.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"

namespace millrace {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

ModelFile parsed(std::string_view json, const std::string& path = "models/a.json") {
  Result<ModelFile> file = parse_model_config(json, path);
  EXPECT_TRUE(file.ok()) << (file.ok() ? "" : file.error().message);
  return file.ok() ? std::move(*file) : ModelFile{};
}

std::string refusal(std::string_view json) {
  const Result<ModelFile> file = parse_model_config(json, "a.json");
  if (file.ok()) return "accepted";
  EXPECT_EQ(file.error().code, ErrorCode::invalid_argument);
  return file.error().message;
}

TEST(ModelConfigFile, ReadsEveryField) {
  const ModelFile file = parsed(R"({
    "model": "m.onnx", "name": "mine", "backend": "onnxruntime", "devices": ["cuda:1", "host"], "lanes": 3, "slots": 4,
    "batching": {"max_items": 64, "preferred_items": [8, 16, 64], "max_delay": "2ms", "preserve_order": true},
    "limits": {"max_requests": 100, "max_bytes": "64MiB", "default_timeout": "500ms"},
    "priority": -2, "weight": 2.5, "hang_timeout": "30s", "options": {"threads": 2, "mode": "fast", "on": true},
    "labels": "labels.txt", "preprocess": {"images": {"scale": 0.5}}, "plugins": ["libmish.so", "/b/libyolo.so"]
  })");
  const ModelConfig& config = file.config;
  EXPECT_EQ(config.path, "models/m.onnx");
  EXPECT_EQ(config.name, "mine");
  EXPECT_EQ(config.backend, "onnxruntime");
  EXPECT_EQ(config.devices, (std::vector<DeviceId>{DeviceId::cuda(1), DeviceId::host(0)}));
  EXPECT_EQ(config.lanes, 3);
  EXPECT_EQ(config.slots, 4);
  EXPECT_EQ(config.batching.max_items, 64);
  EXPECT_EQ(config.batching.preferred_items, (std::vector<std::int64_t>{8, 16, 64}));
  EXPECT_EQ(config.batching.max_delay, milliseconds(2));
  EXPECT_TRUE(config.batching.preserve_order);
  EXPECT_EQ(config.limits.max_requests, 100U);
  EXPECT_EQ(config.limits.max_bytes, std::size_t{64} << 20);
  EXPECT_EQ(config.limits.default_timeout, milliseconds(500));
  EXPECT_EQ(config.priority_class, -2);
  EXPECT_EQ(config.weight, 2.5);
  EXPECT_EQ(config.hang_timeout, std::chrono::seconds(30));
  EXPECT_EQ(config.options, (std::map<std::string, std::string>{
                                {"threads", "2"}, {"mode", "fast"}, {"on", "true"}}));
  EXPECT_EQ(config.plugins, (std::vector<std::string>{"models/libmish.so", "/b/libyolo.so"}));
  EXPECT_EQ(file.labels, "models/labels.txt");
  EXPECT_EQ(file.preprocess.at("images").scale, 0.5);
  EXPECT_EQ(file.configuration, "models/a.json");
}

TEST(ModelConfigFile, DefaultsAreThoseOfModelConfig) {
  const ModelConfig config = parsed(R"({"model": "m.onnx"})").config;
  const ModelConfig defaults;
  EXPECT_EQ(config.name, "a");
  EXPECT_EQ(config.backend, defaults.backend);
  EXPECT_EQ(config.lanes, defaults.lanes);
  EXPECT_EQ(config.slots, defaults.slots);
  EXPECT_EQ(config.batching.max_items, defaults.batching.max_items);
  EXPECT_EQ(config.limits.max_requests, defaults.limits.max_requests);
  EXPECT_EQ(config.limits.max_bytes, defaults.limits.max_bytes);
  EXPECT_EQ(config.hang_timeout, defaults.hang_timeout);
  EXPECT_EQ(parsed(R"({"model": "m.onnx"})", "x/digits/millrace.json").config.name, "digits");
}

TEST(ModelConfigFile, PathsStartAtTheFile) {
  EXPECT_EQ(parsed(R"({"model": "../b/m.onnx"})", "x/a/millrace.json").config.path, "x/b/m.onnx");
  EXPECT_EQ(parsed(R"({"model": "/abs/m.onnx"})").config.path, "/abs/m.onnx");
  EXPECT_EQ(parsed(R"({"model": "reference:identity?shape=4"})").config.path,
            "reference:identity?shape=4");
  EXPECT_EQ(parsed(R"({"model": "m.onnx"})", "millrace.json").config.path, "m.onnx");
}

TEST(ModelConfigFile, ReadsAnEnsemble) {
  const ModelFile file = parsed(R"({
    "models": ["../detector", "reference:add"],
    "ensemble": {"steps": [{"model": "detector", "inputs": {"x": "image"}, "outputs": {"y": "boxes"}}], "outputs": ["boxes"]}
  })",
                                "x/e/millrace.json");
  ASSERT_EQ(file.config.ensemble.size(), 1U);
  EXPECT_EQ(file.config.ensemble[0].model, "detector");
  EXPECT_EQ(file.config.ensemble[0].inputs.at("x"), "image");
  EXPECT_EQ(file.config.ensemble[0].outputs.at("y"), "boxes");
  EXPECT_EQ(file.config.ensemble_outputs, (std::vector<std::string>{"boxes"}));
  EXPECT_EQ(file.models, (std::vector<std::string>{"x/detector", "reference:add"}));
  EXPECT_TRUE(file.config.path.empty());
}

TEST(ModelConfigFile, RefusesUnknownFieldsWithTheNearest) {
  EXPECT_EQ(refusal(R"({"model": "m", "lane": 1})"),
            "a.json: unknown field \"lane\"; did you mean \"lanes\"?");
  EXPECT_EQ(refusal(R"({"model": "m", "batching": {"max_item": 1}})"),
            "a.json: batching: unknown field \"max_item\"; did you mean \"max_items\"?");
  EXPECT_EQ(refusal(R"({"model": "m", "limits": {"timeout": "1s"}})"),
            "a.json: limits: unknown field \"timeout\"; did you mean \"default_timeout\"?");
  EXPECT_EQ(refusal(R"({"model": "m", "preprocess": {"x": {"chanels": "rgb"}}})"),
            "a.json: preprocess: x: unknown field \"chanels\"; did you mean \"channels\"?");
}

TEST(ModelConfigFile, SaysWhatWasExpected) {
  EXPECT_EQ(refusal(R"({"model": "m", "lanes": 0})"),
            "a.json: lanes: expected a whole number from 1 to 1024, got 0");
  EXPECT_EQ(refusal(R"({"model": "m", "lanes": -3})"),
            "a.json: lanes: expected a whole number from 1 to 1024, got -3");
  EXPECT_EQ(refusal(R"({"model": 3})"), "a.json: model: expected a text, got 3");
  EXPECT_EQ(refusal(R"({})"),
            "a.json: expected either \"model\" (a file) or \"ensemble\", got neither");
  EXPECT_EQ(refusal("[]"), "a.json: expected an object {...}, got []");
  EXPECT_NE(refusal(R"({"model": "m", "batching": {"max_delay": "fast"}})")
                .find("a.json: batching: max_delay"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"model": "m", "devices": ["gpu"]})").find("a.json: devices"),
            std::string::npos);
}

TEST(ModelConfigFile, RefusesBadValues) {
  for (const std::string_view json :
       {"",
        "{",
        "null",
        R"({"model": ""})",
        R"({"model": "m", "slots": 9})",
        R"({"model": "m", "slots": 1.5})",
        R"({"model": "m", "weight": 0})",
        R"({"model": "m", "weight": -1})",
        R"({"model": "m", "weight": 1e300})",
        R"({"model": "m", "hang_timeout": 5})",
        R"({"model": "m", "hang_timeout": "-5s"})",
        R"({"model": "m", "devices": "host"})",
        R"({"model": "m", "devices": [0]})",
        R"({"model": "m", "batching": []})",
        R"({"model": "m", "batching": {"max_items": 0}})",
        R"({"model": "m", "batching": {"preferred_items": [8, 4]}})",
        R"({"model": "m", "batching": {"preferred_items": [0]}})",
        R"({"model": "m", "batching": {"max_items": 4, "preferred_items": [8]}})",
        R"({"model": "m", "batching": {"preserve_order": 1}})",
        R"({"model": "m", "limits": {"max_requests": 0}})",
        R"({"model": "m", "limits": {"max_bytes": "0"}})",
        R"({"model": "m", "limits": {"max_bytes": -1}})",
        R"({"model": "m", "options": {"a": [1]}})",
        R"({"model": "m", "options": []})",
        R"({"model": "m", "labels": 1})",
        R"({"model": "m", "preprocess": {"x": []}})",
        R"({"model": "m", "preprocess": []})",
        R"({"model": "m", "model": "n"})",
        R"({"model": "m", "models": ["x"]})",
        R"({"ensemble": {}})",
        R"({"ensemble": {"steps": [], "outputs": ["y"]}})",
        R"({"ensemble": {"steps": [{}], "outputs": ["y"]}})",
        R"({"ensemble": {"steps": [{"model": "m"}], "outputs": []}})",
        R"({"model": "m", "ensemble": {"steps": [{"model": "m"}], "outputs": ["y"]}})"}) {
    EXPECT_NE(refusal(json), "accepted") << json;
  }
}

class ReadModel : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_ + "/m"); }
  void TearDown() override { fs::remove_all(folder_); }
  std::string put(const std::string& name, std::string_view text) {
    EXPECT_TRUE(write_file(folder_ + "/" + name, text).ok());
    return folder_ + "/" + name;
  }
  std::string folder_ = testing::TempDir() + "config_test." + std::to_string(::getpid());
};

TEST_F(ReadModel, AFolderByItsConfiguration) {
  put("m/millrace.json", R"({"model": "x.onnx"})");
  const Result<ModelFile> file = read_model(folder_ + "/m");
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->config.path, folder_ + "/m/x.onnx");
  EXPECT_EQ(file->config.name, "m");
  EXPECT_EQ(read_model(folder_ + "/m/millrace.json")->config.path, file->config.path);
  EXPECT_EQ(read_model(folder_ + "/m/")->config.name, "m");
}

TEST_F(ReadModel, AFileWithTheConfigurationBesideIt) {
  const std::string path = put("m/x.onnx", "model");
  EXPECT_EQ(read_model(path)->config.lanes, 0);
  EXPECT_EQ(read_model(path)->config.path, path);
  EXPECT_TRUE(read_model(path)->configuration.empty());
  put("m/millrace.json", R"({"model": "x.onnx", "lanes": 5})");
  EXPECT_EQ(read_model(path)->config.lanes, 5);
  put("m/x.json", R"({"model": "x.onnx", "lanes": 6})");
  EXPECT_EQ(read_model(path)->config.lanes, 6);
  const std::string other = put("m/y.onnx", "model");
  EXPECT_EQ(read_model(other)->config.lanes, 0) << "millrace.json names another file";
}

TEST_F(ReadModel, RefusesAConfigurationBesideThatNamesAnotherFile) {
  const std::string path = put("m/x.onnx", "model");
  put("m/x.json", R"({"model": "y.onnx"})");
  ASSERT_FALSE(read_model(path).ok());
  EXPECT_NE(read_model(path).error().message.find("expected \"model\" to name x.onnx"),
            std::string::npos);
}

TEST_F(ReadModel, ReferenceModels) {
  EXPECT_EQ(read_model("reference:identity")->config.path, "reference:identity");
  const std::string path = put("m/a.reference.json", R"({"kind": "busy"})");
  EXPECT_EQ(read_model(path)->config.path, path);
}

TEST_F(ReadModel, SaysWhatIsMissing) {
  const Result<ModelFile> nothing = read_model(folder_ + "/none.onnx");
  ASSERT_FALSE(nothing.ok());
  EXPECT_EQ(nothing.error().code, ErrorCode::not_found);
  EXPECT_NE(nothing.error().message.find("none.onnx"), std::string::npos);
  const Result<ModelFile> empty = read_model(folder_ + "/m");
  ASSERT_FALSE(empty.ok());
  EXPECT_NE(empty.error().message.find("expected millrace.json in it"), std::string::npos);
}

TEST_F(ReadModel, TheDigits) {
  const Result<ModelFile> file = read_model(MILLRACE_SOURCE_DIR "/examples/digits");
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->config.name, "digits");
  EXPECT_TRUE(fs::exists(file->config.path));
  EXPECT_TRUE(fs::exists(file->labels));
  EXPECT_DOUBLE_EQ(*file->preprocess.at("images").scale, 16.0 / 255);
}

}  // namespace
}  // namespace millrace
