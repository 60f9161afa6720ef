#include "server/http/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <future>
#include <thread>

#include "server/http/compression.h"
#include "server/http/test_server.h"
#include "server/test_evicted.h"

namespace millrace::server {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using testing::HttpTest;
using testing::patient;
using testing::TestClient;
using testing::TestResponse;
using namespace std::chrono_literals;
using namespace std::string_literals;

class Http : public HttpTest {};

constexpr std::string_view kFour =
    R"({"id":"42","inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]})";

TEST_F(Http, AnswersWhatTheProtocolAsks) {
  start();
  TestClient client(port());
  EXPECT_EQ(client.get("/v2/health/live").body, R"({"live":true})");
  EXPECT_EQ(client.get("/v2/health/ready").body, R"({"ready":true})");
  EXPECT_EQ(client.get("/v2/models/identity/ready").body, R"({"name":"identity","ready":true})");
  const json server = json::parse(client.get("/v2").body);
  EXPECT_TRUE(server["name"].is_string() && server["version"].is_string());
  EXPECT_TRUE(server["extensions"].is_array());
  const json model = json::parse(client.get("/v2/models/identity").body);
  EXPECT_EQ(model["versions"], json::array({"1"}));
  EXPECT_EQ(model["inputs"][0],
            json({{"name", "input"}, {"datatype", "FP32"}, {"shape", {-1, 4}}}));
  const json config = json::parse(client.get("/v2/models/identity/versions/1/config").body);
  EXPECT_EQ(config["name"], "identity");
  EXPECT_EQ(config["input"][0]["dims"], json::array({4}));
  const json stats = json::parse(client.get("/v2/models/identity/stats").body);
  EXPECT_EQ(stats["model_stats"][0]["name"], "identity");
  const json index = json::parse(client.post("/v2/repository/index", "").body);
  EXPECT_EQ(index.size(), 7U);
  EXPECT_EQ(json::parse(client.post("/v2/repository/index", R"({"ready":true})").body).size(), 7U);
  EXPECT_EQ(json::parse(client.get("/openapi.json").body)["openapi"].get<std::string>()[0], '3');
}

TEST_F(Http, InfersFromJson) {
  start();
  TestClient client(port());
  const TestResponse response = client.post("/v2/models/identity/infer", kFour);
  EXPECT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.field("content-type"), "application/json");
  EXPECT_THAT(response.field("date"), EndsWith(" GMT"));
  const json answer = json::parse(response.body);
  EXPECT_EQ(answer["id"], "42");
  EXPECT_EQ(answer["model_name"], "identity");
  EXPECT_EQ(answer["model_version"], "1");
  EXPECT_EQ(answer["outputs"][0]["data"], json::array({1, 2, 3, 4}));
  EXPECT_EQ(answer["outputs"][0]["shape"], json::array({1, 4}));
  EXPECT_EQ(client.post("/v2/models/identity/versions/1/infer", kFour).status, 200);
  // As one client in use sends it.
  EXPECT_EQ(
      client.post("/v2/models/identity/infer", kFour, {"Content-Type: application/octet-stream"})
          .status,
      200);
}

TEST_F(Http, InfersInBinary) {
  start();
  TestClient client(port());
  for (const std::string more :
       {R"(,"parameters":{"binary_data_output":true})",
        R"(,"outputs":[{"name":"output","parameters":{"binary_data":true}}])"}) {
    const std::string head = binary_json(4, more);
    const TestResponse response =
        client.post("/v2/models/identity/infer", head + floats(4), header_length(head));
    ASSERT_EQ(response.status, 200) << response.body;
    EXPECT_EQ(response.field("content-type"), "application/octet-stream");
    EXPECT_EQ(response.binary(), floats(4));
    EXPECT_EQ(json::parse(response.json())["outputs"][0]["parameters"]["binary_data_size"], 16);
  }
  const std::string head = binary_json(4);
  const TestResponse response =
      client.post("/v2/models/identity/infer", head + floats(4), header_length(head));
  EXPECT_EQ(json::parse(response.body)["outputs"][0]["data"], json::array({0, 1, 2, 3}));
}

