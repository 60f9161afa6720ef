// Model files as they come from outside: good ones run, others leave the engine as it was.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

using ::testing::ElementsAre;

std::string model_path(const std::string& name) {
  return MILLRACE_SOURCE_DIR "/tests/models/" + name;
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

class ModelFiles : public ::testing::Test {
 protected:
  ModelFiles() {
    folder_ = ::testing::TempDir() + "engine_model_files" + std::to_string(::getpid()) + "/";
  }
  void SetUp() override {
    std::filesystem::create_directories(folder_);
    there_ = must(engine_.load(named("there", model_path("identity_fp32.onnx"))));
    used_ = engine_.device_reports()[0].memory.used_bytes;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  // Loading it, from the file and from memory, is an error that names the model; nothing else
  // changes.
  void refuse(const std::string& bytes, const std::string& file = "bad.onnx") {
    const std::string path = folder_ + file;
    std::ofstream(path, std::ios::binary) << bytes;
    check_refused(named("bad", path));
    ModelConfig config = named("bad", "in memory.onnx");
    config.content = std::make_shared<const std::string>(bytes);
    check_refused(config);
  }
  void check_refused(const ModelConfig& config, std::string_view words = "\"bad\"") {
    const Result<Model> loaded = engine_.load(config);
    EXPECT_FALSE(loaded.ok());
    if (!loaded.ok()) {
      EXPECT_NE(loaded.error().message.find("\"bad\""), std::string::npos)
          << loaded.error().message;
      EXPECT_TRUE(loaded.error().code == ErrorCode::invalid_argument ||
                  loaded.error().code == ErrorCode::unsupported ||
                  loaded.error().code == ErrorCode::not_found)
          << text_of(loaded);
      EXPECT_NE(loaded.error().message.find(words), std::string::npos) << loaded.error().message;
    }
    EXPECT_THAT(engine_.model_names(), ElementsAre("there"));
    EXPECT_EQ(engine_.device_reports()[0].memory.used_bytes, used_);
  }

  const Log log_;
  Engine engine_ = make_engine();
  Model there_;
  std::size_t used_ = 0;
  std::string folder_;
};

TEST_F(ModelFiles, AGoodOneRunsFromAFileAndFromMemory) {
  const std::string path = model_path("linear.onnx");
  const Model from_file = must(engine_.load(named("file", path)));
  ModelConfig config = named("memory", "linear.onnx");
  config.content = std::make_shared<const std::string>(content_of(path));
  const Model from_memory = must(engine_.load(config));
  EXPECT_EQ(from_file.info().backend, "onnxruntime");
  ASSERT_EQ(from_file.info().inputs.size(), 1u);
  const TensorInfo& input = from_file.info().inputs[0];
  Shape shape = input.shape;
  if (input.batch_axis == 0) shape[0] = 3;
  std::vector<float> values(static_cast<std::size_t>(must(element_count(shape))));
  std::iota(values.begin(), values.end(), 0.5F);
  const auto ask = [&](const Model& model) {
    Request request;
    request.inputs.push_back({input.name, TensorView::of(values.data(), shape), {}});
    return floats(must(model.infer(std::move(request))).outputs[0].view);
  };
  const std::vector<float> once = ask(from_file);
  EXPECT_FALSE(once.empty());
  EXPECT_EQ(ask(from_memory), once);
}

TEST_F(ModelFiles, MissingEmptyOrNoFile) {
  for (const char* name : {"missing.onnx", "missing", "no/such/folder/m.onnx"}) {
    check_refused(named("bad", folder_ + name), name);
  }
  refuse("");
  check_refused(named("bad", folder_));
  std::filesystem::create_directory(folder_ + "folder.onnx");
  check_refused(named("bad", folder_ + "folder.onnx"));
}

TEST_F(ModelFiles, TruncatedAnywhere) {
  const std::string whole = content_of(model_path("linear.onnx"));
  for (std::size_t size = 1; size + 1 < whole.size(); size += 1 + whole.size() / 40) {
    SCOPED_TRACE(size);
    // Some beginnings of a file are whole models, if poor ones; they may load, but not as this one.
    const std::string path = folder_ + "cut.onnx";
    std::ofstream(path, std::ios::binary) << whole.substr(0, size);
    const Result<Model> loaded = engine_.load(named("bad", path));
    if (loaded.ok()) {
      EXPECT_TRUE(loaded->info().inputs.size() != 1 || loaded->info().outputs.size() != 1);
      must(engine_.unload("bad"));
    }
    EXPECT_THAT(engine_.model_names(), ElementsAre("there"));
    EXPECT_EQ(engine_.device_reports()[0].memory.used_bytes, used_);
  }
}

TEST_F(ModelFiles, Corrupt) {
  std::mt19937 random(5);
  std::string noise(4096, '\0');
  for (char& byte : noise) byte = static_cast<char>(random());
  refuse(noise);
  refuse("this is no model\n");
  refuse(std::string(100, '\0'));
  refuse(noise, "bad.bin");
  std::string spoilt = content_of(model_path("linear.onnx"));
  for (std::size_t i = 0; i < 64 && i < spoilt.size(); ++i) spoilt[i] = '\xff';
  refuse(spoilt);
}

TEST_F(ModelFiles, Unsupported) {
  for (const char* name : {"unknown_operator.onnx", "unknown_rank.onnx", "sequence_input.onnx",
                           "nine_dimensions.onnx"}) {
    SCOPED_TRACE(name);
    check_refused(named("bad", model_path(name)));
  }
  refuse("pretend to be an engine", "engine.plan");
}

TEST_F(ModelFiles, OfAnotherBackendThanAskedFor) {
  ModelConfig config = named("bad", model_path("linear.onnx"));
  config.backend = "reference";
  check_refused(config);
  config = named("bad", "reference:identity");
  config.backend = "onnxruntime";
  check_refused(config);
}

}  // namespace
}  // namespace millrace::testing
