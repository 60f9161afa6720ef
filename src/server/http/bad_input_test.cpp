// What clients should not send: each is answered with the right status, and the server goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/http/compression.h"
#include "server/http/test_server.h"

namespace millrace::server {
namespace {

using testing::HttpTest;
using testing::patient;
using testing::TestClient;
using testing::TestResponse;
using namespace std::chrono_literals;
using namespace std::string_literals;

constexpr std::string_view kFour =
    R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]})";

class BadHttp : public HttpTest {
 protected:
  void TearDown() override {
    if (server_) {
      TestClient client(port());
      EXPECT_EQ(client.post("/v2/models/identity/infer", kFour).status, 200);
      client.close();
      EXPECT_TRUE(all_released());
    }
    HttpTest::TearDown();
  }

  // A request as it is, on a connection of its own.
  TestResponse raw(std::string_view text) const {
    TestClient client(port());
    client.send(text);
    TestResponse response = client.receive();
    if (response.status >= 400) {
      EXPECT_TRUE(nlohmann::json::parse(response.body).contains("error")) << response.body;
    }
    return response;
  }
  TestResponse infer(std::string_view body, const std::vector<std::string>& fields = {}) const {
    return raw(TestClient::text("POST", "/v2/models/any/infer", body, fields));
  }
};

TEST_F(BadHttp, RefusesWhatIsNoHttp) {
  start();
  for (const std::string& text :
       {"\0\1\2\3\r\n\r\n"s, "hello\r\n\r\n"s, "GET\r\n\r\n"s, "GET /v2\r\n\r\n"s,
        "GET /v2 HTTP/2.0\r\nHost: x\r\n\r\n"s, "GET /v2 HTTP/1.1\r\nHost\r\n\r\n"s,
        "GET /v2 HTTP/1.1\r\nHost : x\r\n\r\n"s, "GET /v2 HTTP/1.1\r\nHost: x\r\nA: \1\r\n\r\n"s,
        "GET /v2 HTTP/1.1\r\n\r\n"s, "GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"s,
        "GET /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n"s,
        "GET /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"s,
        "GET /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n"s,
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"s}) {
    EXPECT_EQ(raw(text).status, 400) << text;
  }
}

// Requests that two servers in a row might take for different ones.
TEST_F(BadHttp, RefusesAmbiguousLengths) {
  start();
  const std::string head = "POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\n";
  for (const std::string& fields :
       {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"s,
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"s,
        "Content-Length: 5\r\nContent-Length: 6\r\n"s, "Content-Length: 5, 6\r\n"s,
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"s, "Content-Length: +5\r\n"s,
        "Content-Length: 0x5\r\n"s}) {
    TestClient client(port());
    client.send(head + fields + "\r\n0\r\n\r\nGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n");
    const int status = client.receive().status;
    EXPECT_TRUE(status == 400 || status == 501) << fields << status;
    EXPECT_EQ(client.receive().status, 0) << fields;  // nothing behind it is looked at
  }
  for (const std::string& coding : {"gzip, chunked"s, "identity"s, "xchunked"s, "chunked, gzip"s}) {
    TestClient client(port());
    client.send(concat(head, "Transfer-Encoding: ", coding, "\r\n\r\n0\r\n\r\n"));
    const int status = client.receive().status;
    EXPECT_TRUE(status == 400 || status == 501) << coding << status;
    EXPECT_EQ(client.receive().status, 0) << coding;
  }
}

TEST_F(BadHttp, RefusesChunksThatAreNone) {
  start();
  const std::string head =
      "POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const std::string& chunks :
       {"x\r\n"s, "5\r\nabcdefg\r\n0\r\n\r\n"s, "ffffffffffffffffff\r\n"s, "-1\r\n"s}) {
    EXPECT_EQ(raw(head + chunks).status, 400) << chunks;
  }
}