// Larger than the read buffer: received where the engine reads it.
TEST_F(Http, InfersWithLargeBodies) {
  start();
  TestClient client(port());
  for (const std::size_t values : {4000U, 5000U, 1000000U}) {
    const std::string head = binary_json(values, R"(,"parameters":{"binary_data_output":true})");
    const TestResponse response =
        client.post("/v2/models/any/infer", head + floats(values), header_length(head));
    ASSERT_EQ(response.status, 200) << response.body;
    EXPECT_EQ(response.binary(), floats(values));
    EXPECT_TRUE(all_released());
  }
  json large = {{"inputs",
                 {{{"name", "input"},
                   {"datatype", "FP32"},
                   {"shape", {1, 20000}},
                   {"data", std::vector<int>(20000, 7)}}}}};
  const TestResponse response = client.post("/v2/models/any/infer", large.dump());
  ASSERT_EQ(response.status, 200) << response.body.substr(0, 200);
  EXPECT_EQ(json::parse(response.body)["outputs"][0]["data"], large["inputs"][0]["data"]);
}

// The JSON, too, may be larger than the read buffer.
TEST_F(Http, InfersWithALargeHeader) {
  start();
  TestClient client(port());
  const std::string head = binary_json(5000, R"(,"parameters":{"x":")" + std::string(40000, 'x') +
                                                 R"(","binary_data_output":true})");
  const TestResponse response =
      client.post("/v2/models/any/infer", head + floats(5000), header_length(head));
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.binary(), floats(5000));
}

TEST_F(Http, InfersFromSeveralInputs) {
  start();
  TestClient client(port());
  for (const std::size_t values : {3U, 30000U}) {
    const std::string head = concat(
        R"({"inputs":[{"name":"input0","datatype":"UINT8","shape":[1,)", values,
        R"(],"parameters":{"binary_data_size":)", values,
        R"(}},{"name":"input1","datatype":"FP32","shape":[1,)", values,
        R"(],"parameters":{"binary_data_size":)", values * 4,
        R"(}}],"outputs":[{"name":"output1","parameters":{"binary_data":true}},{"name":"output0","parameters":{"binary_data":true}}]})");
    const std::string small(values, '\5');
    const TestResponse response =
        client.post("/v2/models/two/infer", head + small + floats(values), header_length(head));
    ASSERT_EQ(response.status, 200) << response.body;
    EXPECT_EQ(json::parse(response.json())["outputs"][0]["name"], "output1");
    EXPECT_EQ(response.binary(), floats(values) + small);
  }
}

TEST_F(Http, InfersFromABodyOfNothingButData) {
  start();
  TestClient client(port());
  TestResponse response =
      client.post("/v2/models/identity/infer", floats(4), {"Inference-Header-Content-Length: 0"});
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.binary(), floats(4));
  response =
      client.post("/v2/models/any/infer", floats(30000),
                  {"Content-Type: application/octet-stream", "Inference-Header-Content-Length: 0"});
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.binary(), floats(30000));
  response = client.post("/v2/models/bytes/infer", "text", {"Inference-Header-Content-Length: 0"});
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.binary(), "\4\0\0\0text"s);
  response = client.post("/v2/models/two/infer", floats(4), {"Inference-Header-Content-Length: 0"});
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr("2 inputs"));
}

TEST_F(Http, ServesWholeShapesWithoutBatches) {
  folder_.write("identity/config.pbtxt", "max_batch_size: 0");
  start();
  TestClient client(port());
  const json metadata = json::parse(client.get("/v2/models/identity").body);
  EXPECT_EQ(metadata["inputs"][0]["shape"], json::array({-1, 4}));
  const json config = json::parse(client.get("/v2/models/identity/config").body);
  EXPECT_EQ(config["max_batch_size"], 0);
  EXPECT_EQ(config["input"][0]["dims"], json::array({-1, 4}));
  const TestResponse response = client.post(
      "/v2/models/identity/infer",
      R"({"inputs":[{"name":"input","datatype":"FP32","shape":[2,4],"data":[1,2,3,4,5,6,7,8]}]})");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(json::parse(response.body)["outputs"][0]["shape"], json::array({2, 4}));
  EXPECT_EQ(
      client.post("/v2/models/identity/infer", floats(12), {"Inference-Header-Content-Length: 0"})
          .binary(),
      floats(12));
  const json stats = json::parse(client.get("/v2/models/identity/stats").body)["model_stats"][0];
  EXPECT_EQ(stats["execution_count"], 2);
  EXPECT_EQ(stats["inference_count"], 2);
}

