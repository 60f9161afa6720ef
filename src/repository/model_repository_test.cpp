#include "repository/model_repository.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "repository/test_folder.h"

namespace millrace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::host_engine;
using testing::TestFolder;
using namespace std::chrono_literals;

constexpr std::string_view kIdentity = R"({"kind": "identity", "options": {"shape": "4"}})";
constexpr std::string_view kBroken = R"({"kind": "identity", "options": {"fail_load": 1}})";

/// A model that answers with one number, by which its versions are told apart: input and output are
/// `width` long.
std::string width(int width) {
  return R"({"kind": "identity", "options": {"shape": ")" + std::to_string(width) + R"("}})";
}

std::unique_ptr<ModelRepository> opened(Engine& engine, RepositoryOptions options) {
  Result<std::unique_ptr<ModelRepository>> repository =
      ModelRepository::open(engine, std::move(options));
  EXPECT_TRUE(repository.ok()) << (repository.ok() ? "" : repository.error().message);
  return repository.ok() ? std::move(*repository) : nullptr;
}

std::int64_t width_of(const ServedModel& served) { return served.model.info().inputs[0].shape[1]; }

Result<Response> ask(const Model& model, int width) {
  static std::vector<float> values(64, 1.5F);
  Request request;
  request.inputs.push_back({"input", TensorView::of(values.data(), {1, width}), {}});
  return model.infer(std::move(request));
}

std::string error_of(const auto& result) {
  return result.ok() ? "no error" : result.error().message;
}

RepositoryEntry entry_of(const ModelRepository& repository, std::string_view name,
                         std::string_view version) {
  for (RepositoryEntry& entry : repository.index()) {
    if (entry.name == name && entry.version == version) return entry;
  }
  return {};
}

class Repository : public ::testing::Test {
 protected:
  std::unique_ptr<ModelRepository> open(RepositoryMode mode = RepositoryMode::none,
                                        std::vector<std::string> at_start = {}) {
    RepositoryOptions options;
    options.folders = {folder_.path()};
    options.mode = mode;
    options.load_at_start = std::move(at_start);
    return opened(engine_, std::move(options));
  }

  TestFolder folder_;
  Engine engine_ = host_engine();
};

TEST_F(Repository, ServesTheLatestVersionWithoutAConfiguration) {
  folder_.reference("a", 1, width(1));
  folder_.reference("a", 10, width(3));
  folder_.reference("a", 9, width(2));
  const auto repository = open();
  const auto found = repository->find("a", "");
  ASSERT_TRUE(found.ok()) << error_of(found);
  EXPECT_EQ((*found)->version, "10");
  EXPECT_EQ((*found)->name, "a");
  EXPECT_EQ(width_of(**found), 3);
  EXPECT_TRUE(ask((*found)->model, 3).ok());
  EXPECT_TRUE(repository->find("a", "10").ok());
  const auto other = repository->find("a", "9");
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code, ErrorCode::not_found);
  EXPECT_THAT(other.error().message, HasSubstr("10"));
  EXPECT_TRUE(repository->ready());
}

TEST_F(Repository, ServesTheVersionsThatThePolicyChooses) {
  for (int version = 1; version <= 4; ++version) {
    folder_.reference("all", version, width(version));
    folder_.reference("two", version, width(version));
    folder_.reference("some", version, width(version));
  }
  folder_.write("all/config.pbtxt", "version_policy { all {} }");
  folder_.write("two/config.pbtxt", "version_policy { latest { num_versions: 2 } }");
  folder_.write("some/config.pbtxt", "version_policy { specific { versions: [ 3, 1 ] } }");
  const auto repository = open();
  const auto versions = [&](std::string_view name) {
    std::string out;
    for (const auto& served : repository->served(name)) out += served->version;
    return out;
  };
  EXPECT_EQ(versions("all"), "1234");
  EXPECT_EQ(versions("two"), "34");
  EXPECT_EQ(versions("some"), "13");
  EXPECT_EQ(repository->served("").size(), 8U);
  EXPECT_EQ((*repository->find("some", ""))->version, "3");
}

TEST_F(Repository, CompletesTheConfiguration) {
  folder_.reference("a", 1, kIdentity);
  const auto repository = open();
  const inference::ModelConfig& config = *(*repository->find("a", ""))->config;
  EXPECT_EQ(config.name(), "a");
  EXPECT_EQ(config.backend(), "reference");
  EXPECT_EQ(config.max_batch_size(), 32);
  EXPECT_TRUE(config.has_dynamic_batching());
  ASSERT_EQ(config.input_size(), 1);
  EXPECT_EQ(config.input(0).name(), "input");
  EXPECT_EQ(config.input(0).data_type(), inference::TYPE_FP32);
  ASSERT_EQ(config.input(0).dims_size(), 1);
  EXPECT_EQ(config.input(0).dims(0), 4);
  ASSERT_EQ(config.instance_group_size(), 1);
  EXPECT_EQ(config.instance_group(0).kind(), inference::ModelInstanceGroup::KIND_CPU);
  EXPECT_EQ(config.default_model_filename(), "model.reference.json");
}

