// What NVTX loads in place of a profiler: keeps the text of every range that is begun, and how many
// are open.
#include <nvtx3/nvToolsExt.h>

#include <mutex>
#include <string>

namespace {

std::mutex& mutex() {
  static auto* const one = new std::mutex;
  return *one;
}
std::string& lines() {  // under mutex(): "domain: text", a line each
  static auto* const text = new std::string;
  return *text;
}
int open_ranges = 0;  // under mutex()

// A domain is its name.
nvtxDomainHandle_t NVTX_API create_domain(const char* name) {
  return reinterpret_cast<nvtxDomainHandle_t>(new std::string(name));
}

int NVTX_API push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* attributes) {
  const std::lock_guard lock(mutex());
  lines() +=
      *reinterpret_cast<const std::string*>(domain) + ": " + attributes->message.ascii + "\n";
  return open_ranges++;
}

int NVTX_API pop(nvtxDomainHandle_t) {
  const std::lock_guard lock(mutex());
  return --open_ranges;
}

template <class Function>
void set(NvtxFunctionTable table, int index, Function* function) {
  *table[index] = reinterpret_cast<NvtxFunctionPointer>(function);
}

}  // namespace

#define LISTENER_EXPORT extern "C" [[gnu::visibility("default")]]

// NOLINTNEXTLINE(readability-identifier-naming): NVTX looks for this name
LISTENER_EXPORT int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const auto* callbacks =
      static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (!callbacks || callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) != 1 ||
      size <= NVTX_CBID_CORE2_DomainCreateA) {
    return 0;
  }
  set(table, NVTX_CBID_CORE2_DomainCreateA, &create_domain);
  set(table, NVTX_CBID_CORE2_DomainRangePushEx, &push);
  set(table, NVTX_CBID_CORE2_DomainRangePop, &pop);
  return 1;
}

/// The ranges begun so far. Valid until the next call.
LISTENER_EXPORT const char* listener_lines() {
  static std::string copy;
  const std::lock_guard lock(mutex());
  copy = lines();
  return copy.c_str();
}

LISTENER_EXPORT int listener_open() {
  const std::lock_guard lock(mutex());
  return open_ranges;
}
