// The whole server over real connections: an engine on the host, a repository, a client.
#include "server/grpc/server.h"

#include <atomic>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "repository/test_folder.h"
#include "server/grpc/acceptor.h"
#include "server/grpc/health.pb.h"
#include "server/grpc/inference_service.grpc.pb.h"
#include "server/grpc/reflection.pb.h"
#include "server/test_certificates.h"
#include "server/test_evicted.h"

namespace millrace::server {
namespace {

using grpc::StatusCode;
using inference::GRPCInferenceService;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr auto kPatience = std::chrono::seconds(60);  // where something is broken

class GrpcServerTest : public ::testing::Test {
 protected:
  GrpcServerTest() {
    add("identity", "reference:identity?type=FP32&shape=4");
    add("wide", "reference:identity?type=FP32&shape=-1");
    add("text", "reference:identity?type=BYTES&shape=2");
    add("brain", "reference:identity?type=BF16&shape=2");
    add("whole", "reference:identity?type=FP32&shape=4", 0);
    add("late", "reference:busy?mode=sleep&batch_us=300000&type=FP32&shape=4", 1);
    EngineOptions options;
    options.devices.devices = {"host:0"};
    engine_ = std::make_unique<Engine>(*Engine::create(options));
    RepositoryOptions models;
    models.folders = {folder_.path()};
    models.mode = RepositoryMode::control;
    models.load_at_start = {"*"};
    models.strict = true;
    auto opened = ModelRepository::open(*engine_, models);
    EXPECT_TRUE(opened.ok()) << (opened.ok() ? "" : opened.error().message);
    repository_ = *std::move(opened);
    ServiceOptions all;
    all.repository_control = true;
    all.client_shared_memory = true;
    all.change_settings = true;
    service_ = std::make_unique<Service>(*engine_, *repository_, all);
    options_.port = 0;
  }
  ~GrpcServerTest() override {
    stub_.reset();
    channel_.reset();
    server_.reset();
  }
  void add(const std::string& name, const std::string& model, int max_batch_size = 8) {
    folder_.write(name + "/config.pbtxt",
                  "backend: \"reference\"\nmax_batch_size: " + std::to_string(max_batch_size) +
                      "\nparameters { key: \"model\" value { string_value: \"" + model +
                      "\" } }\n");
    std::filesystem::create_directories(folder_.path(name + "/1"));
  }

  void start() {
    auto started = GrpcServer::start(*service_, options_);
    ASSERT_TRUE(started.ok()) << started.error().message;
    server_ = *std::move(started);
    channel_ = connect();
    stub_ = GRPCInferenceService::NewStub(channel_);
  }
  std::shared_ptr<grpc::Channel> connect(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials =
          grpc::InsecureChannelCredentials()) const {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()), credentials,
                                     arguments);
  }
  static ModelInferRequest request_of(const std::string& model, std::vector<float> numbers,
                                      const std::string& id = "") {
    ModelInferRequest request;
    request.set_model_name(model);
    request.set_id(id);
    auto& input = *request.add_inputs();
    input.set_name("input");
    input.set_datatype("FP32");
    input.add_shape(1);
    input.add_shape(static_cast<std::int64_t>(numbers.size()));
    request.add_raw_input_contents(
        std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float)));
    return request;
  }
  grpc::Status infer(const ModelInferRequest& request, ModelInferResponse& response) const {
    grpc::ClientContext context;
    return stub_->ModelInfer(&context, request, &response);
  }
  grpc::Status infer(const ModelInferRequest& request) const {
    ModelInferResponse response;
    return infer(request, response);
  }
  /// Any method, with any bytes.
  static grpc::Status call(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                           const std::string& message, std::string* answer = nullptr,
                           const std::string& token = "") {
    grpc::GenericStub stub(channel);
    grpc::ClientContext context;
    if (!token.empty()) context.AddMetadata("authorization", token);
    const grpc::Slice slice(message);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::CompletionQueue queue;
    auto reader = stub.PrepareUnaryCall(&context, method, request, &queue);
    reader->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    reader->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    if (answer && status.ok()) {
      grpc::Slice whole;
      if (response.DumpToSingleSlice(&whole).ok()) {
        answer->assign(reinterpret_cast<const char*>(whole.begin()), whole.size());
      }
    }
    return status;
  }
  /// Waits until it is so.
  template <class Condition>
  static void wait_until(const Condition& condition) {
    const auto until = Clock::now() + kPatience;
    while (!condition() && Clock::now() < until) std::this_thread::yield();
    EXPECT_TRUE(condition());
  }

  testing::TestFolder folder_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ModelRepository> repository_;
  std::unique_ptr<Service> service_;
  GrpcOptions options_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<GRPCInferenceService::Stub> stub_;
};

std::vector<float> floats(const std::string& bytes) {
  std::vector<float> numbers(bytes.size() / sizeof(float));
  std::memcpy(numbers.data(), bytes.data(), bytes.size());
  return numbers;
}

void expect(const grpc::Status& status, StatusCode code, const std::string& text) {
  EXPECT_EQ(status.error_code(), code) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr(text));
}

TEST_F(GrpcServerTest, AnswersWithWhatTheModelComputes) {
  start();
  ModelInferResponse response;
  const auto status = infer(request_of("identity", {1, 2, 3, 4}, "an id"), response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.model_name(), "identity");
  EXPECT_EQ(response.model_version(), "1");
  EXPECT_EQ(response.id(), "an id");
  ASSERT_EQ(response.outputs_size(), 1);
  EXPECT_EQ(response.outputs(0).datatype(), "FP32");
  ASSERT_EQ(response.raw_output_contents_size(), 1);
  EXPECT_EQ(floats(response.raw_output_contents(0)), (std::vector<float>{1, 2, 3, 4}));
}

