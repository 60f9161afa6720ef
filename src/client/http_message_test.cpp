#include "client/http_message.h"

#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/url.h"

namespace millrace::client {
namespace {

using ::testing::HasSubstr;

TEST(Url, IsReadWithItsDefaults) {
  const auto read = [](const char* text) {
    const Result<Url> url = parse_url(text);
    EXPECT_TRUE(url.ok()) << text;
    return url.ok() ? url->address() : "";
  };
  EXPECT_EQ(read("http://host:80"), "host:80");
  EXPECT_EQ(read("http://host/"), "host:8000");
  EXPECT_EQ(read("grpc://10.0.0.1"), "10.0.0.1:8001");
  EXPECT_EQ(read("grpcs://[::1]:9"), "[::1]:9");
  EXPECT_TRUE(parse_url("https://a")->secure);
  EXPECT_FALSE(parse_url("https://a")->grpc);
  EXPECT_TRUE(parse_url("grpcs://a")->secure && parse_url("grpcs://a")->grpc);
}

TEST(Url, IsRefusedWhereItIsNone) {
  for (const char* text :
       {"", "host", "host:80", "ftp://host", "http://", "http://:80", "http://host:0",
        "http://host:65536", "http://host:80x", "http://host/v2", "http://[::1", "http://a@b"}) {
    const Result<Url> url = parse_url(text);
    ASSERT_FALSE(url.ok()) << text;
    EXPECT_EQ(url.error().code, ErrorCode::invalid_argument);
  }
}

class AnswerTest : public ::testing::Test {
 protected:
  static std::string json(const std::string& outputs) {
    return R"({"model_name":"m","model_version":"1","id":"x","outputs":[)" + outputs + "]}";
  }
  std::string error_of(const std::string& text, const std::string& binary = "") const {
    const Result<Response> answer = read_answer(text + binary, text.size(), request_);
    EXPECT_FALSE(answer.ok());
    return answer.ok() ? "" : answer.error().message;
  }
  Request request_;
};

TEST_F(AnswerTest, BinaryAndJsonDataMayBeMixed) {
  const std::string text =
      json(R"({"name":"a","datatype":"INT32","shape":[2],"parameters":{"binary_data_size":8}},)"
           R"({"data":[[1.5,2.5]],"name":"b","datatype":"FP32","shape":[1,2],"unknown":{}},)"
           R"({"name":"c","datatype":"UINT8","shape":[1],"parameters":{"binary_data_size":1}})");
  const std::int32_t numbers[] = {7, -8};
  std::string body = text;
  body.append(reinterpret_cast<const char*>(numbers), 8).append("\x2a");
  const Result<Response> answer = read_answer(std::move(body), text.size(), request_);
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(answer->id, "x");
  ASSERT_EQ(answer->outputs.size(), 3U);
  EXPECT_EQ(std::memcmp(answer->outputs[0].view.data, numbers, 8), 0);
  EXPECT_EQ(answer->outputs[1].view.as<float>()[1], 2.5F);
  EXPECT_EQ(*answer->outputs[2].view.as<std::uint8_t>(), 42);
}

TEST_F(AnswerTest, WhatCannotBeIsAnError) {
  const std::string eight =
      R"({"name":"a","datatype":"INT32","shape":[2],"parameters":{"binary_data_size":8}})";
  EXPECT_THAT(error_of(json(eight), "1234"), HasSubstr("4 are left"));
  EXPECT_THAT(error_of(json(eight), "123456789"), HasSubstr("belong to no output"));
  EXPECT_THAT(error_of(json(R"({"name":"a","datatype":"INT32","shape":[3],"parameters":)"
                            R"({"binary_data_size":8}})"),
                       "12345678"),
              HasSubstr("not 12"));
  EXPECT_THAT(error_of(json(R"({"name":"a","datatype":"INT32","shape":[1]})")),
              HasSubstr("no data"));
  EXPECT_THAT(error_of(json(R"({"name":"a","datatype":"INT32","shape":[1],"parameters":)"
                            R"({"shared_memory_region":"r"}})")),
              HasSubstr("unasked"));
  EXPECT_THAT(error_of(json(R"({"name":"a","datatype":"WORD","shape":[1],"data":[1]})")),
              HasSubstr("WORD"));
  EXPECT_THAT(error_of(json(R"({"name":"a","datatype":"FP32","shape":[-1],"data":[]})")),
              HasSubstr("shape"));
  EXPECT_THAT(error_of("{\"outputs\":["), HasSubstr("cannot be read"));
  EXPECT_FALSE(read_answer("{}", 3, request_).ok());
}

TEST_F(AnswerTest, ATargetThatIsTooSmallIsLeftAlone) {
  float room[1] = {9};
  request_.outputs.push_back({"a", OutputPlacement::target, TensorView::of(room, Shape{1}), {}});
  EXPECT_THAT(error_of(json(R"({"name":"a","datatype":"FP32","shape":[2],"data":[1,2]})")),
              HasSubstr("does not fit its target"));
  EXPECT_EQ(room[0], 9);
}

TEST(ErrorText, IsThatOfTheJsonOrTheBody) {
  EXPECT_EQ(error_text(R"({"error":"no \"such\" model","more":[1]})"), "no \"such\" model");
  EXPECT_EQ(error_text("<html>"), "<html>");
  EXPECT_EQ(error_text(R"({"detail":1})"), R"({"detail":1})");
  EXPECT_EQ(error_text(std::string(10000, 'x')).size(), 500U);
}

}  // namespace
}  // namespace millrace::client
