// What a unary call costs a server over gRPC: CPU time of the server's process for each answer, the
// server on one core, the client on another.
//
//   bench_server_grpc [--seconds S] [--rounds N] [--kinds A,B]   measures all kinds, a table
//   A kind that begins with "/" is a program that prints its port, answers, and ends when its input
//   does. bench_server_grpc --serve KIND                              a server; prints its port
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grpc_load.h"
#include "grpc_servers.h"

namespace {

using namespace millrace::bench;

constexpr int kServerCore = 0;
constexpr int kClientCore = 1;
constexpr std::array kInFlight = {1, 16, 64};

void pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

int serve(std::string_view name) {
  for (const GrpcServerKind& kind : grpc_server_kinds()) {
    if (kind.name != name) continue;
    const auto server = kind.start();
    std::printf("%d\n", server->port());
    std::fflush(stdout);
    while (std::getchar() != EOF) {
    }
    return 0;
  }
  std::fprintf(stderr, "no kind \"%.*s\"\n", static_cast<int>(name.size()), name.data());
  return 2;
}

/// A server in a process of its own, until it is destroyed.
class Child {
 public:
  explicit Child(const std::string& kind) {
    std::array<int, 2> in{}, out{};
    if (pipe(in.data()) != 0 || pipe(out.data()) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      pin(kServerCore);
      dup2(in[0], 0);
      dup2(out[1], 1);
      for (const int fd : {in[0], in[1], out[0], out[1]}) close(fd);
      if (kind.starts_with("/")) execl(kind.c_str(), kind.c_str(), nullptr);
      execl("/proc/self/exe", "bench_server_grpc", "--serve", kind.c_str(), nullptr);
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    stop_ = in[1];
    FILE* answers = fdopen(out[0], "r");
    if (!answers || std::fscanf(answers, "%d", &port_) != 1) std::abort();
    std::fclose(answers);
  }
  ~Child() {
    close(stop_);
    waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  int port() const { return port_; }
  /// CPU time of all its threads, user and system.
  double cpu_seconds() const {
    std::ifstream file("/proc/" + std::to_string(pid_) + "/stat");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    unsigned long user = 0, system = 0;
    std::sscanf(text.c_str() + text.rfind(')') + 1,
                " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }

 private:
  pid_t pid_ = 0;
  int port_ = 0;
  int stop_ = -1;
};

struct Cell {
  std::vector<double> cpu_us, per_second;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

void measure(const Child& server, int in_flight, double seconds, Cell& cell) {
  GrpcLoad load{.address = "127.0.0.1:" + std::to_string(server.port()),
                .message = grpc_request("identity"),
                .in_flight = in_flight,
                .duration = std::chrono::milliseconds(200)};
  (void)run_grpc_load(load);
  load.duration = std::chrono::nanoseconds(static_cast<long>(seconds * 1e9));
  const double before = server.cpu_seconds();
  const GrpcLoadResult result = run_grpc_load(load);
  const double spent = server.cpu_seconds() - before;
  if (result.errors > 0) {
    std::fprintf(stderr, "%lu errors: %s\n", result.errors, result.first_error.c_str());
    std::exit(1);
  }
  cell.cpu_us.push_back(spent * 1e6 / static_cast<double>(result.answers));
  cell.per_second.push_back(static_cast<double>(result.answers) * 1e9 /
                            static_cast<double>(result.elapsed.count()));
}

int compare(double seconds, int rounds, const std::vector<std::string>& kinds) {
  std::map<std::string, std::array<Cell, kInFlight.size()>> cells;
  pin(kClientCore);
  for (int round = 0; round < rounds; ++round) {
    for (const std::string& kind : kinds) {
      const Child server(kind);
      for (std::size_t i = 0; i < kInFlight.size(); ++i) {
        measure(server, kInFlight[i], seconds, cells[kind][i]);
      }
    }
  }
  std::printf(
      "| server | us of CPU per request at 1, 16, 64 in flight | requests/s |\n|---|---|---|\n");
  for (const std::string& kind : kinds) {
    const auto& row = cells[kind];
    std::printf("| %s | %.1f, %.1f, %.1f | %.0f, %.0f, %.0f |\n", kind.c_str(),
                median(row[0].cpu_us), median(row[1].cpu_us), median(row[2].cpu_us),
                median(row[0].per_second), median(row[1].per_second), median(row[2].per_second));
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  double seconds = 2;
  int rounds = 3;
  std::vector<std::string> kinds;
  for (const GrpcServerKind& kind : grpc_server_kinds()) kinds.emplace_back(kind.name);
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string_view option = arguments[i];
    const char* value = arguments[i + 1];
    if (option == "--serve") return serve(value);
    if (option == "--seconds") seconds = std::atof(value);
    if (option == "--rounds") rounds = std::atoi(value);
    if (option == "--kinds") {
      kinds.clear();
      for (std::string_view rest = value; !rest.empty();) {
        const std::size_t comma = std::min(rest.find(','), rest.size());
        kinds.emplace_back(rest.substr(0, comma));
        rest.remove_prefix(std::min(comma + 1, rest.size()));
      }
    }
  }
  return compare(seconds, rounds, kinds);
}
