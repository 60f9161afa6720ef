#include <millrace/version.h>

#include <gnu/libc-version.h>

#include "base/text.h"

#ifndef MILLRACE_VERSION
#define MILLRACE_VERSION "0.1.0"
#endif

namespace millrace {
namespace {

std::string compiler() {
#if defined(__clang__)
  return concat("clang ", __clang_version__);
#else
  return concat("g++ ", __VERSION__);
#endif
}

std::string build_type() {
  std::string text;
#if defined(MILLRACE_BUILD_TYPE)
  text = MILLRACE_BUILD_TYPE;
#elif defined(__OPTIMIZE__)
  text = "optimized";
#else
  text = "not optimized";
#endif
#if !defined(NDEBUG)
  text += ", assertions on";
#endif
#if defined(__SANITIZE_ADDRESS__)
  text += ", address sanitizer";
#endif
#if defined(__SANITIZE_THREAD__)
  text += ", thread sanitizer";
#endif
  return text;
}

}  // namespace

std::string_view version() noexcept { return MILLRACE_VERSION; }

std::vector<ComponentVersion> component_versions() {
  std::vector<ComponentVersion> versions;
  versions.push_back({"millrace", std::string(version())});
#if defined(MILLRACE_GIT_COMMIT)
  versions.push_back({"commit", MILLRACE_GIT_COMMIT});
#endif
  versions.push_back({"build", build_type()});
  versions.push_back({"compiler", compiler()});
  versions.push_back({"C library", concat("glibc ", gnu_get_libc_version())});
  return versions;
}

}  // namespace millrace
