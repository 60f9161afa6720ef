#include "server/grpc/reflection.h"

#include <set>
#include <utility>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include "base/text.h"
#include "server/grpc/health.pb.h"
#include "server/grpc/infer_call.h"
#include "server/grpc/inference_service.pb.h"
#include "server/grpc/reflection.pb.h"
#include "server/status.h"

namespace millrace::server {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;
using grpc::reflection::v1alpha::ServerReflectionRequest;
using grpc::reflection::v1alpha::ServerReflectionResponse;

void add_file(const FileDescriptor* file, std::set<std::string>& added,
              grpc::reflection::v1alpha::FileDescriptorResponse& response) {
  if (!added.insert(file->name()).second) return;
  google::protobuf::FileDescriptorProto proto;
  file->CopyTo(&proto);
  response.add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file->dependency_count(); ++i) {
    add_file(file->dependency(i), added, response);
  }
}

void answer_file(const FileDescriptor* file, const std::string& what,
                 ServerReflectionResponse& response) {
  if (!file) {
    response.mutable_error_response()->set_error_code(grpc_status(ErrorCode::not_found));
    response.mutable_error_response()->set_error_message(concat("unknown: ", quote(what)));
    return;
  }
  std::set<std::string> added;
  add_file(file, added, *response.mutable_file_descriptor_response());
}

void answer_services(ServerReflectionResponse& response) {
  for (const FileDescriptor* file : {inference::ModelInferRequest::descriptor()->file(),
                                     grpc::health::v1::HealthCheckRequest::descriptor()->file(),
                                     ServerReflectionRequest::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      response.mutable_list_services_response()->add_service()->set_name(
          file->service(i)->full_name());
    }
  }
}

}  // namespace

std::string reflect(const std::string& message) {
  ServerReflectionRequest request;
  ServerReflectionResponse response;
  const bool parsed = request.ParseFromString(message);
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  switch (parsed ? request.message_request_case()
                 : ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET) {
    case ServerReflectionRequest::kFileByFilename:
      answer_file(pool.FindFileByName(request.file_by_filename()), request.file_by_filename(),
                  response);
      break;
    case ServerReflectionRequest::kFileContainingSymbol:
      answer_file(pool.FindFileContainingSymbol(request.file_containing_symbol()),
                  request.file_containing_symbol(), response);
      break;
    case ServerReflectionRequest::kListServices:
      answer_services(response);
      break;
    default: {  // there are no extensions
      auto& error = *response.mutable_error_response();
      error.set_error_code(
          grpc_status(parsed ? ErrorCode::not_found : ErrorCode::invalid_argument));
      error.set_error_message("expected a file's name, a symbol, or list_services");
    }
  }
  return response.SerializeAsString();
}

ReflectionCall::ReflectionCall(GrpcContext& context, CallHandle call) noexcept
    : context_(context), call_(std::move(call)) {
  context_.add_live();
}

void ReflectionCall::start(GrpcContext& context, CallHandle call) {
  (new ReflectionCall(context, std::move(call)))->read(true);
}

void ReflectionCall::read(bool first) {
  Batch batch;
  if (first) batch.send_initial_metadata();
  batch.receive_message(&raw_message_).start(call_.get(), received_);
}

void ReflectionCall::received(bool) {
  BufferHandle buffer(std::exchange(raw_message_, nullptr));
  if (!buffer || context_.stopping) {
    Batch().send_status(kStatusOk, nullptr).receive_close(&cancelled_).start(call_.get(), ended_);
    return;
  }
  const auto message = ReceivedMessage::open(std::move(buffer), context_.options.max_request_bytes);
  Message answer(1);
  answer.front().bytes = reflect(message ? message->text() : std::string());
  const BufferHandle out = to_buffer(std::move(answer));
  Batch().send_message(out.get()).start(call_.get(), sent_);
}

void ReflectionCall::sent(bool) { read(false); }

void ReflectionCall::ended(bool) {
  GrpcContext& context = context_;
  delete this;
  context.drop_live();
}

}  // namespace millrace::server
