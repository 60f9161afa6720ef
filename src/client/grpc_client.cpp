#include "client/grpc_client.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <unordered_set>

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "base/try.h"
#include "client/grpc_message.h"
#include "client/messages.h"
#include "client/status.h"
#include "server/grpc/inference_service.grpc.pb.h"

namespace millrace::client {
namespace {

using Service = inference::GRPCInferenceService;

constexpr const char* kInfer = "/inference.GRPCInferenceService/ModelInfer";

std::chrono::system_clock::time_point on_wall_clock(TimePoint time) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(time - Clock::now());
}

Error error_of(const grpc::Status& status) {
  return {code_of_grpc(status.error_code()),
          concat(status.error_message(), " (gRPC status ", int{status.error_code()}, ")")};
}

Result<std::shared_ptr<grpc::ChannelCredentials>> credentials_for(const Url& url,
                                                                  const ClientTls& tls) {
  if (!url.secure) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  const auto read = [](const std::string& path, std::string& into) -> Result<void> {
    if (path.empty()) return {};
    MILLRACE_ASSIGN(into, read_file(path));
    return {};
  };
  MILLRACE_TRY(read(tls.authorities, options.pem_root_certs));
  MILLRACE_TRY(read(tls.certificate, options.pem_cert_chain));
  MILLRACE_TRY(read(tls.key, options.pem_private_key));
  return grpc::SslCredentials(options);
}

class GrpcClient final : public Client {
 public:
  GrpcClient(std::shared_ptr<grpc::Channel> channel, ClientOptions options)
      : options_(std::move(options)),
        stub_(Service::NewStub(channel)),
        generic_(std::move(channel)),
        thread_([this] { run(); }) {}
  ~GrpcClient() override {
    {
      std::unique_lock lock(mutex_);
      stopping_ = true;
      for (InferCall* call : calls_) call->context.TryCancel();
      none_left_.wait(lock, [this] { return calls_.empty(); });
    }
    queue_.Shutdown();
    thread_.join();
  }

  Result<bool> live() override {
    MILLRACE_ASSIGN(const auto answer, ask(&Service::Stub::ServerLive, {}));
    return answer.live();
  }
  Result<bool> ready() override {
    MILLRACE_ASSIGN(const auto answer, ask(&Service::Stub::ServerReady, {}));
    return answer.ready();
  }
  Result<bool> model_ready(const ModelName& model) override {
    inference::ModelReadyRequest request;
    request.set_name(model.name);
    request.set_version(model.version);
    MILLRACE_ASSIGN(const auto answer, ask(&Service::Stub::ModelReady, request));
    return answer.ready();
  }
  Result<server::ServerMetadata> metadata() override {
    MILLRACE_ASSIGN(const auto answer, ask(&Service::Stub::ServerMetadata, {}));
    return server_metadata_of(answer);
  }
  Result<server::ModelMetadata> model_metadata(const ModelName& model) override {
    inference::ModelMetadataRequest request;
    request.set_name(model.name);
    request.set_version(model.version);
    MILLRACE_ASSIGN(const auto answer, ask(&Service::Stub::ModelMetadata, request));
    return model_metadata_of(answer);
  }
  Result<std::vector<server::VersionStatistics>> statistics(const ModelName& model) override {
    inference::ModelStatisticsRequest request;
    request.set_name(model.name);
    request.set_version(model.version);
    MILLRACE_ASSIGN(const auto answer, ask(&Service::Stub::ModelStatistics, request));
    return statistics_of(answer);
  }
  Result<std::vector<RepositoryEntry>> repository_index(bool ready_only) override {
    inference::RepositoryIndexRequest request;
    request.set_ready(ready_only);
    MILLRACE_ASSIGN(const auto answer, ask(&Service::Stub::RepositoryIndex, request));
    return index_of(answer);
  }
  Result<void> load_model(const std::string& model, const LoadParameters& parameters) override {
    inference::RepositoryModelLoadRequest request;
    request.set_model_name(model);
    auto& fields = *request.mutable_parameters();
    if (!parameters.config.empty()) fields["config"].set_string_param(parameters.config);
    for (const auto& [path, content] : parameters.files) {
      fields["file:" + path].set_bytes_param(content);
    }
    return done(ask(&Service::Stub::RepositoryModelLoad, request));
  }
  Result<void> unload_model(const std::string& model, bool unload_dependents) override {
    inference::RepositoryModelUnloadRequest request;
    request.set_model_name(model);
    (*request.mutable_parameters())["unload_dependents"].set_bool_param(unload_dependents);
    return done(ask(&Service::Stub::RepositoryModelUnload, request));
  }

