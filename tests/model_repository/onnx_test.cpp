// Repositories of real models, run by ONNX Runtime on the CPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "repository/model_repository.h"
#include "repository/test_folder.h"

namespace millrace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::host_engine;
using testing::TestFolder;
using namespace std::chrono_literals;

const std::string kModels = MILLRACE_SOURCE_DIR "/tests/models/";

std::string error_of(const auto& result) {
  return result.ok() ? "no error" : result.error().message;
}

class OnnxRepository : public ::testing::Test {
 protected:
  void add(const std::string& name, const std::string& model, std::string_view config = "",
           int version = 1) {
    folder_.copy(kModels + model + ".onnx", name + "/" + std::to_string(version) + "/model.onnx");
    if (!config.empty()) folder_.write(name + "/config.pbtxt", config);
  }
  void open(RepositoryMode mode = RepositoryMode::none) {
    RepositoryOptions options;
    options.folders = {folder_.path()};
    options.mode = mode;
    options.poll_interval = 1h;
    options.load_at_start = {"*"};
    Result<std::unique_ptr<ModelRepository>> opened = ModelRepository::open(engine_, options);
    ASSERT_TRUE(opened.ok()) << error_of(opened);
    repository_ = std::move(*opened);
  }
  std::shared_ptr<const ServedModel> found(std::string_view name) {
    const auto found = repository_->find(name, "");
    EXPECT_TRUE(found.ok()) << error_of(found);
    return found.ok() ? *found : nullptr;
  }
  std::string refusal(const std::string& model, std::string_view config) {
    add("a", model, config);
    open();
    return error_of(repository_->find("a", ""));
  }

  TestFolder folder_;
  Engine engine_ = host_engine();
  std::unique_ptr<ModelRepository> repository_;
};

Result<Response> ask(const ServedModel& served, const Shape& shape) {
  static const std::vector<float> values(4096, 0.5F);
  Request request;
  request.inputs.push_back({"input", TensorView::of(values.data(), shape), {}});
  return served.model.infer(std::move(request));
}

TEST_F(OnnxRepository, ServesAModelWithoutAConfiguration) {
  add("a", "identity_fp16");
  open();
  const auto served = found("a");
  ASSERT_TRUE(served);
  const inference::ModelConfig& config = *served->config;
  EXPECT_EQ(config.platform(), "onnxruntime_onnx");
  EXPECT_EQ(config.backend(), "onnxruntime");
  EXPECT_EQ(config.max_batch_size(), 32);
  EXPECT_EQ(config.input(0).data_type(), inference::TYPE_FP16);
  EXPECT_THAT(config.input(0).dims(), ElementsAre(4));
  EXPECT_EQ(config.default_model_filename(), "model.onnx");
}

TEST_F(OnnxRepository, ServesAModelAsItsConfigurationSays) {
  add("a", "identity_fp32", R"(
    name: "a"
    platform: "onnxruntime_onnx"
    max_batch_size: 16
    input [ { name: "input" data_type: TYPE_FP32 dims: [ 4 ] } ]
    output [ { name: "output" data_type: TYPE_FP32 dims: [ 4 ] } ]
    instance_group [ { count: 2 kind: KIND_CPU } ]
    dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
    parameters { key: "millrace.option.graph_optimization" value { string_value: "basic" } }
    model_warmup { name: "w" batch_size: 8 inputs { key: "input" value {
      data_type: TYPE_FP32 dims: [ 4 ] random_data: true } } })");
  open();
  const auto served = found("a");
  ASSERT_TRUE(served);
  EXPECT_EQ(served->model.info().max_items, 16);
  EXPECT_EQ(served->model.info().placements[0].lanes, 2);
  EXPECT_EQ(served->model.statistics().items, 8U);
  EXPECT_TRUE(ask(*served, {16, 4}).ok());
  EXPECT_FALSE(ask(*served, {17, 4}).ok());
}

