// Processes that serve end in every way they can, and serve again.
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <thread>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include "server/grpc/inference_service.grpc.pb.h"
#include "server/listening.h"
#include "server/test_certificates.h"
#include "tests/server/serve_process.h"

namespace millrace::testing {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kInfer = "/v2/models/echo/infer";

class Supervise : public ::testing::Test {
 protected:
  Supervise() {
    models_.reference("echo", 1, R"({"kind": "identity", "options": {"shape": "4"}})");
  }
  /// Waits for the n-th restart, and for the worker to be ready.
  static void wait_for_restart(const ServeProcess& server, int times) {
    ASSERT_TRUE(eventually([&] {
      return server.metric("millrace_worker_restarts_total") >= times && server.ready();
    })) << server.output();
  }

  TestFolder models_;
};

/// Callers that ask the identity model, one request after the other, until it is destroyed.
class Load {
 public:
  Load(int port, int callers) {
    for (int i = 0; i < callers; ++i) {
      threads_.emplace_back([this, port, i, callers] {
        for (int n = i; !over_;) n = ask(port, n, callers);
      });
    }
  }
  ~Load() { stop(); }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;
  void stop() {
    over_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  std::atomic<int> right{0};
  std::atomic<int> wrong{0};
  std::atomic<int> refused{0};  // connections
  std::atomic<int> away{0};     // told to come back, or cut off

 private:
  /// On one connection, as long as that goes well.
  int ask(int port, int n, int step) {
    HttpConnection connection(port);
    if (!connection.open()) ++refused;
    for (; !over_; n += step) {
      const auto first = static_cast<float>(n % 1'000'000);
      connection.send("POST", kInfer, four_numbers(first));
      const HttpAnswer answer = connection.answer();
      if (!answers_four_numbers(answer, first)) {
        ++(answer.status == 0 || answer.status == 503 ? away : wrong);
        break;
      }
      ++right;
    }
    return n;
  }

  std::atomic<bool> over_{false};
  std::vector<std::thread> threads_;
};

TEST_F(Supervise, AWorkerThatIsKilledUnderLoadIsReplaced) {
  ServeProcess server({models_.path()});
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  Load load(server.http_port(), 4);
  ASSERT_TRUE(eventually([&] { return load.right > 100; }));
  for (int restart = 1; restart <= 3; ++restart) {
    const pid_t worker = server.worker();
    ASSERT_GT(worker, 0);
    kill(worker, SIGKILL);
    ASSERT_NO_FATAL_FAILURE(wait_for_restart(server, restart));
    EXPECT_NE(server.worker(), worker);
    const int before = load.right;
    EXPECT_TRUE(eventually([&] { return load.right > before + 100; }));
  }
  load.stop();
  EXPECT_EQ(load.wrong, 0);
  EXPECT_EQ(load.refused, 0);  // the port is always there
  EXPECT_GE(load.away, 3);
  EXPECT_EQ(server.metric("millrace_worker_restarts_total"), 3);
  EXPECT_GT(server.metric("millrace_worker_down_seconds_total"), 0);
  EXPECT_THAT(server.output(), HasSubstr("it was ended by signal 9"));
}

TEST_F(Supervise, WithoutAWorkerRequestsAreToldToComeBack) {
  ServeProcess server({models_.path(), "--restart-delay=5s"});
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  const int port = server.http_port();
  kill(server.worker(), SIGKILL);
  HttpAnswer refused;
  ASSERT_TRUE(eventually([&] {
    refused = post(port, kInfer, four_numbers(1));
    return refused.status == 503;
  }));
  EXPECT_THAT(refused.head, ContainsRegex("Retry-After: [1-6]\r\n"));
  EXPECT_THAT(refused.head, HasSubstr("Content-Type: application/json"));
  EXPECT_THAT(refused.body, HasSubstr(R"({"error":")"));
  EXPECT_EQ(post(port, kInfer, std::string(1 << 20, 'x')).status, 503);  // read to the end
  EXPECT_EQ(get(port, "/v2/health/ready").body, R"({"ready":false})");
  EXPECT_EQ(get(port, "/v2/health/ready").status, 503);
  EXPECT_EQ(get(port, "/v2/health/live").body, R"({"live":true})");
  EXPECT_EQ(server.metric("millrace_ready"), 0);
  EXPECT_EQ(server.metric("millrace_worker_restarts_total"), 1);

  const auto channel = grpc::CreateChannel("127.0.0.1:" + std::to_string(server.grpc_port()),
                                           grpc::InsecureChannelCredentials());
  const auto stub = inference::GRPCInferenceService::NewStub(channel);
  grpc::ClientContext context;
  inference::ServerReadyResponse response;
  EXPECT_EQ(stub->ServerReady(&context, {}, &response).error_code(), grpc::StatusCode::UNAVAILABLE);

  ASSERT_NO_FATAL_FAILURE(wait_for_restart(server, 1));
  EXPECT_TRUE(answers_four_numbers(post(port, kInfer, four_numbers(1)), 1));
  grpc::ClientContext again;
  again.set_wait_for_ready(true);
  EXPECT_TRUE(stub->ServerReady(&again, {}, &response).ok());
  EXPECT_TRUE(response.ready());
}

TEST_F(Supervise, ADeviceThatFailsForGoodIsAnsweredByANewWorker) {
  models_.reference("faulty", 1,
                    R"({"kind": "fail", "options": {"shape": "4", "sticky": 1, "at": 1}})");
  ServeProcess server({models_.path()});
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  const int port = server.http_port();
  EXPECT_NE(post(port, "/v2/models/faulty/infer", four_numbers(1)).status, 200);
  ASSERT_NO_FATAL_FAILURE(wait_for_restart(server, 1));
  EXPECT_TRUE(answers_four_numbers(post(port, kInfer, four_numbers(3)), 3));
  EXPECT_THAT(server.output(), HasSubstr("a device failed for good"));
}

TEST_F(Supervise, ACrashIsAnsweredByANewWorker) {
  ServeProcess server({models_.path()});
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  kill(server.worker(), SIGSEGV);
  ASSERT_NO_FATAL_FAILURE(wait_for_restart(server, 1));
  EXPECT_TRUE(answers_four_numbers(post(server.http_port(), kInfer, four_numbers(3)), 3));
}

TEST_F(Supervise, AWorkerThatHangsIsReplaced) {
  ServeProcess server({models_.path(), "--hang-limit=4s"});
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  EXPECT_TRUE(server.ready());
  kill(server.worker(), SIGSTOP);
  ASSERT_NO_FATAL_FAILURE(wait_for_restart(server, 1));
  EXPECT_TRUE(answers_four_numbers(post(server.http_port(), kInfer, four_numbers(3)), 3));
  EXPECT_THAT(server.output(), HasSubstr("nothing was heard of it for 4 s"));
}

TEST_F(Supervise, AWorkerWhoseDriverIsStuckIsReplaced) {
  models_.reference("stuck", 1,
                    R"({"kind": "hang", "options": {"at": 2, "when": "enqueue", )"
                    R"("batch_us": 300000, "max_items": 1, "shape": "4"}})");
  models_.write("stuck/config.pbtxt",
                R"(parameters { key: "millrace.slots" value { string_value: "1" } })");
  ServeProcess server({models_.path(), "--hang-limit=2s"});
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  const int port = server.http_port();
  HttpConnection first(port);
  HttpConnection second(port);
  first.send("POST", "/v2/models/stuck/infer", four_numbers(1));
  ASSERT_TRUE(eventually([&] {
    return get(port, "/metrics")
               .body.find("millrace_batches_running{model=\"stuck\",version=\"1\"} 1") !=
           std::string::npos;
  }));
  second.send("POST", "/v2/models/stuck/infer", four_numbers(2));
  ASSERT_NO_FATAL_FAILURE(wait_for_restart(server, 1));
  EXPECT_TRUE(answers_four_numbers(post(port, kInfer, four_numbers(3)), 3));
  EXPECT_THAT(server.output(), HasSubstr("nothing was heard of it for 2 s"));
}

TEST_F(Supervise, AWorkerThatDoesNotGetToServeIsReplaced) {
  models_.reference("slow", 1,
                    R"({"kind": "identity", "options": {"load_us": 100000000, "shape": "4"}})");
  ServeProcess server({models_.path(), "--start-limit=300ms", "--restart-delay=10ms"});
  EXPECT_TRUE(eventually([&] {
    return server.output().find("in 20 ms: it did not serve within 300 ms") != std::string::npos;
  })) << server.output();
  server.signal(SIGTERM);  // while a worker starts, or none is there
  EXPECT_EQ(server.exit_code(), 0);
}

TEST_F(Supervise, ACrashAtLoadIsTriedAgainLessAndLessOften) {
  models_.copy(MILLRACE_SOURCE_DIR "/tests/models/average.onnx", "average/1/model.onnx");
  const TestFolder switches;
  switches.write("crash", "");
  ServeProcess server({models_.path(), "--restart-delay=10ms", "--longest-restart-delay=40ms"},
                      {{"MILLRACE_ONNXRUNTIME", MILLRACE_CRASHING_LIBRARY},
                       {"MILLRACE_TEST_CRASH", switches.path("crash")}});
  ASSERT_TRUE(eventually([&] {
    const std::string text = server.output();
    const std::size_t first = text.find("in 40 ms: it was ended by signal 11");
    return first != std::string::npos && text.find("in 40 ms", first + 1) != std::string::npos;
  })) << server.output();
  EXPECT_THAT(server.output(), HasSubstr("in 10 ms: it was ended by signal 11"));
  EXPECT_THAT(server.output(), HasSubstr("in 20 ms: it was ended by signal 11"));
  EXPECT_THAT(server.output(), Not(HasSubstr("in 80 ms")));
  switches.remove("crash");  // now that model is refused, and the other one served
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  EXPECT_TRUE(answers_four_numbers(post(server.http_port(), kInfer, four_numbers(3)), 3));
}

TEST_F(Supervise, SigtermDrainsWhileReadinessIsFalse) {
  models_.reference("slow", 1,
                    R"({"kind": "busy", "options": {"batch_us": 4000000, "shape": "4"}})");
  ServeProcess server({models_.path()});
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  const int port = server.http_port();
  HttpConnection open(port);
  open.send("POST", "/v2/models/slow/infer", four_numbers(7));
  ASSERT_TRUE(eventually([&] {
    return get(port, "/metrics")
               .body.find("millrace_batches_running{model=\"slow\",version=\"1\"} 1") !=
           std::string::npos;
  })) << get(port, "/metrics").body;
  server.signal(SIGTERM);
  ASSERT_TRUE(eventually([&] { return get(port, "/v2/health/ready").status == 503; }));
  EXPECT_FALSE(open.anything_there());
  // The worker takes what comes before it stops to listen; then the supervisor answers.
  EXPECT_TRUE(eventually([&] { return post(port, kInfer, four_numbers(1)).status == 503; }));
  EXPECT_TRUE(answers_four_numbers(open.answer(), 7));
  EXPECT_EQ(server.exit_code(), 0);
}

TEST_F(Supervise, ASecondSigtermEndsAtOnce) {
  models_.reference("hang", 1, R"({"kind": "hang", "options": {"at": 1, "shape": "4"}})");
  ServeProcess server({models_.path(), "--drain-limit=1h"});
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  const int port = server.http_port();
  HttpConnection open(port);
  open.send("POST", "/v2/models/hang/infer", four_numbers(7));
  ASSERT_TRUE(eventually([&] {
    return get(port, "/metrics")
               .body.find("millrace_batches_running{model=\"hang\",version=\"1\"} 1") !=
           std::string::npos;
  }));
  server.signal(SIGTERM);
  ASSERT_TRUE(eventually([&] { return get(port, "/v2/health/ready").status == 503; }));
  server.signal(SIGTERM);
  EXPECT_EQ(server.exit_code(), 1);
  EXPECT_EQ(open.answer().status, 0);  // closed
}

TEST_F(Supervise, APortInUseIsSaid) {
  const server::Descriptor taken = *server::listen_on("127.0.0.1", 0);
  const std::string port = std::to_string(*server::port_of(taken));
  for (const std::string& option :
       {"--http-port=" + port, "--grpc-port=" + port, "--metrics-port=" + port}) {
    for (const char* const how : {"--supervise", "--no-supervise"}) {
      ServeProcess server({models_.path(), option, how});
      EXPECT_EQ(server.exit_code(), 1) << option << " " << how;
      EXPECT_THAT(server.output(), HasSubstr("cannot listen on 127.0.0.1:" + port + ": "));
      EXPECT_THAT(server.output(), HasSubstr("in use"));
    }
  }
}

TEST_F(Supervise, TlsIsSpokenOnSocketsThatWereHandedOver) {
  const Authority authority("an authority");
  const Certificate own = authority.sign("server");
  const TestFolder files;
  files.write("server.pem", own.certificate);
  files.write("server.key", own.key);
  ServeProcess server({models_.path(), "--tls-cert=" + files.path("server.pem"),
                       "--tls-key=" + files.path("server.key")});
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  grpc::SslCredentialsOptions trust;
  trust.pem_root_certs = authority.certificate();
  const auto stub = inference::GRPCInferenceService::NewStub(grpc::CreateChannel(
      "127.0.0.1:" + std::to_string(server.grpcs_port()), grpc::SslCredentials(trust)));
  const auto ready = [&] {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    inference::ServerReadyResponse response;
    return stub->ServerReady(&context, {}, &response).ok() && response.ready();
  };
  EXPECT_TRUE(ready());
  EXPECT_EQ(get(server.https_port(), "/v2/health/ready").status, 0);  // without TLS
  kill(server.worker(), SIGKILL);
  ASSERT_TRUE(eventually([&] { return server.metric("millrace_worker_restarts_total") == 1; }));
  EXPECT_EQ(get(server.https_port(), "/v2/health/ready").status, 0);
  EXPECT_TRUE(eventually(ready));  // the first call may meet the connection that was closed
}

TEST_F(Supervise, AWorkerThatNeverCouldServeIsNotStartedAgain) {
  ServeProcess server({models_.path("nowhere")});
  EXPECT_EQ(server.exit_code(), 1);
  EXPECT_THAT(server.output(), Not(HasSubstr("started again")));
}

TEST_F(Supervise, AWorkerThatCannotServeAnyMoreIsGivenUp) {
  ServeProcess server({models_.path(), "--strict", "--restart-delay=10ms", "--give-up-after=3"});
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  models_.write("echo/1/model.reference.json", "{");
  kill(server.worker(), SIGKILL);
  EXPECT_EQ(server.exit_code(), 1);
  EXPECT_THAT(server.output(), HasSubstr("in 10 ms: it was ended by signal 9"));
  EXPECT_THAT(server.output(), ContainsRegex("in 40 ms: it ended with exit code 1: .*model"));
  EXPECT_THAT(server.output(), Not(HasSubstr("in 80 ms")));
  EXPECT_THAT(server.output(),
              ContainsRegex("after 3 failed starts in a row .*it ended with exit code 1: .*model"));
}

TEST_F(Supervise, CrashesAtLoadAreGivenUpToo) {
  models_.copy(MILLRACE_SOURCE_DIR "/tests/models/average.onnx", "average/1/model.onnx");
  const TestFolder switches;
  switches.write("crash", "");
  ServeProcess server({models_.path(), "--restart-delay=10ms", "--give-up-after=2"},
                      {{"MILLRACE_ONNXRUNTIME", MILLRACE_CRASHING_LIBRARY},
                       {"MILLRACE_TEST_CRASH", switches.path("crash")}});
  EXPECT_EQ(server.exit_code(), 1);
  EXPECT_THAT(server.output(), HasSubstr("after 2 failed starts in a row"));
}

TEST_F(Supervise, NobodyIsServedBeyondLoopbackUnasked) {
  ServeProcess server({models_.path(), "--host=0.0.0.0", "--grpc-port=-1"});
  EXPECT_EQ(server.exit_code(), 1);
  EXPECT_THAT(server.output(), HasSubstr("neither TLS nor a token"));
}

TEST_F(Supervise, TheWorkerEndsWithItsSupervisor) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // so that its end can be waited for here
  ServeProcess server({models_.path()});
  ASSERT_NO_FATAL_FAILURE(server.wait_until_it_serves());
  const pid_t worker = server.worker();
  ASSERT_GT(worker, 0);
  server.signal(SIGKILL);
  EXPECT_EQ(server.exit_code(), -SIGKILL);
  EXPECT_TRUE(eventually([&] { return waitpid(worker, nullptr, WNOHANG) == worker; }));
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

/// A service manager's end of a notification socket.
class NotificationSocket {
 public:
  explicit NotificationSocket(const std::string& path) {
    socket_ = server::Descriptor(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(bind(socket_.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
  }
  /// Whether a message with that line comes.
  bool hears(const std::string& line) {
    return eventually([&] {
      char text[256] = {};
      const ssize_t bytes = recv(socket_.number(), text, sizeof text - 1, MSG_DONTWAIT);
      return bytes > 0 &&
             ("\n" + std::string(text) + "\n").find("\n" + line + "\n") != std::string::npos;
    });
  }

 private:
  server::Descriptor socket_;
};

TEST_F(Supervise, AServiceManagerIsToldHowItGoes) {
  for (const char* const how : {"--supervise", "--no-supervise"}) {
    const TestFolder folder;
    NotificationSocket manager(folder.path("notify"));
    ServeProcess server({models_.path(), how},
                        {{"NOTIFY_SOCKET", folder.path("notify")}, {"WATCHDOG_USEC", "1000000"}});
    EXPECT_TRUE(manager.hears("READY=1")) << how;
    EXPECT_TRUE(manager.hears("WATCHDOG=1")) << how;
    EXPECT_TRUE(manager.hears("WATCHDOG=1")) << how;
    server.signal(SIGTERM);
    EXPECT_TRUE(manager.hears("STOPPING=1")) << how;
    EXPECT_EQ(server.exit_code(), 0) << how;
  }
}

}  // namespace
}  // namespace millrace::testing
