#include "server/grpc/server.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <grpc/support/log.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/impl/rpc_service_method.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "base/try.h"
#include "engine/executor.h"
#include "server/grpc/acceptor.h"
#include "server/grpc/context.h"
#include "server/grpc/infer_call.h"
#include "server/grpc/methods.h"
#include "server/grpc/other_call.h"
#include "server/grpc/tls_files.h"

namespace millrace::server {
namespace {

constexpr int kWaitingInferCalls = 64;  // of each queue
constexpr int kWaitingOtherCalls = 8;
/// So many calls may wait for each other, at some 10 us each, before the engine is told of them.
constexpr int kSubmittedTogether = 16;

/// The one method that gRPC finds by itself. It reads its message before the call is handed over.
class InferMethod final : public grpc::Service {
 public:
  InferMethod()
      : method_(new grpc::internal::RpcServiceMethod(
            kInferPath.data(), grpc::internal::RpcMethod::NORMAL_RPC, nullptr)) {
    AddMethod(method_);  // which owns it from here on
  }
  /// What gRPC's C library knows it by, once the server is built.
  [[nodiscard]] void* handle() const noexcept { return method_->server_tag(); }

 private:
  grpc::internal::RpcServiceMethod* method_;
};

/// What gRPC itself has to say goes to our log. Errors of it are seldom ours: a client that breaks
/// off a handshake is one.
void log_from_grpc(gpr_log_func_args* message) {
  const LogLevel level = message->severity == GPR_LOG_SEVERITY_ERROR  ? LogLevel::warning
                         : message->severity == GPR_LOG_SEVERITY_INFO ? LogLevel::info
                                                                      : LogLevel::debug;
  log_at(level, "gRPC: ", message->message);
}

int queue_count(int asked) noexcept {
  if (asked > 0) return asked;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 4, 1, 8);
}

int as_int(std::size_t value) noexcept {
  return static_cast<int>(std::min<std::size_t>(value, INT_MAX));
}

void configure(const GrpcOptions& options, grpc::ServerBuilder& builder) {
  const auto milliseconds = [](std::chrono::milliseconds time) {
    return static_cast<int>(std::min<std::int64_t>(time.count(), INT_MAX));
  };
  builder.SetMaxReceiveMessageSize(as_int(options.max_request_bytes));
  builder.SetMaxSendMessageSize(-1);
  // Messages are decompressed here, where what they grow to has a limit.
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_calls_per_connection);
  if (options.keepalive_time.count() > 0) {
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, milliseconds(options.keepalive_time));
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                               milliseconds(options.keepalive_timeout));
  }
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             milliseconds(options.min_ping_interval));
}

/// How often the health that is watched is looked at.
constexpr std::int64_t kLookMilliseconds = 100;
/// How long a thread may wait before it goes round and shows that it is alive.
constexpr std::int64_t kRoundMilliseconds = 500;

gpr_timespec in_milliseconds(std::int64_t count) noexcept {
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(count, GPR_TIMESPAN));
}

/// A completion queue, its thread, and the calls on it.
class Queue {
 public:
  Queue(GrpcContext& context, grpc_server* server, void* method, grpc::ServerCompletionQueue& queue)
      : context_(context),
        queue_(queue),
        watchers_(context),
        infer_(context, server, method, queue.cq()) {
    for (int i = 0; i < kWaitingOtherCalls; ++i) {
      others_.push_back(std::make_unique<OtherCalls>(context, watchers_, server, queue.cq()));
    }
  }
  Result<void> start(int number) {
    context_.add_live();  // until its calls wait
    auto thread = Thread::start(concat("grpc-", number), [this] {
      DeferredWakes::enable();
      for (int i = 0; i < kWaitingInferCalls; ++i) infer_.arm();
      for (const auto& other : others_) other->ask();
      context_.drop_live();
      run();
    });
    if (!thread) {
      context_.drop_live();
      return thread.error();
    }
    thread_ = *std::move(thread);
    return {};
  }
  [[nodiscard]] std::uint64_t rounds() const noexcept {
    return rounds_.load(std::memory_order_relaxed);
  }
  /// When nothing waits for an event any more.
  void end() {
    queue_.Shutdown();
    if (!thread_.joinable()) run();
    thread_.join();
  }

 private:
  /// What is there is served before the engine is told of what was submitted: one batch for all.
  void run() {
    for (;;) {
      const bool watched = !watchers_.empty();
      const bool submitted = infer_.submitted() > 0;
      const gpr_timespec until = submitted ? gpr_inf_past(GPR_CLOCK_MONOTONIC)
                                 : watched ? next_look_
                                           : next_round_;
      const grpc_event event = grpc_completion_queue_next(queue_.cq(), until, nullptr);
      rounds_.fetch_add(1, std::memory_order_relaxed);
      if (event.type == GRPC_QUEUE_SHUTDOWN) break;
      if (event.type == GRPC_OP_COMPLETE) {
        Event::happen(event.tag, event.success != 0);
      } else if (!submitted) {
        next_round_ = in_milliseconds(kRoundMilliseconds);
      }
      const bool more = event.type == GRPC_OP_COMPLETE && infer_.submitted() > 0;
      if (!more || infer_.submitted() >= kSubmittedTogether) {
        infer_.told();
        DeferredWakes::flush();
      }
      if (watched) look();
    }
    DeferredWakes::flush();
  }

