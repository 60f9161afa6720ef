#include <algorithm>
#include <array>

#include "backends/backend.h"
#include "backends/onnxruntime/onnxruntime.h"
#include "backends/reference/reference.h"
#include "backends/tensorrt/tensorrt.h"
#include "base/text.h"

namespace millrace {
namespace {

std::string known_names() {
  std::vector<std::string_view> names = {"auto"};
  for (const Backend& backend : backends()) names.push_back(backend.name);
  return join(names, ", ");
}

std::string model_text(const ModelSpec& spec) { return concat("model ", quote(spec.name)); }

Support support_of(const Backend& backend, const ModelSpec& spec, DeviceRef device) {
  Support support = backend.supports(spec, device);
  if (!support.supported || spec.plugins.empty() || backend.takes_plugins) return support;
  return {false,
          concat("takes no plug-in libraries, and the model names ", quote(spec.plugins[0]))};
}

Result<BackendChoice> choose_named(std::string_view requested, const ModelSpec& spec,
                                   DeviceRef device) {
  for (const Backend& backend : backends()) {
    if (backend.name != requested) continue;
    const Support support = support_of(backend, spec, device);
    if (support.supported) return BackendChoice{&backend, "asked for"};
    return Error{ErrorCode::unsupported, concat(model_text(spec), ": backend \"", backend.name,
                                                "\" cannot run it: ", support.reason)};
  }
  return Error{ErrorCode::not_found,
               concat("there is no backend ", quote(requested), "; there are ", known_names())};
}

}  // namespace

std::span<const Backend> backends() noexcept {
  static const std::array list = {tensorrt::backend(), onnxruntime::backend(),
                                  reference::backend()};
  return list;
}

std::vector<BackendInfo> backend_infos() {
  std::vector<BackendInfo> infos;
  for (const Backend& backend : backends()) infos.push_back(backend.info());
  return infos;
}

Result<BackendChoice> choose_backend(std::string_view requested, const ModelSpec& spec,
                                     DeviceRef device) {
  if (requested != "auto" && !requested.empty()) return choose_named(requested, spec, device);
  std::string reasons;
  bool any_supports = false;
  for (const Backend& backend : backends()) {
    Support support = support_of(backend, spec, device);
    if (support.supported) {
      BackendInfo info = backend.info();
      if (info.usable) return BackendChoice{&backend, std::move(support.reason)};
      any_supports = true;
      support.reason = std::move(info.reason);
    }
    reasons += concat("\n  ", backend.name, ": ", support.reason);
  }
  return Error{any_supports ? ErrorCode::unavailable : ErrorCode::unsupported,
               concat(model_text(spec), ": no backend can run ", quote(spec.path), " on ",
                      to_string(device->id()), ":", reasons)};
}

}  // namespace millrace