TEST_F(Http, CarriesBytesAndHalfFloats) {
  start();
  TestClient client(port());
  TestResponse response = client.post(
      "/v2/models/bytes/infer",
      R"({"inputs":[{"name":"input","datatype":"BYTES","shape":[2,1],"data":["\u00e9",""]}]})");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(json::parse(response.body)["outputs"][0]["data"], json::array({"\xC3\xA9", ""}));
  std::string head =
      R"({"inputs":[{"name":"input","datatype":"BYTES","shape":[2,1],"parameters":{"binary_data_size":9}}],"parameters":{"binary_data_output":true}})";
  const std::string rows = "\1\0\0\0\xFF\0\0\0\0"s;
  response = client.post("/v2/models/bytes/infer", head + rows, header_length(head));
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.binary(), rows);
  head =
      R"({"inputs":[{"name":"input","datatype":"BF16","shape":[1,2],"parameters":{"binary_data_size":4}}],"parameters":{"binary_data_output":true}})";
  response = client.post("/v2/models/half/infer", head + "abcd", header_length(head));
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.binary(), "abcd");
  head =
      R"({"inputs":[{"name":"input","datatype":"BF16","shape":[1,2],"parameters":{"binary_data_size":4}}]})";
  response = client.post("/v2/models/half/infer", head + "abcd", header_length(head));
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr("binary_data"));
  response = client.post(
      "/v2/models/ints/infer",
      R"({"inputs":[{"name":"input","datatype":"INT64","shape":[1,2],"data":[9223372036854775807,-1]}]})");
  EXPECT_THAT(response.body, HasSubstr("[9223372036854775807,-1]"));
}

TEST_F(Http, SaysWhatIsNotThere) {
  start();
  TestClient client(port());
  for (const std::string target :
       {"/v2/models/nope/infer", "/v2/models/identity/versions/9/infer"}) {
    const TestResponse response = client.post(target, kFour);
    EXPECT_EQ(response.status, 404) << target;
    EXPECT_TRUE(json::parse(response.body)["error"].is_string());
  }
  EXPECT_EQ(client.get("/v2/models/nope").status, 404);
  EXPECT_EQ(client.get("/v2/models/nope/ready").status, 404);
  EXPECT_EQ(client.get("/nowhere").status, 404);
  EXPECT_EQ(client.get("/v2/models/identity/versions/9").status, 404);
  EXPECT_EQ(client.get("/metrics").status, 404);
}

TEST_F(Http, KnowsTheMethods) {
  start();
  TestClient client(port());
  const TestResponse head = client.request("HEAD", "/v2/health/live");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.field("content-length"), "13");
  const TestResponse options = client.request("OPTIONS", "/v2/models/identity/infer");
  EXPECT_EQ(options.status, 204);
  EXPECT_EQ(options.field("allow"), "POST, OPTIONS");
  EXPECT_EQ(options.fields.count("content-length"), 0U);
  for (const auto& [method, target, allowed] :
       {std::tuple("DELETE", "/v2", "GET, HEAD, OPTIONS"),
        std::tuple("GET", "/v2/models/identity/infer", "POST, OPTIONS"),
        std::tuple("PUT", "/v2/logging", "GET, HEAD, POST, OPTIONS"),
        std::tuple("POST", "/v2/health/live", "GET, HEAD, OPTIONS"),
        std::tuple("BREW", "/v2", "GET, HEAD, OPTIONS")}) {
    const TestResponse response = client.request(method, target);
    EXPECT_EQ(response.status, 405) << method << target;
    EXPECT_EQ(response.field("allow"), allowed);
  }
  EXPECT_EQ(client.get("/v2").status, 200);  // the connection is as good as before
}

TEST_F(Http, RefusesWhatOperatorsDidNotAllow) {
  start();
  TestClient client(port());
  for (const std::string target :
       {"/v2/repository/models/identity/load", "/v2/systemsharedmemory/region/r/register"}) {
    const TestResponse response = client.post(target, R"({"key":"/k","byte_size":4,"offset":0})");
    EXPECT_EQ(response.status, 501) << target << response.body;
    EXPECT_TRUE(json::parse(response.body).contains("error"));
  }
}

