// Finds and opens the ONNX Runtime library, and what makes its C interface fit to use.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <onnxruntime_c_api.h>

#include <millrace/error.h>

namespace millrace::onnxruntime {

struct Library {
  const OrtApi* api = nullptr;
  std::string version;  // "1.21.0"
  std::string path;     // as found
};

/// Opens the library at the first call and keeps it for good; after a failure the next call tries
/// again. Errors: unavailable, naming every file looked for and how to get one. Thread-safe.
[[nodiscard]] Result<const Library*> open_library();

/// The files that `open_library` tries, in order. Names without a folder are left to the loader's
/// search.
[[nodiscard]] std::vector<std::string> library_candidates();

/// The library's functions. Only once `open_library` has succeeded.
[[nodiscard]] const OrtApi& api() noexcept;

/// Turns a status into an error and releases it: the library's words after `context`. A null status
/// is success.
Result<void> check(OrtStatus* status, std::string_view context);

/// Gives objects of the library back.
struct Release {
  void operator()(OrtEnv* p) const noexcept { api().ReleaseEnv(p); }
  void operator()(OrtSession* p) const noexcept { api().ReleaseSession(p); }
  void operator()(OrtSessionOptions* p) const noexcept { api().ReleaseSessionOptions(p); }
  void operator()(OrtRunOptions* p) const noexcept { api().ReleaseRunOptions(p); }
  void operator()(OrtThreadingOptions* p) const noexcept { api().ReleaseThreadingOptions(p); }
  void operator()(OrtMemoryInfo* p) const noexcept { api().ReleaseMemoryInfo(p); }
  void operator()(OrtModelMetadata* p) const noexcept { api().ReleaseModelMetadata(p); }
  void operator()(OrtTypeInfo* p) const noexcept { api().ReleaseTypeInfo(p); }
  void operator()(OrtTensorTypeAndShapeInfo* p) const noexcept {
    api().ReleaseTensorTypeAndShapeInfo(p);
  }
  void operator()(OrtValue* p) const noexcept { api().ReleaseValue(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Release>;

/// Receives what a function of the library makes: check(f(..., made(session)), ...).
template <class T>
class Made {
 public:
  explicit Made(Owned<T>& target) noexcept : target_(target) {}
  Made(const Made&) = delete;
  Made& operator=(const Made&) = delete;
  ~Made() { target_.reset(made_); }
  operator T**() noexcept { return &made_; }

 private:
  Owned<T>& target_;
  T* made_ = nullptr;
};
template <class T>
[[nodiscard]] Made<T> made(Owned<T>& target) noexcept {
  return Made<T>(target);
}

}  // namespace millrace::onnxruntime
