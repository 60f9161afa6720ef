#include "server/service.h"

#include <cstring>
#include <fstream>
#include <future>
#include <numeric>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <millrace/log.h>

#include "repository/test_folder.h"
#include "server/wire_bytes.h"

namespace millrace::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// A shared-memory object of this process's own, gone at the end.
class SharedObject {
 public:
  SharedObject(std::string name, std::size_t bytes)
      : name_("/millrace-test-" + std::to_string(getpid()) + "-" + std::move(name)) {
    descriptor_ = shm_open(name_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    EXPECT_GE(descriptor_, 0) << std::strerror(errno);
    resize(bytes);
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    EXPECT_NE(data_, MAP_FAILED);
    bytes_ = bytes;
  }
  ~SharedObject() {
    munmap(data_, bytes_);
    close(descriptor_);
    shm_unlink(name_.c_str());
  }
  SharedObject(const SharedObject&) = delete;
  SharedObject& operator=(const SharedObject&) = delete;

  void resize(std::size_t bytes) const {
    EXPECT_EQ(ftruncate(descriptor_, static_cast<off_t>(bytes)), 0);
  }
  [[nodiscard]] const std::string& name() const { return name_; }
  template <class T>
  [[nodiscard]] T* as(std::size_t offset = 0) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(data_) + offset);
  }

 private:
  std::string name_;
  int descriptor_ = -1;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

class ServiceTest : public ::testing::Test {
 protected:
  ServiceTest() {
    add("echo", "reference:identity?type=FP32&shape=4");
    add("text", "reference:identity?type=BYTES&shape=2");
    EngineOptions options;
    options.devices.devices = {"host:0"};
    engine_ = std::make_unique<Engine>(*Engine::create(options));
    RepositoryOptions models;
    models.folders = {folder_.path()};
    models.strict = true;
    Result<std::unique_ptr<ModelRepository>> opened = ModelRepository::open(*engine_, models);
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    repository_ = std::move(*opened);
    ServiceOptions all;
    all.repository_control = true;
    all.client_shared_memory = true;
    all.change_settings = true;
    service_ = std::make_unique<Service>(*engine_, *repository_, all);
  }
  void add(const std::string& name, const std::string& model) {
    folder_.write(name + "/config.pbtxt",
                  "backend: \"reference\"\nmax_batch_size: 8\nparameters { key: \"model\" value { "
                  "string_value: \"" +
                      model + "\" } }\n");
    std::filesystem::create_directories(folder_.path(name + "/1"));
  }
  Result<Answer> infer(Call call) {
    std::promise<Result<Answer>> promise;
    std::future<Result<Answer>> future = promise.get_future();
    const Result<Ticket> ticket =
        service_->infer(std::move(call), [&promise](Result<Answer> answer, bool last) {
          EXPECT_TRUE(last);
          promise.set_value(std::move(answer));
        });
    if (!ticket) return ticket.error();
    return future.get();
  }
  static Call echo(const std::vector<float>& numbers) {
    Call call;
    call.model = "echo";
    call.id = "seven";
    CallInput& input = call.inputs.emplace_back();
    input.name = "input";
    input.shape = {static_cast<std::int64_t>(numbers.size()) / 4, 4};
    input.raw = {numbers.data(), numbers.size() * sizeof(float)};
    return call;
  }
  static std::vector<float> floats(const AnsweredOutput& output) {
    const auto* numbers = static_cast<const float*>(output.view.data);
    return {numbers, numbers + *element_count(output.shape)};
  }

  testing::TestFolder folder_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ModelRepository> repository_;
  std::unique_ptr<Service> service_;
  const std::vector<float> numbers_ = {1, 2, 3, 4, 8, 7, 6, 5};
};

TEST_F(ServiceTest, AnswersWithNamesVersionAndId) {
  const Result<Answer> answer = infer(echo(numbers_));
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(answer->model, "echo");
  EXPECT_EQ(answer->version, "1");
  EXPECT_EQ(answer->id, "seven");
  ASSERT_EQ(answer->outputs.size(), 1u);
  EXPECT_EQ(floats(answer->outputs[0]), numbers_);
  EXPECT_EQ(answer->outputs[0].shape, (Shape{2, 4}));
}

