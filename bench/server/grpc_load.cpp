#include "grpc_load.h"

#include <memory>
#include <utility>

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include "server/grpc/inference_service.pb.h"

namespace millrace::bench {
namespace {

constexpr std::size_t kElements = 16;

struct Call {
  grpc::ClientContext context;
  grpc::ByteBuffer answer;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<grpc::ByteBuffer>> reader;
};

void start(grpc::GenericStub& stub, const grpc::ByteBuffer& request, grpc::CompletionQueue& queue) {
  auto call = std::make_unique<Call>();
  call->reader = stub.PrepareUnaryCall(&call->context, "/inference.GRPCInferenceService/ModelInfer",
                                       request, &queue);
  call->reader->StartCall();
  Call* tag = call.release();
  tag->reader->Finish(&tag->answer, &tag->status, tag);
}

}  // namespace

GrpcLoadResult run_grpc_load(const GrpcLoad& load) {
  auto channel = grpc::CreateChannel(load.address, grpc::InsecureChannelCredentials());
  GrpcLoadResult result;
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
    result.errors = 1;
    result.first_error = "no connection to " + load.address;
    return result;
  }
  grpc::GenericStub stub(channel);
  const grpc::Slice slice(load.message);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::CompletionQueue queue;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < load.in_flight; ++i) start(stub, request, queue);
  int in_flight = load.in_flight;
  void* tag = nullptr;
  bool ok = false;
  while (in_flight > 0 && queue.Next(&tag, &ok)) {
    const std::unique_ptr<Call> call(static_cast<Call*>(tag));
    if (call->status.ok() && call->answer.Length() > 0) {
      ++result.answers;
    } else if (result.errors++ == 0) {
      result.first_error = call->status.ok() ? "an empty answer" : call->status.error_message();
    }
    if (std::chrono::steady_clock::now() - begin < load.duration) {
      start(stub, request, queue);
    } else {
      --in_flight;
    }
  }
  result.elapsed = std::chrono::steady_clock::now() - begin;
  queue.Shutdown();
  return result;
}

std::string grpc_request(const std::string& model) {
  inference::ModelInferRequest request;
  request.set_model_name(model);
  request.set_id("7");
  auto* input = request.add_inputs();
  input->set_name("input");
  input->set_datatype("FP32");
  input->add_shape(1);
  input->add_shape(kElements);
  request.add_raw_input_contents(std::string(kElements * sizeof(float), '\1'));
  return request.SerializeAsString();
}

}  // namespace millrace::bench
