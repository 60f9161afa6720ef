#include "server/grpc/infer_request.h"

#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/grpc/inference_service.pb.h"

namespace millrace::server {
namespace {

using inference::InferParameter;
using inference::ModelInferRequest;
using ::testing::HasSubstr;

/// Counts the buffers asked for.
struct Buffers {
  int count = 0;
  ReceiveBuffer receive = [this](std::string_view model, std::size_t bytes) -> Result<Tensor> {
    ++count;
    if (model != "m") return Error{ErrorCode::not_found, "no such model"};
    return Tensor::allocate(DataType::uint8, {static_cast<std::int64_t>(bytes)});
  };
};

/// Keeps the bytes that a call may borrow.
struct Read {
  std::string message;
  std::vector<std::string_view> pieces;
  Buffers buffers;
  Result<Call> call = Error{};

  explicit Read(std::string bytes, std::size_t piece = std::string::npos)
      : message(std::move(bytes)) {
    piece = std::min(piece, message.size());
    for (std::size_t at = 0; at < message.size(); at += piece) {
      pieces.push_back(std::string_view(message).substr(at, piece));
    }
    call = read_infer_request(pieces, buffers.receive);
  }
  explicit Read(const ModelInferRequest& request, std::size_t piece = std::string::npos)
      : Read(request.SerializeAsString(), piece) {}
  Read(const Read&) = delete;
  Read& operator=(const Read&) = delete;