TEST_F(GrpcServerTest, LargeTensorsGoThroughUnchanged) {
  start();
  std::vector<float> numbers(3'000'000);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
  ModelInferResponse response;
  const auto status = infer(request_of("wide", numbers), response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(floats(response.raw_output_contents(0)), numbers);
}

TEST_F(GrpcServerTest, TypedContentsBytesAndBf16) {
  start();
  ModelInferRequest request = request_of("identity", {0, 0, 0, 0});
  request.clear_raw_input_contents();
  for (const float number : {4.f, 3.f, 2.f, 1.f}) {
    request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(number);
  }
  ModelInferResponse response;
  ASSERT_TRUE(infer(request, response).ok());
  EXPECT_EQ(floats(response.raw_output_contents(0)), (std::vector<float>{4, 3, 2, 1}));

  request = request_of("text", {0, 0});
  request.mutable_inputs(0)->set_datatype("BYTES");
  using namespace std::string_literals;
  const std::string elements = "\2\0\0\0ab\3\0\0\0cde"s;
  request.set_raw_input_contents(0, elements);
  ASSERT_TRUE(infer(request, response).ok());
  EXPECT_EQ(response.raw_output_contents(0), elements);
  request.clear_raw_input_contents();
  request.mutable_inputs(0)->mutable_contents()->add_bytes_contents("ab");
  request.mutable_inputs(0)->mutable_contents()->add_bytes_contents("cde");
  ASSERT_TRUE(infer(request, response).ok());
  EXPECT_EQ(response.raw_output_contents(0), elements);

  request = request_of("brain", {0});
  request.mutable_inputs(0)->set_datatype("BF16");
  request.mutable_inputs(0)->set_shape(1, 2);
  request.set_raw_input_contents(0, "abcd");
  const auto status = infer(request, response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.outputs(0).datatype(), "BF16");
  EXPECT_EQ(response.raw_output_contents(0), "abcd");
}

TEST_F(GrpcServerTest, ClassificationByAnOutputsParameter) {
  start();
  ModelInferRequest request = request_of("identity", {1, 9, 3, 7});
  auto& output = *request.add_outputs();
  output.set_name("output");
  (*output.mutable_parameters())["classification"].set_int64_param(2);
  ModelInferResponse response;
  const auto status = infer(request, response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.outputs(0).datatype(), "BYTES");
  EXPECT_THAT(response.raw_output_contents(0), HasSubstr(":1"));
}

TEST_F(GrpcServerTest, WhatIsWrongWithARequestIsItsStatus) {
  start();
  expect(infer(request_of("nobody", {1, 2, 3, 4})), StatusCode::NOT_FOUND, "nobody");
  ModelInferRequest request = request_of("identity", {1, 2, 3, 4});
  request.set_model_version("7");
  expect(infer(request), StatusCode::NOT_FOUND, "7");
  expect(infer(request_of("identity", {1, 2, 3})), StatusCode::INVALID_ARGUMENT, "input");
  request = request_of("identity", {1, 2, 3, 4});
  request.set_raw_input_contents(0, "123");
  expect(infer(request), StatusCode::INVALID_ARGUMENT, "expected 16 bytes");
  request = request_of("identity", {1, 2, 3, 4});
  *request.add_inputs() = request.inputs(0);
  request.add_raw_input_contents(request.raw_input_contents(0));
  expect(infer(request), StatusCode::INVALID_ARGUMENT, "input");
  request = request_of("identity", {1, 2, 3, 4});
  request.mutable_inputs(0)->set_name("other");
  expect(infer(request), StatusCode::INVALID_ARGUMENT, "other");
  request = request_of("identity", {1, 2, 3, 4});
  request.mutable_inputs(0)->set_datatype("INT32");
  expect(infer(request), StatusCode::INVALID_ARGUMENT, "FP32");
  request = request_of("identity", {1, 2, 3, 4});
  request.add_outputs()->set_name("other");
  expect(infer(request), StatusCode::INVALID_ARGUMENT, "other");
  request = request_of("text", {0, 0});
  request.mutable_inputs(0)->set_datatype("BYTES");
  request.set_raw_input_contents(0, std::string("\xff\xff\xff\x7f"
                                                "ab",
                                                6));
  expect(infer(request), StatusCode::INVALID_ARGUMENT, "input");
  const std::string path = "/inference.GRPCInferenceService/ModelInfer";
  expect(call(channel_, path, "\x0a\x7f"), StatusCode::INVALID_ARGUMENT, "malformed");
  expect(call(channel_, path, ""), StatusCode::NOT_FOUND, "");
  EXPECT_TRUE(infer(request_of("identity", {1, 2, 3, 4})).ok());  // none of it did harm
  wait_until([&] { return server_->counters().calls_in_flight == 0; });
  wait_until([&] { return server_->counters().failed == 11; });
}

TEST_F(GrpcServerTest, UnknownMethodsAreUnimplemented) {
  start();
  expect(call(channel_, "/inference.GRPCInferenceService/Nothing", ""), StatusCode::UNIMPLEMENTED,
         "unknown method");
  expect(call(channel_, "/other/Method", ""), StatusCode::UNIMPLEMENTED, "unknown method");
}

TEST_F(GrpcServerTest, MalformedMessagesOfOtherMethods) {
  start();
  for (const char* method : {"ModelReady", "RepositoryModelLoad", "SystemSharedMemoryRegister"}) {
    expect(call(channel_, std::string("/inference.GRPCInferenceService/") + method, "\x0a\x7f"),
           StatusCode::INVALID_ARGUMENT, "malformed");
  }
}

TEST_F(GrpcServerTest, HealthAndDescriptions) {
  start();
  grpc::ClientContext live_context, ready_context, metadata_context, model_context, config_context,
      statistics_context;
  inference::ServerLiveResponse live;
  ASSERT_TRUE(stub_->ServerLive(&live_context, {}, &live).ok());
  EXPECT_TRUE(live.live());
  inference::ServerReadyResponse ready;
  ASSERT_TRUE(stub_->ServerReady(&ready_context, {}, &ready).ok());
  EXPECT_TRUE(ready.ready());
  inference::ServerMetadataResponse metadata;
  ASSERT_TRUE(stub_->ServerMetadata(&metadata_context, {}, &metadata).ok());
  EXPECT_EQ(metadata.name(), "millrace");
  EXPECT_THAT(metadata.extensions(), Contains("system_shared_memory"));
  inference::ModelMetadataRequest about;
  about.set_name("identity");
  inference::ModelMetadataResponse model;
  ASSERT_TRUE(stub_->ModelMetadata(&model_context, about, &model).ok());
  EXPECT_THAT(model.versions(), ElementsAre("1"));
  EXPECT_EQ(model.inputs(0).name(), "input");
  EXPECT_EQ(model.inputs(0).datatype(), "FP32");
  EXPECT_THAT(model.inputs(0).shape(), ElementsAre(-1, 4));
  inference::ModelConfigRequest config_of;
  config_of.set_name("identity");
  inference::ModelConfigResponse config;
  ASSERT_TRUE(stub_->ModelConfig(&config_context, config_of, &config).ok());
  EXPECT_EQ(config.config().max_batch_size(), 8);
  ASSERT_TRUE(infer(request_of("identity", {1, 2, 3, 4})).ok());
  inference::ModelStatisticsRequest statistics_of;
  statistics_of.set_name("identity");
  inference::ModelStatisticsResponse statistics;
  ASSERT_TRUE(stub_->ModelStatistics(&statistics_context, statistics_of, &statistics).ok());
  ASSERT_EQ(statistics.model_stats_size(), 1);
  EXPECT_EQ(statistics.model_stats(0).inference_count(), 1u);
  EXPECT_EQ(statistics.model_stats(0).inference_stats().success().count(), 1u);

  about.set_name("nobody");
  grpc::ClientContext unknown;
  expect(stub_->ModelMetadata(&unknown, about, &model), StatusCode::NOT_FOUND, "nobody");
}

TEST_F(GrpcServerTest, WholeShapesAreServedWithoutBatches) {
  start();
  inference::ModelMetadataRequest about;
  about.set_name("whole");
  inference::ModelMetadataResponse model;
  grpc::ClientContext metadata_context;
  ASSERT_TRUE(stub_->ModelMetadata(&metadata_context, about, &model).ok());
  EXPECT_THAT(model.inputs(0).shape(), ElementsAre(-1, 4));
  inference::ModelConfigRequest config_of;
  config_of.set_name("whole");
  inference::ModelConfigResponse config;
  grpc::ClientContext config_context;
  ASSERT_TRUE(stub_->ModelConfig(&config_context, config_of, &config).ok());
  EXPECT_EQ(config.config().max_batch_size(), 0);
  EXPECT_THAT(config.config().input(0).dims(), ElementsAre(-1, 4));
  ModelInferRequest request = request_of("whole", {1, 2, 3, 4, 5, 6, 7, 8});
  request.mutable_inputs(0)->set_shape(0, 2);
  request.mutable_inputs(0)->set_shape(1, 4);
  ModelInferResponse response;
  ASSERT_TRUE(infer(request, response).ok());
  EXPECT_THAT(response.outputs(0).shape(), ElementsAre(2, 4));
  EXPECT_EQ(response.raw_output_contents(0), request.raw_input_contents(0));
  inference::ModelStatisticsRequest statistics_of;
  statistics_of.set_name("whole");
  inference::ModelStatisticsResponse statistics;
  grpc::ClientContext statistics_context;
  ASSERT_TRUE(stub_->ModelStatistics(&statistics_context, statistics_of, &statistics).ok());
  EXPECT_EQ(statistics.model_stats(0).inference_count(), 1u);
  EXPECT_EQ(statistics.model_stats(0).execution_count(), 1u);
}

TEST_F(GrpcServerTest, ModelsAreListedUnloadedAndLoaded) {
  start();
  const auto ready = [&](const std::string& name) {
    grpc::ClientContext context;
    inference::ModelReadyRequest request;
    inference::ModelReadyResponse response;
    request.set_name(name);
    return stub_->ModelReady(&context, request, &response).ok() && response.ready();
  };
  grpc::ClientContext index_context, unload_context, load_context, bad_context;
  inference::RepositoryIndexResponse index;
  ASSERT_TRUE(stub_->RepositoryIndex(&index_context, {}, &index).ok());
  std::vector<std::string> names;
  for (const auto& model : index.models()) names.push_back(model.name());
  EXPECT_THAT(names, UnorderedElementsAre("identity", "wide", "text", "brain", "whole", "late"));
  EXPECT_TRUE(ready("identity"));
  inference::RepositoryModelUnloadRequest unload;
  inference::RepositoryModelUnloadResponse unloaded;
  unload.set_model_name("identity");
  (*unload.mutable_parameters())["unload_dependents"].set_bool_param(false);
  const auto status = stub_->RepositoryModelUnload(&unload_context, unload, &unloaded);
  ASSERT_TRUE(status.ok()) << status.error_message();
  wait_until([&] { return !ready("identity"); });
  EXPECT_FALSE(infer(request_of("identity", {1, 2, 3, 4})).ok());
  inference::RepositoryModelLoadRequest load;
  inference::RepositoryModelLoadResponse loaded;
  load.set_model_name("identity");
  ASSERT_TRUE(stub_->RepositoryModelLoad(&load_context, load, &loaded).ok());
  EXPECT_TRUE(ready("identity"));
  EXPECT_TRUE(infer(request_of("identity", {1, 2, 3, 4})).ok());
  (*load.mutable_parameters())["config"].set_int64_param(1);
  expect(stub_->RepositoryModelLoad(&bad_context, load, &loaded), StatusCode::INVALID_ARGUMENT,
         "config");
}

TEST_F(GrpcServerTest, SettingsAreReadAndChanged) {
  start();
  grpc::ClientContext read_context, change_context, wrong_context, log_context;
  inference::TraceSettingRequest trace;
  inference::TraceSettingResponse traced;
  ASSERT_TRUE(stub_->TraceSetting(&read_context, trace, &traced).ok());
  EXPECT_TRUE(traced.settings().contains("trace_rate"));
  (*trace.mutable_settings())["trace_rate"].add_value("7");
  ASSERT_TRUE(stub_->TraceSetting(&change_context, trace, &traced).ok());
  EXPECT_THAT(traced.settings().at("trace_rate").value(), ElementsAre("7"));
  (*trace.mutable_settings())["nothing"].add_value("7");
  expect(stub_->TraceSetting(&wrong_context, trace, &traced), StatusCode::INVALID_ARGUMENT,
         "nothing");
  inference::LogSettingsResponse log;
  ASSERT_TRUE(stub_->LogSettings(&log_context, {}, &log).ok());
  EXPECT_TRUE(log.settings().contains("log_info"));
}

TEST_F(GrpcServerTest, TensorsInSharedMemory) {
  start();
  const std::string key = "/millrace-grpc-test-" + std::to_string(getpid());
  const int file = shm_open(key.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  ASSERT_GE(file, 0);
  ASSERT_EQ(ftruncate(file, 64), 0);
  void* memory = mmap(nullptr, 64, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  auto* numbers = static_cast<float*>(memory);
  for (int i = 0; i < 4; ++i) numbers[i] = static_cast<float>(10 + i);

  grpc::ClientContext register_context, status_context, gone_context;
  inference::SystemSharedMemoryRegisterRequest request;
  inference::SystemSharedMemoryRegisterResponse registered;
  request.set_name("region");
  request.set_key(key);
  request.set_byte_size(64);
  const auto status = stub_->SystemSharedMemoryRegister(&register_context, request, &registered);
  ASSERT_TRUE(status.ok()) << status.error_message();
  inference::SystemSharedMemoryStatusResponse regions;
  ASSERT_TRUE(stub_->SystemSharedMemoryStatus(&status_context, {}, &regions).ok());
  EXPECT_EQ(regions.regions().at("region").byte_size(), 64u);

  ModelInferRequest inference_request = request_of("identity", {0, 0, 0, 0});
  inference_request.clear_raw_input_contents();
  const auto set = [](auto& parameters, std::int64_t offset, std::int64_t size) {
    parameters["shared_memory_region"].set_string_param("region");
    parameters["shared_memory_offset"].set_int64_param(offset);
    parameters["shared_memory_byte_size"].set_int64_param(size);
  };
  set(*inference_request.mutable_inputs(0)->mutable_parameters(), 0, 16);
  auto& output = *inference_request.add_outputs();
  output.set_name("output");
  set(*output.mutable_parameters(), 32, 16);
  ModelInferResponse response;
  const auto inferred = infer(inference_request, response);
  ASSERT_TRUE(inferred.ok()) << inferred.error_message();
  EXPECT_EQ(numbers[8], 10.f);
  EXPECT_EQ(numbers[11], 13.f);
  EXPECT_EQ(response.raw_output_contents(0), "");
  EXPECT_EQ(response.outputs(0).parameters().at("shared_memory_region").string_param(), "region");

  set(*inference_request.mutable_inputs(0)->mutable_parameters(), 56, 16);
  expect(infer(inference_request), StatusCode::INVALID_ARGUMENT, "region");
  inference::SystemSharedMemoryUnregisterResponse unregistered;
  ASSERT_TRUE(stub_->SystemSharedMemoryUnregister(&gone_context, {}, &unregistered).ok());
  expect(infer(inference_request), StatusCode::NOT_FOUND, "region");
  munmap(memory, 64);
  close(file);
  shm_unlink(key.c_str());
}

// Streams.

TEST_F(GrpcServerTest, AStreamAnswersManyRequestsEachOnce) {
  options_.max_calls_per_stream = 8;  // so that reading pauses
  start();
  constexpr int kRequests = 300;
  grpc::ClientContext context;
  auto stream = stub_->ModelStreamInfer(&context);
  std::thread writer([&] {
    for (int i = 0; i < kRequests; ++i) {
      const auto number = static_cast<float>(i);
      ModelInferRequest request =
          request_of(i % 10 == 3 ? "nobody" : "identity", {number, 0, 0, 0}, std::to_string(i));
      EXPECT_TRUE(stream->Write(request));
    }
    EXPECT_TRUE(stream->WritesDone());
  });
  std::vector<int> seen(kRequests, 0);
  ModelStreamInferResponse response;
  while (stream->Read(&response)) {
    const int id = std::stoi(response.infer_response().id());
    ++seen[static_cast<std::size_t>(id)];
    if (id % 10 == 3) {
      EXPECT_THAT(response.error_message(), HasSubstr("nobody"));
    } else {
      EXPECT_EQ(response.error_message(), "");
      EXPECT_EQ(floats(response.infer_response().raw_output_contents(0))[0],
                static_cast<float>(id));
    }
  }
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(seen, Each(1));
  EXPECT_EQ(server_->counters().calls, static_cast<std::uint64_t>(kRequests));
  EXPECT_EQ(server_->counters().calls_in_flight, 0u);
}

TEST_F(GrpcServerTest, AMalformedRequestOfAStreamEndsNothing) {
  start();
  grpc::ClientContext context;
  auto stream = stub_->ModelStreamInfer(&context);
  ModelInferRequest wrong = request_of("identity", {1, 2, 3, 4}, "wrong");
  wrong.mutable_inputs(0)->set_datatype("FP33");
  ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Write(wrong));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.error_message(), HasSubstr("FP33"));
  EXPECT_EQ(response.infer_response().id(), "wrong");
  ModelInferRequest right = request_of("identity", {1, 2, 3, 4}, "right");
  (*right.mutable_parameters())["triton_enable_empty_final_response"].set_bool_param(true);
  ASSERT_TRUE(stream->Write(right));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.error_message(), "");
  EXPECT_EQ(response.infer_response().id(), "right");
  EXPECT_TRUE(response.infer_response().parameters().at("triton_final_response").bool_param());
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(GrpcServerTest, ACancelledStreamLeavesNothingBehind) {
  start();
  {
    grpc::ClientContext context;
    auto stream = stub_->ModelStreamInfer(&context);
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(stream->Write(request_of("late", {1, 2, 3, 4}, std::to_string(i))));
    }
    wait_until([&] { return server_->counters().calls == 20; });
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), StatusCode::CANCELLED);
  }
  wait_until([&] { return server_->counters().calls_in_flight == 0; });
  const auto statistics = service_->statistics("late", "");
  ASSERT_TRUE(statistics.ok());
  EXPECT_LT(statistics->front().inference_count, 20u);  // those that waited were taken back
}

