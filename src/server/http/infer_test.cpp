#include "server/http/infer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/text.h"

namespace millrace::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace std::string_literals;

InferRequest read(std::string_view json, std::optional<std::size_t> binary = std::nullopt) {
  InferRequest request;
  const Result<void> done = read_infer(json, binary, request);
  EXPECT_TRUE(done.ok()) << (done.ok() ? "" : done.error().message);
  return request;
}

std::string refusal(std::string_view json, std::optional<std::size_t> binary = std::nullopt) {
  InferRequest request;
  const Result<void> done = read_infer(json, binary, request);
  if (done.ok()) return "no error";
  EXPECT_EQ(done.error().code, ErrorCode::invalid_argument);
  return done.error().message;
}

/// A request with one input that has these members besides its name.
std::string with_input(const std::string& members) {
  return R"({"inputs":[{"name":"x",)" + members + "}]}";
}

template <class T>
std::vector<T> values(const CallInput& input) {
  const T* data = input.tensor->as<T>();
  return std::vector<T>(data, data + element_count(input.shape).value());
}

template <class T>
std::vector<T> values_of(const std::string& type, const std::string& data) {
  return values<T>(read(with_input(R"("datatype":")" + type + R"(","shape":[2],"data":)" + data))
                       .call.inputs[0]);
}

TEST(ReadInfer, ReadsWhatAClientSays) {
  const InferRequest request = read(
      R"({"id":"7","parameters":{"priority":3,"timeout":2.5,"binary_data_output":true,"s":"t","b":false},
          "inputs":[{"name":"a","shape":[2,1],"datatype":"INT32","data":[[1],[2]]},
                    {"name":"b","shape":[3],"datatype":"UINT8","parameters":{"binary_data_size":3}},
                    {"name":"c","shape":[4],"datatype":"FP32","parameters":{"shared_memory_region":"r",
                     "shared_memory_byte_size":16,"shared_memory_offset":8}}],
          "outputs":[{"name":"p"},{"name":"q","parameters":{"binary_data":false,"classification":2}},
                     {"name":"r","parameters":{"shared_memory_region":"o","shared_memory_byte_size":4}}]})",
      3);
  const Call& call = request.call;
  EXPECT_EQ(call.id, "7");
  EXPECT_EQ(std::get<std::int64_t>(*call.parameters.find("priority")), 3);
  EXPECT_EQ(std::get<double>(*call.parameters.find("timeout")), 2.5);
  EXPECT_EQ(std::get<std::string>(*call.parameters.find("s")), "t");
  EXPECT_FALSE(std::get<bool>(*call.parameters.find("b")));
  EXPECT_EQ(call.parameters.find("binary_data_output"), nullptr);
  ASSERT_EQ(call.inputs.size(), 3U);
  EXPECT_THAT(values<std::int32_t>(call.inputs[0]), ElementsAre(1, 2));
  EXPECT_EQ(call.inputs[0].shape, (Shape{2, 1}));
  EXPECT_THAT(std::vector(request.binary_bytes.begin(), request.binary_bytes.end()),
              ElementsAre(kNotBinary, 3, kNotBinary));
  ASSERT_TRUE(call.inputs[2].region);
  EXPECT_EQ(call.inputs[2].region->region, "r");
  EXPECT_EQ(call.inputs[2].region->bytes, 16U);
  EXPECT_EQ(call.inputs[2].region->offset, 8U);
  ASSERT_EQ(call.outputs.size(), 3U);
  EXPECT_EQ(call.outputs[1].name, "q");
  EXPECT_EQ(call.outputs[1].classes, 2);
  EXPECT_EQ(call.outputs[2].region->bytes, 4U);
  EXPECT_THAT(std::vector(request.forms.asked.begin(), request.forms.asked.end()),
              ElementsAre(true, false, true));
}

