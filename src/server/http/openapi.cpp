#include "server/http/control.h"

namespace millrace::server {

std::string_view openapi_document() noexcept {
  return R"({"openapi":"3.0.3","info":{"title":"Open Inference Protocol","version":"2"},"paths":{}})";
}

}  // namespace millrace::server