TEST_F(Http, AnswersPipelinedRequestsInOrder) {
  start();
  TestClient client(port());
  std::string all;
  for (int i = 0; i < 200; ++i) {
    all += TestClient::text(
        "POST", "/v2/models/identity/infer",
        concat(R"({"id":")", i,
               R"(","inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[)", i,
               ",0,0,0]}]}"));
  }
  std::thread sender([&] { client.send(all); });
  for (int i = 0; i < 200; ++i) {
    const json answer = json::parse(client.receive().body);
    EXPECT_EQ(answer["id"], concat(i));
    EXPECT_EQ(answer["outputs"][0]["data"][0], i);
  }
  sender.join();
}

TEST_F(Http, ServesManyConnections) {
  HttpOptions options = patient();
  options.threads = 3;
  start(options);
  std::vector<std::thread> callers;
  callers.reserve(16);
  std::atomic<int> good{0};
  for (std::size_t i = 0; i < 16; ++i) {
    callers.emplace_back([&, i] {
      TestClient client(port());
      for (std::size_t k = 0; k < 50; ++k) {
        const std::size_t values = 1 + (i * 50 + k) * 17;
        const std::string head =
            binary_json(values, R"(,"parameters":{"binary_data_output":true})");
        const TestResponse response =
            client.post("/v2/models/any/infer", head + floats(values), header_length(head));
        if (response.status == 200 && response.binary() == floats(values)) ++good;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(good, 16 * 50);
  // A request is counted when its answer is sent, which its caller may have read by then.
  const TimePoint until = Clock::now() + std::chrono::seconds(30);
  while (server_->counters().requests.load() < 16U * 50 && Clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(server_->counters().requests.load(), 16U * 50);
}

TEST(HttpEvicted, RequestsForItHoldUpNoOther) {
  ::millrace::testing::EvictedModel models;
  HttpOptions options = patient();
  options.threads = 1;
  const auto server = *HttpServer::start(models.service(), std::move(options));
  constexpr std::string_view kBody =
      R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]})";
  TestClient waits(server->port());
  TestClient of_data(server->port());
  TestClient leaves(server->port());
  TestClient late(server->port());
  waits.send(TestClient::text("POST", "/v2/models/a/infer", kBody));
  of_data.send(TestClient::text("POST", "/v2/models/a/infer", std::string(16, '\0'),
                                {"Inference-Header-Content-Length: 0"}));
  leaves.send(TestClient::text("POST", "/v2/models/a/infer", kBody));
  leaves.end();
  EXPECT_EQ(late.post("/v2/models/a/infer", kBody, {"Millrace-Timeout: 20ms"}).status, 504);
  EXPECT_EQ(leaves.receive().status, 499);
  TestClient other(server->port());
  EXPECT_EQ(other.post("/v2/models/b/infer", kBody).status, 200) << "meanwhile";
  EXPECT_EQ(other.get("/v2/models/a/stats").status, 200);
  EXPECT_FALSE(waits.readable(0));
  models.let_it_come();
  EXPECT_EQ(json::parse(waits.receive().body)["outputs"][0]["data"], json::array({1, 2, 3, 4}));
  EXPECT_EQ(of_data.receive().binary(), std::string(16, '\0'));
}

TEST_F(Http, ClosesWhenAskedTo) {
  start();
  TestClient client(port());
  const TestResponse response = client.request("GET", "/v2/health/live", "", {"Connection: close"});
  EXPECT_EQ(response.field("connection"), "close");
  EXPECT_TRUE(client.ended());
  TestClient old(port());
  old.send("GET /v2/health/live HTTP/1.0\r\n\r\n");
  EXPECT_EQ(old.receive().status, 200);
  EXPECT_TRUE(old.ended());
  TestClient kept(port());
  for (int i = 0; i < 2; ++i) {
    kept.send("GET /v2/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    const TestResponse again = kept.receive();
    EXPECT_EQ(again.status, 200);
    EXPECT_EQ(again.field("connection"), "keep-alive");
  }
}

TEST_F(Http, TakesBodiesInChunks) {
  start();
  TestClient client(port());
  for (const std::size_t values : {4U, 30000U}) {
    const std::string head = binary_json(values, R"(,"parameters":{"binary_data_output":true})");
    const std::string body = head + floats(values);
    std::string text = concat(
        "POST /v2/models/any/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        "Inference-Header-Content-Length: ",
        head.size(), "\r\n\r\n");
    for (std::size_t at = 0; at < body.size(); at += 7001) {
      const std::string chunk = body.substr(at, 7001);
      char size[32];
      std::snprintf(size, sizeof size, "%zx;note=1\r\n", chunk.size());
      text += size + chunk + "\r\n";
    }
    text += "0\r\nContent-Encoding: gzip\r\n\r\n";  // a trailer counts for nothing
    for (const std::size_t piece : {text.size(), std::size_t{1009}}) {
      for (std::size_t at = 0; at < text.size(); at += piece) {
        ASSERT_TRUE(client.send(text.substr(at, piece)));
      }
      const TestResponse response = client.receive();
      ASSERT_EQ(response.status, 200) << response.body;
      EXPECT_EQ(response.binary(), floats(values));
    }
  }
  EXPECT_TRUE(all_released());
}

TEST_F(Http, SaysContinue) {
  start();
  TestClient client(port());
  const std::string body(kFour);
  client.send(concat("POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\nContent-Length: ",
                     body.size(), "\r\nExpect: 100-continue\r\n\r\n"));
  EXPECT_EQ(client.receive().status, 100);
  client.send(body);
  EXPECT_EQ(client.receive().status, 200);
  // Not when it would be refused anyway.
  client.send(
      "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.receive().status, 404);
  // Nor when the body has begun to come.
  TestClient quick(port());
  const std::string text =
      TestClient::text("POST", "/v2/models/identity/infer", body, {"Expect: 100-continue"});
  quick.send(text.substr(0, text.size() - 5));
  quick.send(text.substr(text.size() - 5));
  EXPECT_EQ(quick.receive().status, 200);
}

std::string packed(std::string_view text, Encoding encoding) {
  Compressor compressor(encoding);
  compressor.add(text.data(), text.size());
  return compressor.finish().value();
}

TEST_F(Http, ReadsAndWritesCompressedBodies) {
  start();
  TestClient client(port());
  for (const Encoding encoding : {Encoding::gzip, Encoding::deflate}) {
    for (const std::size_t values : {4U, 30000U}) {
      const std::string name(to_string(encoding));
      const std::string head = binary_json(values, R"(,"parameters":{"binary_data_output":true})");
      std::vector<std::string> fields = header_length(head);
      fields.push_back("Content-Encoding: " + name);
      fields.push_back("Accept-Encoding: " + name);
      const TestResponse response =
          client.post("/v2/models/any/infer", packed(head + floats(values), encoding), fields);
      ASSERT_EQ(response.status, 200) << response.body;
      if (values == 4) {  // not worth it
        EXPECT_EQ(response.field("content-encoding"), "");
        EXPECT_EQ(response.binary(), floats(values));
        continue;
      }
      EXPECT_EQ(response.field("content-encoding"), name);
      const std::string plain =
          decompress(response.body, encoding, 1 << 24, [](std::size_t) { return true; }).value();
      EXPECT_EQ(plain.substr(std::stoul(response.field("inference-header-content-length"))),
                floats(values));
    }
  }
  EXPECT_TRUE(all_released());
}

TEST_F(Http, GivesUpAtTheDeadline) {
  start();
  const std::string one =
      R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,1],"data":[1]}]})";
  // The model is busy with the first; the second is not started in time.
  std::vector<std::unique_ptr<TestClient>> busy;
  for (int i = 0; i < 4; ++i) {
    busy.push_back(std::make_unique<TestClient>(port()));
    busy.back()->send(TestClient::text("POST", "/v2/models/slow/infer", one));
  }
  TestClient client(port());
  const TestResponse response =
      client.post("/v2/models/slow/infer", one, {"Millrace-Timeout: 1ms"});
  EXPECT_EQ(response.status, 504) << response.body;
  EXPECT_EQ(client.post("/v2/models/slow/infer", one, {"Millrace-Timeout: soon"}).status, 400);
  for (auto& other : busy) EXPECT_EQ(other->receive().status, 200);
}

