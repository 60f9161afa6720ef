#include "client/client.h"

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <future>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "repository/test_folder.h"
#include "server/server.h"

namespace millrace::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

constexpr const char* kToken = "abracadabra";

/// A real server in this process, asked over the protocol that the parameter names.
class ClientTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { start(); }
  void start(bool with_token = false) {
    add("echo", "reference:identity?type=FP32&shape=4");
    add("wide", "reference:identity?type=FP32&shape=262144");
    add("text", "reference:identity?type=BYTES&shape=2");
    add("slow", "reference:busy?batch_us=300000&mode=sleep&shape=4");
    server::ServerOptions options;
    options.engine.devices.devices = {"host:0"};
    options.repository.folders = {folder_.path()};
    options.repository.mode = RepositoryMode::control;
    options.repository.load_at_start = {"*"};
    options.service.repository_control = true;
    options.service.client_shared_memory = true;
    options.grpc->port = 0;
    options.http->idle_timeout = idle_timeout_;
    if (with_token) options.http->tokens = options.grpc->tokens = {kToken};
    auto started = server::Server::start(std::move(options));
    ASSERT_TRUE(started.ok()) << started.error().message;
    server_ = std::move(*started);
    client_ = connect();
  }
  std::string url() const {
    const bool grpc = std::string_view(GetParam()) == "grpc";
    return std::string(GetParam()) +
           "://127.0.0.1:" + std::to_string(grpc ? server_->grpc_port() : server_->http_port());
  }
  std::unique_ptr<Client> connect(ClientOptions options = {}) const {
    auto connected = Client::connect(url(), std::move(options));
    EXPECT_TRUE(connected.ok()) << connected.error().message;
    return connected.ok() ? std::move(*connected) : nullptr;
  }
  void add(const std::string& name, const std::string& model) const {
    folder_.write(name + "/config.pbtxt",
                  "backend: \"reference\"\nmax_batch_size: 8\nparameters { key: \"model\" value { "
                  "string_value: \"" +
                      model + "\" } }\n");
    std::filesystem::create_directories(folder_.path(name + "/1"));
  }
  static Request request(const float* numbers, const Shape& shape = {1, 4}) {
    Request request;
    request.inputs.push_back({"input", TensorView::of(numbers, shape), {}});
    return request;
  }
  static std::vector<float> floats(const NamedTensor& output) {
    const auto* const numbers = output.view.as<float>();
    return {numbers, numbers + *element_count(output.view.shape)};
  }

  testing::TestFolder folder_;
  Duration idle_timeout_ = std::chrono::seconds(60);
  std::unique_ptr<server::Server> server_;
  std::unique_ptr<Client> client_;
  const std::vector<float> numbers_ = {1, 2, 3, 4};
};

TEST_P(ClientTest, DescribesServerAndModels) {
  EXPECT_TRUE(*client_->live());
  EXPECT_TRUE(*client_->ready());
  EXPECT_TRUE(*client_->model_ready({"echo", "1"}));
  EXPECT_EQ(client_->metadata()->name, server_->service().metadata().name);
  EXPECT_EQ(client_->metadata()->extensions, server_->service().metadata().extensions);
  const auto model = client_->model_metadata({"echo", ""});
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ(model->name, "echo");
  EXPECT_THAT(model->versions, ElementsAre("1"));
  ASSERT_EQ(model->inputs.size(), 1U);
  EXPECT_EQ(model->inputs[0].name, "input");
  EXPECT_EQ(model->inputs[0].shape, (Shape{kDynamic, 4}));
  EXPECT_EQ(model->inputs[0].batch_axis, 0);
  EXPECT_EQ(model->outputs[0].type, DataType::fp32);
  const auto index = client_->repository_index(true);
  ASSERT_TRUE(index.ok()) << index.error().message;
  std::vector<std::string> names;
  for (const RepositoryEntry& entry : *index) names.push_back(entry.name + " " + entry.state);
  EXPECT_THAT(names, IsSupersetOf({"echo READY", "text READY", "slow READY"}));
}

TEST_P(ClientTest, InfersAndEchoesTheId) {
  Request asked = request(numbers_.data());
  asked.id = "se\"ven";
  const auto answer = client_->infer({"echo", "1"}, std::move(asked));
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(answer->id, "se\"ven");
  ASSERT_EQ(answer->outputs.size(), 1U);
  EXPECT_EQ(answer->outputs[0].name, "output");
  EXPECT_EQ(floats(answer->outputs[0]), numbers_);
  EXPECT_EQ(answer->outputs[0].view.shape, (Shape{1, 4}));
  EXPECT_LT(answer->times.submitted, answer->times.completed);
}

