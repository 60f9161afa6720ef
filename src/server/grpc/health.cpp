#include "server/grpc/health.h"

#include <algorithm>

#include "base/text.h"
#include "server/grpc/health.pb.h"
#include "server/grpc/inference_service.pb.h"

namespace millrace::server {

Result<std::string> check_health(Service& service, const std::string& message) {
  grpc::health::v1::HealthCheckRequest request;
  if (!request.ParseFromString(message)) {
    return Error{ErrorCode::invalid_argument, "malformed HealthCheckRequest"};
  }
  const std::string& name = request.service();
  if (!name.empty() && name != "inference.GRPCInferenceService") {
    return Error{ErrorCode::not_found,
                 concat("unknown service ", quote(name),
                        ", expected \"inference.GRPCInferenceService\" or none")};
  }
  using grpc::health::v1::HealthCheckResponse;
  HealthCheckResponse response;
  const bool serving = service.live() && service.ready();
  response.set_status(serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING);
  return response.SerializeAsString();
}

std::string watched_health(Service& service, const std::string& request) {
  Result<std::string> found = check_health(service, request);
  if (found) return *std::move(found);
  grpc::health::v1::HealthCheckResponse response;
  response.set_status(grpc::health::v1::HealthCheckResponse::SERVICE_UNKNOWN);
  return response.SerializeAsString();
}

}  // namespace millrace::server
