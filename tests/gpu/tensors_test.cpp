// Types, shapes and formats of inputs and outputs through TensorRT: what runs gives the right
// values, what cannot be bound is refused with its reason.
#include <NvInfer.h>
#include <cuda_fp16.h>

#include <cstring>
#include <fstream>
#include <functional>

#include "backends/tensorrt/library.h"
#include "backends/tensorrt/logger.h"
#include "tests/gpu/gpu_harness.h"

// What other headers deprecate is what the library that runs has.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace millrace::gpu {
namespace {

BuildOptions typed() {
  BuildOptions options = build_options();
  options.precision = Precision::typed;
  return options;
}

/// The bytes of the one output for these bytes of the one input, of `items` times 4 elements.
std::vector<std::byte> bytes_through(const Model& model, const std::vector<std::byte>& input,
                                     std::int64_t items) {
  const TensorInfo& info = model.info().inputs[0];
  const TensorView view =
      TensorView::of(info.type, const_cast<std::byte*>(input.data()), {items, 4});
  const Response response = must(model.infer(request_of(info.name, view)));
  const TensorView& output = response.outputs[0].view;
  const auto* data = static_cast<const std::byte*>(output.data);
  return {data, data + must(output.bytes())};
}

std::vector<std::byte> some_bytes(DataType type, std::size_t count) {
  std::vector<std::byte> bytes(count * size_of(type));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(type == DataType::boolean ? i % 3 == 0 : (7 * i + 1) % 60);
  }
  return bytes;
}

TEST(Types, OfInputsAndOutputsGoThroughUnchanged) {
  MILLRACE_NEEDS_TENSORRT();
  Engine engine = engine_on_gpu();
  for (const auto& [name, type] : {std::pair{"fp32", DataType::fp32},
                                   {"fp16", DataType::fp16},
                                   {"bf16", DataType::bf16},
                                   {"int32", DataType::int32},
                                   {"int64", DataType::int64},
                                   {"bool", DataType::boolean}}) {
    SCOPED_TRACE(name);
    const std::string model_name = std::string("identity_") + name;
    for (const char* graphs : {"on", "off"}) {
      ModelConfig config =
          config_of(model_name + graphs, plan_of(model_name, typed()), {{"graphs", graphs}});
      const Model model = must(engine.load(config));
      EXPECT_EQ(model.info().inputs[0].type, type);
      EXPECT_EQ(model.info().outputs[0].type, type);
      for (const std::int64_t items : {1, 3, 8}) {
        const auto bytes = some_bytes(type, static_cast<std::size_t>(4 * items));
        EXPECT_EQ(bytes_through(model, bytes, items), bytes)
            << items << " items, graphs " << graphs;
      }
    }
  }
}