TEST_F(Repository, AModelThatCannotBeLoadedIsListedAndTheOthersServe) {
  folder_.reference("good", 1, kIdentity);
  folder_.reference("bad", 1, kBroken);
  folder_.write("worse/config.pbtxt", "max_batch_sizes: 3");
  const auto repository = open();
  EXPECT_TRUE(repository->find("good", "").ok());
  const auto bad = repository->find("bad", "");
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().code, ErrorCode::unavailable);
  EXPECT_EQ(entry_of(*repository, "bad", "1").state, "UNAVAILABLE");
  EXPECT_THAT(entry_of(*repository, "worse", "").reason, HasSubstr("worse/config.pbtxt:1:1: "));
  EXPECT_FALSE(repository->ready());
}

TEST_F(Repository, OpeningStrictlyFailsWithTheFirstModelThatDoes) {
  folder_.reference("bad", 1, kBroken);
  RepositoryOptions options;
  options.folders = {folder_.path()};
  options.strict = true;
  EXPECT_FALSE(ModelRepository::open(engine_, options).ok());
  EXPECT_TRUE(engine_.model_names().empty());
}

TEST_F(Repository, TwoFoldersMayNotHoldTheSameModel) {
  const TestFolder second;
  folder_.reference("a", 1, kIdentity);
  second.reference("a", 1, kIdentity);
  RepositoryOptions options;
  options.folders = {folder_.path(), second.path()};
  const auto repository = ModelRepository::open(engine_, options);
  ASSERT_FALSE(repository.ok());
  EXPECT_EQ(repository.error().code, ErrorCode::invalid_argument);
  options.folders = {folder_.path("nothing")};
  EXPECT_EQ(ModelRepository::open(engine_, options).error().code, ErrorCode::not_found);
}

TEST_F(Repository, LoadsAndUnloadsOnRequestInControlMode) {
  folder_.reference("a", 1, kIdentity);
  folder_.reference("b", 1, kIdentity);
  const auto repository = open(RepositoryMode::control, {"b"});
  EXPECT_EQ(repository->find("a", "").error().code, ErrorCode::unavailable);
  EXPECT_TRUE(repository->find("b", "").ok());
  EXPECT_TRUE(repository->ready());
  ASSERT_TRUE(repository->load("a", {}).ok());
  EXPECT_TRUE(repository->find("a", "").ok());
  ASSERT_TRUE(repository->unload("a", false).ok());
  EXPECT_EQ(repository->find("a", "").error().code, ErrorCode::unavailable);
  EXPECT_EQ(entry_of(*repository, "a", "1").reason, "unloaded");
  EXPECT_EQ(repository->load("c", {}).error().code, ErrorCode::not_found);
  EXPECT_EQ(repository->load("../" + folder_.path(), {}).error().code, ErrorCode::not_found);
  EXPECT_EQ(repository->unload("c", false).error().code, ErrorCode::not_found);
  folder_.reference("c", 1, kIdentity);
  EXPECT_TRUE(repository->load("c", {}).ok());
}

TEST_F(Repository, RefusesControlInOtherModes) {
  folder_.reference("a", 1, kIdentity);
  const auto repository = open();
  EXPECT_EQ(repository->load("a", {}).error().code, ErrorCode::unsupported);
  EXPECT_EQ(repository->unload("a", false).error().code, ErrorCode::unsupported);
}

TEST_F(Repository, AnUnloadedModelAnswersWhoeverHoldsIt) {
  folder_.reference("a", 1, kIdentity);
  const auto repository = open(RepositoryMode::control, {"*"});
  auto held = std::move(repository->find("a", "")).value();
  ASSERT_TRUE(repository->unload("a", false).ok());
  EXPECT_EQ(entry_of(*repository, "a", "1").state, "UNLOADING");
  EXPECT_TRUE(ask(held->model, 4).ok());
  held.reset();
  while (entry_of(*repository, "a", "1").state != "UNAVAILABLE") std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(engine_.model_names().empty());
}

TEST_F(Repository, ABadNewVersionLeavesTheOldOneServing) {
  folder_.reference("a", 1, width(1));
  const auto repository = open(RepositoryMode::control, {"*"});
  folder_.reference("a", 2, kBroken);
  EXPECT_FALSE(repository->load("a", {}).ok());
  const auto found = repository->find("a", "");
  ASSERT_TRUE(found.ok()) << error_of(found);
  EXPECT_EQ((*found)->version, "1");
  EXPECT_TRUE(ask((*found)->model, 1).ok());
  folder_.reference("a", 2, width(2));
  EXPECT_TRUE(repository->load("a", {}).ok());
  EXPECT_EQ((*repository->find("a", ""))->version, "2");
}