TEST_F(ServiceTest, MemoryWithoutALeaseIsOnlyNeededForTheCall) {
  auto numbers = std::make_unique<std::vector<float>>(numbers_);
  Call call = echo(*numbers);
  std::promise<std::vector<float>> promise;
  ASSERT_TRUE(service_
                  ->infer(std::move(call),
                          [&](Result<Answer> answer, bool) {
                            promise.set_value(answer ? floats(answer->outputs[0])
                                                     : std::vector<float>());
                          })
                  .ok());
  std::fill(numbers->begin(), numbers->end(), -1.0F);
  numbers.reset();
  EXPECT_EQ(promise.get_future().get(), numbers_);
}

TEST_F(ServiceTest, SaysWhatIsWrongWithACall) {
  Call unknown = echo(numbers_);
  unknown.model = "nobody";
  EXPECT_EQ(infer(std::move(unknown)).error().code, ErrorCode::not_found);
  Call version = echo(numbers_);
  version.version = "9";
  EXPECT_EQ(infer(std::move(version)).error().code, ErrorCode::not_found);
  Call small = echo(numbers_);
  small.inputs[0].raw->second = 31;
  const Result<Answer> refused = infer(std::move(small));
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(refused.error().message, HasSubstr("expected 32 bytes"));
  EXPECT_THAT(refused.error().message, HasSubstr("got 31"));
  Call empty = echo(numbers_);
  empty.inputs[0].raw.reset();
  EXPECT_THAT(infer(std::move(empty)).error().message, HasSubstr("expected data"));
  Call huge = echo(numbers_);
  huge.inputs[0].shape = {INT64_MAX, 4};
  EXPECT_EQ(infer(std::move(huge)).error().code, ErrorCode::invalid_argument);
}

TEST_F(ServiceTest, BytesGoThroughAsRowsBehindTheirLengths) {
  const std::string wire("\x03\0\0\0abc\0\0\0\0", 11);
  Call call;
  call.model = "text";
  CallInput& input = call.inputs.emplace_back();
  input.name = "input";
  input.type = DataType::bytes;
  input.shape = {1, 2};
  input.raw = {wire.data(), wire.size()};
  const Result<Answer> answer = infer(call);
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  std::string back(wire_bytes_size(answer->outputs[0].view), '?');
  write_wire_bytes(answer->outputs[0].view, reinterpret_cast<std::byte*>(back.data()));
  EXPECT_EQ(back, wire);
  for (const std::size_t cut : {0u, 3u, 5u, 10u}) {
    Call bad = call;
    bad.inputs[0].raw->second = cut;
    EXPECT_EQ(infer(std::move(bad)).error().code, ErrorCode::invalid_argument) << cut;
  }
}

TEST_F(ServiceTest, TheBestClassesComeAsTexts) {
  Call call = echo(numbers_);
  call.outputs.push_back({"output", 2, {}});
  const Result<Answer> answer = infer(std::move(call));
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  const AnsweredOutput& output = answer->outputs[0];
  EXPECT_EQ(output.type, DataType::bytes);
  EXPECT_EQ(output.shape, (Shape{2, 2}));
  const Tensor texts(output.view, output.lease);
  EXPECT_EQ(texts.string_at(0), "4:3");
  EXPECT_EQ(texts.string_at(1), "3:2");
  EXPECT_EQ(texts.string_at(2), "8:0");
}

// -------------------------------------------------------------------------------------------------
// shared memory

TEST_F(ServiceTest, InputsAndOutputsLieInSharedMemory) {
  const SharedObject object("both", 8192);
  MemoryRegions& regions = **service_->system_memory();
  ASSERT_TRUE(regions.register_system("in", object.name(), 4096 - 16, 64).ok());
  ASSERT_TRUE(regions.register_system("out", object.name(), 4096 + 512, 1024).ok());
  std::copy(numbers_.begin(), numbers_.end(), object.as<float>(4096));
  Call call = echo(numbers_);
  call.inputs[0].raw.reset();
  call.inputs[0].region = RegionSlice{"in", 16, 32};
  call.outputs.push_back({"output", 0, RegionSlice{"out", 8, 512}});
  const Result<Answer> answer = infer(std::move(call));
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(answer->outputs[0].view.data, nullptr);
  ASSERT_TRUE(answer->outputs[0].region);
  EXPECT_EQ(answer->outputs[0].region->bytes, 32u);
  const auto* out = object.as<float>(4096 + 512 + 8);
  EXPECT_EQ(std::vector<float>(out, out + 8), numbers_);
}

