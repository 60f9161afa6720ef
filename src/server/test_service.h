// A service over reference models in a folder, for tests.
#pragma once

#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "repository/test_folder.h"
#include "server/service.h"

namespace millrace::testing {

class ServiceFixture : public ::testing::Test {
 protected:
  /// `more`: of the configuration.
  void add(const std::string& name, const std::string& model,
           const std::string& more = "max_batch_size: 8") {
    folder_.write(name + "/config.pbtxt", "backend: \"reference\"\n" + more +
                                              "\nparameters { key: \"model\" value { "
                                              "string_value: \"" +
                                              model + "\" } }\n");
    std::filesystem::create_directories(folder_.path(name + "/1"));
  }
  /// Loads what was added.
  void open(const server::ServiceOptions& options) {
    EngineOptions engine;
    engine.devices.devices = {"host:0"};
    engine_ = std::make_unique<Engine>(*Engine::create(engine));
    RepositoryOptions models;
    models.folders = {folder_.path()};
    models.strict = true;
    Result<std::unique_ptr<ModelRepository>> opened = ModelRepository::open(*engine_, models);
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    repository_ = std::move(*opened);
    service_ = std::make_unique<server::Service>(*engine_, *repository_, options);
  }
  /// The one answer to `call`.
  Result<server::Answer> infer(server::Call call) const {
    std::promise<Result<server::Answer>> promise;
    std::future<Result<server::Answer>> future = promise.get_future();
    const Result<server::CallTicket> ticket =
        service_->infer(std::move(call), [&promise](Result<server::Answer> answer, bool last) {
          EXPECT_TRUE(last);
          promise.set_value(std::move(answer));
        });
    if (!ticket) return ticket.error();
    return future.get();
  }

  TestFolder folder_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ModelRepository> repository_;
  std::unique_ptr<server::Service> service_;
};

}  // namespace millrace::testing