TEST_F(OnnxRepository, WholeShapesAreRunByThemselves) {
  add("stated", "identity_fp32", "max_batch_size: 0");
  add("shown", "identity_fp32",
      "input { name: \"input\" data_type: TYPE_FP32 dims: [ -1, 4 ] } output { name: \"output\" "
      "data_type: TYPE_FP32 dims: [ -1, 4 ] }");
  open();
  for (const char* name : {"stated", "shown"}) {
    const auto served = found(name);
    ASSERT_TRUE(served);
    EXPECT_EQ(served->config->max_batch_size(), 0);
    EXPECT_THAT(served->config->input(0).dims(), ElementsAre(-1, 4));
    EXPECT_EQ(served->model.info().inputs[0].batch_axis, -1);
    EXPECT_TRUE(ask(*served, {1, 4}).ok());
    const Result<Response> many = ask(*served, {1000, 4});  // more than any batch
    ASSERT_TRUE(many.ok()) << error_of(many);
    EXPECT_EQ(many->outputs[0].view.shape, Shape({1000, 4}));
  }
  EXPECT_EQ(engine_.model_names().size(), 2U);
}

TEST_F(OnnxRepository, AModelOfFixedShapeHasNoBatches) {
  EXPECT_THAT(refusal("fixed_batch", "\nmax_batch_size: 4"),
              HasSubstr("config.pbtxt:2:1: max_batch_size: "));
  add("a", "fixed_batch", "input { name: \"input\" data_type: TYPE_FP32 dims: [ 4, 8 ] }");
  open();
  const auto served = found("a");
  ASSERT_TRUE(served);
  EXPECT_EQ(served->config->max_batch_size(), 0);
  EXPECT_THAT(served->config->output(0).dims(), ElementsAre(4));
}

TEST_F(OnnxRepository, SaysWhatDiffersFromTheModel) {
  EXPECT_THAT(refusal("identity_fp32", "max_batch_size: 4 input { name: \"input\" dims: [ 5 ] }"),
              HasSubstr("\"input\" is [4] in the model (without the batch axis, since "
                        "max_batch_size is not 0), got [5]"));
  EXPECT_THAT(refusal("two_in_two_out", "output { name: \"difference\" }"),
              HasSubstr("the model has no output \"difference\"; it has \"sum\", \"product\""));
}

TEST_F(OnnxRepository, TakesAModelThatCameWithTheRequest) {
  open(RepositoryMode::control);
  LoadParameters sent;
  sent.config = R"({"backend": "onnxruntime"})";
  sent.files["3/model.onnx"] = *read_file(kModels + "identity_fp32.onnx");
  const auto loaded = repository_->load("sent", sent);
  ASSERT_TRUE(loaded.ok()) << error_of(loaded);
  const auto served = found("sent");
  ASSERT_TRUE(served);
  EXPECT_EQ(served->version, "3");
  EXPECT_TRUE(ask(*served, {2, 4}).ok());
}

TEST_F(OnnxRepository, AFileHalfCopiedIsLoadedWhenItIsWhole) {
  add("a", "identity_fp32");
  const std::string whole = *read_file(folder_.path("a/1/model.onnx"));
  folder_.write("a/1/model.onnx", whole.substr(0, whole.size() / 2));
  open(RepositoryMode::poll);
  EXPECT_EQ(repository_->find("a", "").error().code, ErrorCode::unavailable);
  EXPECT_FALSE(repository_->ready());
  folder_.write("a/1/model.onnx", whole);
  repository_->look_again();
  EXPECT_FALSE(repository_->ready());
  repository_->look_again();
  EXPECT_TRUE(repository_->ready());
  EXPECT_TRUE(ask(*found("a"), {1, 4}).ok());
}

TEST_F(OnnxRepository, ReloadsUnderLoadLoseNothing) {
  add("a", "identity_fp32");
  open(RepositoryMode::control);
  std::atomic<bool> stop{false};
  std::atomic<int> answered{0};
  std::atomic<int> failed{0};
  std::vector<std::jthread> callers;
  callers.reserve(3);
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&] {
      while (!stop) {
        const auto served = repository_->find("a", "");
        const bool good = served.ok() && ask(**served, {1, 4}).ok();
        ++(good ? answered : failed);
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    add("a", "identity_fp32");
    const auto loaded = repository_->load("a", {});
    EXPECT_TRUE(loaded.ok()) << error_of(loaded);
  }
  stop = true;
  callers.clear();
  EXPECT_GT(answered, 0);
  EXPECT_EQ(failed, 0);
}

}  // namespace
}  // namespace millrace
