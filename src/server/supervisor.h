// A small process that keeps the listening sockets and starts the one that serves, again if need
// be.
#pragma once

#include <string>
#include <vector>

#include <millrace/error.h>

#include "server/restart_policy.h"

namespace millrace::server {

struct SupervisorOptions {
  std::string host = "127.0.0.1";
  // 0: any that is free; -1: none.
  int http_port = 8000;
  int grpc_port = 8001;
  int metrics_port = 8002;
  /// Connections to the HTTP port begin with a handshake of TLS, for which the supervisor has no
  /// key: while there is no worker it closes them.
  bool tls = false;

  /// Of the worker, without the program's name. The option --worker (see WorkerStart) is put in
  /// behind the first that is "serve".
  std::vector<std::string> arguments;
  /// A worker with this exit code failed for good in a way that a new one mends.
  int restart_code = 3;

  /// SIGHUP is for the worker, while it serves; if not, it ends the process.
  bool passes_hangup_on = false;

  RestartPolicy restarts;
  /// A worker that serves and has not said for so long that its threads go round is ended. Zero: no
  /// limit.
  Duration hang_limit = std::chrono::seconds(60);
  /// The same for one that does not serve yet. Zero: no limit.
  Duration start_limit = std::chrono::hours(1);
  /// How long a worker may take to end after SIGTERM, by its own account; it gets a little more.
  Duration drain_limit = std::chrono::seconds(30);
};

/// Runs until SIGTERM or SIGINT, then returns an exit code: the worker's own, 1 if it was ended. A
/// second such signal ends the worker at once. It must be called while the process has one thread.
///
/// Errors: as `listen_on`; a worker that ends by itself before one ever served, as with a wrong
/// option, is not started again, unless it failed, crashed or hung: its exit code is returned. So
/// is that of the last of RestartPolicy::most_failed_starts.
[[nodiscard]] Result<int> supervise(SupervisorOptions options);

}  // namespace millrace::server
