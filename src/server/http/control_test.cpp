// What operators ask over HTTP: settings, shared memory, models that come with the request.
#include "server/http/control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/http/test_server.h"

namespace millrace::server {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::HttpTest;
using testing::patient;
using testing::TestClient;
using testing::TestResponse;

class HttpControl : public HttpTest {
 protected:
  void SetUp() override {
    HttpTest::SetUp();
    ServiceOptions all;
    all.repository_control = all.client_shared_memory = all.change_settings = true;
    start(patient(), all, RepositoryMode::control);
  }
  [[nodiscard]] TestResponse post(const std::string& target, const std::string& body) const {
    TestClient client(port());
    return client.post(target, body);
  }
  void expect_refused(const std::string& target, const std::string& body,
                      const std::string& why) const {
    const TestResponse response = post(target, body);
    EXPECT_EQ(response.status, 400) << target << body;
    EXPECT_THAT(response.body, HasSubstr(why)) << body;
  }
};

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t bits = 0;
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t k = 0; k < 3; ++k) {
      bits = bits << 8 | (k < count ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      out += k <= count ? kDigits[bits >> (18 - 6 * k) & 63] : '=';
    }
  }
  return out;
}

TEST_F(HttpControl, LoadsFilesThatComeAsBase64) {
  std::string file = R"({"kind":"identity","options":{"shape":"7"}})";
  for (int blanks = 0; blanks < 3; ++blanks, file += ' ') {  // each length of padding
    const json body = {{"parameters",
                        {{"config", R"({"backend":"reference","max_batch_size":8})"},
                         {"file:3/model.reference.json", base64(file)}}}};
    const TestResponse response = post("/v2/repository/models/sent/load", body.dump());
    ASSERT_EQ(response.status, 200) << response.body;
    TestClient client(port());
    EXPECT_EQ(json::parse(client.get("/v2/models/sent").body)["inputs"][0]["shape"], json({-1, 7}));
  }
}

TEST_F(HttpControl, RefusesFilesThatAreNoBase64) {
  const std::string whole = base64(R"({"kind":"identity","options":{"shape":"7"}} )");
  for (const std::string& text :
       {whole.substr(1), whole + "A", "*" + whole.substr(1), "=" + whole.substr(1),
        whole.substr(0, 4) + "\n" + whole.substr(5)}) {
    const json body = {{"parameters",
                        {{"config", R"({"backend":"reference","max_batch_size":8})"},
                         {"file:3/model.reference.json", text}}}};
    expect_refused("/v2/repository/models/sent/load", body.dump(), "Base64");
  }
  expect_refused("/v2/repository/models/identity/load", R"({"parameters":{"files":"x"}})", "files");
}

TEST_F(HttpControl, RefusesRegistrationsThatSayTooLittleOrTooMuch) {
  const std::string system = "/v2/systemsharedmemory/region/r/register";
  expect_refused(system, R"({"key":"/k","offset":0})", "byte_size");
  expect_refused(system, R"({"byte_size":4})", "\\\"key\\\" is missing");
  expect_refused(system, R"({"key":"/k","byte_size":-4})", "without a sign");
  expect_refused(system, R"({"key":"/k","byte_size":18446744073709551616})", "64 bits");
  const std::string cuda = "/v2/cudasharedmemory/region/r/register";
  const std::string handle =
      concat(R"("raw_handle":{"b64":")", base64(std::string(64, 'h')), R"("})");
  for (const std::string gpu : {"-1", "1025", "4294967296"}) {
    expect_refused(cuda, concat("{", handle, R"(,"byte_size":4,"device_id":)", gpu, "}"),
                   "there is no GPU " + gpu);
  }
  expect_refused(cuda, R"({"byte_size":4,"device_id":0})", "raw_handle");
  expect_refused(cuda, concat("{", handle, R"(,"device_id":0})"), "byte_size");
}

TEST_F(HttpControl, ChangesSettingsAndSetsThemBack) {
  const auto rate = [](const TestResponse& response) {
    return json::parse(response.body)["trace_rate"].get<std::string>();
  };
  EXPECT_EQ(rate(post("/v2/trace/setting", R"({"trace_rate":"7"})")), "7");
  EXPECT_EQ(rate(post("/v2/models/identity/trace/setting", R"({"trace_rate":5})")), "5");
  EXPECT_EQ(rate(post("/v2/trace/setting", R"({"trace_rate":null})")), "1000");
  EXPECT_EQ(rate(post("/v2/models/identity/trace/setting", R"({"trace_rate":null})")), "1000");
}

TEST_F(HttpControl, RefusesSettingsThatCannotBe) {
  const std::string trace = "/v2/trace/setting";
  expect_refused(trace, R"({"trace_count":-5})", "at least -1");
  expect_refused(trace, R"({"trace_count":"-5"})", "trace_count");
  expect_refused(trace, R"({"trace_mode":"triton"})", "opentelemetry");
  expect_refused(trace, R"({"trace_level":[]})", "TIMESTAMPS");
  EXPECT_EQ(post(trace, R"({"trace_level":["TENSORS"]})").status, 501);
  expect_refused("/v2/logging", R"({"log_info":1})", "true or false");
  expect_refused("/v2/logging", R"({"log_verbose_level":-1})", "at least 0");
  for (const std::string target : {"/v2/models/nope/trace/setting"}) {
    TestClient client(port());
    EXPECT_EQ(client.get(target).status, 404);
    EXPECT_EQ(client.post(target, R"({"trace_rate":1})").status, 404);
  }
}

TEST_F(HttpControl, SaysWhenItIsNotReady) {
  service_->start_draining();
  TestClient client(port());
  const TestResponse ready = client.get("/v2/health/ready");
  EXPECT_EQ(ready.status, 503);
  EXPECT_EQ(ready.body, R"({"ready":false})");
  EXPECT_EQ(client.get("/v2/health/live").status, 200);
}

TEST(ErrorReply, SaysWhenToComeAgain) {
  for (const auto& [code, status, seconds] :
       {std::tuple(ErrorCode::queue_full, 429, 1), std::tuple(ErrorCode::unavailable, 503, 1),
        std::tuple(ErrorCode::invalid_argument, 400, 0)}) {
    const Reply reply = error_reply(Error{code, "why"});
    EXPECT_EQ(reply.status, status);
    EXPECT_EQ(reply.retry_after_s, seconds);
    EXPECT_EQ(reply.body, R"({"error":"why"})");
  }
}

}  // namespace
}  // namespace millrace::server