TEST_F(BadHttp, BoundsTheHead) {
  HttpOptions options = patient();
  options.max_header_bytes = 4096;
  start(options);
  EXPECT_EQ(raw("GET /v2 HTTP/1.1\r\nHost: x\r\nA: " + std::string(5000, 'a') + "\r\n\r\n").status,
            431);
  EXPECT_EQ(raw("GET /" + std::string(5000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n").status, 431);
  std::string flood = "GET /v2 HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 20000; ++i) flood += "A: b\r\n";
  EXPECT_EQ(raw(flood).status, 431);
  EXPECT_EQ(raw("GET /v2 HTTP/1.1\r\nHost: x\r\nA: " + std::string(3000, 'a') + "\r\n\r\n").status,
            200);
}

TEST_F(BadHttp, BoundsTheBody) {
  HttpOptions options = patient();
  options.max_body_bytes = 20000;
  start(options);
  const std::string head = "POST /v2/models/any/infer HTTP/1.1\r\nHost: x\r\n";
  EXPECT_EQ(raw(head + "Content-Length: 20001\r\n\r\n").status, 413);
  EXPECT_EQ(raw(head + "Content-Length: 18446744073709551615\r\n\r\n").status, 413);
  std::string chunks = head + "Transfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 30; ++i) chunks += "400\r\n" + std::string(1024, ' ') + "\r\n";
  EXPECT_EQ(raw(chunks).status, 413);
  // A caller that sends all of it anyway still gets to read why.
  EXPECT_EQ(infer(std::string(300000, ' ')).status, 413);
}

TEST_F(BadHttp, BoundsTheBytesInFlight) {
  HttpOptions options = patient();
  options.max_bytes_in_flight = 100000;
  start(options);
  TestClient first(port());
  const std::string json = binary_json(20000);
  const std::string request =
      TestClient::text("POST", "/v2/models/any/infer", json + floats(20000), header_length(json));
  first.send(request.substr(0, 1000));
  while (server_->bytes_in_flight() == 0) std::this_thread::yield();
  const TestResponse refused = raw(request);
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.field("retry-after"), "1");
  first.send(request.substr(1000));
  EXPECT_EQ(first.receive().status, 200);
  EXPECT_TRUE(all_released());
  EXPECT_EQ(raw(request).status, 200);
}

TEST_F(BadHttp, BoundsTheConnections) {
  HttpOptions options = patient();
  options.max_connections = 3;
  start(options);
  std::vector<std::unique_ptr<TestClient>> open;
  for (int i = 0; i < 3; ++i) {
    open.push_back(std::make_unique<TestClient>(port()));
    EXPECT_EQ(open.back()->get("/v2").status, 200);
  }
  TestClient one_more(port());
  const TestResponse refused = one_more.receive();
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(nlohmann::json::parse(refused.body).contains("error"));
  EXPECT_TRUE(one_more.ended());
  EXPECT_EQ(server_->counters().refused.load(), 1U);
  open.clear();
  while (server_->connections() > 0) std::this_thread::yield();
}

TEST_F(BadHttp, DefusesBombs) {
  HttpOptions options = patient();
  options.max_body_bytes = 1 << 20;
  start(options);
  for (const Encoding encoding : {Encoding::gzip, Encoding::deflate}) {
    Compressor compressor(encoding);
    const std::string zeros(std::size_t{32} << 20, ' ');
    compressor.add(zeros.data(), zeros.size());
    const std::string bomb = compressor.finish().value();
    const std::vector<std::string> fields = {concat("Content-Encoding: ", encoding)};
    EXPECT_EQ(infer(bomb, fields).status, 413);
    EXPECT_EQ(infer(bomb.substr(0, 500), fields).status, 400);
    EXPECT_EQ(infer("no compression at all", fields).status, 400);
  }
  EXPECT_EQ(infer("x", {"Content-Encoding: br"}).status, 415);
}

TEST_F(BadHttp, RefusesJsonThatIsNone) {
  start();
  const std::string deep(100000, '[');
  for (
      const std::string& body :
      {""s, "{"s, "[]"s, "null"s, "{}"s, R"({"inputs":)" + deep, R"({"inputs":[{}]})"s,
       R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,1],"data":[1e999]}]})"s,
       R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,9999999999999999999],"data":[1]}]})"s,
       R"({"inputs":[{"name":"input","datatype":"FP32","shape":[99999999999,1],"data":[1]}]})"s,
       R"({"inputs":[{"name":"\ud800","datatype":"FP32","shape":[1,1],"data":[1]}]})"s,
       R"({"inputs":[{"name":"wrong","datatype":"FP32","shape":[1,1],"data":[1]}]})"s,
       R"({"inputs":[{"name":"input","datatype":"INT32","shape":[1,1],"data":[1]}]})"s,
       R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1],"data":[1]}]})"s}) {
    EXPECT_EQ(infer(body).status, 400) << body.substr(0, 100);
  }
  EXPECT_EQ(raw(TestClient::text("POST", "/v2/repository/index", "[1")).status, 400);
}