TEST_F(Http, CancelsWhenTheCallerGoesAway) {
  std::mutex mutex;
  std::vector<int> statuses;
  HttpOptions options = patient();
  options.on_request = [&](const HttpAccess& access) {
    const std::lock_guard lock(mutex);
    statuses.push_back(access.status);
  };
  start(options);
  const std::string one =
      R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,1],"data":[1]}]})";
  std::vector<std::unique_ptr<TestClient>> callers;
  for (int i = 0; i < 8; ++i) {
    callers.push_back(std::make_unique<TestClient>(port()));
    callers.back()->send(TestClient::text("POST", "/v2/models/slow/infer", one));
  }
  EXPECT_EQ(callers[0]->receive().status, 200);  // the others have come by now, and wait
  for (int i = 4; i < 8; ++i) callers[static_cast<std::size_t>(i)]->close();
  for (int i = 1; i < 4; ++i) callers[static_cast<std::size_t>(i)]->receive();
  while (true) {
    const std::lock_guard lock(mutex);
    if (statuses.size() == 8) break;
  }
  EXPECT_GT(std::count(statuses.begin(), statuses.end(), 499), 0);
}

TEST_F(Http, TellsOfEachRequest) {
  std::mutex mutex;
  std::vector<std::string> lines;
  HttpOptions options = patient();
  options.on_request = [&](const HttpAccess& access) {
    const std::lock_guard lock(mutex);
    EXPECT_LE(access.arrived, access.answered);
    EXPECT_LE(access.answered, access.sent);
    EXPECT_THAT(std::string(access.peer), HasSubstr("127.0.0.1:"));
    lines.push_back(concat(access.method, " ", access.target, " ", access.model, " ", access.status,
                           " ", access.received_bytes, " ", access.traceparent));
  };
  start(options);
  TestClient client(port());
  client.get("/v2/health/live");
  client.post("/v2/models/identity/infer", kFour, {"traceparent: 00-a-b-01"});
  client.get("/x");
  client.close();
  server_.reset();
  EXPECT_THAT(lines, ElementsAre("GET /v2/health/live  200 0 ",
                                 concat("POST /v2/models/identity/infer identity 200 ",
                                        kFour.size(), " 00-a-b-01"),
                                 "GET /x  404 0 "));
}

