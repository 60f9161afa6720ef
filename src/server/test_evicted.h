// For tests: a model that was evicted, and cannot come back yet.
#pragma once

#include <memory>

#include <gtest/gtest.h>

#include "repository/test_folder.h"
#include "server/service.h"

namespace millrace::testing {

/// Two identity models of four numbers, of which one fits: "a" was evicted for "b", which is held.
class EvictedModel {
 public:
  EvictedModel() {
    for (const char* const name : {"a", "b"}) {
      folder_.reference(name, 1,
                        R"({"kind": "identity", "options": {"shape": "4", "max_items": 1, )"
                        R"("weights_bytes": "5MiB"}})");
    }
    RepositoryOptions models;
    models.folders = {folder_.path()};
    models.mode = RepositoryMode::control;
    models.load_at_start = {"a"};
    models.eviction = {.enabled = true, .idle_for = {}, .patience = std::chrono::minutes(5)};
    repository_ = *ModelRepository::open(engine_, models);
    service_ = std::make_unique<server::Service>(
        engine_, *repository_, server::ServiceOptions{.repository_control = true});
    EXPECT_TRUE(service_->load_model("b", {}).ok());
    held_ = *repository_->find("b", "");
  }
  [[nodiscard]] ModelRepository& repository() { return *repository_; }
  [[nodiscard]] server::Service& service() { return *service_; }
  /// From now on it comes back when it is asked for.
  void let_it_come() { held_.reset(); }

 private:
  TestFolder folder_;
  Engine engine_ = host_engine(std::size_t{8} << 20);
  std::unique_ptr<ModelRepository> repository_;
  std::unique_ptr<server::Service> service_;
  std::shared_ptr<const ServedModel> held_;
};

}  // namespace millrace::testing