  std::string_view data(std::size_t i) const {
    const CallInput& input = call->inputs[i];
    if (input.raw) return {static_cast<const char*>(input.raw->first), input.raw->second};
    const auto bytes = byte_count(input.tensor->type(), input.tensor->shape());
    return {static_cast<const char*>(input.tensor->view().data), *bytes};
  }
  /// The numbers of an input.
  template <class T>
  std::vector<T> values(std::size_t i) const {
    const std::string_view bytes = data(i);
    std::vector<T> found(bytes.size() / sizeof(T));
    std::memcpy(found.data(), bytes.data(), bytes.size());
    return found;
  }
  void expect_error(ErrorCode code, std::string_view text) const {
    ASSERT_FALSE(call.ok());
    EXPECT_EQ(call.error().code, code);
    EXPECT_THAT(call.error().message, HasSubstr(std::string(text)));
  }
};

ModelInferRequest::InferInputTensor& add_input(ModelInferRequest& request, const std::string& name,
                                               const std::string& type,
                                               std::vector<std::int64_t> shape) {
  auto& input = *request.add_inputs();
  input.set_name(name);
  input.set_datatype(type);
  for (const std::int64_t size : shape) input.add_shape(size);
  return input;
}

ModelInferRequest request_of(const std::string& type, std::vector<std::int64_t> shape) {
  ModelInferRequest request;
  request.set_model_name("m");
  add_input(request, "x", type, std::move(shape));
  return request;
}

std::string counted_bytes(std::size_t size) {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7);
  return bytes;
}

TEST(InferRequest, AllOfARequestIsRead) {
  ModelInferRequest request;
  request.set_model_name("m");
  request.set_model_version("3");
  request.set_id("an id");
  auto& parameters = *request.mutable_parameters();
  parameters["flag"].set_bool_param(true);
  parameters["number"].set_int64_param(-5);
  parameters["text"].set_string_param("words");
  parameters["real"].set_double_param(0.25);
  parameters["priority"].set_uint64_param(9);
  parameters["nothing"];
  add_input(request, "x", "FP32", {2, 3});
  add_input(request, "y", "INT64", {});
  request.add_raw_input_contents(counted_bytes(24));
  request.add_raw_input_contents(counted_bytes(8));
  auto& output = *request.add_outputs();
  output.set_name("z");
  (*output.mutable_parameters())["classification"].set_int64_param(4);
  request.add_outputs()->set_name("other");

  for (const std::size_t piece : {std::string::npos, std::size_t{1}, std::size_t{7}}) {
    const Read read(request, piece);
    ASSERT_TRUE(read.call.ok()) << read.call.error().message;
    const Call& call = *read.call;
    EXPECT_EQ(call.model, "m");
    EXPECT_EQ(call.version, "3");
    EXPECT_EQ(call.id, "an id");
    EXPECT_EQ(*call.parameters.find("flag"), Parameter(true));
    EXPECT_EQ(*call.parameters.find("number"), Parameter(std::int64_t{-5}));
    EXPECT_EQ(*call.parameters.find("text"), Parameter(std::string("words")));
    EXPECT_EQ(*call.parameters.find("real"), Parameter(0.25));
    EXPECT_EQ(*call.parameters.find("priority"), Parameter(std::int64_t{9}));
    EXPECT_EQ(call.parameters.find("nothing"), nullptr);
    ASSERT_EQ(call.inputs.size(), 2u);
    EXPECT_EQ(call.inputs[0].name, "x");
    EXPECT_EQ(call.inputs[0].type, DataType::fp32);
    EXPECT_EQ(call.inputs[0].shape, (Shape{2, 3}));
    EXPECT_EQ(read.data(0), counted_bytes(24));
    EXPECT_EQ(call.inputs[1].shape, Shape{});
    EXPECT_EQ(read.data(1), counted_bytes(8));
    ASSERT_EQ(call.outputs.size(), 2u);
    EXPECT_EQ(call.outputs[0].name, "z");
    EXPECT_EQ(call.outputs[0].classes, 4);
    EXPECT_EQ(call.outputs[1].classes, 0);
  }
}

TEST(InferRequest, ElementsInOnePieceStayAndOthersAreCopiedOnceIntoABuffer) {
  ModelInferRequest request = request_of("FP32", {4});
  request.add_raw_input_contents(counted_bytes(16));
  const Read whole(request);
  ASSERT_TRUE(whole.call.ok());
  EXPECT_EQ(whole.buffers.count, 0);
  const char* data = whole.data(0).data();
  EXPECT_GE(data, whole.message.data());
  EXPECT_LT(data, whole.message.data() + whole.message.size());
  const Read split(request, 11);
  ASSERT_TRUE(split.call.ok());
  EXPECT_EQ(split.buffers.count, 1);
  ASSERT_TRUE(split.call->inputs[0].tensor);
  EXPECT_EQ(split.call->inputs[0].tensor->type(), DataType::fp32);
  EXPECT_EQ(split.call->inputs[0].tensor->shape(), (Shape{4}));
  EXPECT_EQ(split.data(0), counted_bytes(16));
}

TEST(InferRequest, TheBuffersErrorIsTheRequests) {
  ModelInferRequest request = request_of("FP32", {4});
  request.set_model_name("unknown");
  request.add_raw_input_contents(counted_bytes(16));
  Read(request, 11).expect_error(ErrorCode::not_found, "no such model");
}

TEST(InferRequest, FieldsMayComeInAnyOrder) {
  ModelInferRequest raw, rest = request_of("FP32", {4});
  raw.add_raw_input_contents(counted_bytes(16));
  const Read read(raw.SerializeAsString() + rest.SerializeAsString(), 5);
  ASSERT_TRUE(read.call.ok()) << read.call.error().message;
  EXPECT_EQ(read.data(0), counted_bytes(16));
}

TEST(InferRequest, UnknownFieldsArePassedOver) {
  ModelInferRequest request = request_of("FP32", {4});
  request.add_raw_input_contents(counted_bytes(16));
  const Read read(request.SerializeAsString() + "\x98\x06\x05", 5);  // field 99
  ASSERT_TRUE(read.call.ok());
}

// Typed contents.

TEST(InferRequest, TypedContentsOfEveryType) {
  ModelInferRequest request;
  request.set_model_name("m");
  auto contents = [&](const char* type, std::int64_t count) {
    return add_input(request, type, type, {count}).mutable_contents();
  };
  auto* contents_of = contents("BOOL", 2);
  contents_of->add_bool_contents(true);
  contents_of->add_bool_contents(false);
  for (const char* type : {"INT8", "INT16", "INT32"}) {
    contents_of = contents(type, 2);
    contents_of->add_int_contents(-3);
    contents_of->add_int_contents(100);
  }
  contents_of = contents("INT64", 1);
  contents_of->add_int64_contents(std::numeric_limits<std::int64_t>::min());
  for (const char* type : {"UINT8", "UINT16", "UINT32"}) {
    contents_of = contents(type, 1);
    contents_of->add_uint_contents(200);
  }
  contents_of = contents("UINT64", 1);
  contents_of->add_uint64_contents(std::numeric_limits<std::uint64_t>::max());
  contents_of = contents("FP32", 2);
  contents_of->add_fp32_contents(1.5f);
  contents_of->add_fp32_contents(-2.0f);
  contents_of = contents("FP64", 1);
  contents_of->add_fp64_contents(3.25);
  contents_of = contents("BYTES", 3);
  contents_of->add_bytes_contents("ab");
  contents_of->add_bytes_contents("");
  contents_of->add_bytes_contents("cde");

  for (const std::size_t piece : {std::string::npos, std::size_t{1}, std::size_t{13}}) {
    const Read read(request, piece);
    ASSERT_TRUE(read.call.ok()) << read.call.error().message;
    EXPECT_EQ(read.values<std::uint8_t>(0), (std::vector<std::uint8_t>{1, 0}));
    EXPECT_EQ(read.values<std::int8_t>(1), (std::vector<std::int8_t>{-3, 100}));
    EXPECT_EQ(read.values<std::int16_t>(2), (std::vector<std::int16_t>{-3, 100}));
    EXPECT_EQ(read.values<std::int32_t>(3), (std::vector<std::int32_t>{-3, 100}));
    EXPECT_EQ(read.values<std::int64_t>(4),
              std::vector<std::int64_t>{std::numeric_limits<std::int64_t>::min()});
    EXPECT_EQ(read.values<std::uint8_t>(5), std::vector<std::uint8_t>{200});
    EXPECT_EQ(read.values<std::uint16_t>(6), std::vector<std::uint16_t>{200});
    EXPECT_EQ(read.values<std::uint32_t>(7), std::vector<std::uint32_t>{200});
    EXPECT_EQ(read.values<std::uint64_t>(8),
              std::vector<std::uint64_t>{std::numeric_limits<std::uint64_t>::max()});
    EXPECT_EQ(read.values<float>(9), (std::vector<float>{1.5f, -2.0f}));
    EXPECT_EQ(read.values<double>(10), std::vector<double>{3.25});
    using namespace std::string_view_literals;
    EXPECT_EQ(read.data(11), "\2\0\0\0ab\0\0\0\0\3\0\0\0cde"sv);
  }
}

TEST(InferRequest, TypedContentsThatAreNotPacked) {
  ModelInferRequest request = request_of("INT32", {2});
  std::string message = request.SerializeAsString();
  // The input again, by hand: its contents as two fields of one number each.
  request.mutable_inputs(0)->mutable_contents();
  std::string input = request.inputs(0).SerializeAsString();
  input.resize(input.size() - 2);  // without the empty contents
  std::string contents;
  put_varint(contents, 2, 7);
  put_varint(contents, 2, static_cast<std::uint64_t>(std::int64_t{-7}));
  put_bytes(input, 5, contents);
  message.clear();
  put_bytes(message, 1, "m");
  put_bytes(message, 5, input);
  const Read read(message);
  ASSERT_TRUE(read.call.ok()) << read.call.error().message;
  EXPECT_EQ(read.values<std::int32_t>(0), (std::vector<std::int32_t>{7, -7}));
}

TEST(InferRequest, WrongCountsOfTypedContents) {
  ModelInferRequest request = request_of("FP32", {2});
  Read(request).expect_error(ErrorCode::invalid_argument,
                             "input \"x\": expected 2 elements in fp32_contents, got 0");
  request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
  Read(request).expect_error(ErrorCode::invalid_argument, "expected 2 elements");
  request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
  EXPECT_TRUE(Read(request).call.ok());
  request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
  Read(request).expect_error(ErrorCode::invalid_argument, "got 3");
}

TEST(InferRequest, TypedContentsInTheFieldOfAnotherType) {
  ModelInferRequest request = request_of("FP32", {1});
  request.mutable_inputs(0)->mutable_contents()->add_fp64_contents(1);
  Read(request).expect_error(ErrorCode::invalid_argument,
                             "expected the elements of FP32 in fp32_contents, got fp64_contents");
}

TEST(InferRequest, TypedContentsThatTheTypeDoesNotHold) {
  for (const int value : {128, -129}) {
    ModelInferRequest request = request_of("INT8", {1});
    request.mutable_inputs(0)->mutable_contents()->add_int_contents(value);
    Read(request).expect_error(ErrorCode::invalid_argument, "is no INT8");
  }
  ModelInferRequest request = request_of("UINT16", {1});
  request.mutable_inputs(0)->mutable_contents()->add_uint_contents(65536);
  Read(request).expect_error(ErrorCode::invalid_argument, "is no UINT16");
}

TEST(InferRequest, HalfPrecisionHasNoTypedContents) {
  for (const char* type : {"FP16", "BF16"}) {
    ModelInferRequest request = request_of(type, {1});
    Read(request).expect_error(ErrorCode::invalid_argument, "send raw_input_contents");
    request.add_raw_input_contents("ab");
    EXPECT_TRUE(Read(request).call.ok());
  }
}

// What contradicts itself.

TEST(InferRequest, RawContentsOfTheWrongLength) {
  for (const std::size_t size : {0u, 15u, 17u, 32u}) {
    ModelInferRequest request = request_of("FP32", {4});
    request.add_raw_input_contents(counted_bytes(size));
    Read(request).expect_error(ErrorCode::invalid_argument,
                               "input \"x\": expected 16 bytes in raw_input_contents for FP32 [4]");
  }
}

TEST(InferRequest, WrongCountsOfRawContents) {
  ModelInferRequest request = request_of("FP32", {1});
  request.add_raw_input_contents(counted_bytes(4));
  request.add_raw_input_contents(counted_bytes(4));
  Read(request).expect_error(ErrorCode::invalid_argument,
                             "expected 1 entries in raw_input_contents");
  request.clear_inputs();
  Read(request).expect_error(ErrorCode::invalid_argument, "expected 0 entries");
}

TEST(InferRequest, BothFormsAtOnce) {
  ModelInferRequest request = request_of("FP32", {1});
  request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
  request.add_raw_input_contents(counted_bytes(4));
  Read(request).expect_error(ErrorCode::invalid_argument, "expected one of them");
}

TEST(InferRequest, ContentsTwice) {
  ModelInferRequest request = request_of("FP32", {1});
  request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
  // Appended to the input, which is the last thing in the message: the same contents again.
  inference::ModelInferRequest::InferInputTensor again;
  again.mutable_contents()->add_fp32_contents(2);
  const std::string input = request.inputs(0).SerializeAsString() + again.SerializeAsString();
  request.clear_inputs();
  const std::string message = request.SerializeAsString() + "\x2a" +
                              std::string(1, static_cast<char>(input.size())) + input;
  Read(message).expect_error(ErrorCode::invalid_argument, "contents twice");
}

TEST(InferRequest, UnknownTypes) {
  for (const char* type : {"", "FP33", "fp32", "float32", "BYTES "}) {
    ModelInferRequest request = request_of(type, {1});
    request.add_raw_input_contents(counted_bytes(4));
    Read(request).expect_error(ErrorCode::invalid_argument, "unknown datatype");
  }
}

TEST(InferRequest, HugeShapes) {
  const std::int64_t large = std::numeric_limits<std::int64_t>::max();
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{
           {large, large}, {large}, {-1}, {1, -4}, {std::int64_t{1} << 40, 1 << 20}}) {
    for (const char* type : {"FP32", "BYTES"}) {
      ModelInferRequest raw = request_of(type, shape);
      raw.add_raw_input_contents(counted_bytes(4));
      if (shape.front() > 0 && shape.back() > 0 && std::string(type) == "BYTES") continue;
      Read(raw).expect_error(ErrorCode::invalid_argument, "input \"x\"");
      ModelInferRequest typed = request_of(type, shape);
      typed.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
      Read(typed).expect_error(ErrorCode::invalid_argument, "input \"x\"");
    }
  }
}

