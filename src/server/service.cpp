#include "server/service.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include <millrace/version.h>

#include "base/text.h"
#include "base/try.h"
#include "server/settings.h"

namespace millrace::server {
namespace {

StatisticDuration duration_of(const Histogram& phase) {
  return {phase.count(),
          static_cast<std::uint64_t>(phase.mean() * static_cast<double>(phase.count()))};
}

/// How often each size of a batch ran. Times are not kept by size: each phase's is shared out as if
/// it grew with the items.
std::vector<BatchStatistics> batches_of(const ModelStatistics& model) {
  std::vector<BatchStatistics> out;
  const Histogram& sizes = model.batch_items;
  const double items = sizes.mean() * static_cast<double>(sizes.count());
  for (std::size_t bucket = 0; bucket < sizes.counts().size(); ++bucket) {
    const std::uint64_t count = sizes.counts()[bucket];
    if (count == 0) continue;
    const std::uint64_t size = Histogram::value_of(bucket);
    const auto share = [&](Phase phase) {
      const double all = model.phase(phase).mean() * static_cast<double>(sizes.count());
      const auto own = static_cast<double>(size) * static_cast<double>(count);
      return StatisticDuration{count, static_cast<std::uint64_t>(all * own / std::max(items, 1.0))};
    };
    out.push_back({size, share(Phase::copy_in), share(Phase::compute), share(Phase::copy_out)});
  }
  return out;
}

VersionStatistics statistics_of(const ServedModel& served) {
  const ModelStatistics model = served.model.statistics();
  VersionStatistics out;
  out.name = served.name;
  out.version = served.version;
  out.last_inference_ms =
      static_cast<std::uint64_t>(served.traffic->last_inference_ms.load(std::memory_order_relaxed));
  out.inference_count = model.items;
  out.execution_count = model.batches;
  out.success = {model.succeeded, duration_of(model.phase(Phase::total)).ns};
  out.fail = {served.traffic->failures.load(std::memory_order_relaxed),
              served.traffic->failure_ns.load(std::memory_order_relaxed)};
  out.queue = duration_of(model.phase(Phase::queue));
  // Of the batches that were timed, weighted as if all had been.
  const auto scaled = [&model](Phase phase) {
    const Histogram& times = model.phase(phase);
    return StatisticDuration{
        model.succeeded,
        static_cast<std::uint64_t>(times.mean() * static_cast<double>(model.succeeded))};
  };
  out.compute_input = scaled(Phase::copy_in);
  out.compute_infer = scaled(Phase::compute);
  out.compute_output = scaled(Phase::copy_out);
  out.batches = batches_of(model);
  return out;
}

/// Of a version that was evicted: its counts went with it.
VersionStatistics none_of(std::string_view model, std::string_view version) {
  VersionStatistics out;
  out.name = model;
  out.version = version;
  return out;
}

}  // namespace

struct Service::State {
  State(Engine& used, ModelRepository& models, ServiceOptions chosen)
      : engine(used), repository(models), options(chosen), system(used), cuda(used) {}

  Engine& engine;
  ModelRepository& repository;
  const ServiceOptions options;
  MemoryRegions system;
  MemoryRegions cuda;
  TraceSettings traces;
  LogSettings logs;
  std::shared_ptr<TraceQueue> trace_queue;
  std::atomic<bool> draining{false};