TEST(ReadInfer, ReadsEveryTypeThatJsonHas) {
  EXPECT_THAT(values_of<bool>("BOOL", "[true,0]"), ElementsAre(true, false));
  EXPECT_THAT(values_of<std::uint8_t>("UINT8", "[0,255]"), ElementsAre(0, 255));
  EXPECT_THAT(values_of<std::uint16_t>("UINT16", "[0,65535]"), ElementsAre(0, 65535));
  EXPECT_THAT(values_of<std::uint32_t>("UINT32", "[0,4294967295]"), ElementsAre(0U, 4294967295U));
  EXPECT_THAT(values_of<std::uint64_t>("UINT64", "[0,18446744073709551615]"),
              ElementsAre(0U, std::numeric_limits<std::uint64_t>::max()));
  EXPECT_THAT(values_of<std::int8_t>("INT8", "[-128,127]"), ElementsAre(-128, 127));
  EXPECT_THAT(values_of<std::int16_t>("INT16", "[-32768,1]"), ElementsAre(-32768, 1));
  EXPECT_THAT(values_of<std::int64_t>("INT64", "[-9223372036854775808,1]"),
              ElementsAre(std::numeric_limits<std::int64_t>::min(), 1));
  EXPECT_THAT(values_of<float>("FP32", "[0.1,-1e-50]"), ElementsAre(0.1F, -0.0F));
  EXPECT_THAT(values_of<double>("FP64", "[0.1,1e300]"), ElementsAre(0.1, 1e300));
}

TEST(ReadInfer, TurnsStringsIntoRows) {
  const InferRequest request =
      read(with_input(R"("datatype":"BYTES","shape":[3],"data":["ab","","\u00e9"])"));
  const auto& [data, bytes] = *request.call.inputs[0].raw;
  EXPECT_EQ(std::string(static_cast<const char*>(data), bytes),
            "\2\0\0\0ab\0\0\0\0\2\0\0\0\xC3\xA9"s);
  EXPECT_TRUE(request.call.inputs[0].raw_lease);
}

TEST(ReadInfer, TakesKeysInAnyOrder) {
  const InferRequest request =
      read(R"({"inputs":[{"data":[[1,2]],"shape":[1,2],"name":"x","datatype":"FP32"}]})");
  EXPECT_THAT(values<float>(request.call.inputs[0]), ElementsAre(1, 2));
}

TEST(ReadInfer, TakesScalarsAndNothing) {
  EXPECT_THAT(
      values<float>(read(with_input(R"("datatype":"FP32","shape":[],"data":[5])")).call.inputs[0]),
      ElementsAre(5));
  read(with_input(R"("datatype":"FP32","shape":[0],"data":[])"));
  read(with_input(R"("datatype":"FP32","shape":[2,0],"data":[[],[]])"));
  read(with_input(R"("datatype":"BYTES","shape":[0],"data":[])"));
}

TEST(ReadInfer, RefusesDataThatIsNotWhatTheShapeSays) {
  for (const std::string_view data :
       {"[1,2,3]", "[1,2,3,4,5]", "[[1,2],[3]]", "[[1,2],3,4]", "[1,[2,3,4]]", "[[[1,2],[3,4]]]",
        "[[1,2,3,4]]", "[]", "[[1],[2],[3],[4]]"}) {
    EXPECT_THAT(
        refusal(with_input(R"("datatype":"INT32","shape":[2,2],"data":)" + std::string(data))),
        HasSubstr("JSON, byte"))
        << data;
  }
  EXPECT_THAT(refusal(with_input(R"("datatype":"INT32","shape":[2,1],"data":[[1],2])")),
              HasSubstr("side by side"));
  EXPECT_THAT(refusal(with_input(R"("datatype":"FP32","shape":[1000000000000],"data":[1])")),
              HasSubstr("found fewer"));
  EXPECT_THAT(
      refusal(with_input(
          R"("datatype":"FP32","shape":[9223372036854775807,9223372036854775807],"data":[1])")),
      HasSubstr("JSON, byte"));
}

TEST(ReadInfer, RefusesValuesOutsideTheirType) {
  for (const auto& [type, value] : std::vector<std::pair<std::string, std::string>>{
           {"UINT8", "256"},
           {"INT8", "-129"},
           {"UINT32", "-1"},
           {"INT32", "1.5"},
           {"INT32", "1e2"},
           {"INT64", "9223372036854775808"},
           {"FP32", "1e39"},
           {"FP64", "1e999"},
           {"FP32", "\"1\""},
           {"FP32", "null"},
           {"BOOL", "2"},
           {"BYTES", "1"},
           {"INT32", "99999999999999999999999999999999"}}) {
    EXPECT_THAT(refusal(with_input(
                    concat(R"("datatype":")", type, R"(","shape":[1],"data":[)", value, "]"))),
                HasSubstr("JSON, byte"))
        << type << value;
  }
}

