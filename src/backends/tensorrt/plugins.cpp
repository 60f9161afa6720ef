#include "backends/tensorrt/plugins.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace::tensorrt {
namespace {

using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(std::int32_t&);

constexpr std::string_view kInfer = "libnvinfer.so.";

template <class... Why>
Error wrong(const std::string& path, const Why&... why) {
  return {ErrorCode::invalid_argument, concat("plug-in library ", quote(path), " ", why...)};
}

/// The names of the libraries that an opened one needs.
std::vector<std::string_view> needed_by(void* handle) {
  link_map* map = nullptr;
  std::vector<std::string_view> names;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0) return names;
  const char* strings = nullptr;
  for (const auto* entry = map->l_ld; entry->d_tag != DT_NULL; ++entry) {
    if (entry->d_tag != DT_STRTAB) continue;
    // The loader has made an address of it. NOLINTNEXTLINE(performance-no-int-to-ptr)
    strings = reinterpret_cast<const char*>(entry->d_un.d_ptr);
  }
  for (const auto* entry = map->l_ld; strings && entry->d_tag != DT_NULL; ++entry) {
    if (entry->d_tag == DT_NEEDED) names.emplace_back(strings + entry->d_un.d_val);
  }
  return names;
}

/// Two TensorRTs in one process cannot exchange objects.
Result<void> check_major(void* handle, const std::string& path) {
  for (const std::string_view name : needed_by(handle)) {
    if (!name.starts_with(kInfer)) continue;
    const std::string_view version = name.substr(kInfer.size());
    const std::string_view major = version.substr(0, version.find('.'));
    if (major == std::to_string(kMajor)) continue;
    return wrong(path, "was made for TensorRT ", major, " (it needs ", name,
                 "); build it with the headers of TensorRT ", kMajor);
  }
  return {};
}

Result<void*> open_file(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return Error{ErrorCode::not_found,
                 concat("plug-in library ", quote(path), ": there is no such file")};
  }
  // A bare name would be looked for elsewhere.
  const std::string absolute = std::filesystem::absolute(path, error).string();
  if (void* handle = dlopen(absolute.c_str(), RTLD_LAZY | RTLD_LOCAL)) return handle;
  const char* reason = dlerror();
  return wrong(path, "cannot be opened: ", reason ? reason : "no reason given");
}

Result<void> describe(nvinfer1::IPluginCreatorInterface* creator, PluginLibrary& library) {
  const std::string_view kind = creator->getInterfaceInfo().kind;
  if (kind != "PLUGIN CREATOR_V3ONE") {
    return wrong(library.path, "has a creator of the kind ", quote(kind),
                 "; expected IPluginCreatorV3One, which makes plug-ins of IPluginV3");
  }
  auto& one = static_cast<nvinfer1::IPluginCreatorV3One&>(*creator);
  const char* const space = one.getPluginNamespace();
  library.creators.push_back(creator);
  library.names.push_back(
      concat(space, *space == '\0' ? "" : "::", one.getPluginName(), " ", one.getPluginVersion()));
  return {};
}

struct Registered {
  std::mutex mutex;
  std::map<std::string, PluginLibrary> libraries;  // guarded by mutex; by path, without links
  std::map<std::string, std::string> makers;       // guarded by mutex; by plug-in, its library
};

Registered& registered() {
  static auto* const all = new Registered;  // as the libraries, for good
  return *all;
}

Result<void> register_library(const Library& library, const std::string& path) {
  std::error_code error;
  const std::string real = std::filesystem::weakly_canonical(path, error).string();
  Registered& all = registered();
  const std::lock_guard lock(all.mutex);
  if (all.libraries.contains(real)) return {};
  MILLRACE_ASSIGN(PluginLibrary opened, open_plugins(path));
  for (const std::string& name : opened.names) {
    const auto other = all.makers.find(name);
    if (other == all.makers.end()) continue;
    return wrong(path, "has the plug-in ", quote(name), ", which ", quote(other->second),
                 " has registered already; give it another name, version or namespace");
  }
  if (!library.plugins->loadLibrary(real.c_str())) {
    return wrong(path, "is not taken by TensorRT ", library.text,
                 ": the log has its reason, if it gave one");
  }
  for (const std::string& name : opened.names) all.makers.emplace(name, path);
  log_info("plug-in library ", quote(path), ": ", join(opened.names, ", "));
  all.libraries.emplace(real, std::move(opened));
  return {};
}

}  // namespace

Result<PluginLibrary> open_plugins(const std::string& path) {
  PluginLibrary library;
  library.path = path;
  MILLRACE_ASSIGN(void* const handle, open_file(path));
  MILLRACE_TRY(check_major(handle, path));
  const auto creators = reinterpret_cast<GetCreators>(dlsym(handle, "getCreators"));
  if (!creators) {
    if (dlsym(handle, "getPluginCreators")) {
      return wrong(path, "has plug-ins of IPluginV2 only, which are not supported; expected a ",
                   "function getCreators that gives creators of IPluginV3");
    }
    return wrong(path, "has no plug-ins: expected a function getCreators that gives creators of ",
                 "IPluginV3");
  }
  std::int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* const list = creators(count);
  if (!list || count < 1) return wrong(path, "has no plug-ins: its getCreators gives none");
  for (std::int32_t i = 0; i < count; ++i) MILLRACE_TRY(describe(list[i], library));
  return library;
}

Result<void> register_plugins(const Library& library, std::span<const std::string> paths) {
  for (const std::string& path : paths) MILLRACE_TRY(register_library(library, path));
  return {};
}

}  // namespace millrace::tensorrt