  [[nodiscard]] static Error not_allowed(std::string_view what, std::string_view option) {
    return {ErrorCode::unsupported,
            concat(what, " is off; start the server with ", option, " to allow it")};
  }
};

Service::Service(Engine& engine, ModelRepository& repository, ServiceOptions options)
    : state_(std::make_shared<State>(engine, repository, options)) {}
Service::~Service() = default;

Engine& Service::engine() noexcept { return state_->engine; }
ModelRepository& Service::repository() noexcept { return state_->repository; }

// -------------------------------------------------------------------------------------------------
// health

bool Service::live() const noexcept { return state_->engine.faults().empty(); }

bool Service::ready() const noexcept {
  return !state_->draining.load(std::memory_order_acquire) && live() && state_->repository.ready();
}

void Service::start_draining() noexcept { state_->draining.store(true, std::memory_order_release); }

Result<bool> Service::model_ready(std::string_view model, std::string_view version) const {
  // One that was evicted comes back when it is asked for: a look must not bring it back.
  const auto served = state_->repository.find_now(model, version);
  if (served) {
    if (!*served) MILLRACE_TRY(state_->repository.describe(model, version));
    return true;
  }
  if (served.error().code == ErrorCode::not_found) return served.error();
  return false;
}

// -------------------------------------------------------------------------------------------------
// descriptions

ServerMetadata Service::metadata() const {
  ServerMetadata out;
  out.name = "millrace";
  out.version = version();
  out.extensions = {"binary_tensor_data",
                    "classification",
                    "model_configuration",
                    "model_repository",
                    "parameters",
                    "schedule_policy",
                    "statistics",
                    "trace",
                    "logging",
                    "system_shared_memory",
                    "cuda_shared_memory"};
  const auto drop = [&out](std::string_view name) { std::erase(out.extensions, name); };
  if (!state_->options.client_shared_memory) {
    drop("system_shared_memory");
    drop("cuda_shared_memory");
  }
  return out;
}

Result<ModelMetadata> Service::model_metadata(std::string_view model,
                                              std::string_view version) const {
  MILLRACE_ASSIGN(ModelDescription found, state_->repository.describe(model, version));
  ModelMetadata out;
  out.name = std::move(found.name);
  out.versions = version.empty() ? std::move(found.versions) : std::vector{found.version};
  out.platform =
      found.config->platform().empty() ? found.config->backend() : found.config->platform();
  out.inputs = std::move(found.inputs);
  out.outputs = std::move(found.outputs);
  return out;
}

Result<std::shared_ptr<const inference::ModelConfig>> Service::model_config(
    std::string_view model, std::string_view version) const {
  MILLRACE_ASSIGN(ModelDescription found, state_->repository.describe(model, version));
  return std::move(found.config);
}

Result<std::vector<VersionStatistics>> Service::statistics(std::string_view model,
                                                           std::string_view version) const {
  std::vector<VersionStatistics> out;
  if (!version.empty()) {
    MILLRACE_ASSIGN(const std::shared_ptr<const ServedModel> served,
                    state_->repository.find_now(model, version));
    if (!served) MILLRACE_TRY(state_->repository.describe(model, version));
    out.push_back(served ? statistics_of(*served) : none_of(model, version));
    return out;
  }
  for (const auto& served : state_->repository.served(model)) {
    out.push_back(statistics_of(*served));
  }
  if (model.empty() || !out.empty()) return out;
  MILLRACE_ASSIGN(const ModelDescription evicted, state_->repository.describe(model, {}));
  for (const std::string& known : evicted.versions) out.push_back(none_of(model, known));
  return out;
}

// -------------------------------------------------------------------------------------------------
// repository, shared memory, settings

Result<std::vector<RepositoryEntry>> Service::repository_index(bool ready_only) const {
  std::vector<RepositoryEntry> entries = state_->repository.index();
  if (ready_only) {
    std::erase_if(entries, [](const RepositoryEntry& entry) { return entry.state != "READY"; });
  }
  return entries;
}

Result<void> Service::load_model(std::string_view model, const LoadParameters& parameters) {
  if (!state_->options.repository_control) {
    return State::not_allowed("loading models", "--allow-repository-control");
  }
  return state_->repository.load(model, parameters);
}

Result<void> Service::unload_model(std::string_view model, bool unload_dependents) {
  if (!state_->options.repository_control) {
    return State::not_allowed("unloading models", "--allow-repository-control");
  }
  return state_->repository.unload(model, unload_dependents);
}

Result<MemoryRegions*> Service::system_memory() {
  if (!state_->options.client_shared_memory) {
    return State::not_allowed("shared memory of clients", "--allow-client-shm");
  }
  return &state_->system;
}

Result<MemoryRegions*> Service::cuda_memory() {
  if (!state_->options.client_shared_memory) {
    return State::not_allowed("CUDA shared memory of clients", "--allow-client-shm");
  }
  return &state_->cuda;
}

Result<Settings> Service::trace_settings(std::string_view model) const {
  if (!model.empty()) MILLRACE_TRY(state_->repository.find_now(model, {}));
  return state_->traces.of(model);
}

Result<Settings> Service::change_trace_settings(std::string_view model, const Settings& changes) {
  if (!state_->options.change_settings) {
    return State::not_allowed("changing trace settings", "--allow-settings");
  }
  if (!model.empty()) MILLRACE_TRY(state_->repository.find_now(model, {}));
  return state_->traces.change(model, changes);
}

Result<Settings> Service::log_settings() const { return state_->logs.all(); }

Result<Settings> Service::change_log_settings(const Settings& changes) {
  if (!state_->options.change_settings) {
    return State::not_allowed("changing log settings", "--allow-settings");
  }
  return state_->logs.change(changes);
}

// -------------------------------------------------------------------------------------------------
// traces

Result<void> Service::trace_to(std::shared_ptr<TraceQueue> queue, const Settings& settings) {
  MILLRACE_TRY(state_->traces.change({}, settings));
  state_->trace_queue = std::move(queue);
  return {};
}

RequestTracePtr Service::begin_trace(std::string_view model, std::string_view traceparent,
                                     std::string_view protocol, TimePoint received) {
  return server::begin_trace(state_->trace_queue, state_->traces, model, traceparent, protocol,
                             received);
}

// -------------------------------------------------------------------------------------------------
// inference

Result<CallTicket> Service::infer(Call call, AnswerCallback callback) {
  const RequestTracePtr trace = call.trace;
  Result<std::shared_ptr<const ServedModel>> served =
      state_->repository.find_now(call.model, call.version);
  if (served && !*served) return infer_later(state_, std::move(call), std::move(callback));
  Result<Ticket> ticket = served ? submit_call({state_->system, state_->cuda}, *std::move(served),
                                               std::move(call), std::move(callback))
                                 : std::move(served).error();
  if (trace && !ticket) trace->failed(ticket.error());
  if (!ticket) return std::move(ticket).error();
  return CallTicket(*std::move(ticket));
}

Result<CallTicket> Service::infer_later(const std::shared_ptr<State>& state, Call call,
                                        AnswerCallback callback) {
  MILLRACE_TRY(keep_inputs(call));
  const auto waiting = std::make_shared<WaitingCall>(state->repository);
  const auto kept = std::make_shared<Call>(std::move(call));
  const auto go_on = [state, waiting, kept, answer = std::move(callback)](
                         Result<std::shared_ptr<const ServedModel>> served) {
    const RequestTracePtr trace = kept->trace;
    if (!waiting->begin() && served) {
      served = Error{ErrorCode::cancelled, "the request was cancelled before it started"};
    }
    Result<Ticket> ticket = served ? submit_call({state->system, state->cuda}, *std::move(served),
                                                 std::move(*kept), answer)
                                   : std::move(served).error();
    if (ticket) return waiting->submitted(*std::move(ticket));
    if (trace) trace->failed(ticket.error());
    answer(std::move(ticket).error(), true);
  };
  waiting->waits_as(
      state->repository.find_later(kept->model, kept->version, kept->deadline, go_on));
  return CallTicket(waiting);
}

Result<Tensor> Service::receive_buffer(std::string_view model, std::size_t bytes) {
  const Shape shape = {static_cast<std::int64_t>(bytes)};
  const auto served = state_->repository.find_now(model, {});
  // Who will answer with an error can read the body into any memory.
  if (!served || bytes == 0) return Tensor::allocate(DataType::uint8, shape);
  return state_->engine.new_tensor(DataType::uint8, shape);
}

}  // namespace millrace::server