template <class T>
std::vector<std::byte> as_bytes(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

TEST(Types, NarrowOnesAreQuantizedValues) {
  MILLRACE_NEEDS_TENSORRT();
  Engine engine = engine_on_gpu();
  const std::vector<float> wide = {-3, -0.5F, 0, 1.5F, 2, 4, 8, 16};
  const std::vector<std::int8_t> int8 = {-6, -1, 0, 3, 4, 8, 16, 32};                   // twice
  const std::vector<std::uint8_t> fp8 = {0xcc, 0xb8, 0, 0x44, 0x48, 0x50, 0x58, 0x60};  // the same
  struct Row {
    const char* name;
    DataType input, output;
    std::vector<std::byte> given, expected;
  };
  for (const Row& row :
       {Row{"dequantize_int8", DataType::int8, DataType::fp32, as_bytes(int8), as_bytes(wide)},
        Row{"quantize_int8", DataType::fp32, DataType::int8, as_bytes(wide), as_bytes(int8)},
        Row{"dequantize_fp8", DataType::fp8_e4m3, DataType::fp32, as_bytes(fp8), as_bytes(wide)},
        Row{"quantize_fp8", DataType::fp32, DataType::fp8_e4m3, as_bytes(wide), as_bytes(fp8)}}) {
    SCOPED_TRACE(row.name);
    const Model model = must(engine.load(config_of(row.name, plan_of(row.name, typed()))));
    EXPECT_EQ(model.info().inputs[0].type, row.input);
    EXPECT_EQ(model.info().outputs[0].type, row.output);
    EXPECT_EQ(bytes_through(model, row.given, 2), row.expected);
  }
}

// -------------------------------------------------------------------------------------------------
// shapes

TEST(Shapes, AreReadFromTheValuesOfAnInput) {
  MILLRACE_NEEDS_TENSORRT();
  BuildOptions build = build_options();
  build.shapes["input"] = {{{1}, {24}, {64}}};
  build.shapes["shape"] = {{{1, 1}, {4, 6}, {8, 8}}};  // values
  Engine engine = engine_on_gpu();
  const Model model = must(engine.load(config_of("reshape", plan_of("reshape", build))));
  const TensorInfo* shape = nullptr;
  for (const TensorInfo& input : model.info().inputs) {
    EXPECT_EQ(input.on_host, input.name == "shape");
    if (input.on_host) shape = &input;
  }
  ASSERT_NE(shape, nullptr);
  EXPECT_EQ(model.info().max_items, 1);
  const auto ask = [&](const std::vector<float>& values, const Shape& wanted) {
    std::vector<std::int64_t> wide(wanted.begin(), wanted.end());
    std::vector<std::int32_t> narrow(wanted.begin(), wanted.end());
    Request request = request_of(
        "input", TensorView::of(values.data(), {static_cast<std::int64_t>(values.size())}));
    request.inputs.push_back({"shape",
                              shape->type == DataType::int64 ? TensorView::of(wide.data(), {2})
                                                             : TensorView::of(narrow.data(), {2}),
                              {}});
    return model.infer(std::move(request));
  };
  const std::vector<float> values = random_values(24, 3);
  for (const Shape& wanted : {Shape{4, 6}, Shape{6, 4}, Shape{3, 8}, Shape{4, 6}}) {
    const Response response = must(ask(values, wanted));
    EXPECT_EQ(response.outputs[0].view.shape, wanted);
    std::vector<float> negated = values;
    for (float& value : negated) value = -value;
    EXPECT_EQ(values_of<float>(response.outputs[0].view), negated);
  }
  const Result<Response> outside = ask(values, {2, 12});
  ASSERT_FALSE(outside.ok());
  EXPECT_EQ(outside.error().code, ErrorCode::invalid_argument) << outside.error().message;
  EXPECT_NE(outside.error().message.find("expected values from [1,1] to [8,8]"), std::string::npos)
      << outside.error().message;
  const Result<Response> unfit = ask(values, {5, 5});
  EXPECT_FALSE(unfit.ok());
  EXPECT_TRUE(ask(values, {4, 6}).ok()) << "after refusals";
  EXPECT_GT(model.statistics().eager(EagerReason::unknown_shapes), 0u);

  BuildOptions without = build_options();
  without.shapes["input"] = {{{1}, {24}, {64}}};
  const Result<std::string> built = try_build("reshape", without, "reshape-without");
  ASSERT_FALSE(built.ok());
  EXPECT_NE(built.error().message.find("--shape shape="), std::string::npos)
      << built.error().message;
}

BuildOptions matrix(const std::string& input, std::int64_t least, std::int64_t most) {
  BuildOptions build = build_options();
  build.shapes[input] = {{{least, least}, {4, 4}, {most, most}}};
  return build;
}

TEST(Shapes, OfOutputsThatOnlyComputingTells) {
  MILLRACE_NEEDS_TENSORRT();
  Engine engine = engine_on_gpu();
  const Model model =
      must(engine.load(config_of("nonzero", plan_of("nonzero", matrix("input", 1, 8)))));
  EXPECT_TRUE(model.info().placements[0].enqueue_blocks);
  for (const Shape& shape : {Shape{3, 4}, Shape{8, 8}, Shape{1, 1}}) {
    const auto count = static_cast<std::size_t>(shape[0] * shape[1]);
    for (const std::size_t every : {std::size_t{1}, std::size_t{3}, std::size_t{1000}}) {
      std::vector<float> values(count, 0.0F);
      std::vector<std::int64_t> rows, columns;
      for (std::size_t i = every - 1; i < count; i += every) {
        values[i] = 1;
        rows.push_back(static_cast<std::int64_t>(i) / shape[1]);
        columns.push_back(static_cast<std::int64_t>(i) % shape[1]);
      }
      std::vector<std::int64_t> right = rows;
      right.insert(right.end(), columns.begin(), columns.end());
      const Response response =
          must(model.infer(request_of("input", TensorView::of(values.data(), shape))));
      const TensorView& found = response.outputs[0].view;
      EXPECT_EQ(found.shape, (Shape{2, static_cast<std::int64_t>(rows.size())}));
      EXPECT_EQ(values_of<std::int64_t>(found), right) << "every " << every;
    }
  }
}

TEST(Shapes, MayBeEmpty) {
  MILLRACE_NEEDS_TENSORRT();
  BuildOptions build = build_options();
  for (const char* input : {"a", "b"}) build.shapes[input] = {{{1, 0}, {4, 4}, {8, 8}}};
  Engine engine = engine_on_gpu();
  const Model model =
      must(engine.load(config_of("empty", plan_of("two_in_two_out", build, "-empty"))));
  for (const std::int64_t width : {0, 3, 0}) {
    const auto count = static_cast<std::size_t>(2 * width);
    const std::vector<float> a = random_values(count, 1), b = random_values(count, 2);
    Request request = request_of("a", TensorView::of(a.data(), {2, width}));
    request.inputs.push_back({"b", TensorView::of(b.data(), {2, width}), {}});
    const Response response = must(model.infer(std::move(request)));
    ASSERT_EQ(response.outputs.size(), 2u);
    for (const NamedTensor& output : response.outputs) {
      EXPECT_EQ(output.view.shape, (Shape{2, width}));
      std::vector<float> right(count);
      for (std::size_t i = 0; i < count; ++i) {
        right[i] = output.name == "sum" ? a[i] + b[i] : a[i] * b[i];
      }
      expect_near(values_of<float>(output.view), right, 1e-6F);
    }
  }
}

// -------------------------------------------------------------------------------------------------
// what is refused

using Configure =
    std::function<void(nvinfer1::INetworkDefinition& network, nvinfer1::IBuilderConfig& config)>;

/// An engine of one layer, made by TensorRT's own interface, as plans from elsewhere are.
std::string foreign_plan(const std::string& name, const Configure& configure) {
  const tensorrt::BuilderLibrary* library = must(tensorrt::open_builder_library());
  tensorrt::Logger logger(name);
  const auto builder = library->new_builder(logger);
  const std::unique_ptr<nvinfer1::INetworkDefinition> network(builder->createNetworkV2(
      1U << static_cast<unsigned>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED)));
  const std::unique_ptr<nvinfer1::IBuilderConfig> config(builder->createBuilderConfig());
  configure(*network, *config);
  const std::unique_ptr<nvinfer1::IHostMemory> plan(
      builder->buildSerializedNetwork(*network, *config));
  if (!plan) throw std::runtime_error(name + ": " + logger.take_errors());
  const std::string path = (scratch() / (name + ".plan")).string();
  std::ofstream(path, std::ios::binary)
      .write(static_cast<const char*>(plan->data()), static_cast<std::streamsize>(plan->size()));
  return path;
}