TEST_F(Http, ServesMetricsOnAListenerOfTheirOwn) {
  HttpOptions options = patient();
  options.metrics = [] { return "millrace_up 1\n"s; };
  options.metrics_listener.emplace();
  start(options);
  ASSERT_NE(server_->metrics_port(), 0);
  TestClient client(server_->metrics_port());
  const TestResponse response = client.get("/metrics");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, "millrace_up 1\n");
  EXPECT_THAT(response.field("content-type"), HasSubstr("text/plain"));
  EXPECT_EQ(client.get("/v2").status, 404);
  TestClient other(port());
  EXPECT_EQ(other.get("/metrics").status, 200);
}

TEST_F(Http, ServesMetricsThereWithoutAToken) {
  HttpOptions options = patient();
  options.tokens = {"secret"};
  options.metrics = [] { return "millrace_up 1\n"s; };
  options.metrics_listener.emplace();
  start(options);
  TestClient client(server_->metrics_port());
  EXPECT_EQ(client.get("/metrics").status, 200);
  TestClient other(port());
  EXPECT_EQ(other.get("/metrics").status, 401);
}

TEST_F(Http, DrainsWithoutLosingWhatIsUnderWay) {
  start();
  const std::string one =
      R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,1],"data":[1]}]})";
  TestClient idle(port());
  EXPECT_EQ(idle.get("/v2/health/live").status, 200);
  // They are asked for their bodies: their heads have been read.
  const auto head = [](std::size_t bytes) {
    return concat("POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n",
                  "Content-Length: ", bytes, "\r\n\r\n");
  };
  TestClient busy(port());
  busy.send(head(one.size()));
  EXPECT_EQ(busy.receive().status, 100);
  busy.send(one);
  TestClient half(port());
  half.send(head(5));
  EXPECT_EQ(half.receive().status, 100);
  EXPECT_FALSE(server_->drain(20ms));  // `half` is not done
  EXPECT_TRUE(idle.ended());
  const TestResponse response = busy.receive();
  EXPECT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.field("connection"), "close");
  half.send("12345");
  EXPECT_EQ(half.receive().status, 400);
  EXPECT_TRUE(server_->drain(1min));
  EXPECT_EQ(server_->connections(), 0U);
  TestClient late(port());
  EXPECT_TRUE(!late.connected() || late.ended());
}

TEST_F(Http, EndsWithRequestsUnderWay) {
  start();
  const std::string one =
      R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,1],"data":[1]}]})";
  std::vector<std::unique_ptr<TestClient>> callers;
  for (int i = 0; i < 8; ++i) {
    callers.push_back(std::make_unique<TestClient>(port()));
    callers.back()->send(TestClient::text("POST", "/v2/models/slow/infer", one));
  }
  EXPECT_EQ(callers[0]->receive().status, 200);
  server_.reset();
  for (auto& caller : callers) EXPECT_TRUE(caller->ended());
}

