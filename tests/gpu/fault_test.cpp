// A plug-in that writes to an address that is not there takes the CUDA context with it. What then
// becomes of everybody's requests is seen in a child process: this binary, run again.
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "tests/gpu/gpu_harness.h"

namespace millrace::gpu {
namespace {

constexpr const char* kChild = "MILLRACE_FAULT_CHILD";
constexpr std::int64_t kWidth = 64;
constexpr auto kGuard = std::chrono::seconds(60);

BuildOptions with_plugins() {
  BuildOptions options = build_options();
  options.plugins = {MILLRACE_MISBEHAVING_LIBRARY};
  return options;
}

/// What became of requests.
struct Outcome {
  int answered = 0, faults = 0, other = 0, hung = 0;
  std::string words;  // of the last error

  void count(Future& future) {
    if (!future.wait_until(Clock::now() + kGuard)) {
      ++hung;
      return;
    }
    const Result<Response> answer = future.get();
    if (answer.ok()) {
      ++answered;
      return;
    }
    const bool clean =
        answer.error().code == ErrorCode::gpu_fault && answer.error().scope == Scope::process;
    ++(clean ? faults : other);
    words = std::string(to_string(answer.error().code)) + ": " + answer.error().message;
  }
  [[nodiscard]] std::string text() const {
    return std::to_string(answered) + " answered, " + std::to_string(faults) + " faults, " +
           std::to_string(other) + " other errors, " + std::to_string(hung) +
           " hung; the last error: " + words;
  }
};

TEST(FaultChild, RunsIntoAFault) {
  if (!std::getenv(kChild)) GTEST_SKIP() << "NOT CHECKED: a part of Fault, which runs it";
  Log log;
  {
    Engine engine = engine_on_gpu();
    ModelConfig good_config = config_of("good", plan_of("misbehave_0", with_plugins(), "-child"));
    good_config.plugins = {MILLRACE_MISBEHAVING_LIBRARY};
    const Model good = must(engine.load(good_config));
    const std::vector<float> values = random_values(2 * kWidth, 1);
    const auto submit = [&](const Model& model) {
      return model.submit(request_of("input", TensorView::of(values.data(), {2, kWidth})));
    };
    Outcome before, others, own, after;
    for (int i = 0; i < 20; ++i) {
      Future future = submit(good);
      before.count(future);
    }
    EXPECT_EQ(before.answered, 20) << before.text();

    // Loading runs a model, so this one faults while it is loaded or at its first batch.
    std::vector<Future> good_futures, bad_futures;
    for (int i = 0; i < 50; ++i) good_futures.push_back(submit(good));
    ModelConfig bad_config =
        config_of("bad", plan_of("misbehave_5", with_plugins(), "-child"), {{"graphs", "off"}});
    bad_config.plugins = {MILLRACE_MISBEHAVING_LIBRARY};
    const Result<Model> bad = engine.load(bad_config);
    if (bad) {
      for (int i = 0; i < 10; ++i) bad_futures.push_back(submit(*bad));
    } else {
      EXPECT_EQ(bad.error().code, ErrorCode::gpu_fault) << bad.error().message;
      EXPECT_EQ(bad.error().scope, Scope::process) << bad.error().message;
    }
    for (int i = 0; i < 50; ++i) good_futures.push_back(submit(good));
    for (Future& future : good_futures) others.count(future);
    for (Future& future : bad_futures) own.count(future);
    EXPECT_EQ(others.answered + others.faults, 100) << others.text();
    EXPECT_EQ(own.faults, static_cast<int>(bad_futures.size())) << own.text();

    std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the driver looks every 10 ms
    for (int i = 0; i < 10; ++i) {
      Future future = submit(good);
      after.count(future);
    }
    EXPECT_EQ(after.faults, 10) << after.text();
    ASSERT_EQ(engine.faults().size(), 1u) << "the engine asks for a restart";
    EXPECT_EQ(engine.faults()[0].error.scope, Scope::process);
    std::printf("others: %s\nown: %s\nafter: %s\n", others.text().c_str(), own.text().c_str(),
                after.text().c_str());
  }
  EXPECT_NE(log.text().find("the process should be restarted"), std::string::npos) << log.text();
  std::printf("the engine is gone\n");
}

TEST(Fault, OfAPluginFailsCleanlyAndAsksForARestart) {
  MILLRACE_NEEDS_TENSORRT();
  const std::string command = std::string(kChild) + "=1 timeout -k 5 150 '" +
                              std::filesystem::read_symlink("/proc/self/exe").string() +
                              "' --gtest_filter=FaultChild.RunsIntoAFault 2>&1";
  std::FILE* child = popen(command.c_str(), "r");
  ASSERT_NE(child, nullptr);
  std::string output;
  char buffer[4096];
  while (const std::size_t read = std::fread(buffer, 1, sizeof buffer, child)) {
    output.append(buffer, read);
  }
  const int status = pclose(child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status) << "\n" << output;
  EXPECT_EQ(WEXITSTATUS(status), 0) << "124: it hung\n" << output;
  EXPECT_NE(output.find("the engine is gone"), std::string::npos) << output;
  EXPECT_NE(output.find("[  PASSED  ] 1 test"), std::string::npos) << output;
}

}  // namespace
}  // namespace millrace::gpu