/// output = input x weights.
void add_product(nvinfer1::INetworkDefinition& network) {
  static const std::vector<float> weights(256 * 256, 0.5F);
  nvinfer1::ITensor* input =
      network.addInput("input", nvinfer1::DataType::kFLOAT, nvinfer1::Dims2{4, 256});
  const nvinfer1::Weights values{nvinfer1::DataType::kFLOAT, weights.data(), 256 * 256};
  nvinfer1::ITensor* constant =
      network.addConstant(nvinfer1::Dims2{256, 256}, values)->getOutput(0);
  nvinfer1::ITensor* output = network
                                  .addMatrixMultiply(*input, nvinfer1::MatrixOperation::kNONE,
                                                     *constant, nvinfer1::MatrixOperation::kNONE)
                                  ->getOutput(0);
  output->setName("output");
  network.markOutput(*output);
}

void expect_unsupported(const std::string& name, const Configure& configure,
                        const std::string& words) {
  Engine engine = engine_on_gpu();
  const Result<Model> model = engine.load(config_of(name, foreign_plan(name, configure)));
  ASSERT_FALSE(model.ok()) << name << " was loaded";
  EXPECT_EQ(model.error().code, ErrorCode::unsupported) << model.error().message;
  EXPECT_NE(model.error().message.find(words), std::string::npos) << model.error().message;
  EXPECT_NE(model.error().message.find(name), std::string::npos) << model.error().message;
}

TEST(Refused, VectorizedFormats) {
  MILLRACE_NEEDS_TENSORRT();
  expect_unsupported(
      "vectorized",
      [](nvinfer1::INetworkDefinition& network, nvinfer1::IBuilderConfig&) {
        nvinfer1::ITensor* input =
            network.addInput("input", nvinfer1::DataType::kHALF, nvinfer1::Dims4{1, 16, 8, 8});
        input->setAllowedFormats(1U << static_cast<unsigned>(nvinfer1::TensorFormat::kHWC8));
        nvinfer1::ITensor* output =
            network.addActivation(*input, nvinfer1::ActivationType::kRELU)->getOutput(0);
        output->setName("output");
        network.markOutput(*output);
      },
      "input \"input\" has the vectorized format ");
}

TEST(Refused, EnginesToBeRefitted) {
  MILLRACE_NEEDS_TENSORRT();
  expect_unsupported(
      "refit",
      [](nvinfer1::INetworkDefinition& network, nvinfer1::IBuilderConfig& config) {
        add_product(network);
        config.setFlag(nvinfer1::BuilderFlag::kREFIT);
      },
      "refitting is not supported yet");
}

TEST(Refused, EnginesThatStreamTheirWeights) {
  MILLRACE_NEEDS_TENSORRT();
  expect_unsupported(
      "streaming",
      [](nvinfer1::INetworkDefinition& network, nvinfer1::IBuilderConfig& config) {
        add_product(network);
        config.setFlag(nvinfer1::BuilderFlag::kWEIGHT_STREAMING);
      },
      "streams its weights");
}

}  // namespace
}  // namespace millrace::gpu