TEST_F(Repository, AVersionThatDidNotChangeIsNotLoadedAgain) {
  folder_.write("a/config.pbtxt", "version_policy { all {} }");
  folder_.reference("a", 1, width(1));
  const auto repository = open(RepositoryMode::control, {"*"});
  const auto before = *repository->find("a", "1");
  folder_.reference("a", 2, width(2));
  ASSERT_TRUE(repository->load("a", {}).ok());
  EXPECT_EQ(*repository->find("a", "1"), before);
  folder_.reference("a", 1, width(3));
  ASSERT_TRUE(repository->load("a", {}).ok());
  EXPECT_NE(*repository->find("a", "1"), before);
  EXPECT_EQ(width_of(**repository->find("a", "1")), 3);
}

TEST_F(Repository, ReloadsUnderLoadLoseNothing) {
  folder_.reference("a", 1, kIdentity);
  folder_.reference("b", 1, kIdentity);
  const auto repository = open(RepositoryMode::control, {"*"});
  std::atomic<bool> stop{false};
  std::atomic<int> answered{0};
  std::vector<std::string> failures;
  std::mutex mutex;
  std::vector<std::jthread> callers;
  callers.reserve(4);
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&, name = i % 2 == 0 ? "a" : "b"] {
      while (!stop) {
        const auto found = repository->find(name, "");
        const auto answer = found ? ask((*found)->model, 4) : Result<Response>(found.error());
        if (answer) {
          ++answered;
        } else {
          std::lock_guard lock(mutex);
          failures.push_back(answer.error().message);
        }
      }
    });
  }
  for (int i = 0; i < 100; ++i) {
    folder_.reference("a", 1, kIdentity);  // another file: written anew
    const auto loaded = repository->load("a", {});
    EXPECT_TRUE(loaded.ok()) << error_of(loaded);
  }
  stop = true;
  callers.clear();
  EXPECT_GT(answered, 0);
  EXPECT_EQ(failures, std::vector<std::string>());
  // Every former one is gone in the end.
  while (engine_.model_names().size() > 2) std::this_thread::sleep_for(1ms);
}

TEST_F(Repository, EnsemblesAreLoadedWithWhatTheyConsistOf) {
  folder_.reference("first", 1, kIdentity);
  folder_.reference("second", 1, kIdentity);
  folder_.write("both/config.pbtxt", R"(
    platform: "ensemble"
    output { name: "out" data_type: TYPE_FP32 dims: [ 4 ] }
    ensemble_scheduling {
      step { model_name: "first" model_version: -1
             input_map { key: "input" value: "in" } output_map { key: "output" value: "between" } }
      step { model_name: "second" model_version: -1
             input_map { key: "input" value: "between" } output_map { key: "output" value: "out" } }
    })");
  const auto repository = open(RepositoryMode::control, {"both"});
  auto both = repository->find("both", "");
  ASSERT_TRUE(both.ok()) << error_of(both);
  EXPECT_EQ((*both)->config->input(0).name(), "in");
  EXPECT_EQ((*both)->config->platform(), "ensemble");
  const std::vector<float> values = {1, 2, 3, 4};
  const auto run = [&](const Model& model) {
    Request request;
    request.inputs.push_back({"in", TensorView::of(values.data(), {1, 4}), {}});
    const Result<Response> answer = model.infer(std::move(request));
    EXPECT_TRUE(answer.ok()) << error_of(answer);
    return answer.ok() ? answer->outputs[0].view.as<float>()[3] : 0.0F;
  };
  EXPECT_EQ(run((*both)->model), 4.0F);
  ASSERT_TRUE(repository->find("first", "").ok());

  // A new part makes the ensemble anew, and the old one goes on for those who hold it.
  folder_.reference("second", 1, kIdentity);
  ASSERT_TRUE(repository->load("second", {}).ok());
  const auto anew = repository->find("both", "");
  ASSERT_TRUE(anew.ok());
  EXPECT_NE(*anew, *both);
  EXPECT_EQ(run((*both)->model), 4.0F);
  EXPECT_EQ(run((*anew)->model), 4.0F);

  // "second" was asked for by name since, "first" was not.
  ASSERT_TRUE(repository->unload("both", true).ok());
  EXPECT_FALSE(repository->find("first", "").ok());
  EXPECT_TRUE(repository->find("second", "").ok());
}

TEST_F(Repository, EnsemblesThatNeedThemselvesAreRefused) {
  const auto ensemble = [&](const std::string& name, const std::string& part) {
    folder_.write(name + "/config.pbtxt",
                  "platform: \"ensemble\" output { name: \"out\" } ensemble_scheduling { step { "
                  "model_name: \"" +
                      part +
                      "\" input_map { key: \"in\" value: \"in\" } "
                      "output_map { key: \"out\" value: \"out\" } } }");
  };
  ensemble("a", "b");
  ensemble("b", "a");
  ensemble("self", "self");
  const auto repository = open();
  EXPECT_THAT(error_of(repository->find("a", "")), HasSubstr("a needs b"));
  EXPECT_THAT(error_of(repository->find("self", "")), HasSubstr("self needs self"));
}

