#include "server/grpc/infer_answer.h"

#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "server/grpc/inference_service.pb.h"

namespace millrace::server {
namespace {

using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;

std::string joined(const Message& message) {
  std::string bytes;
  for (const MessagePart& part : message) bytes += part.view();
  return bytes;
}

AnsweredOutput output_of(std::string name, const Tensor& tensor) {
  return {std::move(name), tensor.type(), tensor.shape(), tensor.view(), tensor.lease(), {}};
}

Tensor numbers(std::int64_t count) {
  Tensor tensor = *Tensor::allocate(DataType::fp32, {1, count});
  for (std::int64_t i = 0; i < count; ++i) tensor.as<float>()[i] = static_cast<float>(i);
  return tensor;
}

std::string bytes_of(const Tensor& tensor) {
  return {static_cast<const char*>(tensor.view().data), *tensor.view().bytes()};
}

TEST(InferAnswer, AllOfAnAnswerIsWritten) {
  Answer answer;
  answer.model = "m";
  answer.version = "3";
  answer.id = "an id";
  answer.parameters.set("flag", true);
  answer.parameters.set("number", std::int64_t{-5});
  answer.parameters.set("text", std::string("words"));
  answer.parameters.set("real", 0.25);
  const Tensor tensor = numbers(16);
  answer.outputs.push_back(output_of("y", tensor));
  answer.outputs.push_back(output_of("scalar", *Tensor::allocate(DataType::bf16, {})));

  ModelInferResponse response;
  const Message message = write_infer_answer(std::move(answer));
  EXPECT_EQ(message.size(), 1u);  // small outputs are copied
  ASSERT_TRUE(response.ParseFromString(joined(message)));
  EXPECT_EQ(response.model_name(), "m");
  EXPECT_EQ(response.model_version(), "3");
  EXPECT_EQ(response.id(), "an id");
  EXPECT_TRUE(response.parameters().at("flag").bool_param());
  EXPECT_EQ(response.parameters().at("number").int64_param(), -5);
  EXPECT_EQ(response.parameters().at("text").string_param(), "words");
  EXPECT_EQ(response.parameters().at("real").double_param(), 0.25);
  ASSERT_EQ(response.outputs_size(), 2);
  EXPECT_EQ(response.outputs(0).name(), "y");
  EXPECT_EQ(response.outputs(0).datatype(), "FP32");
  ASSERT_EQ(response.outputs(0).shape_size(), 2);
  EXPECT_EQ(response.outputs(0).shape(1), 16);
  EXPECT_EQ(response.outputs(1).datatype(), "BF16");
  EXPECT_EQ(response.outputs(1).shape_size(), 0);
  ASSERT_EQ(response.raw_output_contents_size(), 2);
  EXPECT_EQ(response.raw_output_contents(0), bytes_of(tensor));
  EXPECT_EQ(response.raw_output_contents(1).size(), 2u);
}

TEST(InferAnswer, LargeOutputsAreSentFromWhereTheyLie) {
  const Tensor large = numbers(2000), small = numbers(3);
  for (const bool last : {true, false}) {
    Answer answer;
    answer.outputs.push_back(output_of("a", last ? small : large));
    answer.outputs.push_back(output_of("b", last ? large : small));
    const Message message = write_infer_answer(std::move(answer));
    int found = 0;
    for (const MessagePart& part : message) {
      if (part.data == large.view().data) {
        ++found;
        EXPECT_TRUE(part.lease);
      }
    }
    EXPECT_EQ(found, 1);
    ModelInferResponse response;
    ASSERT_TRUE(response.ParseFromString(joined(message)));
    EXPECT_EQ(response.raw_output_contents(last ? 1 : 0), bytes_of(large));
    EXPECT_EQ(response.raw_output_contents(last ? 0 : 1), bytes_of(small));
  }
}

TEST(InferAnswer, BytesHaveTheirLengthsBeforeThem) {
  const std::vector<std::string_view> values{"ab", "", std::string_view("c\0d", 3)};
  Answer answer;
  answer.outputs.push_back(output_of("y", *Tensor::of_strings(values, {3})));
  ModelInferResponse response;
  ASSERT_TRUE(response.ParseFromString(joined(write_infer_answer(std::move(answer)))));
  using namespace std::string_literals;
  EXPECT_EQ(response.raw_output_contents(0), "\2\0\0\0ab\0\0\0\0\3\0\0\0c\0d"s);
}

TEST(InferAnswer, PartOfABytesTensorIsWrittenAsThatPart) {
  const std::vector<std::string_view> values{"ab", "cde", "f"};
  const Tensor all = *Tensor::of_strings(values, {3});
  AnsweredOutput output = output_of("y", all);
  output.view = slice(all.view(), 1, 2);
  output.shape = {2};
  Answer answer;
  answer.outputs.push_back(std::move(output));
  ModelInferResponse response;
  ASSERT_TRUE(response.ParseFromString(joined(write_infer_answer(std::move(answer)))));
  using namespace std::string_literals;
  EXPECT_EQ(response.raw_output_contents(0), "\3\0\0\0cde\1\0\0\0f"s);
}

TEST(InferAnswer, EmptyOutputs) {
  Answer answer;
  answer.outputs.push_back(output_of("y", *Tensor::allocate(DataType::fp32, {0, 4})));
  answer.outputs.push_back(output_of("z", *Tensor::of_strings({}, {0})));
  ModelInferResponse response;
  ASSERT_TRUE(response.ParseFromString(joined(write_infer_answer(std::move(answer)))));
  ASSERT_EQ(response.raw_output_contents_size(), 2);
  EXPECT_TRUE(response.raw_output_contents(0).empty());
  EXPECT_TRUE(response.raw_output_contents(1).empty());
}

TEST(InferAnswer, OutputsInSharedMemoryCarryNoBytes) {
  AnsweredOutput shared;
  shared.name = "y";
  shared.shape = {4};
  shared.region = RegionSlice{"region", 8, 16};
  Answer answer;
  answer.outputs.push_back(std::move(shared));
  const Tensor tensor = numbers(2);
  answer.outputs.push_back(output_of("z", tensor));
  ModelInferResponse response;
  ASSERT_TRUE(response.ParseFromString(joined(write_infer_answer(std::move(answer)))));
  const auto& parameters = response.outputs(0).parameters();
  EXPECT_EQ(parameters.at("shared_memory_region").string_param(), "region");
  EXPECT_EQ(parameters.at("shared_memory_byte_size").int64_param(), 16);
  EXPECT_EQ(parameters.at("shared_memory_offset").int64_param(), 8);
  ASSERT_EQ(response.raw_output_contents_size(), 2);
  EXPECT_TRUE(response.raw_output_contents(0).empty());
  EXPECT_EQ(response.raw_output_contents(1), bytes_of(tensor));
}

TEST(InferAnswer, OfAStream) {
  Answer answer;
  answer.id = "7";
  answer.outputs.push_back(output_of("y", numbers(2000)));
  ModelStreamInferResponse response;
  ASSERT_TRUE(response.ParseFromString(joined(write_stream_answer(std::move(answer)))));
  EXPECT_EQ(response.error_message(), "");
  EXPECT_EQ(response.infer_response().id(), "7");
  EXPECT_EQ(response.infer_response().raw_output_contents(0).size(), 8000u);

  const Error error{ErrorCode::not_found, "no such model"};
  ASSERT_TRUE(response.ParseFromString(joined(write_stream_error(error, "m", "8"))));
  EXPECT_EQ(response.error_message(), "no such model");
  EXPECT_EQ(response.infer_response().model_name(), "m");
  EXPECT_EQ(response.infer_response().id(), "8");
}

}  // namespace
}  // namespace millrace::server
