// millrace bench --url: a server under load.
#pragma once

#include <string>
#include <vector>

#include "cli/bench.h"
#include "cli/server_target.h"

namespace millrace::cli {

struct ServerBench {
  ServerTargetOptions server;
  std::string scenario;
  LoadOptions load;
  InputArguments input;
  double seconds = 10;
  bool whole = false;  // no end before the time is over
};

/// Measures one load. Errors: those of the server and of the inputs.
[[nodiscard]] Result<BenchCell> bench_server(const ServerBench& bench);

}  // namespace millrace::cli