TEST_F(ServiceTest, RegionsAreBoundsChecked) {
  const SharedObject object("bounds", 4096);
  MemoryRegions& regions = **service_->system_memory();
  EXPECT_EQ(regions.register_system("a", "/no-such-object", 0, 10).error().code,
            ErrorCode::invalid_argument);
  EXPECT_FALSE(regions.register_system("a", object.name(), 0, 4097).ok());
  EXPECT_FALSE(regions.register_system("a", object.name(), 4097, 1).ok());
  EXPECT_FALSE(regions.register_system("a", object.name(), SIZE_MAX, 2).ok());
  EXPECT_FALSE(regions.register_system("a", object.name(), 0, 0).ok());
  EXPECT_FALSE(regions.register_system("", object.name(), 0, 1).ok());
  ASSERT_TRUE(regions.register_system("a", object.name(), 96, 4000).ok());
  EXPECT_THAT(regions.register_system("a", object.name(), 0, 1).error().message,
              HasSubstr("registered already"));
  EXPECT_TRUE(regions.find({"a", 0, 4000}).ok());
  EXPECT_FALSE(regions.find({"a", 1, 4000}).ok());
  EXPECT_FALSE(regions.find({"a", SIZE_MAX, 2}).ok());
  EXPECT_EQ(regions.find({"b", 0, 1}).error().code, ErrorCode::not_found);
  ASSERT_EQ(regions.status("")->size(), 1u);
  EXPECT_EQ((*regions.status("a"))[0].offset, 96u);
  EXPECT_EQ(regions.status("b").error().code, ErrorCode::not_found);
  regions.unregister("a");
  EXPECT_TRUE(regions.status("")->empty());
}

TEST_F(ServiceTest, AnUnregisteredRegionLivesUntilItsLastUse) {
  const SharedObject object("life", 4096);
  MemoryRegions& regions = **service_->system_memory();
  ASSERT_TRUE(regions.register_system("a", object.name(), 0, 4096).ok());
  Result<RegionMemory> memory = regions.find({"a", 0, 4096});
  ASSERT_TRUE(memory.ok());
  regions.unregister("");
  ASSERT_TRUE(regions.register_system("a", object.name(), 0, 64).ok()) << "the name is free";
  std::memset(memory->data, 7, 4096);
  EXPECT_EQ(object.as<char>()[4095], 7);
}

TEST_F(ServiceTest, AnObjectMadeShorterFailsTheRequestAndNothingElse) {
  const SharedObject object("torn", 16384);
  MemoryRegions& regions = **service_->system_memory();
  ASSERT_TRUE(regions.register_system("a", object.name(), 0, 16384).ok());
  ASSERT_TRUE(regions.register_system("other", object.name(), 0, 4096).ok());
  object.resize(4096);
  Call call = echo(numbers_);
  call.inputs[0].raw.reset();
  call.inputs[0].region = RegionSlice{"a", 8192, 32};
  const Result<Answer> answer = infer(std::move(call));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(answer.error().message, HasSubstr("became shorter"));
  EXPECT_FALSE(regions.find({"a", 0, 32}).ok()) << "no more until it is registered again";
  Call whole = echo(numbers_);
  std::copy(numbers_.begin(), numbers_.end(), object.as<float>());
  whole.inputs[0].raw.reset();
  whole.inputs[0].region = RegionSlice{"other", 0, 32};
  EXPECT_EQ(floats(infer(std::move(whole))->outputs[0]), numbers_);
}

// -------------------------------------------------------------------------------------------------
// descriptions, settings, what is not allowed

