// `millrace serve` as a process of its own, and plain HTTP to talk to it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "repository/test_folder.h"

namespace millrace::testing {

inline constexpr std::chrono::seconds kPatience(60);  // where something is broken

/// Whether `condition` came true before it was waited for too long.
bool eventually(const std::function<bool()>& condition);

struct HttpAnswer {
  int status = 0;  // 0: the connection was refused, or closed without an answer
  std::string head;
  std::string body;
};

/// One connection. Nothing throws; what fails shows in the answer.
class HttpConnection {
 public:
  explicit HttpConnection(int port);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  [[nodiscard]] bool open() const noexcept { return socket_ >= 0; }
  void send(const std::string& method, const std::string& target, const std::string& body);
  HttpAnswer answer();
  /// Whether something has come that was not read.
  [[nodiscard]] bool anything_there() const;

 private:
  int socket_ = -1;
  std::string read_;
};

HttpAnswer get(int port, const std::string& target);
HttpAnswer post(int port, const std::string& target, const std::string& body);
/// Four numbers for a model with the input "input", FP32, shape 4, as JSON; the same in an answer.
std::string four_numbers(float first);
bool answers_four_numbers(const HttpAnswer& answer, float first);

/// A running server. Its ports are free ones; what it prints goes to a file.
class ServeProcess {
 public:
  explicit ServeProcess(std::vector<std::string> arguments,
                        std::map<std::string, std::string> environment = {});
  /// Kills it.
  ~ServeProcess();
  ServeProcess(const ServeProcess&) = delete;
  ServeProcess& operator=(const ServeProcess&) = delete;

  /// Waits until it has said where it serves for the n-th time. Fails the test if it ends.
  void wait_until_it_serves(int times = 1);
  [[nodiscard]] int http_port() const { return port_behind(" http://127.0.0.1:"); }
  [[nodiscard]] int https_port() const { return port_behind(" https://127.0.0.1:"); }
  [[nodiscard]] int grpc_port() const { return port_behind(" grpc://127.0.0.1:"); }
  [[nodiscard]] int grpcs_port() const { return port_behind(" grpcs://127.0.0.1:"); }
  [[nodiscard]] int metrics_port() const { return port_behind(" metrics http://127.0.0.1:"); }
  [[nodiscard]] std::string output() const;
  /// A counter or gauge without labels, from the metrics port; -1: it is not there.
  [[nodiscard]] double metric(const std::string& name) const;
  [[nodiscard]] bool ready() const { return get(http_port(), "/v2/health/ready").status == 200; }

  [[nodiscard]] pid_t process() const noexcept { return process_; }
  /// The process that serves; 0: there is none just now.
  [[nodiscard]] pid_t worker() const;
  void signal(int number) const;
  /// Waits for its end: its exit code, or minus the signal that ended it.
  int exit_code();

 private:
  [[nodiscard]] int port_behind(const std::string& what) const;

  TestFolder folder_;
  pid_t process_ = 0;
};

}  // namespace millrace::testing