TEST(InferRequest, TooManyDimensions) {
  ModelInferRequest request = request_of("FP32", std::vector<std::int64_t>(9, 1));
  request.add_raw_input_contents(counted_bytes(4));
  Read(request).expect_error(ErrorCode::unsupported, "more than 8 dimensions");
  request = request_of("FP32", std::vector<std::int64_t>(8, 1));
  request.add_raw_input_contents(counted_bytes(4));
  EXPECT_TRUE(Read(request).call.ok());
}

TEST(InferRequest, TooManyTensors) {
  ModelInferRequest request;
  request.set_model_name("m");
  for (std::size_t i = 0; i <= kMaxTensors; ++i) {
    request.add_outputs()->set_name("y");
  }
  Read(request).expect_error(ErrorCode::invalid_argument, "at most 1024 outputs");
  request.clear_outputs();
  for (std::size_t i = 0; i <= kMaxTensors; ++i) add_input(request, "x", "FP32", {0});
  Read(request).expect_error(ErrorCode::invalid_argument, "at most 1024 inputs");
}

TEST(InferRequest, CutOffAnywhereIsAnErrorOrAShorterRequest) {
  ModelInferRequest request = request_of("FP32", {4});
  request.add_raw_input_contents(counted_bytes(16));
  const std::string message = request.SerializeAsString();
  for (std::size_t size = 0; size < message.size(); ++size) {
    for (const std::size_t piece : {std::string::npos, std::size_t{3}}) {
      const Read read(message.substr(0, size), piece);
      if (!read.call.ok()) continue;
      EXPECT_TRUE(read.call->inputs.empty()) << size;
    }
  }
}

