#include "backends/onnxruntime/library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <system_error>

#include "base/text.h"

namespace millrace::onnxruntime {
namespace {

constexpr const char* kVariable = "MILLRACE_ONNXRUNTIME";
constexpr std::string_view kNames[] = {"libonnxruntime.so.1", "libonnxruntime.so"};

std::atomic<const OrtApi*> opened_api{nullptr};

// The folder of the running program; empty when the system does not say.
std::filesystem::path program_folder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

// What a file turned out to be: a library that fits, or why not.
struct Attempt {
  Library library;
  std::string reason;
};

Attempt open_file(const std::string& path) {
  std::error_code error;
  if (path.find('/') != std::string::npos && !std::filesystem::exists(path, error))
    return {{}, "not there"};
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const reason = dlerror();
    return {{}, reason != nullptr ? reason : "cannot be opened"};
  }
  const auto refuse = [&](std::string reason) -> Attempt {
    dlclose(handle);
    return {{}, std::move(reason)};
  };
  using GetApiBase = const OrtApiBase* (*)();
  const auto get_api_base = reinterpret_cast<GetApiBase>(dlsym(handle, "OrtGetApiBase"));
  if (get_api_base == nullptr) return refuse("is not ONNX Runtime: it has no OrtGetApiBase");
  const OrtApiBase* const base = get_api_base();
  std::string version = base->GetVersionString();
  const OrtApi* const api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    return refuse(concat("is version ", version, "; 1.", ORT_API_VERSION, " or newer is needed"));
  }
  return {{api, std::move(version), path}, {}};
}

Error not_found(const std::vector<std::string>& tried) {
  std::string message = "the ONNX Runtime library was not found. Looked for:";
  for (const std::string& attempt : tried) message += concat("\n    ", attempt);
  message += concat("\n  To get it: pip install onnxruntime, and set ", kVariable,
                    " to the file onnxruntime/capi/libonnxruntime.so.* of that package, "
                    "or copy it beside the program as ",
                    kNames[0]);
  return {ErrorCode::unavailable, std::move(message)};
}

ErrorCode code_of(OrtErrorCode code, std::string_view message) {
  const auto says = [&](std::string_view words) {
    return message.find(words) != std::string_view::npos;
  };
  if (says("bad_alloc") || says("Failed to allocate memory")) return ErrorCode::out_of_memory;
  if (says("is not a registered function/op") || says("Could not find an implementation") ||
      says("is under development") || says("Unsupported model IR version") ||
      says("Unknown model file format version")) {
    return ErrorCode::unsupported;
  }
  switch (code) {
    case ORT_INVALID_ARGUMENT:
    case ORT_INVALID_PROTOBUF:
    case ORT_INVALID_GRAPH:
    case ORT_NO_MODEL:
      return ErrorCode::invalid_argument;
    case ORT_NO_SUCHFILE:
      return ErrorCode::not_found;
    case ORT_NOT_IMPLEMENTED:
      return ErrorCode::unsupported;
    default:
      return ErrorCode::internal;
  }
}

}  // namespace

std::vector<std::string> library_candidates() {
  if (const char* const file = std::getenv(kVariable); file != nullptr && *file != '\0')
    return {file};
  std::vector<std::string> candidates;
  const auto add = [&](const std::filesystem::path& folder) {
    for (const std::string_view name : kNames) candidates.push_back((folder / name).string());
  };
  if (const std::filesystem::path folder = program_folder(); !folder.empty()) {
    add(folder);
    add(folder.parent_path() / "lib");
  }
#ifdef MILLRACE_DEPS_DIR
  add(std::filesystem::path(MILLRACE_DEPS_DIR) / "onnxruntime" / "lib");
#endif
  add({});
  return candidates;
}

Result<const Library*> open_library() {
  static std::mutex mutex;
  static const Library* opened =
      nullptr;  // under mutex; never deleted: sessions may outlive everything
  const std::lock_guard lock(mutex);
  if (opened != nullptr) return opened;
  std::vector<std::string> tried;
  for (const std::string& path : library_candidates()) {
    Attempt attempt = open_file(path);
    if (attempt.library.api != nullptr) {
      opened = new Library(std::move(attempt.library));
      opened_api.store(opened->api, std::memory_order_release);
      return opened;
    }
    tried.push_back(concat(path, " (", attempt.reason, ")"));
  }
  return not_found(tried);
}

const OrtApi& api() noexcept { return *opened_api.load(std::memory_order_acquire); }

Result<void> check(OrtStatus* status, std::string_view context) {
  if (status == nullptr) return {};
  std::string message = api().GetErrorMessage(status);
  const ErrorCode code = code_of(api().GetErrorCode(status), message);
  api().ReleaseStatus(status);
  return Error{code, concat(context, ": ", message)};
}

}  // namespace millrace::onnxruntime
