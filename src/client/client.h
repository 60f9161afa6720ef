// A client of the Open Inference Protocol v2, over HTTP or gRPC.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/model.h>
#include <millrace/request.h>

#include "client/regions.h"
#include "repository/model_repository.h"
#include "server/service.h"

namespace millrace::client {

/// Files in PEM.
struct ClientTls {
  std::string authorities;  // that sign servers' certificates; empty: those of the system
  std::string certificate;  // of this client, with its chain; empty: none
  std::string key;
};

struct ClientOptions {
  /// HTTP: the most requests on the wire at once, each over a connection of its own, which are
  /// opened as they are needed. gRPC has one connection for all.
  std::size_t max_connections = 1024;
  /// For connecting and for everything but inference.
  Duration timeout = std::chrono::seconds(30);
  ClientTls tls;
  /// Sent as "Authorization: Bearer TOKEN".
  std::string token;
};

/// What an inference is for.
struct ModelName {
  std::string name;
  std::string version;  // empty: the server's choice
};

/// One server. Every function may be called from any thread. Errors that the server answers with
/// come as the code that stands for their status (400: invalid_argument, 404: not_found, 429:
/// queue_full, ...), its text behind them; what has no such code is `internal`. A server that
/// cannot be reached is `unavailable`.
class Client {
 public:
  /// Connects, so that a wrong address shows here. Errors: invalid_argument (the URL, the TLS
  /// files), unavailable.
  [[nodiscard]] static Result<std::unique_ptr<Client>> connect(std::string_view url,
                                                               ClientOptions options = {});
  /// Waits for the callbacks of what is in flight: those fail with `cancelled`.
  virtual ~Client() = default;
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  [[nodiscard]] virtual Result<bool> live() = 0;
  [[nodiscard]] virtual Result<bool> ready() = 0;
  [[nodiscard]] virtual Result<bool> model_ready(const ModelName& model) = 0;
  [[nodiscard]] virtual Result<server::ServerMetadata> metadata() = 0;
  /// The first dimension of a tensor, where open, counts as its batch axis.
  [[nodiscard]] virtual Result<server::ModelMetadata> model_metadata(const ModelName& model) = 0;
  /// Of all models where the name is empty.
  [[nodiscard]] virtual Result<std::vector<server::VersionStatistics>> statistics(
      const ModelName& model) = 0;
  [[nodiscard]] virtual Result<std::vector<RepositoryEntry>> repository_index(bool ready_only) = 0;
  virtual Result<void> load_model(const std::string& model, const LoadParameters& parameters) = 0;
  virtual Result<void> unload_model(const std::string& model, bool unload_dependents) = 0;

  /// Sends a request; `callback` is called once, on the client's thread, and should not block; it
  /// may call `infer`. An error returned here means that it will not be called.
  ///
  /// Inputs are contiguous. What lies in a registered region is named, not sent; so are outputs
  /// with a target there, and their views in the response are those targets. Other inputs must
  /// lie in host memory and stay as they are until the callback (a lease is kept that long), and
  /// other outputs come in memory of the response's. `deadline` is sent along and kept to here.
  virtual Result<void> infer(const ModelName& model, Request request, Callback callback) = 0;
  /// Sends and waits. Not from a callback.
  [[nodiscard]] Result<Response> infer(const ModelName& model, Request request);

  /// Lets the server map it. The memory must outlive the registration.
  Result<void> register_memory(const std::string& name, const SharedMemory& memory);
  /// Memory of a GPU, all of a cudaMalloc allocation, by the 64 bytes of its CUDA IPC handle and
  /// the number that the server knows the GPU by.
  Result<void> register_cuda_memory(const std::string& name, const TensorView& memory,
                                    std::span<const std::byte> handle, int gpu);
  /// An empty name: all of that kind.
  Result<void> unregister_memory(const std::string& name);
  Result<void> unregister_cuda_memory(const std::string& name);

 protected:
  Client() = default;
  [[nodiscard]] const RegionTable& regions() const noexcept { return regions_; }

 private:
  virtual Result<void> do_register_system(const std::string& name, const std::string& key,
                                          std::size_t bytes) = 0;
  virtual Result<void> do_register_cuda(const std::string& name, std::span<const std::byte> handle,
                                        int gpu, std::size_t bytes) = 0;
  virtual Result<void> do_unregister(const std::string& name, bool cuda) = 0;

  RegionTable regions_;
};

}  // namespace millrace::client
