// How fast the loopback copies: one thread sends blocks over a connection, without a pause, another
// receives each into the same memory. What a server that takes such blocks can reach at most.
//
//   server_loopback [--bytes 4194304] [--seconds 2] [--cores 0,1]
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>

namespace {

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

void pin(const std::vector<int>& cores, std::size_t number) {
  if (number >= cores.size()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(cores[number]), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) die("sched_setaffinity");
}

// False at the end of the connection.
bool receive_all(int socket, std::vector<char>& block) {
  for (std::size_t have = 0; have < block.size();) {
    const ssize_t got = recv(socket, block.data() + have, block.size() - have, 0);
    if (got < 0) die("recv");
    if (got == 0) return false;
    have += static_cast<std::size_t>(got);
  }
  return true;
}

void send_all(int socket, const std::vector<char>& block) {
  for (std::size_t done = 0; done < block.size();) {
    const ssize_t sent = send(socket, block.data() + done, block.size() - done, MSG_NOSIGNAL);
    if (sent < 0) die("send");
    done += static_cast<std::size_t>(sent);
  }
}

// Two ends of a connection over the loopback.
std::pair<int, int> connected() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, generic, length) != 0 || listen(listener, 1) != 0) die("listen");
  if (getsockname(listener, generic, &length) != 0) die("getsockname");
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(client, generic, length) != 0) die("connect");
  const int server = accept(listener, nullptr, nullptr);
  close(listener);
  const int on = 1;
  for (const int end : {client, server}) setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return {client, server};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("How fast the loopback copies");
  std::size_t bytes = std::size_t{4} << 20;
  double seconds = 2;
  std::vector<int> cores;
  app.add_option("--bytes", bytes, "Of a block");
  app.add_option("--seconds", seconds);
  app.add_option("--cores", cores, "Of the receiver and the sender")->delimiter(',');
  CLI11_PARSE(app, argc, argv);

  const auto [client, server] = connected();
  std::atomic<std::size_t> blocks{0};
  std::thread receiver([&, socket = server] {
    pin(cores, 0);
    std::vector<char> block(bytes);
    while (receive_all(socket, block)) blocks.fetch_add(1);
  });
  pin(cores, 1);
  const std::vector<char> block(bytes, 1);
  const auto start = std::chrono::steady_clock::now();
  double passed = 0;
  while (passed < seconds) {
    send_all(client, block);
    passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  const std::size_t received = blocks.load();
  shutdown(client, SHUT_RDWR);
  receiver.join();
  std::printf("{\"bytes\": %zu, \"blocks_per_s\": %.1f, \"gb_per_s\": %.3f}\n", bytes,
              static_cast<double>(received) / passed,
              static_cast<double>(received * bytes) / passed / 1e9);
  return 0;
}