TEST_P(ClientTest, SendsAndReceivesTexts) {
  const std::string_view words[] = {"mill", "", std::string_view("r\0ce", 4), "\"\\\n"};
  const auto texts = Tensor::of_strings(words, {2, 2});
  Request asked;
  asked.inputs.push_back({"input", texts->view(), texts->lease()});
  const auto answer = client_->infer({"text", ""}, std::move(asked));
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  const Tensor found(answer->outputs[0].view, answer->outputs[0].lease);
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(found.string_at(i), words[i]);
}

TEST_P(ClientTest, LargeInputsArriveWhole) {
  auto large = Tensor::allocate(DataType::fp32, {2, 262144});
  for (int i = 0; i < 2 * 262144; ++i) large->as<float>()[i] = static_cast<float>(i);
  for (const bool leased : {true, false}) {
    Request asked;
    asked.inputs.push_back({"input", large->view(), leased ? large->lease() : Lease()});
    const auto answer = client_->infer({"wide", ""}, std::move(asked));
    ASSERT_TRUE(answer.ok()) << answer.error().message;
    EXPECT_EQ(
        std::memcmp(answer->outputs[0].view.data, large->view().data, std::size_t{2} * 262144 * 4),
        0);
  }
}

TEST_P(ClientTest, ManyInFlightGetTheirOwnAnswers) {
  constexpr int kRequests = 500;
  std::vector<std::vector<float>> contents;
  contents.reserve(kRequests);
  for (int i = 0; i < kRequests; ++i) contents.push_back({static_cast<float>(i), 1, 2, 3});
  std::atomic<int> right{0};
  std::atomic<int> answered{0};
  for (int i = 0; i < kRequests; ++i) {
    const auto sent = client_->infer(
        {"echo", ""}, request(contents[static_cast<std::size_t>(i)].data()),
        [&, i](Result<Response> answer, bool last) {
          const bool same = answer.ok() && last &&
                            floats(answer->outputs[0]) == contents[static_cast<std::size_t>(i)];
          right += same ? 1 : 0;
          ++answered;
          answered.notify_one();
        });
    ASSERT_TRUE(sent.ok()) << sent.error().message;
  }
  for (int seen = answered; seen < kRequests; seen = answered) answered.wait(seen);
  EXPECT_EQ(right, kRequests);
}

TEST_P(ClientTest, ACallbackMaySendTheNextRequest) {
  std::promise<std::vector<float>> done;
  const auto sent = client_->infer(
      {"echo", ""}, request(numbers_.data()), [&](const Result<Response>& first, bool) {
        ASSERT_TRUE(first.ok());
        (void)client_->infer(
            {"echo", ""}, request(numbers_.data()), [&](Result<Response> second, bool) {
              done.set_value(second.ok() ? floats(second->outputs[0]) : std::vector<float>());
            });
      });
  ASSERT_TRUE(sent.ok());
  EXPECT_EQ(done.get_future().get(), numbers_);
}

TEST_P(ClientTest, ErrorsComeWithTheirCode) {
  const auto unknown = client_->infer({"no such", ""}, request(numbers_.data()));
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, ErrorCode::not_found) << unknown.error().message;
  EXPECT_THAT(unknown.error().message, HasSubstr("no such"));
  const auto wrong = client_->infer({"echo", ""}, request(numbers_.data(), {2, 2}));
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().code, ErrorCode::invalid_argument) << wrong.error().message;
  EXPECT_EQ(client_->model_metadata({"no such", ""}).error().code, ErrorCode::not_found);
  EXPECT_EQ(client_->load_model("no such", {}).error().code, ErrorCode::not_found);
}

TEST_P(ClientTest, ADeadlineThatPassesIsAnErrorAtOnce) {
  Request late = request(numbers_.data());
  late.deadline = Clock::now() + std::chrono::milliseconds(30);
  const TimePoint start = Clock::now();
  const auto answer = client_->infer({"slow", ""}, std::move(late));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, ErrorCode::deadline_exceeded) << answer.error().message;
  EXPECT_GE(Clock::now() - start, std::chrono::milliseconds(30));
  // The next request is not held up by what became of it.
  const auto next = client_->infer({"echo", ""}, request(numbers_.data()));
  ASSERT_TRUE(next.ok()) << next.error().message;
}

