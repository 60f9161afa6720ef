#include "server/service.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <future>
#include <numeric>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <millrace/log.h>

#include "repository/test_folder.h"
#include "server/test_evicted.h"
#include "server/test_service.h"
#include "server/test_shared_object.h"
#include "server/wire_bytes.h"

namespace millrace::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::SharedObject;

class ServiceTest : public testing::ServiceFixture {
 protected:
  ServiceTest() {
    add("echo", "reference:identity?type=FP32&shape=4");
    add("text", "reference:identity?type=BYTES&shape=2");
    add("three", "reference:identity?inputs=3&type=UINT8,FP32,FP64&shape=-1");
    ServiceOptions all;
    all.repository_control = true;
    all.client_shared_memory = true;
    all.change_settings = true;
    open(all);
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

TEST_F(ServiceTest, SmallInputsAreKeptBesideEachOther) {
  // The third finds no room beside the others, or one that is not for its type, or it has no bytes.
  for (const std::size_t count : {28U, 5U, 3U, 0U, 27U, 28U, 1000U}) {
    const std::vector<std::uint8_t> bytes(count, 7);
    const std::vector<float> numbers(count, 2.5F);
    const std::vector<double> wide(count, -1.25);
    Call call;
    call.model = "three";
    const auto add = [&](DataType type, const auto& values) {
      CallInput& input = call.inputs.emplace_back();
      input.name = "input" + std::to_string(call.inputs.size() - 1);
      input.type = type;
      input.shape = {1, static_cast<std::int64_t>(count)};
      input.raw = {values.data(), values.size() * sizeof values[0]};
    };
    add(DataType::uint8, bytes);
    add(DataType::fp32, numbers);
    add(DataType::fp64, wide);
    const Result<Answer> answer = infer(std::move(call));
    ASSERT_TRUE(answer.ok()) << answer.error().message;
    ASSERT_EQ(answer->outputs.size(), 3U);
    const auto same = [&](std::size_t i, const auto& values) {
      return std::equal(values.begin(), values.end(),
                        static_cast<decltype(values.data())>(answer->outputs[i].view.data));
    };
    EXPECT_TRUE(same(0, bytes)) << count;
    EXPECT_TRUE(same(1, numbers)) << count;
    EXPECT_TRUE(same(2, wide)) << count;
  }
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
  EXPECT_FALSE(regions.register_system("a", object.name(), 16, 0).ok());
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

TEST_F(ServiceTest, CudaHandlesHaveTheirLength) {
  const std::vector<std::byte> bytes(65);
  for (const std::size_t length : {0u, 63u, 65u}) {
    const Result<void> refused =
        (*service_->cuda_memory())->register_cuda("g", std::span(bytes).first(length), 0, 16);
    ASSERT_FALSE(refused.ok());
    EXPECT_THAT(refused.error().message, HasSubstr("a handle of 64 bytes"));
  }
}

TEST_F(ServiceTest, AnUnregisteredRegionLivesUntilItsLastUse) {
  const SharedObject object("life", 4096);
  MemoryRegions& regions = **service_->system_memory();
  ASSERT_TRUE(regions.register_system("a", object.name(), 0, 4096).ok());
  Result<RegionMemory> memory = regions.find({"a", 0, 4096});
  ASSERT_TRUE(memory.ok());
  regions.unregister("");
  const SharedObject other("other", 4096);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // a thread of its own takes it down
  ASSERT_TRUE(regions.register_system("a", other.name(), 0, 4096).ok()) << "the name is free";
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
  EXPECT_EQ(all->size(), 3u);
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

class EvictedTest : public ::testing::Test {
 protected:
  struct Asked {
    CallTicket ticket;
    std::future<Result<Answer>> answer;
    [[nodiscard]] bool answered() const {
      return answer.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    }
  };
  /// Of data that is gone when it returns.
  Asked ask(const std::string& model, std::optional<TimePoint> deadline = {}) {
    const std::vector<float> numbers = {1, 2, 3, 4};
    Call call;
    call.model = model;
    call.deadline = deadline;
    CallInput& input = call.inputs.emplace_back();
    input.name = "input";
    input.shape = {1, 4};
    input.raw = {numbers.data(), numbers.size() * sizeof(float)};
    auto promise = std::make_shared<std::promise<Result<Answer>>>();
    Asked asked{{}, promise->get_future()};
    Result<CallTicket> ticket = service_.infer(
        std::move(call),
        [promise](Result<Answer> answer, bool) { promise->set_value(std::move(answer)); });
    EXPECT_TRUE(ticket.ok()) << ticket.error().message;
    if (ticket) asked.ticket = *std::move(ticket);
    return asked;
  }

  testing::EvictedModel models_;
  Service& service_ = models_.service();
};

TEST_F(EvictedTest, ALookAtItDoesNotBringItBack) {
  EXPECT_TRUE(*service_.model_ready("a", "")) << "it comes back when it is asked for";
  EXPECT_TRUE(service_.receive_buffer("a", 64).ok());
  EXPECT_THAT(service_.model_metadata("a", "")->versions, ElementsAre("1"));
  EXPECT_EQ(service_.model_metadata("a", "1")->inputs[0].name, "input");
  EXPECT_EQ((*service_.model_config("a", ""))->name(), "a");
  EXPECT_EQ(service_.statistics("a", "")->at(0).version, "1");
  EXPECT_EQ(service_.statistics("a", "1")->at(0).inference_count, 0u);
  EXPECT_TRUE(service_.trace_settings("a").ok());
  EXPECT_EQ(service_.statistics("a", "7").error().code, ErrorCode::not_found);
  EXPECT_EQ(service_.model_ready("a", "7").error().code, ErrorCode::not_found);
  EXPECT_EQ(models_.repository().served("a").size(), 0u);
  EXPECT_EQ(models_.repository().served("b").size(), 1u);
}

TEST_F(EvictedTest, CallsWaitForItWithoutHoldingUpTheirThread) {
  std::vector<Asked> asked;
  for (int i = 0; i < 8; ++i) asked.push_back(ask("a"));
  EXPECT_TRUE(ask("b").answer.get().ok()) << "meanwhile";
  for (const Asked& one : asked) EXPECT_FALSE(one.answered());
  models_.let_it_come();
  for (Asked& one : asked) {
    const Result<Answer> answer = one.answer.get();
    ASSERT_TRUE(answer.ok()) << answer.error().message;
    const auto* const numbers = static_cast<const float*>(answer->outputs[0].view.data);
    EXPECT_THAT(std::vector<float>(numbers, numbers + 4), ElementsAre(1, 2, 3, 4));
  }
}

TEST_F(EvictedTest, CallsThatWaitForItHaveTheirDeadlineAndCanBeTakenBack) {
  Asked patient = ask("a");
  Asked cancelled = ask("a");
  EXPECT_TRUE(cancelled.ticket.cancel());
  EXPECT_EQ(cancelled.answer.get().error().code, ErrorCode::cancelled);
  EXPECT_EQ(ask("a", Clock::now() + std::chrono::milliseconds(20)).answer.get().error().code,
            ErrorCode::deadline_exceeded);
  EXPECT_FALSE(patient.answered());
  models_.let_it_come();
  EXPECT_TRUE(patient.answer.get().ok());
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
