#include "server/http/route.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <set>
#include <string>

#include "server/http/control.h"

namespace millrace::server {
namespace {

Route route_of(std::string_view target) {
  Route route;
  route.model = "left over";
  find_route(target, route);
  return route;
}

void expect_route(std::string_view target, Endpoint endpoint, std::string_view model = "",
                  std::string_view version = "", std::string_view region = "") {
  const Route route = route_of(target);
  EXPECT_EQ(route.endpoint, endpoint) << target;
  EXPECT_EQ(route.model, model) << target;
  EXPECT_EQ(route.version, version) << target;
  EXPECT_EQ(route.region, region) << target;
}

TEST(Route, FindsEveryEndpoint) {
  expect_route("/v2", Endpoint::server_metadata);
  expect_route("/v2/", Endpoint::server_metadata);
  expect_route("/v2/health/live", Endpoint::server_live);
  expect_route("/v2/health/ready?verbose=1", Endpoint::server_ready);
  expect_route("/v2/models/m", Endpoint::model_metadata, "m");
  expect_route("/v2/models/m/versions/2", Endpoint::model_metadata, "m", "2");
  expect_route("/v2/models/m/ready", Endpoint::model_ready, "m");
  expect_route("/v2/models/m/versions/2/ready", Endpoint::model_ready, "m", "2");
  expect_route("/v2/models/m/config", Endpoint::model_config, "m");
  expect_route("/v2/models/m/versions/2/stats", Endpoint::statistics, "m", "2");
  expect_route("/v2/models/stats", Endpoint::statistics);
  expect_route("/v2/models/m/infer", Endpoint::infer, "m");
  expect_route("/v2/models/m/versions/2/infer", Endpoint::infer, "m", "2");
  expect_route("/v2/models/m/trace/setting", Endpoint::trace_settings, "m");
  expect_route("/v2/trace/setting", Endpoint::trace_settings);
  expect_route("/v2/logging", Endpoint::log_settings);
  expect_route("/v2/repository/index", Endpoint::repository_index);
  expect_route("/v2/repository/models/m/load", Endpoint::model_load, "m");
  expect_route("/v2/repository/models/m/unload", Endpoint::model_unload, "m");
  expect_route("/v2/systemsharedmemory/status", Endpoint::system_memory_status);
  expect_route("/v2/systemsharedmemory/region/r/status", Endpoint::system_memory_status, "", "",
               "r");
  expect_route("/v2/systemsharedmemory/region/r/register", Endpoint::system_memory_register, "", "",
               "r");
  expect_route("/v2/systemsharedmemory/unregister", Endpoint::system_memory_unregister);
  expect_route("/v2/cudasharedmemory/region/r/unregister", Endpoint::cuda_memory_unregister, "", "",
               "r");
  expect_route("/v2/cudasharedmemory/region/r/register", Endpoint::cuda_memory_register, "", "",
               "r");
  expect_route("/v2/cudasharedmemory/status", Endpoint::cuda_memory_status);
  expect_route("/openapi.json", Endpoint::openapi);
  expect_route("/metrics", Endpoint::metrics);
  expect_route(
      "http"
      "://host:8000/v2/health/live",
      Endpoint::server_live);
}

// What the document describes is there, and nothing else is.
TEST(Route, IsWhatTheDocumentSays) {
  const nlohmann::json document = nlohmann::json::parse(openapi_document());
  std::set<Endpoint> described;
  for (const auto& [path, item] : document["paths"].items()) {
    std::string target = path;
    for (const std::string_view name : {"model", "version", "region"}) {
      const std::string pattern = "{" + std::string(name) + "}";
      const std::size_t at = target.find(pattern);
      if (at != std::string::npos) target.replace(at, pattern.size(), "x");
    }
    const Endpoint endpoint = route_of(target).endpoint;
    ASSERT_NE(endpoint, Endpoint::none) << path;
    described.insert(endpoint);
    EXPECT_EQ(item.contains("get"), traits(endpoint).get) << path;
    EXPECT_EQ(item.contains("post"), traits(endpoint).post) << path;
  }
  for (int i = 1; i <= static_cast<int>(Endpoint::metrics); ++i) {
    EXPECT_TRUE(described.contains(static_cast<Endpoint>(i))) << i;
  }
}

TEST(Route, ReadsEscapes) {
  expect_route("/v2/models/a%2Fb%20c/infer", Endpoint::infer, "a/b c");
  EXPECT_EQ(route_of("/v2/models/a%2/infer").endpoint, Endpoint::none);
  EXPECT_EQ(route_of("/v2/models/a%zz/infer").endpoint, Endpoint::none);
}

TEST(Route, FindsNothingElse) {
  for (const std::string_view target : {"",
                                        "/",
                                        "*",
                                        "v2",
                                        "/v1",
                                        "/v2/models",
                                        "/v2/models/",
                                        "/v2/models//infer",
                                        "/v2/models/m/x",
                                        "/v2/models/m/versions",
                                        "/v2/models/m/versions//infer",
                                        "/v2/models/m/infer/x",
                                        "/v2/repository/models//load",
                                        "/v2/systemsharedmemory/register",
                                        "/v2/systemsharedmemory/region//register",
                                        "/v2/systemsharedmemory/region/r",
                                        "/v2/a/b/c/d/e/f/g/h/i/j",
                                        "http://host",
                                        "://",
                                        "/v2/health",
                                        "//v2"}) {
    EXPECT_EQ(route_of(target).endpoint, Endpoint::none) << target;
  }
}

}  // namespace
}  // namespace millrace::server
