// A server's model as what a load is put on.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/load_target.h"
#include "client/client.h"

namespace millrace::cli {

/// What tensors lie in.
enum class SharedKind : std::uint8_t { none, system, cuda };

struct ServerTargetOptions {
  std::string url;
  client::ClientOptions client;
  client::ModelName model;
  SharedKind shared = SharedKind::none;
  int gpu = 0;  // of SharedKind::cuda; the server knows it by the same number
  /// Of the server's process on this machine, whose CPU time and memory are then known; 0: not.
  int pid = 0;
  /// By input, of an item: for the dimensions that the model leaves open.
  std::vector<std::pair<std::string, Shape>> shapes;
};

/// Connects, asks what the model is, and whether there is the statistics extension. Errors: as
/// Client::connect and its functions; not_found (no process of that number); invalid_argument.
[[nodiscard]] Result<std::unique_ptr<LoadTarget>> server_target(ServerTargetOptions options);

}  // namespace millrace::cli