TEST_F(ServiceTest, DescribesModels) {
  const Result<ModelMetadata> metadata = service_->model_metadata("echo", "");
  ASSERT_TRUE(metadata.ok());
  EXPECT_THAT(metadata->versions, ElementsAre("1"));
  ASSERT_EQ(metadata->inputs.size(), 1u);
  EXPECT_EQ(metadata->inputs[0].shape, (Shape{-1, 4}));
  EXPECT_EQ(service_->model_metadata("nobody", "").error().code, ErrorCode::not_found);
  EXPECT_TRUE(*service_->model_ready("echo", "1"));
  EXPECT_FALSE(service_->model_ready("echo", "2").ok());
  EXPECT_EQ((*service_->model_config("echo", ""))->max_batch_size(), 8);
}

TEST_F(ServiceTest, CountsWhatItAnswers) {
  ASSERT_TRUE(infer(echo(numbers_)).ok());
  ASSERT_TRUE(infer(echo(numbers_)).ok());
  const auto all = service_->statistics("", "");
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->size(), 2u);
  const auto echoed = service_->statistics("echo", "1");
  ASSERT_EQ(echoed->size(), 1u);
  const VersionStatistics& statistics = echoed->front();
  EXPECT_EQ(statistics.success.count, 2u);
  EXPECT_GT(statistics.success.ns, 0u);
  EXPECT_GE(statistics.success.ns, statistics.queue.ns + statistics.compute_infer.ns);
  EXPECT_EQ(statistics.inference_count, 4u);
  EXPECT_EQ(statistics.execution_count, 2u);
  ASSERT_EQ(statistics.batches.size(), 1u);
  EXPECT_EQ(statistics.batches[0].batch_size, 2u);
  EXPECT_EQ(statistics.batches[0].compute_infer.count, 2u);
  EXPECT_GT(statistics.batches[0].compute_infer.ns, 0u);
  EXPECT_GT(statistics.last_inference_ms, 1'600'000'000'000u);
  EXPECT_EQ(service_->statistics("nobody", "").error().code, ErrorCode::not_found);
}

TEST_F(ServiceTest, ReadinessGoesBeforeTheServer) {
  EXPECT_TRUE(service_->live());
  EXPECT_TRUE(service_->ready());
  service_->start_draining();
  EXPECT_TRUE(service_->live());
  EXPECT_FALSE(service_->ready());
  EXPECT_TRUE(infer(echo(numbers_)).ok()) << "what still comes is answered";
}

TEST_F(ServiceTest, ALookAtAModelThatWasEvictedDoesNotBringItBack) {
  const testing::TestFolder folder;
  for (const char* const name : {"a", "b"}) {
    folder.reference(name, 1,
                     R"({"kind": "identity", "options": {"shape": "4", "max_items": 1, )"
                     R"("weights_bytes": "5MiB"}})");
  }
  Engine engine = testing::host_engine(std::size_t{8} << 20);
  RepositoryOptions models;
  models.folders = {folder.path()};
  models.mode = RepositoryMode::control;
  models.load_at_start = {"a"};
  models.eviction.enabled = true;
  const auto repository = *ModelRepository::open(engine, models);
  Service service(engine, *repository, {.repository_control = true});
  ASSERT_TRUE(service.load_model("b", {}).ok());
  EXPECT_TRUE(*service.model_ready("a", "")) << "it comes back when it is asked for";
  EXPECT_TRUE(service.receive_buffer("a", 64).ok());
  EXPECT_EQ(repository->served("a").size(), 0u);
  EXPECT_EQ(repository->served("b").size(), 1u);
}

TEST_F(ServiceTest, WhatIsNotAllowedIsRefusedByName) {
  Service strict(*engine_, *repository_, {});
  for (const Result<void>& refused :
       {strict.load_model("echo", {}), strict.unload_model("echo", false)}) {
    EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
    EXPECT_THAT(refused.error().message, HasSubstr("--allow-repository-control"));
  }
  EXPECT_THAT(strict.system_memory().error().message, HasSubstr("--allow-client-shm"));
  EXPECT_THAT(strict.cuda_memory().error().message, HasSubstr("--allow-client-shm"));
  EXPECT_FALSE(strict.change_trace_settings("", {}).ok());
  EXPECT_FALSE(strict.change_log_settings({}).ok());
  EXPECT_TRUE(strict.trace_settings("").ok()) << "looking is free";
  EXPECT_THAT(strict.metadata().extensions,
              ::testing::Not(::testing::Contains("system_shared_memory")));
}