  Result<void> infer(const ModelName& model, Request request, Callback callback) override {
    auto call = std::make_unique<InferCall>();
    call->submitted = Clock::now();
    MILLRACE_ASSIGN(const grpc::ByteBuffer message, write_request(model, request, regions()));
    call->request = std::move(request);
    call->callback = std::move(callback);
    prepare(call->context);
    if (call->request.deadline) call->context.set_deadline(on_wall_clock(*call->request.deadline));
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return Error{ErrorCode::cancelled, "the client stops"};
      calls_.insert(call.get());
    }
    call->reader = generic_.PrepareUnaryCall(&call->context, kInfer, message, &queue_);
    call->reader->StartCall();
    InferCall* const tag = call.release();
    tag->reader->Finish(&tag->answer, &tag->status, tag);
    return {};
  }

 private:
  struct InferCall {
    grpc::ClientContext context;
    grpc::ByteBuffer answer;
    grpc::Status status;
    std::unique_ptr<grpc::ClientAsyncResponseReader<grpc::ByteBuffer>> reader;
    Request request;
    Callback callback;
    TimePoint submitted;
  };

  void prepare(grpc::ClientContext& context) const {
    if (!options_.token.empty()) context.AddMetadata("authorization", "Bearer " + options_.token);
  }
  template <class RequestMessage, class Answer>
  Result<Answer> ask(grpc::Status (Service::Stub::*method)(grpc::ClientContext*,
                                                           const RequestMessage&, Answer*),
                     const std::type_identity_t<RequestMessage>& request) const {
    grpc::ClientContext context;
    prepare(context);
    context.set_deadline(on_wall_clock(Clock::now() + options_.timeout));
    Answer answer;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &answer);
    if (!status.ok()) return error_of(status);
    return answer;
  }
  template <class Answer>
  static Result<void> done(Result<Answer> answer) {
    if (!answer.ok()) return std::move(answer).error();
    return {};
  }

  Result<void> do_register_system(const std::string& name, const std::string& key,
                                  std::size_t bytes) override {
    inference::SystemSharedMemoryRegisterRequest request;
    request.set_name(name);
    request.set_key(key);
    request.set_byte_size(bytes);
    return done(ask(&Service::Stub::SystemSharedMemoryRegister, request));
  }
  Result<void> do_register_cuda(const std::string& name, std::span<const std::byte> handle, int gpu,
                                std::size_t bytes) override {
    inference::CudaSharedMemoryRegisterRequest request;
    request.set_name(name);
    request.set_raw_handle(handle.data(), handle.size());
    request.set_device_id(gpu);
    request.set_byte_size(bytes);
    return done(ask(&Service::Stub::CudaSharedMemoryRegister, request));
  }
  Result<void> do_unregister(const std::string& name, bool cuda) override {
    if (cuda) {
      inference::CudaSharedMemoryUnregisterRequest request;
      request.set_name(name);
      return done(ask(&Service::Stub::CudaSharedMemoryUnregister, request));
    }
    inference::SystemSharedMemoryUnregisterRequest request;
    request.set_name(name);
    return done(ask(&Service::Stub::SystemSharedMemoryUnregister, request));
  }

  void run() {
    name_this_thread("mr-client");
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) finish(std::unique_ptr<InferCall>(static_cast<InferCall*>(tag)));
  }
  void finish(std::unique_ptr<InferCall> call) noexcept {
    Result<Response> response = error_of(call->status);
    if (call->status.ok()) response = read_answer(call->answer, call->request);
    if (response.ok()) {
      response->times.submitted = call->submitted;
      response->times.completed = Clock::now();
    }
    try {
      call->callback(std::move(response), true);
    } catch (const std::exception& error) {
      log_error("a callback of a client threw: ", error.what());
    }
    const std::lock_guard lock(mutex_);
    calls_.erase(call.get());
    if (calls_.empty() && stopping_) none_left_.notify_all();
  }

  const ClientOptions options_;
  std::unique_ptr<Service::Stub> stub_;
  grpc::GenericStub generic_;
  grpc::CompletionQueue queue_;
  std::mutex mutex_;
  std::condition_variable none_left_;
  std::unordered_set<InferCall*> calls_;
  bool stopping_ = false;
  std::thread thread_;  // after what it uses
};

}  // namespace

Result<std::unique_ptr<Client>> connect_grpc(const Url& url, ClientOptions options) {
  MILLRACE_ASSIGN(const auto credentials, credentials_for(url, options.tls));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  auto channel = grpc::CreateCustomChannel(url.address(), credentials, arguments);
  if (!channel->WaitForConnected(on_wall_clock(Clock::now() + options.timeout))) {
    return Error{
        ErrorCode::unavailable,
        concat("no connection to ", url.address(), " within ", format_duration(options.timeout),
               "; is a server there", url.secure ? ", and its certificate to be trusted?" : "?")};
  }
  return std::unique_ptr<Client>(
      std::make_unique<GrpcClient>(std::move(channel), std::move(options)));
}

}  // namespace millrace::client