// Cancellation and deadlines.

TEST_F(GrpcServerTest, ACallersRequestsAreTakenBackWhenItGoes) {
  start();
  constexpr int kCalls = 20;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientAsyncResponseReader<ModelInferResponse>>> readers;
  std::vector<ModelInferResponse> responses(kCalls);
  std::vector<grpc::Status> statuses(kCalls);
  grpc::CompletionQueue queue;
  for (std::size_t i = 0; i < kCalls; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(
        stub_->AsyncModelInfer(contexts[i].get(), request_of("late", {1, 2, 3, 4}), &queue));
    readers[i]->Finish(&responses[i], &statuses[i], nullptr);
  }
  wait_until([&] { return server_->counters().calls == kCalls; });
  for (auto& context : contexts) context->TryCancel();
  for (int i = 0; i < kCalls; ++i) {
    void* tag = nullptr;
    bool ok = false;
    ASSERT_TRUE(queue.Next(&tag, &ok));
  }
  wait_until([&] { return server_->counters().calls_in_flight == 0; });
  const auto statistics = service_->statistics("late", "");
  ASSERT_TRUE(statistics.ok());
  EXPECT_LT(statistics->front().inference_count, 20u);
  EXPECT_GT(server_->counters().failed, 0u);
}

TEST_F(GrpcServerTest, TheCallersDeadlineIsTheRequests) {
  start();
  std::vector<std::future<grpc::Status>> calls;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(std::async(std::launch::async, [&] {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
      ModelInferResponse response;
      return stub_->ModelInfer(&context, request_of("late", {1, 2, 3, 4}), &response);
    }));
  }
  for (auto& one : calls) EXPECT_EQ(one.get().error_code(), StatusCode::DEADLINE_EXCEEDED);
  wait_until([&] { return server_->counters().calls_in_flight == 0; });
  const auto statistics = service_->statistics("late", "");
  ASSERT_TRUE(statistics.ok());
  EXPECT_LT(statistics->front().inference_count, 8u);
}

