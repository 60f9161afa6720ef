#include "cli/variant.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>

#include "cli/bench_measure.h"
#include "cli/child_arguments.h"
#include "cli/print.h"

namespace millrace::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kInterpreter = "MILLRACE_PYTHON";
constexpr const char* kPackage = "millrace_variants";

// The folder that holds the package: of an installed program, or of the source tree that a build
// folder lies in.
Result<std::string> package_folder() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  std::string tried;
  for (const char* const place : {"../share/millrace/python", "../python", "../../../python"}) {
    const fs::path folder = (program / place).lexically_normal();
    if (fs::exists(folder / kPackage / "__main__.py", error)) return folder.string();
    tried += "\n    " + (folder / kPackage).string();
  }
  return Error{ErrorCode::unavailable,
               "the Python package millrace_variants was not found. Looked for:" + tried +
                   "\n  It is part of what \"make bundle\" makes"};
}

std::string interpreter() {
  const char* const named = std::getenv(kInterpreter);
  return named != nullptr && *named != '\0' ? named : "python3";
}

std::vector<std::string> command_of(const VariantOptions& options) {
  std::vector<std::string> words = {interpreter(), "-m",          kPackage,
                                    options.model, "--variant",   options.variant,
                                    "--output",    options.output};
  const auto add = [&words](const char* name, const std::string& value) {
    if (value.empty()) return;
    words.emplace_back(name);
    words.push_back(value);
  };
  add("--calibrate", options.calibrate);
  add("--calibration", options.calibration);
  add("--twin", options.twin);
  for (const std::string& name : options.keep) add("--keep", name);
  return words;
}

std::vector<std::string> environment_with(const std::string& folder) {
  std::vector<std::string> variables;
  std::string path = "PYTHONPATH=" + folder;
  for (char** at = environ; *at != nullptr; ++at) {
    const std::string_view variable = *at;
    if (variable.starts_with("PYTHONPATH=")) {
      path.append(":").append(variable.substr(std::strlen("PYTHONPATH=")));
    } else {
      variables.emplace_back(variable);
    }
  }
  variables.push_back(path);
  variables.emplace_back("PYTHONDONTWRITEBYTECODE=1");
  variables.emplace_back("ORT_DISABLE_TELEMETRY=1");
  return variables;
}

// A running program, whose output comes line by line. In a process group of its own, so that Ctrl-C
// reaches it through us.
class Child {
 public:
  ~Child() {
    if (pid_ > 0) end();
    for (const int end : ends_) {
      if (end >= 0) close(end);
    }
  }

  // 0, or the system's reason.
  int start(std::vector<std::string> command, std::vector<std::string> environment) {
    int out[2], err[2];
    if (pipe2(out, O_CLOEXEC) != 0) return errno;
    ends_[0] = out[0];
    if (pipe2(err, O_CLOEXEC) != 0) {
      close(out[1]);
      return errno;
    }
    ends_[1] = err[0];
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    const int reason = posix_spawnp(&pid_, command[0].c_str(), &actions, &attributes,
                                    pointers_to(command).data(), pointers_to(environment).data());
    if (reason != 0) pid_ = -1;
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    close(err[1]);
    return reason;
  }

  // Waits for more; gives lines of standard output to `take`. False when both outputs have ended.
  template <class Take>
  bool read_lines(const Take& take) {
    pollfd polled[2] = {{ends_[0], POLLIN, 0}, {ends_[1], POLLIN, 0}};
    if (poll(polled, 2, 100) < 0) return errno == EINTR;
    for (int i = 0; i < 2; ++i) {
      if (polled[i].revents != 0) read_some(i);
    }
    std::string& text = text_[0];
    for (std::size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n')) {
      take(text.substr(0, at));
      text.erase(0, at + 1);
    }
    return ends_[0] >= 0 || ends_[1] >= 0;
  }

