// The service behind both protocols: what a client may ask, without the wire.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/engine.h>

#include "repository/model_repository.h"
#include "server/call.h"
#include "server/memory_regions.h"
#include "server/settings.h"
#include "server/submit_call.h"
#include "server/tracing.h"
#include "server/waiting_call.h"

namespace millrace::server {

struct ServiceOptions {
  /// What clients may do besides inference. All off unless asked for.
  bool repository_control = false;  // load and unload
  bool client_shared_memory = false;
  bool change_settings = false;  // of traces and logs
};

struct ServerMetadata {
  std::string name;
  std::string version;
  std::vector<std::string> extensions;
};

/// A tensor of a model as its metadata gives it: its shape with the batch axis, -1 where not fixed.
struct ModelMetadata {
  std::string name;
  std::vector<std::string> versions;  // that are ready or come back on demand, ascending
  std::string platform;
  std::vector<TensorInfo> inputs;
  std::vector<TensorInfo> outputs;
};

/// Of the statistics extension: how often, and how many nanoseconds in all.
struct StatisticDuration {
  std::uint64_t count = 0;
  std::uint64_t ns = 0;
};
struct BatchStatistics {
  std::uint64_t batch_size = 0;
  StatisticDuration compute_input, compute_infer, compute_output;
};
struct VersionStatistics {
  std::string name;
  std::string version;
  std::uint64_t last_inference_ms = 0;  // since the epoch
  std::uint64_t inference_count = 0;    // items
  std::uint64_t execution_count = 0;    // batches
  StatisticDuration success, fail, queue, compute_input, compute_infer, compute_output;
  std::vector<BatchStatistics> batches;
};

/// Every function may be called from any thread. Errors are such as the client may be told.
class Service {
 public:
  Service(Engine& engine, ModelRepository& repository, ServiceOptions options);
  ~Service();

  // Health.
  /// Whether the server runs at all: true until a fault that only a new process mends.
  [[nodiscard]] bool live() const noexcept;
  /// Whether it takes requests: not while it drains, nor before its models are loaded.
  [[nodiscard]] bool ready() const noexcept;
  /// Readiness goes false; requests are still answered.
  void start_draining() noexcept;
  /// An empty version: any. Errors: not_found for a model or version that is not known.
  [[nodiscard]] Result<bool> model_ready(std::string_view model, std::string_view version) const;

  // Descriptions. Errors: not_found; unavailable for a model that is known and not ready. A model
  // that was evicted is described as it was, and not loaded again for that.
  [[nodiscard]] ServerMetadata metadata() const;
  [[nodiscard]] Result<ModelMetadata> model_metadata(std::string_view model,
                                                     std::string_view version) const;
  /// The configuration in force, completed.
  [[nodiscard]] Result<std::shared_ptr<const inference::ModelConfig>> model_config(
      std::string_view model, std::string_view version) const;
  /// Of one version, of all of a model (empty version), or of all models (empty name).
  [[nodiscard]] Result<std::vector<VersionStatistics>> statistics(std::string_view model,
                                                                  std::string_view version) const;

  // Inference.
  /// Validates, finds the model, binds regions and submits. An error returned here means that the
  /// callback will not be called. The ticket takes the call back while it has not started. Never
  /// waits: a model that was evicted is loaded again elsewhere, and all of this is done there once
  /// it is back, unless the call's deadline comes first.
  Result<CallTicket> infer(Call call, AnswerCallback callback);
  /// Host memory for `bytes` of an input of that model: such that its devices read it without a
  /// further copy (pinned where one is a GPU). Errors: not_found, unavailable, out_of_memory.
  [[nodiscard]] Result<Tensor> receive_buffer(std::string_view model, std::size_t bytes);

  // Repository. Errors: unsupported where it is not allowed; as ModelRepository.
  [[nodiscard]] Result<std::vector<RepositoryEntry>> repository_index(bool ready_only) const;
  Result<void> load_model(std::string_view model, const LoadParameters& parameters);
  Result<void> unload_model(std::string_view model, bool unload_dependents);

  // Shared memory. Errors: unsupported where it is not allowed; as MemoryRegions.
  [[nodiscard]] Result<MemoryRegions*> system_memory();
  [[nodiscard]] Result<MemoryRegions*> cuda_memory();

  // Settings. An empty model: those of the server. Errors: invalid_argument, not_found,
  // unsupported.
  [[nodiscard]] Result<Settings> trace_settings(std::string_view model) const;
  Result<Settings> change_trace_settings(std::string_view model, const Settings& changes);
  [[nodiscard]] Result<Settings> log_settings() const;
  Result<Settings> change_log_settings(const Settings& changes);

  // Traces.
  /// Before the server takes requests: where those that are traced are written down, and the
  /// settings to begin with. Without it none is traced. Errors: as change_trace_settings.
  Result<void> trace_to(std::shared_ptr<TraceQueue> queue, const Settings& settings);
  /// To be called where a request for an inference comes in. Null, mostly: it is not traced. Else
  /// it goes into Call::trace, and the front end says when its answer is sent.
  [[nodiscard]] RequestTracePtr begin_trace(std::string_view model, std::string_view traceparent,
                                            std::string_view protocol, TimePoint received);

  [[nodiscard]] Engine& engine() noexcept;
  [[nodiscard]] ModelRepository& repository() noexcept;

 private:
  struct State;
  static Result<CallTicket> infer_later(const std::shared_ptr<State>& state, Call call,
                                        AnswerCallback callback);
  std::shared_ptr<State> state_;  // also of the calls that wait
};

}  // namespace millrace::server