const Setting* find(const Settings& settings, std::string_view name) {
  for (const Setting& setting : settings) {
    if (setting.name == name) return &setting;
  }
  return nullptr;
}

TEST(TraceSettingsTest, ModelsDifferFromTheServerUntilTheyAreReset) {
  TraceSettings traces;
  EXPECT_FALSE(traces.sample("m"));
  ASSERT_TRUE(traces
                  .change("", {{"trace_level", std::vector<std::string>{"TIMESTAMPS"}},
                               {"trace_rate", std::string("2")}})
                  .ok());
  ASSERT_TRUE(traces.change("m", {{"trace_rate", std::int64_t{1}}}).ok());
  EXPECT_EQ(std::get<std::string>(find(traces.of("m"), "trace_rate")->value), "1");
  EXPECT_EQ(std::get<std::string>(find(traces.of("other"), "trace_rate")->value), "2");
  EXPECT_TRUE(traces.sample("m"));
  EXPECT_TRUE(traces.sample("m"));
  EXPECT_TRUE(traces.sample("other"));
  EXPECT_FALSE(traces.sample("other"));
  ASSERT_TRUE(traces.change("m", {{"trace_rate", std::monostate()}}).ok());
  EXPECT_EQ(std::get<std::string>(find(traces.of("m"), "trace_rate")->value), "2");
}

TEST(TraceSettingsTest, CountsDown) {
  TraceSettings traces;
  ASSERT_TRUE(traces
                  .change("", {{"trace_level", std::string("TIMESTAMPS")},
                               {"trace_rate", std::string("1")},
                               {"trace_count", std::string("2")}})
                  .ok());
  EXPECT_TRUE(traces.sample("m"));
  EXPECT_TRUE(traces.sample("m"));
  EXPECT_FALSE(traces.sample("m"));
}

TEST(TraceSettingsTest, WrongOnesChangeNothing) {
  TraceSettings traces;
  EXPECT_FALSE(traces.change("", {{"trace_rate", std::string("5")}, {"unknown", true}}).ok());
  EXPECT_FALSE(traces.change("", {{"trace_rate", std::string("0")}}).ok());
  EXPECT_FALSE(traces.change("", {{"trace_level", std::string("LOUD")}}).ok());
  EXPECT_FALSE(traces.change("", {{"trace_file", std::string("/etc/passwd")}}).ok());
  EXPECT_EQ(std::get<std::string>(find(traces.of(""), "trace_rate")->value), "1000");
}

TEST(LogSettingsTest, ChangeTheLevelOfTheProcess) {
  const LogLevel before = log_level();
  LogSettings logs;
  ASSERT_TRUE(logs.change({{"log_verbose_level", std::int64_t{1}}}).ok());
  EXPECT_EQ(log_level(), LogLevel::debug);
  EXPECT_EQ(std::get<bool>(find(logs.all(), "log_info")->value), before <= LogLevel::info);
  ASSERT_TRUE(logs.change({{"log_verbose_level", std::int64_t{2}}}).ok());
  EXPECT_EQ(std::get<std::int64_t>(find(logs.all(), "log_verbose_level")->value), 2);
  ASSERT_TRUE(logs.change({{"log_verbose_level", std::int64_t{0}}, {"log_info", false}}).ok());
  EXPECT_EQ(log_level(), LogLevel::warning);
  EXPECT_EQ(std::get<bool>(find(logs.all(), "log_info")->value), false);
  EXPECT_EQ(std::get<bool>(find(logs.all(), "log_warning")->value), true);
  EXPECT_FALSE(logs.change({{"log_error", false}, {"log_file", std::string("/tmp/x")}}).ok());
  EXPECT_EQ(std::get<bool>(find(logs.all(), "log_error")->value), true);
  set_log_level(LogLevel::error);  // by somebody else
  EXPECT_EQ(std::get<bool>(find(logs.all(), "log_warning")->value), false);
  EXPECT_FALSE(logs.change({{"log_colour", true}}).ok());
  set_log_level(before);
}

}  // namespace
}  // namespace millrace::server