TEST_F(Http, SaysWhenAPortIsInUse) {
  start();
  HttpOptions options = patient();
  options.listener.port = port();
  const auto second = HttpServer::start(*service_, options);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::unavailable);
  EXPECT_THAT(second.error().message, HasSubstr(concat("cannot listen on 127.0.0.1:", port())));
}

TEST_F(Http, AServerThatCannotStartLeavesTheThreadAsItWas) {
  start();
  HttpOptions options = patient();
  options.listener.port = port();
  ASSERT_FALSE(HttpServer::start(*service_, options).ok());
  const std::vector<float> values(4, 1.0F);
  Request request;
  request.inputs.push_back({"input", TensorView::of(values.data(), {1, 4}), {}});
  std::promise<void> answered;
  ASSERT_TRUE((*repository_->find("identity", ""))
                  ->model
                  .submit(std::move(request),
                          [&answered](const Result<Response>&, bool) { answered.set_value(); })
                  .ok());
  EXPECT_EQ(answered.get_future().wait_for(1min), std::future_status::ready);
}

TEST_F(Http, AServerThatDoesNotStartLeavesItsCallersThreadAsItWas) {
  start();
  HttpOptions options = patient();
  options.listener.port = port();
  ASSERT_FALSE(HttpServer::start(*service_, options).ok());
  // What this thread submits is told to the engine at once, as before.
  const float number = 1;
  Call call;
  call.model = "any";
  CallInput& input = call.inputs.emplace_back();
  input.name = "input";
  input.shape = {1, 1};
  input.raw = {&number, sizeof number};
  std::promise<bool> answered;
  ASSERT_TRUE(service_
                  ->infer(std::move(call), [&answered](const Result<Answer>& answer,
                                                       bool) { answered.set_value(answer.ok()); })
                  .ok());
  EXPECT_TRUE(answered.get_future().get());
}

TEST_F(Http, TakesOverASocketThatListens) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(socket, 8), 0);
  HttpOptions options = patient();
  options.listener.socket = socket;
  start(options);
  TestClient client(port());
  EXPECT_EQ(client.get("/v2/health/live").status, 200);
}

TEST_F(Http, ListensBeyondLoopbackOnlyWithCare) {
  start();
  for (const std::string host : {"0.0.0.0", "::"}) {
    HttpOptions options = patient();
    options.listener.host = host;
    const auto refused = HttpServer::start(*service_, options);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
    EXPECT_THAT(refused.error().message, HasSubstr("TLS"));
  }
  HttpOptions options = patient();
  options.listener.host = "0.0.0.0";
  options.tokens = {"secret"};
  EXPECT_TRUE(HttpServer::start(*service_, options).ok());
  options.tokens.clear();
  options.allow_open = true;
  EXPECT_TRUE(HttpServer::start(*service_, options).ok());
}

TEST_F(Http, AsksForTokens) {
  HttpOptions options = patient();
  options.tokens = {"first", "second"};
  options.control_tokens = {"root"};
  start(options);
  TestClient client(port());
  const auto status = [&](std::string_view target, const std::string& authorization) {
    return client
        .request("GET", target, "",
                 authorization.empty() ? std::vector<std::string>()
                                       : std::vector{"Authorization: " + authorization})
        .status;
  };
  EXPECT_EQ(status("/v2/health/ready", ""), 200);
  EXPECT_EQ(status("/v2", ""), 401);
  EXPECT_EQ(client.get("/v2").field("www-authenticate"), "Bearer");
  EXPECT_EQ(status("/v2", "Bearer third"), 401);
  EXPECT_EQ(status("/v2", "Bearer firs"), 401);
  EXPECT_EQ(status("/v2", "Bearer "), 401);
  EXPECT_EQ(status("/v2", "Basic first"), 401);
  EXPECT_EQ(status("/v2", "Bearer second"), 200);
  EXPECT_EQ(status("/v2", "bearer first"), 200);
  EXPECT_EQ(status("/v2", "Bearer root"), 200);
  EXPECT_EQ(status("/v2/logging", "Bearer first"), 403);
  EXPECT_EQ(status("/v2/logging", ""), 401);
  EXPECT_EQ(status("/v2/logging", "Bearer root"), 200);
}

}  // namespace
}  // namespace millrace::server
