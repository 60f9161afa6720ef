// For tests: a server over HTTP with models of the reference backend.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "repository/test_folder.h"
#include "server/http/server.h"
#include "server/http/test_client.h"

namespace millrace::server::testing {

/// Options with timeouts that no test runs into by accident.
inline HttpOptions patient() {
  HttpOptions options;
  options.header_timeout = options.body_timeout = options.idle_timeout = std::chrono::minutes(5);
  return options;
}

class HttpTest : public ::testing::Test {
 protected:
  static constexpr std::string_view kIdentity = R"({"kind":"identity","options":{"shape":"4"}})";

  void SetUp() override {
    folder_.reference("identity", 1, kIdentity);
    folder_.reference("any", 1, R"({"kind":"identity","options":{"shape":"-1"}})");
    folder_.reference("bytes", 1, R"({"kind":"identity","options":{"type":"BYTES","shape":"1"}})");
    folder_.reference(
        "two", 1, R"({"kind":"identity","options":{"inputs":2,"shape":"-1","type":"UINT8,FP32"}})");
    folder_.reference("half", 1, R"({"kind":"identity","options":{"type":"BF16","shape":"2"}})");
    folder_.reference("ints", 1, R"({"kind":"identity","options":{"type":"INT64","shape":"2"}})");
    folder_.reference("slow", 1,
                      R"({"kind":"busy","options":{"shape":"1","batch_us":200000,"max_items":1}})");
  }
  void TearDown() override {
    server_.reset();
    service_.reset();
    repository_.reset();
  }

  void start(HttpOptions options = patient(), ServiceOptions service = {},
             RepositoryMode mode = RepositoryMode::none) {
    if (!service_) {
      RepositoryOptions folders;
      folders.folders = {folder_.path()};
      folders.mode = mode;
      folders.load_at_start = {"*"};
      auto opened = ModelRepository::open(engine_, std::move(folders));
      ASSERT_TRUE(opened.ok()) << opened.error().message;
      repository_ = std::move(*opened);
      service_ = std::make_unique<Service>(engine_, *repository_, service);
    }
    auto started = HttpServer::start(*service_, std::move(options));
    ASSERT_TRUE(started.ok()) << started.error().message;
    server_ = std::move(*started);
  }
  [[nodiscard]] std::uint16_t port() const { return server_->port(); }

  /// Whether the bytes of all bodies are given back: soon after the last answer came.
  [[nodiscard]] bool all_released() const {
    const TimePoint end = Clock::now() + std::chrono::seconds(30);
    while (server_->bytes_in_flight() > 0) {
      if (Clock::now() > end) return false;
      std::this_thread::yield();
    }
    return true;
  }

  /// {"inputs":[...]} for a model with one input of so many FP32 values, whose data is binary.
  static std::string binary_json(std::size_t values, const std::string& more = "") {
    return concat(R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,)", values,
                  R"(],"parameters":{"binary_data_size":)", values * 4, "}}]", more, "}");
  }
  static std::string floats(std::size_t values) {
    std::string bytes;
    for (std::size_t i = 0; i < values; ++i) {
      const auto value = static_cast<float>(i % 8191);
      bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    return bytes;
  }
  static std::vector<std::string> header_length(const std::string& json) {
    return {concat("Inference-Header-Content-Length: ", json.size())};
  }

  ::millrace::testing::TestFolder folder_;
  Engine engine_ = ::millrace::testing::host_engine();
  std::unique_ptr<ModelRepository> repository_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace millrace::server::testing
