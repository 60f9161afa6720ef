#include "server/status.h"

namespace millrace::server {

int http_status(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::invalid_argument:
      return 400;
    case ErrorCode::not_found:
      return 404;
    case ErrorCode::queue_full:
      return 429;
    case ErrorCode::cancelled:
      return 499;
    case ErrorCode::unsupported:
      return 501;
    case ErrorCode::unavailable:
    case ErrorCode::out_of_memory:
    case ErrorCode::gpu_fault:
      return 503;
    case ErrorCode::deadline_exceeded:
      return 504;
    case ErrorCode::internal:
      break;
  }
  return 500;
}

int grpc_status(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::cancelled:
      return 1;
    case ErrorCode::invalid_argument:
      return 3;
    case ErrorCode::deadline_exceeded:
      return 4;
    case ErrorCode::not_found:
      return 5;
    case ErrorCode::queue_full:
    case ErrorCode::out_of_memory:
      return 8;
    case ErrorCode::unsupported:
      return 12;
    case ErrorCode::unavailable:
    case ErrorCode::gpu_fault:
      return 14;
    case ErrorCode::internal:
      break;
  }
  return 13;
}

}  // namespace millrace::server
