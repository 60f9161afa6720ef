#include "tests/server/serve_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include <nlohmann/json.hpp>

namespace millrace::testing {
namespace {

std::string content_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

}  // namespace

bool eventually(const std::function<bool()>& condition) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

// -------------------------------------------------------------------------------------------------
// HTTP

HttpConnection::HttpConnection(int port) {
  socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval limit{kPatience.count(), 0};
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return;
  close(socket_);
  socket_ = -1;
}
HttpConnection::~HttpConnection() {
  if (open()) close(socket_);
}

void HttpConnection::send(const std::string& method, const std::string& target,
                          const std::string& body) {
  const std::string text = method + " " + target + " HTTP/1.1\r\nHost: localhost\r\n" +
                           "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  (void)::send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
}

bool HttpConnection::anything_there() const {
  pollfd ready{socket_, POLLIN, 0};
  return !read_.empty() || poll(&ready, 1, 0) > 0;
}

HttpAnswer HttpConnection::answer() {
  HttpAnswer out;
  std::size_t body = std::string::npos;
  std::size_t end = 0;
  while (body == std::string::npos || read_.size() < end) {
    std::array<char, 4096> buffer;
    const ssize_t bytes = open() ? recv(socket_, buffer.data(), buffer.size(), 0) : 0;
    if (bytes <= 0) return out;
    read_.append(buffer.data(), static_cast<std::size_t>(bytes));
    if (body != std::string::npos || read_.find("\r\n\r\n") == std::string::npos) continue;
    body = read_.find("\r\n\r\n") + 4;
    const std::size_t length = read_.find("Content-Length: ");
    end = body + (length < body ? std::strtoul(&read_[length + 16], nullptr, 10) : 0);
  }
  out.status = std::atoi(&read_[read_.find(' ') + 1]);
  out.head = read_.substr(0, body);
  out.body = read_.substr(body, end - body);
  read_.erase(0, end);
  return out;
}

HttpAnswer get(int port, const std::string& target) {
  HttpConnection connection(port);
  connection.send("GET", target, "");
  return connection.answer();
}
HttpAnswer post(int port, const std::string& target, const std::string& body) {
  HttpConnection connection(port);
  connection.send("POST", target, body);
  return connection.answer();
}

std::string four_numbers(float first) {
  const nlohmann::json input = {{"name", "input"},
                                {"datatype", "FP32"},
                                {"shape", {1, 4}},
                                {"data", {first, first + 1, first + 2, first + 3}}};
  return nlohmann::json{{"inputs", {input}}}.dump();
}

bool answers_four_numbers(const HttpAnswer& answer, float first) {
  const nlohmann::json value = nlohmann::json::parse(answer.body, nullptr, false);
  const nlohmann::json expected = {first, first + 1, first + 2, first + 3};
  return answer.status == 200 && value.is_object() && value.contains("outputs") &&
         value["outputs"][0]["data"].get<std::vector<float>>() ==
             expected.get<std::vector<float>>();
}

// -------------------------------------------------------------------------------------------------
// the process

ServeProcess::ServeProcess(std::vector<std::string> arguments,
                           std::map<std::string, std::string> environment) {
  for (const char* const port : {"--http-port=0", "--grpc-port=0", "--metrics-port=0"}) {
    const std::string option(port, std::string_view(port).find('='));
    const bool given = std::any_of(arguments.begin(), arguments.end(),
                                   [&](const auto& text) { return text.starts_with(option); });
    if (!given) arguments.emplace_back(port);
  }
  arguments.insert(arguments.begin(), {MILLRACE_BINARY, "serve"});
  arguments.emplace_back("--devices=host");
  const std::string log = folder_.path("log");
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  process_ = fork();
  if (process_ != 0) return;
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(out, STDOUT_FILENO);
  dup2(out, STDERR_FILENO);
  execv(MILLRACE_BINARY, pointers.data());
  _exit(127);
}

ServeProcess::~ServeProcess() {
  if (::testing::Test::HasFailure()) std::fputs(output().c_str(), stderr);
  if (process_ == 0) return;
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
}

std::string ServeProcess::output() const { return content_of(folder_.path("log")); }

void ServeProcess::wait_until_it_serves(int times) {
  const auto serves = [&] {
    const std::string text = output();
    std::size_t at = 0;
    for (int i = 0; i < times && at != std::string::npos; ++i) {
      at = text.find("millrace serves", at);
      if (at != std::string::npos) at = text.find('\n', at);
    }
    return at != std::string::npos;
  };
  const auto ended = [&] {
    siginfo_t info{};
    return waitid(P_PID, static_cast<id_t>(process_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == process_;
  };
  ASSERT_TRUE(eventually([&] { return serves() || ended(); }) && serves()) << output();
}

int ServeProcess::port_behind(const std::string& what) const {
  const std::string text = output();
  const std::size_t at = text.find(what);
  return at == std::string::npos ? 0 : std::atoi(&text[at + what.size()]);
}

double ServeProcess::metric(const std::string& name) const {
  const std::string text = "\n" + get(metrics_port(), "/metrics").body;
  const std::size_t at = text.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::strtod(&text[at + name.size() + 2], nullptr);
}

pid_t ServeProcess::worker() const {
  const std::string id = std::to_string(process_);
  return std::atoi(content_of("/proc/" + id + "/task/" + id + "/children").c_str());
}

void ServeProcess::signal(int number) const { kill(process_, number); }

int ServeProcess::exit_code() {
  int status = 0;
  const bool ended = eventually([&] { return waitpid(process_, &status, WNOHANG) == process_; });
  EXPECT_TRUE(ended);
  if (!ended) return -1000;
  process_ = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace millrace::testing