TEST(ReadInfer, SaysThatHalfFloatsGoInBinary) {
  for (const std::string type : {"FP16", "BF16"}) {
    EXPECT_THAT(refusal(with_input(R"("datatype":")" + type + R"(","shape":[1],"data":[1])")),
                HasSubstr("send it as binary data"));
  }
}

TEST(ReadInfer, RefusesSizesThatLie) {
  const std::string eight =
      with_input(R"("datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8})");
  read(eight, 8);
  EXPECT_THAT(refusal(eight, 7), HasSubstr("only 7 are left"));
  EXPECT_THAT(refusal(eight, 9), HasSubstr("1 bytes behind"));
  EXPECT_THAT(refusal(eight), HasSubstr("no Inference-Header-Content-Length"));
  for (const std::string size :
       {"-1", "18446744073709551615", "18446744073709551616", "1.5", "\"8\"", "true"}) {
    EXPECT_NE(
        refusal(with_input(R"("datatype":"FP32","shape":[2],"parameters":{"binary_data_size":)" +
                           size + "}"),
                8),
        "no error")
        << size;
  }
  // Two sizes whose sum wraps around to what there is.
  EXPECT_THAT(
      refusal(
          R"({"inputs":[{"name":"a","datatype":"UINT8","shape":[1],"parameters":{"binary_data_size":18446744073709551614}},
                       {"name":"b","datatype":"UINT8","shape":[1],"parameters":{"binary_data_size":10}}]})",
          8),
      HasSubstr("only 8 are left"));
}

TEST(ReadInfer, RefusesWhatIsMissingOrTwice) {
  for (
      const std::string& json :
      {"{}"s,
       "[]"s,
       R"({"inputs":[]})"s,
       R"({"inputs":{}})"s,
       R"({"inputs":[1]})"s,
       with_input(R"("datatype":"FP32","shape":[1])"),
       with_input(R"("shape":[1],"data":[1])"),
       with_input(R"("datatype":"FP32","data":[1])"),
       R"({"inputs":[{"datatype":"FP32","shape":[1],"data":[1]}]})"s,
       with_input(R"("datatype":"FLOAT","shape":[1],"data":[1])"),
       with_input(R"("datatype":"FP32","shape":[-1],"data":[1])"),
       with_input(R"("datatype":"FP32","shape":[1,1,1,1,1,1,1,1,1],"data":[1])"),
       with_input(R"("datatype":"FP32","shape":[1],"data":[1],"data":[1])"),
       with_input(R"("name":"y","datatype":"FP32","shape":[1],"data":[1])"),
       with_input(
           R"("datatype":"FP32","shape":[1],"data":[1],"parameters":{"shared_memory_region":"r","shared_memory_byte_size":4})"),
       with_input(R"("datatype":"FP32","shape":[1],"parameters":{"shared_memory_region":"r"})"),
       with_input(R"("datatype":"FP32","shape":[1],"parameters":{"shared_memory_byte_size":4})"),
       R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]},{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]})"s,
       R"({"id":7,"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]})"s,
       R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],"outputs":[{"name":"o"},{"name":"o"}]})"s,
       R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],"outputs":[{}]})"s,
       R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],"outputs":[{"name":"o","parameters":{"classification":-1}}]})"s,
       R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],"parameters":{"p":1,"p":2}})"s,
       R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],"parameters":{"p":[]}})"s,
       R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]} {})"s}) {
    EXPECT_NE(refusal(json), "no error") << json;
  }
}