TEST_P(ClientTest, WhatLiesInARegionIsNotSent) {
  auto memory = SharedMemory::create(4096);
  ASSERT_TRUE(memory.ok()) << memory.error().message;
  ASSERT_TRUE(client_->register_memory("ours", *memory).ok());
  auto* const in = reinterpret_cast<float*>(memory->data() + 64);
  auto* const out = reinterpret_cast<float*>(memory->data() + 1024);
  std::copy(numbers_.begin(), numbers_.end(), in);
  Request asked = request(in);
  asked.outputs.push_back({"output", OutputPlacement::target, TensorView::of(out, {1, 4}), {}});
  const auto answer = client_->infer({"echo", ""}, asked);
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(answer->outputs[0].view.data, out);
  EXPECT_EQ(std::vector<float>(out, out + 4), numbers_);

  // Taken from the server behind the client's back: the client names it, and the server refuses.
  (*server_->service().system_memory())->unregister("ours");
  EXPECT_FALSE(client_->infer({"echo", ""}, asked).ok());
  // Taken back by the client: sent, and copied to the target.
  ASSERT_TRUE(client_->unregister_memory("ours").ok());
  std::fill(out, out + 4, 0.0F);
  const auto copied = client_->infer({"echo", ""}, asked);
  ASSERT_TRUE(copied.ok()) << copied.error().message;
  EXPECT_EQ(copied->outputs[0].view.data, out);
  EXPECT_EQ(std::vector<float>(out, out + 4), numbers_);
}

TEST_P(ClientTest, LoadsAndUnloads) {
  ASSERT_TRUE(client_->unload_model("echo", false).ok());
  const auto is_ready = [this] {
    const Result<bool> ready = client_->model_ready({"echo", ""});
    return ready.ok() && *ready;
  };
  for (int i = 0; i < 500 && is_ready(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_FALSE(client_->infer({"echo", ""}, request(numbers_.data())).ok());
  const auto loaded = client_->load_model("echo", {});
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_TRUE(client_->infer({"echo", ""}, request(numbers_.data())).ok());
}

TEST_P(ClientTest, StatisticsCountWhatWasAsked) {
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client_->infer({"echo", ""}, request(numbers_.data())).ok());
  }
  const auto found = client_->statistics({"echo", ""});
  ASSERT_TRUE(found.ok()) << found.error().message;
  ASSERT_EQ(found->size(), 1U);
  EXPECT_EQ(found->front().name, "echo");
  EXPECT_EQ(found->front().success.count, 3U);
  EXPECT_EQ(found->front().inference_count, 3U);
  EXPECT_GT(found->front().success.ns, 0U);
  EXPECT_GE(client_->statistics({})->size(), 4U);
}

TEST_P(ClientTest, ATokenIsSentAlong) {
  server_.reset();
  start(true);
  const auto without = client_->infer({"echo", ""}, request(numbers_.data()));
  ASSERT_FALSE(without.ok());
  EXPECT_EQ(without.error().code, ErrorCode::invalid_argument) << without.error().message;
  ClientOptions options;
  options.token = kToken;
  const auto with = connect(options)->infer({"echo", ""}, request(numbers_.data()));
  EXPECT_TRUE(with.ok()) << with.error().message;
}

TEST_P(ClientTest, WhatIsInFlightIsCancelledWithTheClient) {
  std::atomic<int> cancelled{0};
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client_
                    ->infer({"slow", ""}, request(numbers_.data()),
                            [&](Result<Response> answer, bool) {
                              cancelled +=
                                  !answer.ok() && answer.error().code == ErrorCode::cancelled;
                            })
                    .ok());
  }
  client_.reset();
  EXPECT_EQ(cancelled, 3);
}

TEST_P(ClientTest, AServerThatIsGoneIsUnavailable) {
  const std::string where = url();
  server_.reset();
  const auto answer = client_->infer({"echo", ""}, request(numbers_.data()));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, ErrorCode::unavailable) << answer.error().message;
  ClientOptions hasty;
  hasty.timeout = std::chrono::milliseconds(300);
  const auto connected = Client::connect(where, hasty);
  ASSERT_FALSE(connected.ok());
  EXPECT_EQ(connected.error().code, ErrorCode::unavailable) << connected.error().message;
}

TEST_P(ClientTest, AConnectionThatTheServerClosedIsMadeAgain) {
  server_.reset();
  idle_timeout_ = std::chrono::milliseconds(20);
  start();
  for (int i = 0; i < 3; ++i) {
    const auto answer = client_->infer({"echo", ""}, request(numbers_.data()));
    ASSERT_TRUE(answer.ok()) << answer.error().message;
    std::this_thread::sleep_for(std::chrono::milliseconds(i == 0 ? 2500 : 0));
  }
}

INSTANTIATE_TEST_SUITE_P(Protocols, ClientTest, ::testing::Values("http", "grpc"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace millrace::client