  void look() {
    const gpr_timespec now = gpr_now(GPR_CLOCK_MONOTONIC);
    if (gpr_time_cmp(now, next_look_) < 0) return;
    next_look_ = gpr_time_add(now, gpr_time_from_millis(kLookMilliseconds, GPR_TIMESPAN));
    watchers_.look();
  }

  GrpcContext& context_;
  grpc::ServerCompletionQueue& queue_;
  Watchers watchers_;
  InferQueue infer_;
  std::vector<std::unique_ptr<OtherCalls>> others_;
  gpr_timespec next_look_ = gpr_inf_past(GPR_CLOCK_MONOTONIC);
  gpr_timespec next_round_ = gpr_inf_past(GPR_CLOCK_MONOTONIC);
  std::atomic<std::uint64_t> rounds_{0};
  Thread thread_;
};

}  // namespace

class GrpcServer::State {
 public:
  State(Service& service, GrpcOptions options) : context(service, std::move(options)) {}
  ~State() { stop(Clock::now()); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  Result<void> start() {
    gpr_set_log_function(log_from_grpc);
    MILLRACE_ASSIGN(const auto secured, open_credentials(context.options.tls));
    grpc::ServerBuilder builder;
    configure(context.options, builder);
    MILLRACE_ASSIGN(Descriptor socket, context.options.socket >= 0
                                           ? Descriptor(context.options.socket)
                                           : listen_on(context.options.host, context.options.port));
    MILLRACE_ASSIGN(port, port_of(socket));
    const GrpcOptions& chosen = context.options;
    MILLRACE_TRY(check_exposure(address_of(socket), chosen.tls, chosen.tokens, chosen.allow_open));
    connections = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, secured);
    builder.RegisterService(&infer);
    builder.RegisterAsyncGenericService(&others);  // so that gRPC answers no method by itself
    for (int i = 0; i < queue_count(context.options.queues); ++i) {
      completion.push_back(builder.AddCompletionQueue());
    }
    server = builder.BuildAndStart();
    if (!server) return Error{ErrorCode::internal, "gRPC does not start; see the log"};
    for (const auto& one : completion) {
      queues.push_back(std::make_unique<Queue>(context, server->c_server(), infer.handle(), *one));
    }
    int number = 0;
    for (const auto& queue : queues) MILLRACE_TRY(queue->start(number++));
    MILLRACE_ASSIGN(acceptor, Acceptor::start(std::move(socket), context.options.max_connections,
                                              [this](int connection) { take(connection); }));
    return {};
  }

  void take(int connection) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
    parameters.fd = connection;
    connections->HandleNewConnection(&parameters);
  }

  void stop(TimePoint until) noexcept {
    const std::scoped_lock lock(stopping);
    if (!server) return;
    if (acceptor) acceptor->stop();
    context.stop_streams();
    const auto left = std::max(until - Clock::now(), Duration::zero());
    server->Shutdown(std::chrono::system_clock::now() + left);
    context.wait_until_none_live();
    for (const auto& queue : queues) queue->end();
    server.reset();
  }

  GrpcContext context;
  InferMethod infer;
  grpc::AsyncGenericService others;
  std::vector<std::unique_ptr<grpc::ServerCompletionQueue>> completion;
  std::vector<std::unique_ptr<Queue>> queues;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> connections;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<Acceptor> acceptor;
  std::vector<std::uint64_t> rounds;  // of each queue, when all had last gone round
  std::mutex stopping;
  int port = 0;
};

GrpcServer::GrpcServer(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
GrpcServer::~GrpcServer() = default;

Result<std::unique_ptr<GrpcServer>> GrpcServer::start(Service& service, GrpcOptions options) {
  auto state = std::make_unique<State>(service, std::move(options));
  MILLRACE_TRY(state->start());
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(state)));
}

int GrpcServer::port() const noexcept { return state_->port; }

bool GrpcServer::responds() {
  std::vector<std::uint64_t>& before = state_->rounds;
  before.resize(state_->queues.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (state_->queues[i]->rounds() == before[i]) return false;
  }
  for (std::size_t i = 0; i < before.size(); ++i) before[i] = state_->queues[i]->rounds();
  return true;
}

GrpcCounters GrpcServer::counters() const noexcept {
  const GrpcContext& context = state_->context;
  GrpcCounters counters{.calls = context.calls,
                        .failed = context.failed,
                        .refused = context.refused,
                        .received_bytes = context.received_bytes,
                        .sent_bytes = context.sent_bytes,
                        .refused_connections = state_->acceptor ? state_->acceptor->refused() : 0,
                        .connections = state_->acceptor ? state_->acceptor->connections() : 0,
                        .calls_in_flight = context.budget.calls(),
                        .bytes_in_flight = context.budget.bytes()};
  std::copy(context.by_status.begin(), context.by_status.end(), counters.by_status.begin());
  return counters;
}

void GrpcServer::stop(TimePoint until) noexcept { state_->stop(until); }

}  // namespace millrace::server