TEST(ReadInfer, BoundsTheNumberOfTensors) {
  std::string json = R"({"inputs":[)";
  for (std::size_t i = 0; i <= kMaxTensors; ++i) {
    json += (i > 0 ? "," : "") + R"({"name":")"s + std::to_string(i) +
            R"(","datatype":"FP32","shape":[1],"data":[1]})";
  }
  EXPECT_THAT(refusal(json + "]}"), HasSubstr("too many inputs"));
  const std::string input = R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],)";
  std::string outputs = input + R"("outputs":[{"name":"0"})";
  std::string parameters = input + R"("parameters":{"0":0)";
  for (std::size_t i = 1; i <= kMaxTensors; ++i) {
    outputs += concat(R"(,{"name":")", i, R"("})");
    parameters += concat(R"(,")", i, R"(":0)");
  }
  EXPECT_THAT(refusal(outputs + "]}"), HasSubstr("too many outputs"));
  EXPECT_THAT(refusal(parameters + "}}"), HasSubstr("more parameters"));
}

TensorInfo info(DataType type, Shape shape, int batch_axis) {
  TensorInfo made;
  made.name = "x";
  made.type = type;
  made.shape = shape;
  made.batch_axis = batch_axis;
  return made;
}

Result<Shape> raw_shape(const TensorInfo& input, std::size_t bytes) {
  InferRequest request;
  const Result<void> done = read_raw_infer(input, bytes, request);
  if (!done.ok()) return done.error();
  return request.call.inputs[0].shape;
}

TEST(RawInfer, FindsTheShape) {
  EXPECT_EQ(raw_shape(info(DataType::fp32, {2, 3}, -1), 24).value(), (Shape{2, 3}));
  EXPECT_EQ(raw_shape(info(DataType::fp32, {-1, 3}, 0), 24).value(), (Shape{2, 3}));
  EXPECT_EQ(raw_shape(info(DataType::fp16, {-1, -1, 3}, 0), 24).value(), (Shape{1, 4, 3}));
  EXPECT_EQ(raw_shape(info(DataType::bytes, {-1, 1}, 0), 99).value(), (Shape{1, 1}));
  EXPECT_FALSE(raw_shape(info(DataType::fp32, {2, 3}, -1), 20).ok());
  EXPECT_FALSE(raw_shape(info(DataType::fp32, {-1, 3}, 0), 23).ok());
  EXPECT_FALSE(raw_shape(info(DataType::fp32, {-1, 3}, 0), 26).ok());
  EXPECT_FALSE(raw_shape(info(DataType::fp32, {-1, 3}, 0), 16).ok());
  EXPECT_FALSE(raw_shape(info(DataType::fp32, {-1, -1, -1}, 0), 16).ok());
  EXPECT_FALSE(raw_shape(info(DataType::bytes, {2}, -1), 16).ok());
}

// --- Answers ---

AnsweredOutput output(std::string name, const Tensor& tensor) {
  AnsweredOutput made;
  made.name = std::move(name);
  made.type = tensor.type();
  made.shape = tensor.shape();
  made.view = tensor.view();
  made.lease = tensor.lease();
  return made;
}

Tensor floats(std::initializer_list<float> of) {
  Tensor tensor = Tensor::allocate(DataType::fp32, {static_cast<std::int64_t>(of.size())}).value();
  std::copy(of.begin(), of.end(), tensor.as<float>());
  return tensor;
}

std::string body_of(const Answer& answer, const OutputForms& forms) {
  AnswerBody body;
  const Result<void> done = write_answer(answer, forms, body);
  if (!done.ok()) return done.error().message;
  std::string out = body.json;
  for (const AnswerBody::Piece& piece : body.pieces) {
    out.append(static_cast<const char*>(piece.data), piece.bytes);
  }
  EXPECT_EQ(out.size(), body.bytes());
  return out;
}

Answer an_answer() {
  Answer answer;
  answer.model = "m";
  answer.version = "3";
  return answer;
}