TEST_F(BadHttp, RefusesHeaderLengthsThatLie) {
  start();
  for (const std::size_t values : {4U, 30000U}) {  // in the read buffer, and beyond it
    const std::string json = binary_json(values);
    const std::string body = json + floats(values);
    for (const std::string& length :
         {concat(body.size() + 1), concat(json.size() - 1), concat(json.size() + 1), "-1"s, "x"s,
          ""s, "18446744073709551616"s, concat(body.size())}) {
      EXPECT_EQ(infer(body, {"Inference-Header-Content-Length: " + length}).status, 400)
          << values << " " << length;
    }
    EXPECT_EQ(infer(body).status, 400);  // no length at all
    const std::string short_json = binary_json(values - 1);
    EXPECT_EQ(infer(short_json + floats(values), header_length(short_json)).status, 400);
    const std::string long_json = binary_json(values + 1);
    EXPECT_EQ(infer(long_json + floats(values), header_length(long_json)).status, 400);
    // As long as it says, but not as its shape says.
    const std::string other =
        concat(R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,)", values + 1,
               R"(],"parameters":{"binary_data_size":)", values * 4, "}}]}");
    EXPECT_EQ(infer(other + floats(values), header_length(other)).status, 400);
  }
}

TEST_F(BadHttp, RefusesRowsThatLie) {
  start();
  for (const std::string& rows :
       {""s, "\1"s, "\1\0\0\0"s, "\xFF\xFF\xFF\xFF"s, "\1\0\0\0a\0"s, "\0\0\0\0\0\0\0\0"s}) {
    const std::string json = concat(
        R"({"inputs":[{"name":"input","datatype":"BYTES","shape":[1,1],"parameters":{"binary_data_size":)",
        rows.size(), "}}]}");
    EXPECT_EQ(
        raw(TestClient::text("POST", "/v2/models/bytes/infer", json + rows, header_length(json)))
            .status,
        400);
  }
}

