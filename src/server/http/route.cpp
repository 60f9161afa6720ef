#include "server/http/route.h"

#include <array>
#include <charconv>
#include <cstddef>

namespace millrace::server {
namespace {

constexpr std::size_t kMaxSegments = 8;

// The parts of a path between slashes, without a last empty one.
struct Segments {
  std::array<std::string_view, kMaxSegments> parts;
  std::size_t count = 0;
  bool too_many = false;

  explicit Segments(std::string_view path) {
    while (!path.empty()) {
      path.remove_prefix(1);  // the slash
      const std::size_t slash = path.find('/');
      const std::string_view part = path.substr(0, slash);
      path.remove_prefix(part.size());
      if (part.empty() && path.empty()) return;
      if (count == kMaxSegments) {
        too_many = true;
        return;
      }
      parts[count++] = part;
    }
  }
  [[nodiscard]] std::string_view operator[](std::size_t i) const noexcept {
    return i < count ? parts[i] : std::string_view();
  }
};

// False for an escape that is none, and for names that are empty.
bool unescape(std::string_view text, std::string& out) {
  out.clear();
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned byte = 0;
    if (text.size() - i < 3 ||
        std::from_chars(text.data() + i + 1, text.data() + i + 3, byte, 16).ptr !=
            text.data() + i + 3) {
      return false;
    }
    out += static_cast<char>(byte);
    i += 2;
  }
  return !out.empty();
}

// Behind v2/models/M[/versions/V].
Endpoint model_endpoint(const Segments& path, std::size_t at) {
  const std::size_t left = path.count - at;
  if (left == 0) return Endpoint::model_metadata;
  if (left == 1) {
    if (path[at] == "infer") return Endpoint::infer;
    if (path[at] == "ready") return Endpoint::model_ready;
    if (path[at] == "config") return Endpoint::model_config;
    if (path[at] == "stats") return Endpoint::statistics;
  }
  if (left == 2 && path[at] == "trace" && path[at + 1] == "setting") {
    return Endpoint::trace_settings;
  }
  return Endpoint::none;
}

Endpoint models(const Segments& path, Route& route) {
  if (path.count == 3 && path[2] == "stats") return Endpoint::statistics;
  if (path.count < 3 || !unescape(path[2], route.model)) return Endpoint::none;
  std::size_t at = 3;
  if (path[at] == "versions") {
    if (!unescape(path[at + 1], route.version)) return Endpoint::none;
    at += 2;
  }
  return model_endpoint(path, at);
}

Endpoint repository(const Segments& path, Route& route) {
  if (path.count == 3 && path[2] == "index") return Endpoint::repository_index;
  if (path.count == 5 && path[2] == "models" && unescape(path[3], route.model)) {
    if (path[4] == "load") return Endpoint::model_load;
    if (path[4] == "unload") return Endpoint::model_unload;
  }
  return Endpoint::none;
}

// Behind v2/systemsharedmemory and v2/cudasharedmemory; the endpoints of one follow each other.
Endpoint memory(const Segments& path, Route& route, Endpoint status) {
  std::size_t at = 2;
  if (path[at] == "region") {
    if (!unescape(path[at + 1], route.region)) return Endpoint::none;
    at += 2;
  }
  if (path.count != at + 1) return Endpoint::none;
  const auto after = [status](int n) {
    return static_cast<Endpoint>(static_cast<int>(status) + n);
  };
  if (path[at] == "status") return status;
  if (path[at] == "register" && !route.region.empty()) return after(1);
  if (path[at] == "unregister") return after(2);
  return Endpoint::none;
}

Endpoint endpoint(const Segments& path, Route& route) {
  if (path.too_many) return Endpoint::none;
  if (path.count == 1 && path[0] == "openapi.json") return Endpoint::openapi;
  if (path.count == 1 && path[0] == "metrics") return Endpoint::metrics;
  if (path[0] != "v2") return Endpoint::none;
  if (path.count == 1) return Endpoint::server_metadata;
  if (path[1] == "models") return models(path, route);
  if (path[1] == "repository") return repository(path, route);
  if (path[1] == "systemsharedmemory") {
    return memory(path, route, Endpoint::system_memory_status);
  }
  if (path[1] == "cudasharedmemory") return memory(path, route, Endpoint::cuda_memory_status);
  if (path.count == 2 && path[1] == "logging") return Endpoint::log_settings;
  if (path.count == 3 && path[1] == "health") {
    if (path[2] == "live") return Endpoint::server_live;
    if (path[2] == "ready") return Endpoint::server_ready;
  }
  if (path.count == 3 && path[1] == "trace" && path[2] == "setting") {
    return Endpoint::trace_settings;
  }
  return Endpoint::none;
}

}  // namespace

void find_route(std::string_view target, Route& route) {
  route.model.clear();
  route.version.clear();
  route.region.clear();
  if (const std::size_t scheme =
          target.find("://");  // as sent to a proxy, with the host before the path
      scheme != std::string_view::npos && !target.starts_with('/')) {
    const std::size_t path = target.find('/', scheme + 3);
    target.remove_prefix(path == std::string_view::npos ? target.size() : path);
  }
  target = target.substr(0, target.find('?'));
  route.endpoint = target.starts_with('/') ? endpoint(Segments(target), route) : Endpoint::none;
}

EndpointTraits traits(Endpoint endpoint) noexcept {
  EndpointTraits traits;
  switch (endpoint) {
    case Endpoint::none:
      break;
    case Endpoint::server_live:
    case Endpoint::server_ready:
      traits.open = true;
      traits.get = true;
      break;
    case Endpoint::server_metadata:
    case Endpoint::model_metadata:
    case Endpoint::model_ready:
    case Endpoint::model_config:
    case Endpoint::statistics:
    case Endpoint::openapi:
    case Endpoint::metrics:
      traits.get = true;
      break;
    case Endpoint::infer:
    case Endpoint::repository_index:
      traits.post = true;
      break;
    case Endpoint::trace_settings:
    case Endpoint::log_settings:
      traits.get = traits.post = traits.control = true;
      break;
    case Endpoint::system_memory_status:
    case Endpoint::cuda_memory_status:
      traits.get = traits.control = true;
      break;
    case Endpoint::model_load:
    case Endpoint::model_unload:
    case Endpoint::system_memory_register:
    case Endpoint::system_memory_unregister:
    case Endpoint::cuda_memory_register:
    case Endpoint::cuda_memory_unregister:
      traits.post = traits.control = traits.slow = true;
      break;
  }
  traits.allowed = traits.get && traits.post ? "GET, HEAD, POST, OPTIONS"
                   : traits.get              ? "GET, HEAD, OPTIONS"
                                             : "POST, OPTIONS";
  return traits;
}

}  // namespace millrace::server