TEST(InferRequest, ParametersThatDoNotFit) {
  ModelInferRequest request = request_of("FP32", {1});
  request.add_raw_input_contents(counted_bytes(4));
  (*request.mutable_parameters())["n"].set_uint64_param(std::numeric_limits<std::uint64_t>::max());
  Read(request).expect_error(ErrorCode::invalid_argument, "parameter \"n\"");
  request.clear_parameters();
  auto& output = *request.add_outputs();
  output.set_name("y");
  (*output.mutable_parameters())["classification"].set_string_param("3");
  Read(request).expect_error(ErrorCode::invalid_argument, "parameter \"classification\"");
}

// Shared memory.

TEST(InferRequest, SharedMemoryOfInputsAndOutputs) {
  ModelInferRequest request = request_of("FP32", {4});
  add_input(request, "y", "FP32", {1});
  auto& parameters = *request.mutable_inputs(0)->mutable_parameters();
  parameters["shared_memory_region"].set_string_param("region");
  parameters["shared_memory_byte_size"].set_int64_param(16);
  parameters["shared_memory_offset"].set_int64_param(32);
  request.add_raw_input_contents(counted_bytes(4));  // of "y" alone
  auto& output = *request.add_outputs();
  output.set_name("z");
  (*output.mutable_parameters())["shared_memory_region"].set_string_param("other");
  (*output.mutable_parameters())["shared_memory_byte_size"].set_int64_param(8);
  const Read read(request);
  ASSERT_TRUE(read.call.ok()) << read.call.error().message;
  ASSERT_TRUE(read.call->inputs[0].region);
  EXPECT_EQ(read.call->inputs[0].region->region, "region");
  EXPECT_EQ(read.call->inputs[0].region->bytes, 16u);
  EXPECT_EQ(read.call->inputs[0].region->offset, 32u);
  EXPECT_FALSE(read.call->inputs[1].region);
  EXPECT_EQ(read.data(1), counted_bytes(4));
  ASSERT_TRUE(read.call->outputs[0].region);
  EXPECT_EQ(read.call->outputs[0].region->region, "other");
  EXPECT_EQ(read.call->outputs[0].region->offset, 0u);
}