TEST_F(Repository, TakesFilesAndConfigurationsThatCameWithTheRequest) {
  folder_.reference("a", 1, width(1));
  const auto repository = open(RepositoryMode::control, {"*"});
  LoadParameters sent;
  sent.config = R"({"backend": "reference", "max_batch_size": 8})";
  ASSERT_TRUE(repository->load("a", sent).ok());
  EXPECT_EQ((*repository->find("a", ""))->config->max_batch_size(), 8);
  sent.files["7/model.reference.json"] = width(7);
  ASSERT_TRUE(repository->load("a", sent).ok());
  EXPECT_EQ((*repository->find("a", ""))->version, "7");
  EXPECT_EQ(width_of(**repository->find("a", "")), 7);
  const auto made = repository->load("new", sent);
  ASSERT_TRUE(made.ok()) << error_of(made);
  EXPECT_TRUE(repository->find("new", "").ok());
  EXPECT_EQ(repository->load("", sent).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(repository->load("../new", sent).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(repository->load("new", {}).error().code, ErrorCode::not_found);
  EXPECT_EQ((*repository->find("new", ""))->version, "7");
  folder_.reference("new", 2, width(2));
  EXPECT_TRUE(repository->load("new", {}).ok());
  EXPECT_EQ((*repository->find("new", ""))->version, "2");
  sent.files = {{"../1/model.reference.json", width(7)}};
  EXPECT_EQ(repository->load("a", sent).error().code, ErrorCode::invalid_argument);
  sent.files = {{"1/model.reference.json", width(7)}};
  sent.config = "";
  EXPECT_EQ(repository->load("a", sent).error().code, ErrorCode::invalid_argument);
  sent.config = R"({"max_batch_sizes": 8})";
  EXPECT_THAT(error_of(repository->load("a", sent)), HasSubstr("max_batch_sizes"));
  EXPECT_EQ((*repository->find("a", ""))->version, "7");  // all that failed changed nothing
  // Without parameters it is the folder's again.
  ASSERT_TRUE(repository->load("a", {}).ok());
  EXPECT_EQ((*repository->find("a", ""))->version, "1");
}

TEST_F(Repository, ServesSingleFilesAndFoldersOfTheCommandLine) {
  folder_.write("plain.reference.json", kIdentity);
  folder_.write("own/m.reference.json", kIdentity);
  folder_.write("own/millrace.json", R"({"model": "m.reference.json", "lanes": 2})");
  const auto repository = open();
  const auto plain = repository->find("plain", "1");
  ASSERT_TRUE(plain.ok()) << error_of(plain);
  const auto own = repository->find("own", "");
  ASSERT_TRUE(own.ok()) << error_of(own);
  EXPECT_EQ((*own)->model.info().placements[0].lanes, 2);
  EXPECT_EQ((*own)->config->instance_group(0).count(), 2);
}

TEST_F(Repository, GoesWhileAModelIsHeld) {
  folder_.reference("a", 1, kIdentity);
  auto repository = open();
  auto held = *repository->find("a", "");
  repository.reset();
  EXPECT_TRUE(engine_.model_names().empty());
  EXPECT_EQ(ask(held->model, 4).error().code, ErrorCode::unavailable);
  held.reset();
}

// ------------------------------------------------------------------------------------ watching

class Watched : public Repository {
 protected:
  std::unique_ptr<ModelRepository> watch(Duration interval = 1h) {
    RepositoryOptions options;
    options.folders = {folder_.path()};
    options.mode = RepositoryMode::poll;
    options.poll_interval = interval;
    return opened(engine_, std::move(options));
  }
};

TEST_F(Watched, LoadsWhatCameAndUnloadsWhatWent) {
  folder_.reference("a", 1, width(1));
  const auto repository = watch();
  EXPECT_TRUE(repository->find("a", "").ok());
  folder_.reference("b", 1, width(2));
  folder_.reference("a", 2, width(2));
  repository->look_again();
  EXPECT_FALSE(repository->find("b", "").ok());  // seen once
  EXPECT_EQ((*repository->find("a", ""))->version, "1");
  repository->look_again();
  EXPECT_TRUE(repository->find("b", "").ok());
  EXPECT_EQ((*repository->find("a", ""))->version, "2");
  folder_.remove("a");
  repository->look_again();
  EXPECT_TRUE(repository->find("a", "").ok());
  repository->look_again();
  EXPECT_EQ(repository->find("a", "").error().code, ErrorCode::not_found);
  EXPECT_TRUE(repository->ready());
}

TEST_F(Watched, LeavesFilesAloneThatStillChange) {
  folder_.reference("a", 1, width(1));
  const auto repository = watch();
  const auto before = *repository->find("a", "");
  const std::string whole = width(3);
  for (std::size_t bytes = 1; bytes < whole.size(); bytes += 9) {
    folder_.reference("a", 1, whole.substr(0, bytes));  // as while it is copied
    repository->look_again();
    EXPECT_EQ(*repository->find("a", ""), before);
    EXPECT_EQ(entry_of(*repository, "a", "1").reason, "");  // nor was it tried
  }
  folder_.reference("a", 1, whole);
  repository->look_again();
  repository->look_again();
  EXPECT_EQ(width_of(**repository->find("a", "")), 3);
}

TEST_F(Watched, DoesNotTryABadVersionAgainUntilItChanges) {
  folder_.reference("a", 1, width(1));
  const auto repository = watch();
  folder_.reference("a", 2, kBroken);
  repository->look_again();
  repository->look_again();
  EXPECT_EQ((*repository->find("a", ""))->version, "1");
  EXPECT_THAT(entry_of(*repository, "a", "1").reason, HasSubstr("loading fails"));
  const std::vector<std::string> names = engine_.model_names();
  repository->look_again();
  EXPECT_EQ(engine_.model_names(), names);
  folder_.reference("a", 2, width(2));
  repository->look_again();
  repository->look_again();
  EXPECT_EQ((*repository->find("a", ""))->version, "2");
}

TEST_F(Watched, AnEnsembleComesWhenWhatItNeedsDoes) {
  folder_.write("both/config.pbtxt", R"(
    platform: "ensemble"
    output { name: "out" }
    ensemble_scheduling {
      step { model_name: "first" input_map { key: "input" value: "in" }
             output_map { key: "output" value: "out" } }
    })");
  const auto repository = watch();
  EXPECT_FALSE(repository->find("both", "").ok());
  folder_.reference("first", 1, kIdentity);
  repository->look_again();
  repository->look_again();
  const auto found = repository->find("both", "");
  EXPECT_TRUE(found.ok()) << error_of(found);
}

TEST_F(Watched, LooksByItself) {
  folder_.reference("a", 1, width(1));
  const auto repository = watch(1ms);
  folder_.reference("b", 1, width(1));
  while (!repository->find("b", "").ok()) std::this_thread::sleep_for(1ms);
}

// ------------------------------------------------------------------------------------ eviction

class Evicting : public ::testing::Test {
 protected:
  void add(const std::string& name, std::string_view more = "", std::string_view weights = "3MiB") {
    folder_.reference(
        name, 1,
        R"({"kind": "identity", "options": {"shape": "4", "max_items": 1, "weights_bytes": ")" +
            std::string(weights) + "\"}}");
    folder_.write(name + "/config.pbtxt", more);
  }
  std::unique_ptr<ModelRepository> open(std::vector<std::string> at_start, EvictionPolicy policy) {
    RepositoryOptions options;
    options.folders = {folder_.path()};
    options.mode = RepositoryMode::control;
    options.load_at_start = std::move(at_start);
    options.eviction = policy;
    return opened(engine_, std::move(options));
  }

  TestFolder folder_;
  Engine engine_ = host_engine(std::size_t{8} << 20);
};

TEST_F(Evicting, IsOffUnlessAskedFor) {
  for (const char* name : {"a", "b", "c"}) add(name);
  const auto repository = open({"a", "b", "c"}, {});
  EXPECT_TRUE(repository->find("a", "").ok());
  EXPECT_TRUE(repository->find("b", "").ok());
  EXPECT_FALSE(repository->find("c", "").ok());
}

TEST_F(Evicting, TheModelIdleTheLongestGivesWayAndComesBack) {
  for (const char* name : {"a", "b", "c"}) add(name);
  const auto repository = open({"a", "b"}, {.enabled = true, .idle_for = {}});
  std::this_thread::sleep_for(20ms);  // the grain in which uses are told apart
  ASSERT_TRUE(repository->find("a", "").ok());
  ASSERT_TRUE(repository->load("c", {}).ok());
  EXPECT_EQ(entry_of(*repository, "a", "1").state, "READY");
  EXPECT_EQ(entry_of(*repository, "b", "1").state, "UNAVAILABLE");
  EXPECT_THAT(entry_of(*repository, "b", "1").reason, HasSubstr("evicted"));
  EXPECT_TRUE(repository->ready());
  const auto now = repository->find_now("b", "");
  ASSERT_TRUE(now.ok()) << error_of(now);
  EXPECT_EQ(*now, nullptr);
  const auto back = repository->find("b", "");
  ASSERT_TRUE(back.ok()) << error_of(back);
  EXPECT_TRUE(ask((*back)->model, 4).ok());
  EXPECT_EQ(repository->served("").size(), 2U);
}

TEST_F(Evicting, SparesWhatMayNotGo) {
  add("a", "parameters { key: \"millrace.evict\" value { string_value: \"no\" } }");
  add("b");
  add("c");
  const auto repository = open({"a", "b"}, {.enabled = true, .idle_for = {}, .patience = {}});
  auto held = *repository->find("b", "");
  EXPECT_FALSE(repository->load("c", {}).ok());  // one may not go, the other is in use
  held.reset();
  EXPECT_TRUE(repository->load("c", {}).ok());
  EXPECT_EQ(entry_of(*repository, "a", "1").state, "READY");
  EXPECT_NE(entry_of(*repository, "b", "1").state, "READY");
}

TEST_F(Evicting, SparesWhatWasUsedNotLongAgo) {
  for (const char* name : {"a", "b", "c"}) add(name);
  const auto repository = open({"a", "b"}, {.enabled = true, .idle_for = 1h, .patience = {}});
  EXPECT_FALSE(repository->load("c", {}).ok());
  EXPECT_EQ(repository->served("").size(), 2U);
}

TEST_F(Evicting, AModelThatDoesNotFitAtAllIsRefusedAndTheOthersComeBack) {
  add("a");
  add("big", "", "30MiB");
  const auto repository = open({"a"}, {.enabled = true, .idle_for = {}});
  EXPECT_FALSE(repository->load("big", {}).ok());
  EXPECT_TRUE(repository->find("a", "").ok());
}

TEST_F(Evicting, ManyCallersOfMoreModelsThanFitAreAllAnswered) {
  for (const char* name : {"a", "b", "c"}) add(name);
  const auto repository = open({"a", "b", "c"}, {.enabled = true, .idle_for = {}, .patience = 60s});
  std::atomic<int> answered{0};
  std::vector<std::string> failures;
  std::mutex mutex;
  {
    std::vector<std::jthread> callers;
    for (const char* name : {"a", "b", "c"}) {
      callers.emplace_back([&, name] {
        for (int i = 0; i < 30; ++i) {
          const auto found = repository->find(name, "");
          const auto answer = found ? ask((*found)->model, 4) : Result<Response>(found.error());
          if (answer) {
            ++answered;
          } else {
            std::lock_guard lock(mutex);
            failures.push_back(answer.error().message);
          }
        }
      });
    }
  }
  EXPECT_EQ(answered, 90);
  EXPECT_EQ(failures, std::vector<std::string>());
}

using Found = std::future<Result<std::shared_ptr<const ServedModel>>>;

/// What `find_later` says of it.
Found later(ModelRepository& repository, const std::string& name,
            std::optional<TimePoint> deadline = {}, std::uint64_t* id = nullptr) {
  auto promise = std::make_shared<std::promise<Result<std::shared_ptr<const ServedModel>>>>();
  Found future = promise->get_future();
  const std::uint64_t waiting = repository.find_later(
      name, "", deadline, [promise](auto found) { promise->set_value(found); });
  if (id) *id = waiting;
  return future;
}

TEST_F(Evicting, ManyWhoWaitForAModelCauseOneLoad) {
  for (const char* name : {"a", "b"}) add(name, "", "5MiB");
  const auto repository =
      open({"a"}, {.enabled = true, .idle_for = {}, .patience = std::chrono::minutes(5)});
  ASSERT_TRUE(repository->load("b", {}).ok());
  auto held = *repository->find("b", "");  // until it is let go, "a" cannot be loaded
  std::vector<Found> waiting;
  for (int i = 0; i < 16; ++i) waiting.push_back(later(*repository, "a"));
  EXPECT_EQ(waiting.back().wait_for(0s), std::future_status::timeout);
  held.reset();
  for (Found& one : waiting) {
    const auto found = one.get();
    ASSERT_TRUE(found.ok()) << error_of(found);
    EXPECT_EQ((*found)->model.info().name, "a/1#2");
  }
  EXPECT_THAT(engine_.model_names(), ElementsAre("a/1#2"));
}

TEST_F(Evicting, WhoWaitsIsToldAtItsDeadlineOrWhenItGivesUp) {
  for (const char* name : {"a", "b"}) add(name, "", "5MiB");
  auto repository =
      open({"a"}, {.enabled = true, .idle_for = {}, .patience = std::chrono::minutes(5)});
  ASSERT_TRUE(repository->load("b", {}).ok());
  auto held = *repository->find("b", "");
  std::uint64_t id = 0;
  Found patient = later(*repository, "a");
  Found cancelled = later(*repository, "a", Clock::now() + 1h, &id);
  EXPECT_EQ(later(*repository, "a", Clock::now() + 20ms).get().error().code,
            ErrorCode::deadline_exceeded);
  EXPECT_TRUE(repository->give_up(id));
  EXPECT_EQ(cancelled.get().error().code, ErrorCode::cancelled);
  EXPECT_FALSE(repository->give_up(id));
  EXPECT_EQ(patient.wait_for(0s), std::future_status::timeout);
  std::thread end([&] { repository.reset(); });
  EXPECT_EQ(patient.get().error().code, ErrorCode::unavailable);
  held.reset();
  end.join();
}

TEST_F(Evicting, IsDescribedAsItWas) {
  for (const char* name : {"a", "b"}) add(name, "", "5MiB");
  const auto repository = open({"a"}, {.enabled = true, .idle_for = {}});
  ASSERT_TRUE(repository->load("b", {}).ok());
  const auto described = repository->describe("a", "");
  ASSERT_TRUE(described.ok()) << error_of(described);
  EXPECT_EQ(described->version, "1");
  EXPECT_THAT(described->versions, ElementsAre("1"));
  EXPECT_EQ(described->inputs[0].name, "input");
  EXPECT_EQ(described->config->name(), "a");
  EXPECT_EQ(repository->served("a").size(), 0U);
  EXPECT_EQ(repository->describe("a", "7").error().code, ErrorCode::not_found);
  EXPECT_EQ(repository->describe("c", "").error().code, ErrorCode::not_found);
}

// ------------------------------------------------------------------------------------ warm-up

TEST_F(Repository, WarmsAVersionBeforeItTakesOver) {
  folder_.reference("a", 1, R"({"kind": "fail", "options": {"shape": "4", "at": 5}})");
  const auto with = [&](int count) {
    folder_.write("a/config.pbtxt",
                  "max_batch_size: 4 model_warmup { name: \"zeros\" batch_size: 2 count: " +
                      std::to_string(count) +
                      " inputs { key: \"input\" value { data_type: TYPE_FP32 dims: 4 random_data: "
                      "true } } }");
  };
  with(5);
  const auto repository = open(RepositoryMode::control, {"a"});
  EXPECT_THAT(error_of(repository->find("a", "")),
              HasSubstr("config.pbtxt:1:19: model_warmup[0]: "));
  EXPECT_TRUE(engine_.model_names().empty());
  with(4);
  ASSERT_TRUE(repository->load("a", {}).ok());
  // The fifth call is a client's.
  const auto found = *repository->find("a", "");
  EXPECT_EQ(found->model.statistics().succeeded, 4U);
  EXPECT_EQ(found->model.statistics().items, 8U);
  EXPECT_FALSE(ask(found->model, 4).ok());
}

TEST_F(Repository, WarmsWithAFile) {
  folder_.reference("a", 1, kIdentity);
  const auto with = [&](const std::string& file) {
    folder_.write("a/config.pbtxt",
                  "model_warmup { inputs { key: \"input\" value { dims: 4 input_data_file: \"" +
                      file + "\" } } }");
  };
  folder_.write("a/warmup/good", std::string(16, 'x'));
  folder_.write("a/warmup/short", std::string(15, 'x'));
  const auto repository = open(RepositoryMode::control);
  with("short");
  EXPECT_THAT(error_of(repository->load("a", {})),
              HasSubstr("expected 16 bytes in \"short\", got 15"));
  with("none");
  EXPECT_EQ(repository->load("a", {}).error().code, ErrorCode::not_found);
  with("../1/model.reference.json");
  EXPECT_THAT(error_of(repository->load("a", {})), HasSubstr("in the model's folder \"warmup\""));
  with("good");
  const auto loaded = repository->load("a", {});
  EXPECT_TRUE(loaded.ok()) << error_of(loaded);
}

// ------------------------------------------------------------------------------------ completion

class Completed : public Repository {
 protected:
  std::string refusal(std::string_view config, std::string_view model = kIdentity) {
    folder_.reference("a", 1, model);
    folder_.write("a/config.pbtxt", config);
    return error_of(open()->find("a", ""));
  }
};

TEST_F(Completed, SaysWhatDiffersFromTheModel) {
  EXPECT_EQ(refusal("max_batch_size: 8 input { name: \"input\" data_type: TYPE_FP32 dims: 4 }"),
            "no error");
  EXPECT_EQ(refusal("max_batch_size: 8 input { name: \"input\" dims: -1 }"), "no error");
  EXPECT_THAT(
      refusal("max_batch_size: 8\ninput { name: \"x\" }"),
      HasSubstr("config.pbtxt:2:9: input[0].name: the model has no input \"x\"; it has \"input\""));
  EXPECT_THAT(refusal("max_batch_size: 8 input { name: \"input\" data_type: TYPE_INT8 }"),
              HasSubstr("\"input\" is FP32 in the model, got TYPE_INT8"));
  EXPECT_THAT(
      refusal("max_batch_size: 8 output { name: \"output\" dims: [ 4, 1 ] }"),
      HasSubstr(
          "\"output\" is [4] in the model (without the batch axis, since max_batch_size is not 0), "
          "got [4,1]"));
  EXPECT_THAT(refusal("max_batch_size: 8 input { name: \"input\" dims: [ -1, 4 ] }"),
              HasSubstr("got [-1,4]"));
  EXPECT_THAT(refusal("max_batch_size: 8 input { name: \"input\" } input { name: \"input\" }"),
              HasSubstr("there twice"));
  EXPECT_THAT(refusal("max_batch_size: 8 input { name: \"input\" is_shape_tensor: true }"),
              HasSubstr("is none in the model"));
  EXPECT_THAT(refusal("name: \"b\""), HasSubstr("config.pbtxt:1:1: name: expected \"a\""));
}

TEST_F(Completed, AModelWithoutABatchAxisHasNoBatches) {
  constexpr std::string_view kWhole =
      R"({"kind": "identity", "options": {"shape": "4", "batched": 0}})";
  EXPECT_EQ(refusal("input { name: \"input\" dims: 4 }", kWhole), "no error");
  EXPECT_THAT(refusal("max_batch_size: 8", kWhole),
              HasSubstr("config.pbtxt:1:1: max_batch_size: "));
  EXPECT_THAT(refusal("max_batch_size: 8", kWhole), HasSubstr("it has no batch dimension"));
}

TEST_F(Completed, RequestsOfWholeShapesAreNotCombined) {
  for (const char* const config :
       {"max_batch_size: 0", "input { name: \"input\" dims: [ -1, 4 ] }"}) {
    folder_.reference("a", 1, R"({"kind": "busy", "options": {"shape": "4", "batch_us": 50000}})");
    folder_.write("a/config.pbtxt", config);
    const auto repository = open();
    const auto served = repository->find("a", "");
    ASSERT_TRUE(served.ok()) << config << error_of(served);
    EXPECT_EQ((*served)->config->max_batch_size(), 0);
    EXPECT_THAT((*served)->config->input(0).dims(), ElementsAre(-1, 4));
    const Model& model = (*served)->model;
    EXPECT_EQ(model.info().inputs[0].shape, Shape({kDynamic, 4}));
    const std::vector<float> values(16, 1.5F);
    std::vector<Future> answers;
    for (std::int64_t rows = 1; rows <= 4; ++rows) {  // all but the first wait for it
      Request request;
      request.inputs.push_back({"input", TensorView::of(values.data(), {rows, 4}), {}});
      answers.push_back(model.submit(std::move(request)));
    }
    for (std::int64_t rows = 1; rows <= 4; ++rows) {
      const Result<Response> answer = answers[static_cast<std::size_t>(rows) - 1].get();
      ASSERT_TRUE(answer.ok()) << error_of(answer);
      EXPECT_EQ(answer->outputs[0].view.shape, Shape({rows, 4}));
    }
    EXPECT_EQ(model.statistics().batches, 4U) << config;
  }
}

TEST_F(Completed, OutputsThatAreStatedAnswerByDefault) {
  folder_.reference("a", 1, R"({"kind": "identity", "options": {"shape": "4", "inputs": 2}})");
  folder_.write("a/config.pbtxt", "output { name: \"output1\" }");
  const auto repository = open();
  const auto found = repository->find("a", "");
  ASSERT_TRUE(found.ok()) << error_of(found);
  EXPECT_EQ((*found)->default_outputs, std::vector<std::string>{"output1"});
  EXPECT_EQ((*found)->config->output_size(), 1);
  EXPECT_EQ((*found)->config->input_size(), 2);
}

TEST_F(Completed, ReadsLabels) {
  folder_.reference("a", 1, kIdentity);
  folder_.write("a/labels.txt", "cat\ndog\n");
  folder_.write("a/config.pbtxt", "output { name: \"output\" label_filename: \"labels.txt\" }");
  const auto found = open()->find("a", "");
  ASSERT_TRUE(found.ok()) << error_of(found);
  EXPECT_EQ((*found)->labels.at("output"), (std::vector<std::string>{"cat", "dog"}));
  EXPECT_THAT(refusal("output { name: \"output\" label_filename: \"none.txt\" }"),
              HasSubstr("config.pbtxt:1:25: output[0].label_filename: "));
  EXPECT_THAT(refusal("output { name: \"output\" label_filename: \"../labels.txt\" }"),
              HasSubstr("within"));
}

TEST_F(Completed, ReferenceModelsMayComeFromAParameter) {
  folder_.write("a/config.pbtxt",
                "backend: \"reference\" parameters { key: \"model\" value { string_value: "
                "\"reference:identity?shape=7\" } }");
  const auto found = open()->find("a", "1");
  ASSERT_TRUE(found.ok()) << error_of(found);
  EXPECT_EQ(width_of(**found), 7);
}

TEST_F(Completed, SaysWhichFileItWants) {
  folder_.write("a/1/other.onnx", "");
  folder_.write("a/config.pbtxt", "backend: \"onnxruntime\"");
  EXPECT_THAT(error_of(open()->find("a", "")), HasSubstr("expected model.onnx or model.ort in "));
  folder_.write("a/config.pbtxt", "default_model_filename: \"more.onnx\"");
  EXPECT_THAT(error_of(open()->find("a", "")), HasSubstr("which default_model_filename names"));
  folder_.write("a/config.pbtxt", "");
  folder_.write("a/1/model.onnx", "");
  folder_.write("a/1/model.plan", "");
  EXPECT_THAT(error_of(open()->find("a", "")), HasSubstr("(model.plan, model.onnx): name one"));
}

}  // namespace
}  // namespace millrace
