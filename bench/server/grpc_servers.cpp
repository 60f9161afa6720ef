#include "grpc_servers.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <millrace/engine.h>

#include "repository/model_repository.h"
#include "server/grpc/inference_service.grpc.pb.h"
#include "server/grpc/server.h"
#include "server/service.h"

namespace millrace::bench {
namespace {

using inference::GRPCInferenceService;
using inference::ModelInferRequest;
using inference::ModelInferResponse;

constexpr std::size_t kOutputBytes = 64;
constexpr int kWaitingCalls = 128;

void fill(const ModelInferRequest& request, ModelInferResponse& response) {
  response.set_model_name(request.model_name());
  response.set_model_version("1");
  response.set_id(request.id());
  ModelInferResponse::InferOutputTensor* output = response.add_outputs();
  output->set_name("output");
  output->set_datatype("FP32");
  output->add_shape(1);
  output->add_shape(16);
  response.add_raw_output_contents(std::string(kOutputBytes, '\1'));
}

std::string prepared_answer() {
  ModelInferRequest request;
  request.set_model_name("identity");
  ModelInferResponse response;
  fill(request, response);
  return response.SerializeAsString();
}

/// What a client asks of a model before it sends anything, from a thread of the library's.
class Description : public GRPCInferenceService::Service {
  grpc::Status ModelMetadata(grpc::ServerContext*, const inference::ModelMetadataRequest* request,
                             inference::ModelMetadataResponse* response) override {
    response->set_name(request->name());
    response->set_platform("none");
    response->add_inputs()->set_name("input");
    response->add_outputs()->set_name("output");
    for (auto* tensor : {response->mutable_inputs(0), response->mutable_outputs(0)}) {
      tensor->set_datatype("FP32");
      tensor->add_shape(-1);
      tensor->add_shape(16);
    }
    return grpc::Status::OK;
  }
};

int listen(grpc::ServerBuilder& builder, int& port) {
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  return port;
}

class SyncServer final : public GrpcServer, GRPCInferenceService::Service {
 public:
  SyncServer() {
    grpc::ServerBuilder builder;
    listen(builder, port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~SyncServer() override { server_->Shutdown(); }
  int port() const override { return port_; }

 private:
  grpc::Status ModelInfer(grpc::ServerContext*, const ModelInferRequest* request,
                          ModelInferResponse* response) override {
    fill(*request, *response);
    return grpc::Status::OK;
  }
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

class CallbackServer final : public GrpcServer, GRPCInferenceService::CallbackService {
 public:
  CallbackServer() {
    grpc::ServerBuilder builder;
    listen(builder, port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~CallbackServer() override { server_->Shutdown(); }
  int port() const override { return port_; }

 private:
  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context,
                                       const ModelInferRequest* request,
                                       ModelInferResponse* response) override {
    fill(*request, *response);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

/// What the servers with a completion queue of their own share: one thread that takes events.
class QueueServer : public GrpcServer {
 public:
  int port() const override { return port_; }

 protected:
  /// What an event's tag points to.
  struct Tag {
    virtual ~Tag() = default;
    virtual void happened(bool ok) = 0;
  };

  void start(grpc::Service* service, grpc::AsyncGenericService* generic) {
    grpc::ServerBuilder builder;
    listen(builder, port_);
    if (service) builder.RegisterService(service);
    if (generic) builder.RegisterAsyncGenericService(generic);
    queue_ = builder.AddCompletionQueue();
    server_ = builder.BuildAndStart();
  }
  void run() {
    thread_ = std::thread([this] {
      void* tag = nullptr;
      bool ok = false;
      while (queue_->Next(&tag, &ok)) static_cast<Tag*>(tag)->happened(ok);
    });
  }
  void stop() {
    server_->Shutdown();
    queue_->Shutdown();
    thread_.join();
  }

  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::unique_ptr<grpc::Server> server_;

 private:
  int port_ = 0;
  std::thread thread_;
};

/// A registered method, parsed messages.
class AsyncServer final : public QueueServer {
 public:
  AsyncServer() {
    start(&service_, nullptr);
    for (int i = 0; i < kWaitingCalls; ++i) new Call(this);
    run();
  }
  ~AsyncServer() override { stop(); }

 private:
  struct Call final : Tag {
    explicit Call(AsyncServer* owner) : server(owner), writer(&context) {
      server->service_.RequestModelInfer(&context, &request, &writer, server->queue_.get(),
                                         server->queue_.get(), this);
    }
    void happened(bool ok) override {
      if (!ok || answered) {
        delete this;
        return;
      }
      new Call(server);
      answered = true;
      ModelInferResponse response;
      fill(request, response);
      writer.Finish(response, grpc::Status::OK, this);
    }
    AsyncServer* server;
    grpc::ServerContext context;
    ModelInferRequest request;
    grpc::ServerAsyncResponseWriter<ModelInferResponse> writer;
    bool answered = false;
  };
  GRPCInferenceService::AsyncService service_;
};

grpc::ByteBuffer prepared_buffer() {
  const std::string answer = prepared_answer();
  const grpc::Slice slice(answer);
  return {&slice, 1};
}

/// A registered method, messages as they came.
class RawServer final : public QueueServer {
 public:
  RawServer() {
    start(&service_, nullptr);
    for (int i = 0; i < kWaitingCalls; ++i) new Call(this);
    run();
  }
  ~RawServer() override { stop(); }

 private:
  struct Call final : Tag {
    explicit Call(RawServer* owner) : server(owner), writer(&context) {
      server->service_.RequestModelInfer(&context, &request, &writer, server->queue_.get(),
                                         server->queue_.get(), this);
    }
    void happened(bool ok) override {
      if (!ok || answered) {
        delete this;
        return;
      }
      new Call(server);
      answered = true;
      writer.Finish(server->answer_, grpc::Status::OK, this);
    }
    RawServer* server;
    grpc::ServerContext context;
    grpc::ByteBuffer request;
    grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> writer;
    bool answered = false;
  };
  GRPCInferenceService::WithRawMethod_ModelInfer<Description> service_;
  grpc::ByteBuffer answer_ = prepared_buffer();
};

/// Any method, messages as they came.
class GenericServer final : public QueueServer {
 public:
  GenericServer() {
    start(nullptr, &service_);
    for (int i = 0; i < kWaitingCalls; ++i) new Call(this);
    run();
  }
  ~GenericServer() override { stop(); }

 private:
  struct Call final : Tag {
    explicit Call(GenericServer* owner) : server(owner), stream(&context) {
      server->service_.RequestCall(&context, &stream, server->queue_.get(), server->queue_.get(),
                                   this);
    }
    void happened(bool ok) override {
      if (!ok || step == 2) {
        delete this;
      } else if (step == 0) {
        new Call(server);
        step = 1;
        stream.Read(&request, this);
      } else {
        step = 2;
        stream.WriteAndFinish(server->answer_, {}, grpc::Status::OK, this);
      }
    }
    GenericServer* server;
    grpc::GenericServerContext context;
    grpc::GenericServerAsyncReaderWriter stream;
    grpc::ByteBuffer request;
    int step = 0;
  };
  grpc::AsyncGenericService service_;
  grpc::ByteBuffer answer_ = prepared_buffer();
};

/// The library below the C++ one: a registered method, messages as they came.
class CoreServer final : public GrpcServer {
 public:
  CoreServer() {
    grpc_init();
    queue_ = grpc_completion_queue_create_for_next(nullptr);
    server_ = grpc_server_create(nullptr, nullptr);
    method_ = grpc_server_register_method(server_, "/inference.GRPCInferenceService/ModelInfer",
                                          nullptr, GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
    grpc_server_register_completion_queue(server_, queue_, nullptr);
    grpc_server_credentials* plain = grpc_insecure_server_credentials_create();
    port_ = grpc_server_add_http2_port(server_, "127.0.0.1:0", plain);
    grpc_server_credentials_release(plain);
    grpc_server_start(server_);
    const std::string answer = prepared_answer();
    answer_ = grpc_slice_from_copied_buffer(answer.data(), answer.size());
    for (int i = 0; i < kWaitingCalls; ++i) (new Call(this))->ask();
    thread_ = std::thread([this] { run(); });
  }
  ~CoreServer() override {
    grpc_server_shutdown_and_notify(server_, queue_, nullptr);
    grpc_server_cancel_all_calls(server_);
    thread_.join();
    grpc_server_destroy(server_);
    grpc_completion_queue_destroy(queue_);
    grpc_slice_unref(answer_);
    grpc_shutdown();
  }
  int port() const override { return port_; }

 private:
  struct Call {
    explicit Call(CoreServer* owner) : server(owner) { grpc_metadata_array_init(&metadata); }
    ~Call() { grpc_metadata_array_destroy(&metadata); }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    void ask() {
      answered = false;
      metadata.count = 0;
      grpc_server_request_registered_call(server->server_, server->method_, &call, &deadline,
                                          &metadata, &message, server->queue_, server->queue_,
                                          this);
    }
    void answer() {
      answered = true;
      (new Call(server))->ask();
      grpc_byte_buffer* body = grpc_raw_byte_buffer_create(&server->answer_, 1);
      std::array<grpc_op, 4> ops{};
      ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
      ops[1].op = GRPC_OP_SEND_MESSAGE;
      ops[1].data.send_message.send_message = body;
      ops[2].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
      ops[2].data.send_status_from_server.status = GRPC_STATUS_OK;
      ops[3].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
      ops[3].data.recv_close_on_server.cancelled = &cancelled;
      grpc_call_start_batch(call, ops.data(), ops.size(), this, nullptr);
      grpc_byte_buffer_destroy(body);
    }
    CoreServer* server;
    grpc_call* call = nullptr;
    gpr_timespec deadline{};
    grpc_metadata_array metadata{};
    grpc_byte_buffer* message = nullptr;
    int cancelled = 0;
    bool answered = false;
  };

  void run() {
    for (;;) {
      const grpc_event event =
          grpc_completion_queue_next(queue_, gpr_inf_future(GPR_CLOCK_REALTIME), nullptr);
      if (event.type == GRPC_QUEUE_SHUTDOWN) return;
      auto* call = static_cast<Call*>(event.tag);
      if (!call) {
        grpc_completion_queue_shutdown(queue_);
      } else if (event.success && !call->answered) {
        call->answer();
      } else {
        if (call->answered) {
          grpc_byte_buffer_destroy(call->message);
          grpc_call_unref(call->call);
        }
        delete call;
      }
    }
  }

  grpc_completion_queue* queue_ = nullptr;
  grpc_server* server_ = nullptr;
  void* method_ = nullptr;
  grpc_slice answer_{};
  int port_ = 0;
  std::thread thread_;
};

/// Ours, whole, with the identity model of the reference backend on the host.
class MillraceServer final : public GrpcServer {
 public:
  MillraceServer() {
    folder_ = (std::filesystem::temp_directory_path() / "millrace_bench_XXXXXX").string();
    if (!mkdtemp(folder_.data())) give_up("no temporary folder");
    std::filesystem::create_directories(folder_ + "/identity/1");
    std::ofstream(folder_ + "/identity/config.pbtxt")
        << "backend: \"reference\"\nmax_batch_size: 64\nparameters { key: \"model\" value { "
           "string_value: \"reference:identity?type=FP32&shape=16\" } }\n";
    EngineOptions engine_options;
    engine_options.devices.devices = {"host:0"};
    engine_ = std::make_unique<Engine>(taken(Engine::create(engine_options)));
    RepositoryOptions models;
    models.folders = {folder_};
    models.strict = true;
    repository_ = taken(ModelRepository::open(*engine_, models));
    service_ = std::make_unique<server::Service>(*engine_, *repository_, server::ServiceOptions{});
    server::GrpcOptions options;
    options.port = 0;
    server_ = taken(server::GrpcServer::start(*service_, options));
  }
  ~MillraceServer() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }
  int port() const override { return server_->port(); }

 private:
  [[noreturn]] static void give_up(std::string_view why) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(why.size()), why.data());
    std::abort();
  }
  template <class T>
  static T taken(Result<T> result) {
    if (!result) give_up(result.error().message);
    return *std::move(result);
  }

  std::string folder_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ModelRepository> repository_;
  std::unique_ptr<server::Service> service_;
  std::unique_ptr<server::GrpcServer> server_;
};

template <class Server>
GrpcServerKind kind(std::string_view name, std::string_view what) {
  return {name, what, [] { return std::make_unique<Server>(); }};
}

}  // namespace

std::span<const GrpcServerKind> grpc_server_kinds() {
  static const std::array kKinds = {
      kind<SyncServer>("sync", "synchronous service, parsed messages"),
      kind<CallbackServer>("callback", "callback service, parsed messages"),
      kind<AsyncServer>("queue", "completion queue, parsed messages"),
      kind<RawServer>("queue-raw", "completion queue, raw messages"),
      kind<GenericServer>("queue-generic", "completion queue, any method, raw messages"),
      kind<CoreServer>("core", "the C library's completion queue, raw messages"),
      kind<MillraceServer>("millrace", "the whole server, an identity model"),
  };
  return kKinds;
}

}  // namespace millrace::bench