TEST(WriteAnswer, WritesJson) {
  Answer answer = an_answer();
  answer.id = "a\"b";
  answer.parameters.set("p", std::int64_t{-1});
  answer.parameters.set("q", true);
  answer.outputs.push_back(output("x", floats({0.5, -2})));
  const std::string_view texts[] = {"a", "\xC3\xA9\n"};
  answer.outputs.push_back(output("s", Tensor::of_strings(texts, {2}).value()));
  EXPECT_EQ(
      body_of(answer, {}),
      R"({"model_name":"m","model_version":"3","id":"a\"b","parameters":{"p":-1,"q":true},"outputs":[)"
      R"({"name":"x","datatype":"FP32","shape":[2],"data":[0.5,-2]},)"
      "{\"name\":\"s\",\"datatype\":\"BYTES\",\"shape\":[2],\"data\":[\"a\",\"\xC3\xA9\\u000a\"]}]"
      "}");
}

TEST(WriteAnswer, WritesBinaryInTheOrderOfTheOutputs) {
  Answer answer = an_answer();
  const std::string_view texts[] = {"ab", ""};
  answer.outputs.push_back(output("s", Tensor::of_strings(texts, {2}).value()));
  answer.outputs.push_back(output("j", floats({1})));
  answer.outputs.push_back(output("x", floats({0})));
  OutputForms forms;
  for (const bool binary : {true, false, true}) forms.asked.push_back(binary);
  EXPECT_EQ(body_of(answer, forms),
            R"({"model_name":"m","model_version":"3","outputs":[)"
            R"({"name":"s","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":10}},)"
            R"({"name":"j","datatype":"FP32","shape":[1],"data":[1]},)"
            R"({"name":"x","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]})"
            "\2\0\0\0ab\0\0\0\0\0\0\0\0"s);
}

TEST(WriteAnswer, BinaryByDefaultHoldsForAll) {
  Answer answer = an_answer();
  answer.outputs.push_back(output("x", floats({0})));
  OutputForms forms;
  forms.binary = true;
  EXPECT_THAT(body_of(answer, forms), HasSubstr("binary_data_size"));
}

TEST(WriteAnswer, NamesTheRegion) {
  Answer answer = an_answer();
  AnsweredOutput made;
  made.name = "x";
  made.shape = {2};
  made.region = RegionSlice{"r", 4, 8};
  answer.outputs.push_back(made);
  OutputForms forms;
  forms.binary = true;
  EXPECT_THAT(
      body_of(answer, forms),
      HasSubstr(
          R"("parameters":{"shared_memory_region":"r","shared_memory_offset":4,"shared_memory_byte_size":8}})"));
}

TEST(WriteAnswer, RefusesWhatJsonCannotCarry) {
  Answer answer = an_answer();
  answer.outputs.push_back(output("x", floats({1, std::numeric_limits<float>::infinity()})));
  EXPECT_THAT(body_of(answer, {}), HasSubstr("binary_data"));
  answer.outputs[0] = output("x", floats({std::numeric_limits<float>::quiet_NaN()}));
  EXPECT_THAT(body_of(answer, {}), HasSubstr("binary_data"));
  answer.outputs[0] = output("x", Tensor::allocate(DataType::bf16, {1}).value());
  EXPECT_THAT(body_of(answer, {}), HasSubstr("BF16"));
  const std::string_view texts[] = {"\xFF"};
  answer.outputs[0] = output("x", Tensor::of_strings(texts, {1}).value());
  EXPECT_THAT(body_of(answer, {}), HasSubstr("UTF-8"));
  OutputForms binary;
  binary.binary = true;
  EXPECT_THAT(body_of(answer, binary), HasSubstr("\1\0\0\0\xFF"s));
}

TEST(BindBinary, GivesEachInputItsPart) {
  InferRequest request = read(
      R"({"inputs":[{"name":"a","datatype":"UINT8","shape":[2],"parameters":{"binary_data_size":2}},
                    {"name":"b","datatype":"UINT8","shape":[1],"data":[1]},
                    {"name":"c","datatype":"UINT8","shape":[3],"parameters":{"binary_data_size":3}}]})",
      5);
  const char data[] = "abcde";
  bind_binary(request, data, {});
  EXPECT_EQ(request.call.inputs[0].raw->first, data);
  EXPECT_FALSE(request.call.inputs[1].raw);
  EXPECT_EQ(request.call.inputs[2].raw->first, data + 2);
  EXPECT_EQ(request.call.inputs[2].raw->second, 3U);
}

}  // namespace
}  // namespace millrace::server