// What was refused with its head: neither its body nor its chunks are the next request.
TEST_F(BadHttp, ReadsNothingOfARefusedBodyAsARequest) {
  start();
  const std::string next = TestClient::text("GET", "/v2/health/live");
  TestClient known(port());
  known.send(TestClient::text("POST", "/nowhere", next) + next);
  EXPECT_EQ(known.receive().status, 404);
  EXPECT_EQ(known.receive().body, R"({"live":true})");
  known.end();
  EXPECT_TRUE(known.ended());
  TestClient chunked(port());
  chunked.send("POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + next);
  EXPECT_EQ(chunked.receive().status, 404);
  EXPECT_TRUE(chunked.ended());
}

TEST_F(BadHttp, RefusesFieldsThatContradictThemselves) {
  start();
  const std::string length = concat("Inference-Header-Content-Length: ", kFour.size());
  EXPECT_EQ(infer(kFour, {length, length}).status, 400);
  EXPECT_EQ(infer(kFour, {concat("Inference-Header-Content-Length: ", kFour.size() + 1)}).status,
            400);
  EXPECT_EQ(infer(kFour, {"Expect: 200-ok"}).status, 417);
}

TEST_F(BadHttp, RefusesChunksWithLongHeads) {
  start();
  EXPECT_EQ(raw("POST /v2/models/any/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                "\r\n5;" +
                std::string(100000, 'a'))
                .status,
            400);
}

TEST_F(BadHttp, TakesTimeoutsLongerThanTheClockGoes) {
  start();
  EXPECT_EQ(infer(kFour, {"Millrace-Timeout: 153722867min"}).status, 200);
}

TEST_F(BadHttp, GivesUpOnSlowHeads) {
  HttpOptions options = patient();
  options.header_timeout = 50ms;
  start(options);
  TestClient client(port());
  client.send("GET /v2 HT");
  EXPECT_EQ(client.receive().status, 408);
  EXPECT_TRUE(client.ended());
  EXPECT_GE(server_->counters().timeouts.load(), 1U);
}

TEST_F(BadHttp, GivesUpOnSlowBodies) {
  HttpOptions options = patient();
  options.body_timeout = 50ms;
  start(options);
  for (const std::size_t bytes : {100U, 100000U}) {
    TestClient client(port());
    client.send(
        TestClient::text("POST", "/v2/models/any/infer", std::string(bytes, ' ')).substr(0, 120));
    EXPECT_EQ(client.receive().status, 408);
    EXPECT_TRUE(client.ended());
  }
}

// However long it takes: what counts is the rate.
TEST_F(BadHttp, WaitsForBodiesThatComeAtTheRate) {
  HttpOptions options = patient();
  options.body_timeout = 1s;
  options.slowest_rate = 1;
  start(options);
  const std::string json = binary_json(20000);
  const std::string request =
      TestClient::text("POST", "/v2/models/any/infer", json + floats(20000), header_length(json));
  TestClient client(port());
  client.send(request.substr(0, 60000));  // so many seconds it may take now
  EXPECT_FALSE(client.readable(1500));
  client.send(request.substr(60000));
  EXPECT_EQ(client.receive().status, 200);
}

TEST_F(BadHttp, ClosesWhoStaysAfterARefusal) {
  HttpOptions options = patient();
  options.max_body_bytes = 20000;
  start(options);
  TestClient client(port());
  client.send("POST /v2/models/any/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 20001\r\n\r\n");
  EXPECT_EQ(client.receive().status, 413);
  while (server_->connections() > 0) std::this_thread::sleep_for(1ms);
}

TEST_F(BadHttp, ClosesIdleConnections) {
  HttpOptions options = patient();
  options.idle_timeout = 50ms;
  start(options);
  TestClient client(port());
  EXPECT_TRUE(client.ended());
  TestClient used(port());
  EXPECT_EQ(used.get("/v2").status, 200);
  EXPECT_TRUE(used.ended());
}

// A caller that reads nothing: its answers are not kept forever.
TEST_F(BadHttp, GivesUpOnCallersThatDoNotRead) {
  HttpOptions options = patient();
  options.body_timeout = 100ms;
  options.slowest_rate = std::size_t{1} << 40;
  start(options);
  const std::string json = binary_json(4000000, R"(,"parameters":{"binary_data_output":true})");
  TestClient client(port());
  client.send(TestClient::text("POST", "/v2/models/any/infer", json + floats(4000000),
                               header_length(json)));
  while (server_->connections() > 0) std::this_thread::sleep_for(1ms);
  EXPECT_GE(server_->counters().timeouts.load(), 1U);
}

TEST_F(BadHttp, AnswersCallersThatSendNoMore) {
  start();
  TestClient client(port());
  client.send(TestClient::text("POST", "/v2/models/identity/infer", kFour) +
              TestClient::text("GET", "/v2/health/live"));
  client.end();
  EXPECT_EQ(client.receive().status, 200);
  EXPECT_EQ(client.receive().body, R"({"live":true})");
  EXPECT_TRUE(client.ended());
  TestClient half(port());
  half.send("POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nabc");
  half.end();
  EXPECT_TRUE(half.ended());
}

TEST_F(BadHttp, SurvivesCallersThatLeaveAnywhere) {
  start();
  const std::string json = binary_json(30000, R"(,"parameters":{"binary_data_output":true})");
  const std::string request =
      TestClient::text("POST", "/v2/models/any/infer", json + floats(30000), header_length(json));
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{10}, std::size_t{150},
                                  std::size_t{20000}, request.size() - 1, request.size()}) {
    for (int i = 0; i < 20; ++i) {
      TestClient client(port());
      client.send(request.substr(0, bytes));
    }
  }
  while (server_->connections() > 0) std::this_thread::yield();
}

}  // namespace
}  // namespace millrace::server
