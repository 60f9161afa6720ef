#include "server/http/control.h"

namespace millrace::server {

std::string_view openapi_document() noexcept {
  static constexpr std::string_view kDocument =
#include "server/http/openapi.json.inc"  // made from openapi.json
      ;
  return kDocument;
}

}  // namespace millrace::server