TEST(InferRequest, SharedMemoryThatContradictsItself) {
  ModelInferRequest request = request_of("FP32", {4});
  auto& parameters = *request.mutable_inputs(0)->mutable_parameters();
  parameters["shared_memory_region"].set_string_param("region");
  Read(request).expect_error(ErrorCode::invalid_argument, "shared_memory_byte_size");
  parameters["shared_memory_byte_size"].set_int64_param(-1);
  Read(request).expect_error(ErrorCode::invalid_argument, "0 or more");
  parameters["shared_memory_byte_size"].set_int64_param(16);
  EXPECT_TRUE(Read(request).call.ok());
  request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
  Read(request).expect_error(ErrorCode::invalid_argument, "expected one of them");
  request.mutable_inputs(0)->clear_contents();
  request.add_raw_input_contents(counted_bytes(16));
  Read(request).expect_error(ErrorCode::invalid_argument, "expected 0 entries");
  request.clear_raw_input_contents();
  parameters["shared_memory_region"].set_int64_param(1);
  Read(request).expect_error(ErrorCode::invalid_argument, "the name of a region");
}

TEST(InferRequest, NamesAreReadOfWhatIsWrong) {
  ModelInferRequest request = request_of("FP33", {4});
  request.set_id("7");
  const std::string message = request.SerializeAsString();
  const std::vector<std::string_view> pieces{message};
  const RequestNames names = read_request_names(pieces);
  EXPECT_EQ(names.model, "m");
  EXPECT_EQ(names.id, "7");
}

// What is taken, with a byte changed, means the same to the generated parser.
TEST(InferRequest, AgreesWithTheGeneratedParserOnDamagedMessages) {
  ModelInferRequest request = request_of("FP32", {2, 2});
  request.set_id("id");
  (*request.mutable_parameters())["p"].set_string_param("q");
  for (int i = 0; i < 4; ++i) {
    request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
  }
  request.add_outputs()->set_name("y");
  const std::string message = request.SerializeAsString();
  std::mt19937_64 random(1);
  int taken = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = message;
    damaged[random() % damaged.size()] = static_cast<char>(random());
    const Read read(damaged, 1 + random() % damaged.size());
    ModelInferRequest parsed;
    if (!read.call.ok()) continue;
    ASSERT_TRUE(parsed.ParseFromString(damaged)) << testing::PrintToString(damaged);
    ++taken;
    EXPECT_EQ(read.call->model, parsed.model_name());
    EXPECT_EQ(read.call->id, parsed.id());
    ASSERT_EQ(read.call->inputs.size(), static_cast<std::size_t>(parsed.inputs_size()));
    ASSERT_EQ(read.call->outputs.size(), static_cast<std::size_t>(parsed.outputs_size()));
  }
  EXPECT_GT(taken, 1000);
}

}  // namespace
}  // namespace millrace::server
