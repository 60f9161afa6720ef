#include "backends/tensorrt/library.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <filesystem>
#include <list>
#include <mutex>
#include <system_error>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace::tensorrt {
namespace {

constexpr const char* kVariable = "MILLRACE_TENSORRT";

std::filesystem::path program_folder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

std::string infer_name() { return concat("libnvinfer.so.", kMajor); }
std::string parser_name() { return concat("libnvonnxparser.so.", kMajor); }

// The file of an opened library, as the loader found it.
std::string file_of(void* symbol) {
  Dl_info info{};
  return dladdr(symbol, &info) != 0 && info.dli_fname ? info.dli_fname : "";
}

struct Opened {
  void* handle = nullptr;
  std::string path;
};

Result<Opened> open_any(const std::string& name) {
  std::string tried;
  for (const std::string& path : library_candidates(name)) {
    std::error_code error;
    if (path.find('/') != std::string::npos && !std::filesystem::exists(path, error)) {
      tried += concat("\n    ", path, " (not there)");
      continue;
    }
    if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return Opened{handle, path};
    const char* reason = dlerror();
    tried += concat("\n    ", path, " (", reason ? reason : "cannot be opened", ")");
  }
  return Error{ErrorCode::unavailable,
               concat("TensorRT's ", name, " was not found. Looked for:", tried,
                      "\n  To get it: install TensorRT ", kMajor, " and set ", kVariable,
                      " to the folder of its libraries, or copy them beside the program")};
}

template <class Function>
Result<void> find(void* handle, const char* symbol, Function*& function, const std::string& path) {
  function = reinterpret_cast<Function*>(dlsym(handle, symbol));
  if (function) return {};
  return Error{ErrorCode::unavailable, concat(path, " is not TensorRT: it has no ", symbol)};
}

Result<const Library*> open_infer() {
  MILLRACE_ASSIGN(const Opened opened, open_any(infer_name()));
  auto library = std::make_unique<Library>();
  int (*version)() = nullptr;
  nvinfer1::IPluginRegistry* (*registry)() = nullptr;
  MILLRACE_TRY(find(opened.handle, "getInferLibVersion", version, opened.path));
  MILLRACE_TRY(find(opened.handle, "getPluginRegistry", registry, opened.path));
  MILLRACE_TRY(
      find(opened.handle, "createInferRuntime_INTERNAL", library->create_runtime, opened.path));
  MILLRACE_TRY(
      find(opened.handle, "createInferBuilder_INTERNAL", library->create_builder, opened.path));
  library->version = version();
  library->text = version_text(library->version);
  library->path = file_of(reinterpret_cast<void*>(version));
  if (library->path.empty()) library->path = opened.path;
  if (library->version / 10000 != kMajor) {
    return Error{ErrorCode::unavailable,
                 concat(opened.path, " is TensorRT ", library->text, "; this program needs ",
                        kMajor, ".x. Set ", kVariable, " to the folder of one")};
  }
  library->plugins = registry();
  return library.release();  // for good: engines may outlive everything
}

/// libnvinfer opens the builder's resources by their bare name, which the loader only knows for
/// libraries on its search path, and the file's own SONAME is another. So the library, opened from
/// beside libnvinfer, is given that name in the loader's list, where a look-up begins.
void open_by_bare_name(const std::string& path, const std::string& name) {
  void* handle = dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);
  link_map* map = nullptr;
  if (!handle || dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0) {
    const char* reason = dlerror();
    log_warning("TensorRT: ", reason ? reason : name.c_str());
    return;
  }
  static std::list<std::string> names;  // for good, as the libraries are
  map->l_name = names.emplace_back(name).data();
  if (!dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD)) {
    log_warning("TensorRT: ", name, " cannot be made known; set LD_LIBRARY_PATH to its folder");
  }
}

void preload_resources(const std::string& infer_path) {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::path(infer_path).parent_path();
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("libnvinfer_builder_resource")) continue;
    if (!dlopen(name.c_str(), RTLD_LAZY)) open_by_bare_name(entry.path().string(), name);
  }
}

Result<const BuilderLibrary*> open_parser() {
  MILLRACE_ASSIGN(const Library* runtime, open_library());
  MILLRACE_ASSIGN(const Opened opened, open_any(parser_name()));
  auto library = std::make_unique<BuilderLibrary>();
  int (*version)() = nullptr;
  MILLRACE_TRY(find(opened.handle, "getNvOnnxParserVersion", version, opened.path));
  MILLRACE_TRY(
      find(opened.handle, "createNvOnnxParser_INTERNAL", library->create_parser, opened.path));
  library->runtime = runtime;
  library->parser_version = version();
  preload_resources(runtime->path);
  return library.release();
}

}  // namespace

std::string version_text(int version) {
  return concat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

std::vector<std::string> library_candidates(std::string_view name) {
  std::vector<std::string> candidates;
  const auto add = [&](const std::filesystem::path& folder) {
    candidates.push_back((folder / name).string());
  };
  if (const char* folder = std::getenv(kVariable); folder && *folder != '\0') {
    add(folder);
    return candidates;
  }
  if (const std::filesystem::path folder = program_folder(); !folder.empty()) {
    add(folder);
    add(folder.parent_path() / "lib");
  }
#ifdef MILLRACE_DEPS_DIR
  add(std::filesystem::path(MILLRACE_DEPS_DIR) / "tensorrt" / "lib");
#endif
  add({});
  return candidates;
}

Result<const Library*> open_library() {
  static std::mutex mutex;
  static const Library* opened = nullptr;  // under mutex
  const std::lock_guard lock(mutex);
  if (!opened) {
    MILLRACE_ASSIGN(opened, open_infer());
  }
  return opened;
}

Result<const BuilderLibrary*> open_builder_library() {
  static std::mutex mutex;
  static const BuilderLibrary* opened = nullptr;  // under mutex
  const std::lock_guard lock(mutex);
  if (!opened) {
    MILLRACE_ASSIGN(opened, open_parser());
  }
  return opened;
}

std::unique_ptr<nvinfer1::IRuntime> Library::new_runtime(nvinfer1::ILogger& logger) const {
  return std::unique_ptr<nvinfer1::IRuntime>(
      static_cast<nvinfer1::IRuntime*>(create_runtime(&logger, version)));
}

std::unique_ptr<nvinfer1::IBuilder> BuilderLibrary::new_builder(nvinfer1::ILogger& logger) const {
  return std::unique_ptr<nvinfer1::IBuilder>(
      static_cast<nvinfer1::IBuilder*>(runtime->create_builder(&logger, runtime->version)));
}

std::unique_ptr<nvonnxparser::IParser> BuilderLibrary::new_parser(
    nvinfer1::INetworkDefinition& network, nvinfer1::ILogger& logger) const {
  return std::unique_ptr<nvonnxparser::IParser>(
      static_cast<nvonnxparser::IParser*>(create_parser(&network, &logger, parser_version)));
}

}  // namespace millrace::tensorrt