TEST(GrpcEvictedTest, CallsOfItHoldUpNoOther) {
  testing::EvictedModel models;
  GrpcOptions options;
  options.port = 0;
  options.queues = 1;
  const auto server = *GrpcServer::start(models.service(), options);
  const auto stub = GRPCInferenceService::NewStub(grpc::CreateChannel(
      "127.0.0.1:" + std::to_string(server->port()), grpc::InsecureChannelCredentials()));
  ModelInferRequest request;
  request.set_model_name("a");
  auto& input = *request.add_inputs();
  input.set_name("input");
  input.set_datatype("FP32");
  input.add_shape(1);
  input.add_shape(4);
  request.add_raw_input_contents(std::string(16, '\1'));
  const auto ask = [&stub, &request](const char* model, grpc::ClientContext& context) {
    ModelInferRequest own = request;
    own.set_model_name(model);
    ModelInferResponse response;
    grpc::Status status = stub->ModelInfer(&context, own, &response);
    if (status.ok()) {
      EXPECT_EQ(response.raw_output_contents(0), own.raw_input_contents(0));
    }
    return status;
  };
  std::future<grpc::Status> waits = std::async(std::launch::async, [&ask] {
    grpc::ClientContext context;
    return ask("a", context);
  });
  grpc::ClientContext streams;
  const auto stream = stub->ModelStreamInfer(&streams);
  ASSERT_TRUE(stream->Write(request));
  grpc::ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  EXPECT_EQ(ask("a", late).error_code(), StatusCode::DEADLINE_EXCEEDED);
  grpc::ClientContext meanwhile;
  meanwhile.set_deadline(std::chrono::system_clock::now() + kPatience);
  EXPECT_TRUE(ask("b", meanwhile).ok());
  EXPECT_EQ(waits.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  models.let_it_come();
  EXPECT_TRUE(waits.get().ok());
  ModelStreamInferResponse answer;
  ASSERT_TRUE(stream->Read(&answer));
  EXPECT_EQ(answer.infer_response().raw_output_contents(0), request.raw_input_contents(0));
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

// Limits.

TEST_F(GrpcServerTest, MessagesOverTheLimit) {
  options_.max_request_bytes = 4096;
  start();
  EXPECT_TRUE(infer(request_of("wide", std::vector<float>(900, 1))).ok());
  expect(infer(request_of("wide", std::vector<float>(1100, 1))), StatusCode::RESOURCE_EXHAUSTED,
         "larger than max");
  // Small as it comes, and large when decompressed.
  grpc::ClientContext context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  ModelInferResponse response;
  expect(stub_->ModelInfer(&context, request_of("wide", std::vector<float>(100'000, 1)), &response),
         StatusCode::RESOURCE_EXHAUSTED, "decompressed");
  EXPECT_TRUE(infer(request_of("wide", std::vector<float>(900, 1))).ok());
}

TEST_F(GrpcServerTest, MoreCallsThanItTakesAreRefusedAtOnce) {
  options_.max_calls = 2;
  start();
  std::vector<std::future<grpc::Status>> calls;
  for (int i = 0; i < 2; ++i) {
    calls.push_back(std::async(std::launch::async, [&] {
      return infer(request_of("late", {1, 2, 3, 4}));
    }));
  }
  wait_until([&] { return server_->counters().calls_in_flight == 2; });
  expect(infer(request_of("identity", {1, 2, 3, 4})), StatusCode::RESOURCE_EXHAUSTED,
         "try again later");
  EXPECT_EQ(server_->counters().refused, 1u);
  for (auto& one : calls) EXPECT_TRUE(one.get().ok());
  wait_until([&] { return server_->counters().calls_in_flight == 0; });
  EXPECT_TRUE(infer(request_of("identity", {1, 2, 3, 4})).ok());
}

TEST_F(GrpcServerTest, MoreBytesThanItTakesAreRefusedAtOnce) {
  options_.max_bytes = 200;
  start();
  auto first = std::async(std::launch::async, [&] {
    return infer(request_of("late", {1, 2, 3, 4}));
  });
  wait_until([&] { return server_->counters().calls_in_flight == 1; });
  expect(infer(request_of("wide", std::vector<float>(100, 1))), StatusCode::RESOURCE_EXHAUSTED,
         "try again later");
  EXPECT_TRUE(first.get().ok());
  wait_until([&] { return server_->counters().bytes_in_flight == 0; });
  EXPECT_TRUE(infer(request_of("wide", std::vector<float>(100, 1))).ok());  // alone, it may
}

// Compression.

TEST_F(GrpcServerTest, RequestsMayBeCompressed) {
  start();
  for (const auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    const std::vector<float> numbers(50'000, 3);
    ModelInferResponse response;
    const auto status = stub_->ModelInfer(&context, request_of("wide", numbers), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(floats(response.raw_output_contents(0)), numbers);
    EXPECT_LT(server_->counters().received_bytes, 50'000u);
  }
}

TEST_F(GrpcServerTest, AnswersAreCompressedWhenAskedTo) {
  options_.compress = true;
  start();
  // A client that does not decompress sees what was sent.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  const auto raw = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                             grpc::InsecureChannelCredentials(), arguments);
  const ModelInferRequest request = request_of("wide", std::vector<float>(50'000, 3));
  std::string answer;
  const std::string path = "/inference.GRPCInferenceService/ModelInfer";
  ASSERT_TRUE(call(raw, path, request.SerializeAsString(), &answer).ok());
  EXPECT_LT(answer.size(), 10'000u);
  ModelInferResponse response;
  ASSERT_TRUE(infer(request, response).ok());
  EXPECT_EQ(response.raw_output_contents(0).size(), 200'000u);
}

// Who may ask.

TEST_F(GrpcServerTest, TokensOpenCalls) {
  options_.tokens = {"first", "second"};
  options_.control_tokens = {"control"};
  start();
  const std::string service = "/inference.GRPCInferenceService/";
  const std::string request = request_of("identity", {1, 2, 3, 4}).SerializeAsString();
  const auto status = [&](const std::string& method, const std::string& token) {
    const std::string message = method == "ModelInfer" ? request : "";
    return call(channel_, service + method, message, nullptr, token).error_code();
  };
  for (const char* token :
       {"", "Bearer", "Bearer ", "Bearer firs", "Bearer firstt", "first", "Basic first"}) {
    EXPECT_EQ(status("ModelInfer", token), StatusCode::UNAUTHENTICATED) << token;
    EXPECT_EQ(status("ServerMetadata", token), StatusCode::UNAUTHENTICATED) << token;
  }
  EXPECT_EQ(status("ModelInfer", "Bearer first"), StatusCode::OK);
  EXPECT_EQ(status("ModelInfer", "Bearer second"), StatusCode::OK);
  EXPECT_EQ(status("ServerMetadata", "Bearer second"), StatusCode::OK);
  EXPECT_EQ(status("ModelInfer", "Bearer control"), StatusCode::OK);
  EXPECT_EQ(status("LogSettings", "Bearer first"), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(status("LogSettings", ""), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(status("LogSettings", "Bearer control"), StatusCode::OK);
  EXPECT_EQ(status("ServerLive", ""), StatusCode::OK);  // probes have no token
  EXPECT_EQ(call(channel_, "/grpc.health.v1.Health/Check", "").error_code(), StatusCode::OK);
  grpc::ClientContext context;
  auto stream = stub_->ModelStreamInfer(&context);
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::UNAUTHENTICATED);
}

TEST_F(GrpcServerTest, BeyondLoopbackItWantsProtection) {
  options_.host = "0.0.0.0";
  auto started = GrpcServer::start(*service_, options_);
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code, ErrorCode::invalid_argument);
  options_.allow_open = true;
  EXPECT_TRUE(GrpcServer::start(*service_, options_).ok());
}

// TLS.

class GrpcTlsTest : public GrpcServerTest {
 protected:
  GrpcTlsTest() {
    use(authority_.sign("server"));
    folder_.write("clients.pem", authority_.certificate());
  }
  void use(const testing::Certificate& certificate) {
    folder_.write("server.pem", certificate.certificate);
    folder_.write("server.key", certificate.key);
    options_.tls.certificate = folder_.path("server.pem");
    options_.tls.key = folder_.path("server.key");
  }
  /// The status that a client with that certificate gets, which trusts that authority.
  StatusCode status(const testing::Authority& trusted, const testing::Certificate& own = {}) const {
    const auto channel =
        connect(grpc::SslCredentials({trusted.certificate(), own.key, own.certificate}));
    const auto stub = GRPCInferenceService::NewStub(channel);
    grpc::ClientContext context;
    ModelInferResponse response;
    return stub->ModelInfer(&context, request_of("identity", {1, 2, 3, 4}), &response).error_code();
  }
  testing::Authority authority_{"ours"};
  testing::Authority other_{"theirs"};
};

TEST_F(GrpcTlsTest, ClientsThatTrustTheServerAreAnswered) {
  start();
  EXPECT_EQ(status(authority_), StatusCode::OK);
  EXPECT_EQ(status(other_), StatusCode::UNAVAILABLE);
}

TEST_F(GrpcTlsTest, ItListensBeyondLoopback) {
  options_.host = "0.0.0.0";
  start();
  EXPECT_EQ(status(authority_), StatusCode::OK);
}

TEST_F(GrpcTlsTest, ClientsMustShowACertificateWhereThatIsAsked) {
  options_.tls.client_authorities = folder_.path("clients.pem");
  start();
  EXPECT_EQ(status(authority_, authority_.sign("client")), StatusCode::OK);
  EXPECT_EQ(status(authority_), StatusCode::UNAVAILABLE);
  EXPECT_EQ(status(authority_, other_.sign("client")), StatusCode::UNAVAILABLE);
  EXPECT_EQ(status(authority_, authority_.sign("client", -60)), StatusCode::UNAVAILABLE);
}

TEST_F(GrpcTlsTest, AnExpiredCertificateIsNotTrusted) {
  use(authority_.sign("server", -60));
  start();
  EXPECT_EQ(status(authority_), StatusCode::UNAVAILABLE);
}

TEST_F(GrpcTlsTest, WhatIsWrongWithTheFilesIsSaid) {
  const auto expect_error = [&](ErrorCode code, const std::string& text) {
    const auto started = GrpcServer::start(*service_, options_);
    ASSERT_FALSE(started.ok()) << text;
    EXPECT_EQ(started.error().code, code);
    EXPECT_THAT(started.error().message, HasSubstr(text));
  };
  folder_.write("server.key", authority_.sign("another").key);
  expect_error(ErrorCode::invalid_argument, "expected the key of the certificate");
  folder_.write("server.key", "no key");
  expect_error(ErrorCode::invalid_argument, "expected a private key");
  folder_.remove("server.key");
  expect_error(ErrorCode::not_found, "server.key");
  folder_.write("server.pem", "no certificate");
  expect_error(ErrorCode::invalid_argument, "expected certificates");
  use(authority_.sign("server"));
  options_.tls.client_authorities = folder_.path("none.pem");
  expect_error(ErrorCode::not_found, "none.pem");
}

// Connections.

TEST_F(GrpcServerTest, MoreConnectionsThanItTakesAreClosedAndCounted) {
  options_.max_connections = 2;
  start();
  const auto works = [](const std::shared_ptr<grpc::Channel>& channel) {
    return call(channel, "/inference.GRPCInferenceService/ServerLive", "").ok();
  };
  auto second = connect();
  EXPECT_TRUE(works(channel_));
  EXPECT_TRUE(works(second));
  EXPECT_EQ(server_->counters().connections, 2u);
  EXPECT_FALSE(works(connect()));
  EXPECT_GE(server_->counters().refused_connections, 1u);
  second.reset();
  wait_until([&] { return server_->counters().connections == 1; });
  EXPECT_TRUE(works(connect()));
  EXPECT_TRUE(works(channel_));
}

TEST_F(GrpcServerTest, ASocketThatListensAlreadyIsTakenOver) {
  auto socket = listen_on("127.0.0.1", 0);
  ASSERT_TRUE(socket.ok());
  const auto port = port_of(*socket);
  ASSERT_TRUE(port.ok());
  options_.socket = socket->release();
  start();
  EXPECT_EQ(server_->port(), *port);
  EXPECT_TRUE(infer(request_of("identity", {1, 2, 3, 4})).ok());
  server_.reset();
  EXPECT_TRUE(listen_on("127.0.0.1", *port).ok());  // it is free again
}

TEST_F(GrpcServerTest, WhatIsNoListeningSocketIsRefused) {
  options_.socket = memfd_create("nothing", 0);
  const auto started = GrpcServer::start(*service_, options_);
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code, ErrorCode::invalid_argument);
}

TEST_F(GrpcServerTest, AnAddressThatIsNotThisMachinesIsRefused) {
  options_.allow_open = true;
  for (const char* host : {"192.0.2.1", "no-such-host.invalid"}) {
    options_.host = host;
    const auto started = GrpcServer::start(*service_, options_);
    ASSERT_FALSE(started.ok()) << host;
    EXPECT_EQ(started.error().code, ErrorCode::invalid_argument) << started.error().message;
  }
}

TEST_F(GrpcServerTest, APortInUseIsSaid) {
  start();
  options_.port = server_->port();
  auto second = GrpcServer::start(*service_, options_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::unavailable);
  EXPECT_THAT(second.error().message, HasSubstr(std::to_string(options_.port)));
}

// Health as gRPC's own protocol asks it, and reflection.

TEST_F(GrpcServerTest, HealthFollowsReadiness) {
  start();
  std::string answer;
  const std::string check = "/grpc.health.v1.Health/Check";
  ASSERT_TRUE(call(channel_, check, "", &answer).ok());
  EXPECT_EQ(answer, "\x08\x01");
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("inference.GRPCInferenceService");
  ASSERT_TRUE(call(channel_, check, request.SerializeAsString(), &answer).ok());
  EXPECT_EQ(answer, "\x08\x01");
  request.set_service("other");
  expect(call(channel_, check, request.SerializeAsString()), StatusCode::NOT_FOUND, "other");

  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto stream = stub.PrepareCall(&context, "/grpc.health.v1.Health/Watch", &queue);
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return ok;
  };
  const auto read = [&] {
    grpc::ByteBuffer buffer;
    stream->Read(&buffer, nullptr);
    EXPECT_TRUE(wait());
    grpc::Slice slice;
    EXPECT_TRUE(buffer.DumpToSingleSlice(&slice).ok());
    return std::string(reinterpret_cast<const char*>(slice.begin()), slice.size());
  };
  stream->StartCall(nullptr);
  ASSERT_TRUE(wait());
  const grpc::Slice nothing("", 0);
  const grpc::ByteBuffer message(&nothing, 1);
  stream->WriteLast(message, {}, nullptr);
  ASSERT_TRUE(wait());
  EXPECT_EQ(read(), "\x08\x01");
  service_->start_draining();
  EXPECT_EQ(read(), "\x08\x02");
  // A watcher does not hold a stopping server up.
  server_->stop(Clock::now() + kPatience);
  grpc::Status status;
  stream->Finish(&status, nullptr);
  ASSERT_TRUE(wait());
  EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(GrpcServerTest, ReflectionTellsServicesAndFiles) {
  start();
  for (const char* method : {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                             "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"}) {
    using grpc::reflection::v1alpha::ServerReflectionRequest;
    using grpc::reflection::v1alpha::ServerReflectionResponse;
    grpc::ClientContext context;
    const grpc::internal::RpcMethod rpc(method, grpc::internal::RpcMethod::BIDI_STREAMING,
                                        channel_);
    std::unique_ptr<grpc::ClientReaderWriter<ServerReflectionRequest, ServerReflectionResponse>>
        stream(grpc::internal::ClientReaderWriterFactory<
               ServerReflectionRequest, ServerReflectionResponse>::Create(channel_.get(), rpc,
                                                                          &context));
    ServerReflectionRequest request;
    ServerReflectionResponse response;
    request.set_list_services("*");
    ASSERT_TRUE(stream->Write(request));
    ASSERT_TRUE(stream->Read(&response));
    std::vector<std::string> names;
    for (const auto& one : response.list_services_response().service()) {
      names.push_back(one.name());
    }
    EXPECT_THAT(names,
                UnorderedElementsAre("inference.GRPCInferenceService", "grpc.health.v1.Health",
                                     "grpc.reflection.v1alpha.ServerReflection"));
    request.set_file_containing_symbol("inference.GRPCInferenceService");
    ASSERT_TRUE(stream->Write(request));
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.file_descriptor_response().file_descriptor_proto_size(), 2);
    request.set_file_by_filename("nothing.proto");
    ASSERT_TRUE(stream->Write(request));
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.error_response().error_code(), StatusCode::NOT_FOUND);
    stream->WritesDone();
    EXPECT_TRUE(stream->Finish().ok());
  }
}

// What the server around it needs.

TEST_F(GrpcServerTest, EachCallIsRecorded) {
  struct Record {
    std::string method, message;
    int status;
    std::size_t request_bytes, answer_bytes;
    bool in_order;
  };
  std::mutex mutex;
  std::vector<Record> records;
  options_.on_call = [&](const GrpcCallRecord& record) {
    const std::scoped_lock lock(mutex);
    records.push_back({std::string(record.method), std::string(record.message), record.status,
                       record.request_bytes, record.answer_bytes,
                       record.received <= record.answered});
  };
  start();
  const ModelInferRequest request = request_of("identity", {1, 2, 3, 4});
  ModelInferResponse response;
  ASSERT_TRUE(infer(request, response).ok());
  EXPECT_FALSE(infer(request_of("nobody", {1, 2, 3, 4})).ok());
  EXPECT_TRUE(call(channel_, "/inference.GRPCInferenceService/ServerLive", "").ok());
  grpc::ClientContext context;
  auto stream = stub_->ModelStreamInfer(&context);
  ASSERT_TRUE(stream->Write(request));
  ModelStreamInferResponse streamed;
  ASSERT_TRUE(stream->Read(&streamed));
  stream->WritesDone();
  ASSERT_TRUE(stream->Finish().ok());
  server_->stop(Clock::now() + kPatience);
  ASSERT_EQ(records.size(), 4u);
  const auto find = [&](const std::string& method, StatusCode status) {
    for (const Record& record : records) {
      if (record.method == method && record.status == static_cast<int>(status)) return record;
    }
    ADD_FAILURE() << method << " was not recorded with status " << status;
    return Record{};
  };
  const Record unary = find("ModelInfer", StatusCode::OK);
  EXPECT_EQ(unary.request_bytes, request.ByteSizeLong());
  EXPECT_EQ(unary.answer_bytes, response.ByteSizeLong());
  EXPECT_THAT(find("ModelInfer", StatusCode::NOT_FOUND).message, HasSubstr("nobody"));
  EXPECT_EQ(find("ServerLive", StatusCode::OK).answer_bytes, 2u);
  EXPECT_EQ(find("ModelStreamInfer", StatusCode::OK).answer_bytes, streamed.ByteSizeLong());
  for (const Record& record : records) EXPECT_TRUE(record.in_order);
}

TEST_F(GrpcServerTest, StoppingAnswersWhatIsThereAndRefusesTheRest) {
  start();
  auto call_there = std::async(std::launch::async, [&] {
    return infer(request_of("late", {1, 2, 3, 4}));
  });
  grpc::ClientContext context;
  auto stream = stub_->ModelStreamInfer(&context);
  ASSERT_TRUE(stream->Write(request_of("late", {1, 2, 3, 4}, "1")));
  wait_until([&] { return server_->counters().calls_in_flight == 2; });
  server_->stop(Clock::now() + kPatience);
  EXPECT_TRUE(call_there.get().ok());
  ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.error_message(), "");
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(infer(request_of("identity", {1, 2, 3, 4})).error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(GrpcServerTest, StoppingWithNoTimeLeftCancels) {
  start();
  std::vector<std::future<grpc::Status>> calls;
  for (int i = 0; i < 20; ++i) {
    calls.push_back(std::async(std::launch::async, [&] {
      return infer(request_of("late", {1, 2, 3, 4}));
    }));
  }
  wait_until([&] { return server_->counters().calls_in_flight == 20; });
  server_->stop(Clock::now());
  int failed = 0;
  for (auto& one : calls) failed += one.get().ok() ? 0 : 1;
  EXPECT_GT(failed, 0);
  EXPECT_EQ(server_->counters().calls_in_flight, 0u);
}

TEST_F(GrpcServerTest, ManyCallersOnSeveralQueues) {
  options_.queues = 3;
  start();
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      const auto stub = GRPCInferenceService::NewStub(connect());
      for (int i = 0; i < 100; ++i) {
        const auto number = static_cast<float>(t * 1000 + i);
        grpc::ClientContext context;
        ModelInferResponse response;
        const auto status =
            stub->ModelInfer(&context, request_of("identity", {number, 0, 0, 0}), &response);
        if (status.ok() && floats(response.raw_output_contents(0))[0] == number) ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 800);
}

}  // namespace
}  // namespace millrace::server