  // Waits for the end; the last line of standard error, or how it ended.
  std::string finish() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    std::string text = text_[1];
    while (!text.empty() && text.back() == '\n') text.pop_back();
    text.erase(0, text.rfind('\n') + 1);
    if (!text.empty()) return printable(text);
    if (WIFSIGNALED(status)) return "ended by signal " + std::to_string(WTERMSIG(status));
    return "ended with " + std::to_string(WEXITSTATUS(status));
  }

 private:
  void read_some(int i) {
    constexpr std::size_t kMostKept = 1 << 16;
    char bytes[4096];
    const ssize_t count = read(ends_[i], bytes, sizeof bytes);
    if (count < 0 && errno == EINTR) return;
    if (count > 0) {
      text_[i].append(bytes, static_cast<std::size_t>(count));
      if (i == 1 && text_[i].size() > kMostKept) text_[i].erase(0, text_[i].size() - kMostKept);
      return;
    }
    close(ends_[i]);
    ends_[i] = -1;
  }
  void end() {
    kill(-pid_, SIGTERM);
    for (int i = 0; i < 50; ++i) {
      if (waitpid(pid_, nullptr, WNOHANG) == pid_) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    kill(-pid_, SIGKILL);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }

  pid_t pid_ = -1;
  int ends_[2] = {-1, -1};
  std::string text_[2];
};

ErrorCode code_of(std::string_view name) {
  for (const ErrorCode code :
       {ErrorCode::invalid_argument, ErrorCode::not_found, ErrorCode::unavailable,
        ErrorCode::unsupported, ErrorCode::out_of_memory}) {
    if (to_string(code) == name) return code;
  }
  return ErrorCode::internal;
}

// What the package said so far.
struct Said {
  Json done, error;
};

void hear(const std::string& line, Said& said,
          const std::function<void(const BuildProgress&)>& progress) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return;
  if (json.contains("done")) said.done = json["done"];
  if (json.contains("error")) said.error = json;
  if (!json.contains("phase")) return;
  const int step = json.value("step", 0), steps = json.value("steps", 1);
  progress({json.value("phase", std::string()), "", step, steps, step >= steps});
}

}  // namespace

Result<VariantReport> make_variant(const VariantOptions& options,
                                   const std::function<void(const BuildProgress&)>& progress) {
  Result<std::string> folder = package_folder();
  if (!folder.ok()) return std::move(folder).error();
  Child child;
  if (const int reason = child.start(command_of(options), environment_with(*folder)); reason != 0) {
    return Error{
        ErrorCode::unavailable,
        "variants are made by Python 3 with the packages onnx, onnxruntime and numpy, and " +
            in_quotes(interpreter()) +
            " cannot be started: " + std::generic_category().message(reason) +
            "; install it, or name one with " + kInterpreter};
  }
  Said said;
  while (child.read_lines([&](const std::string& line) { hear(line, said, progress); })) {
    if (interrupted()) return Error{ErrorCode::cancelled, "making the variant was cancelled"};
  }
  const std::string words = child.finish();
  if (said.error.is_object()) {
    const ErrorCode code = code_of(said.error.value("code", std::string()));
    std::string message = said.error.value("error", std::string());
    if (code == ErrorCode::unavailable && message.find("pip install") != std::string::npos) {
      message += std::string("; or name another interpreter with ") + kInterpreter;
    }
    return Error{code,
                 "variant " + options.variant + " of " + in_quotes(options.model) + ": " + message};
  }
  if (!said.done.is_object()) {
    return Error{ErrorCode::internal, "variant " + options.variant + " of " +
                                          in_quotes(options.model) + ": " + interpreter() +
                                          " says: " + words};
  }
  return VariantReport{said.done.value("bytes", std::size_t{0}), said.done.value("nodes", 0),
                       said.done.value("casts", 0), said.done.value("quantized", 0)};
}

ScratchFile::ScratchFile(const std::string& beside, const std::string& extension)
    : path_(beside + "." + std::to_string(getpid()) + ".tmp" + extension) {}

ScratchFile::~ScratchFile() {
  std::error_code error;
  if (!path_.empty()) fs::remove(path_, error);
}

Result<void> ScratchFile::take_place_of(const std::string& path) {
  std::error_code error;
  fs::rename(path_, path, error);
  if (error) {
    return Error{ErrorCode::unavailable,
                 "cannot write " + in_quotes(path) + ": " + error.message()};
  }
  path_.clear();
  return {};
}

}  // namespace millrace::cli
