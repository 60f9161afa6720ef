#include "client/status.h"

namespace millrace::client {

ErrorCode code_of_http(int status) noexcept {
  switch (status) {
    case 400:
    case 401:
    case 403:
    case 405:
    case 411:
    case 413:
    case 415:
    case 431:
      return ErrorCode::invalid_argument;
    case 404:
      return ErrorCode::not_found;
    case 429:
      return ErrorCode::queue_full;
    case 499:
      return ErrorCode::cancelled;
    case 501:
      return ErrorCode::unsupported;
    case 502:
    case 503:
      return ErrorCode::unavailable;
    case 408:
    case 504:
      return ErrorCode::deadline_exceeded;
    default:
      return ErrorCode::internal;
  }
}

ErrorCode code_of_grpc(int status) noexcept {
  switch (status) {
    case 1:
      return ErrorCode::cancelled;
    case 3:   // INVALID_ARGUMENT
    case 6:   // ALREADY_EXISTS
    case 7:   // PERMISSION_DENIED
    case 9:   // FAILED_PRECONDITION
    case 11:  // OUT_OF_RANGE
    case 16:  // UNAUTHENTICATED
      return ErrorCode::invalid_argument;
    case 4:
      return ErrorCode::deadline_exceeded;
    case 5:
      return ErrorCode::not_found;
    case 8:
      return ErrorCode::queue_full;
    case 12:
      return ErrorCode::unsupported;
    case 14:
      return ErrorCode::unavailable;
    default:
      return ErrorCode::internal;
  }
}

}  // namespace millrace::client
