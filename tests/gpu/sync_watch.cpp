#include "tests/gpu/sync_watch.h"

#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <span>
#include <utility>

namespace millrace {
namespace {

constexpr std::size_t kFunctions = CUPTI_DRIVER_TRACE_CBID_SIZE;
constexpr int kFrames = 32;

// --- Arguments of calls ---

using IsPageable = bool (*)(const void*);

/// How to read the arguments of a function that takes a stream.
struct Reader {
  CUstream (*stream)(const void* parameters) = nullptr;
  bool (*pageable)(const void* parameters, IsPageable is_pageable) = nullptr;
};

bool either(const void* source, const void* destination, IsPageable is_pageable) {
  return is_pageable(source) || is_pageable(destination);
}

const void* host_address(CUdeviceptr address) {
  return reinterpret_cast<const void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

/// Of one side of a copy in two or three dimensions; null for what cannot be pageable.
const void* host_address(CUmemorytype type, const void* host, CUdeviceptr device) {
  if (type == CU_MEMORYTYPE_HOST) return host;
  return type == CU_MEMORYTYPE_UNIFIED ? host_address(device) : nullptr;
}

const void* host_address(const CUmemcpy3DOperand& operand) {
  return operand.type == CU_MEMCPY_OPERAND_TYPE_POINTER ? host_address(operand.op.ptr.ptr)
                                                        : nullptr;
}

// The driver names arguments alike in all its functions: the member says what there is to read.
template <class Parameters>
struct Arguments {
  static const Parameters& of(const void* parameters) {
    return *static_cast<const Parameters*>(parameters);
  }

  static CUstream stream(const void* parameters) {
    const Parameters& p = of(parameters);
    if constexpr (requires { p.hStream; }) {
      return p.hStream;
    } else if constexpr (requires { p.stream; }) {
      return p.stream;
    } else if constexpr (requires { p.dstStream; }) {
      return p.dstStream;
    } else if constexpr (requires { p.dst; }) {
      return p.dst;
    } else {
      return p.config->hStream;
    }
  }

  static bool pageable(const void* parameters, IsPageable is_pageable) {
    const Parameters& p = of(parameters);
    if constexpr (requires { p.srcHost; }) {
      return is_pageable(p.srcHost);
    } else if constexpr (requires { p.dstHost; }) {
      return is_pageable(p.dstHost);
    } else if constexpr (requires { p.pCopy; }) {
      const auto& copy = *p.pCopy;
      return either(host_address(copy.srcMemoryType, copy.srcHost, copy.srcDevice),
                    host_address(copy.dstMemoryType, copy.dstHost, copy.dstDevice), is_pageable);
    } else if constexpr (requires {
                           p.dsts;
                           p.srcs;
                         }) {
      for (std::size_t i = 0; i < p.count; ++i) {
        if (either(host_address(p.srcs[i]), host_address(p.dsts[i]), is_pageable)) return true;
      }
      return false;
    } else if constexpr (requires { p.opList; }) {
      for (std::size_t i = 0; i < p.numOps; ++i) {
        if (either(host_address(p.opList[i].src), host_address(p.opList[i].dst), is_pageable)) {
          return true;
        }
      }
      return false;
    } else if constexpr (requires {
                           p.src;
                           p.ByteCount;
                           p.hStream;
                         }) {
      return either(host_address(p.src), host_address(p.dst), is_pageable);
    } else {
      return false;
    }
  }
};

struct Row {
  CUpti_CallbackId function;
  Reader reader;
};

template <class Parameters>
constexpr Row row(CUpti_CallbackId function) {
  return {function, {&Arguments<Parameters>::stream, &Arguments<Parameters>::pageable}};
}

// cuda.h makes macros of many of these names: each must be pasted where it stands.
#define ROW(name) row<name##_params>(CUPTI_DRIVER_TRACE_CBID_##name)
// With the variant that takes the null stream for the thread's own.
#define ROWS(name)                                    \
  row<name##_params>(CUPTI_DRIVER_TRACE_CBID_##name), \
      row<name##_ptsz_params>(CUPTI_DRIVER_TRACE_CBID_##name##_ptsz)

// Every function of the driver that takes a stream, in its 64-bit versions.
// clang-format off
constexpr Row kRows[] = {
    ROWS(cuLaunchKernel), ROWS(cuLaunchKernelEx), ROWS(cuLaunchCooperativeKernel),
    ROWS(cuLaunchHostFunc), ROW(cuLaunchGridAsync), ROWS(cuGraphLaunch), ROWS(cuGraphUpload),
    ROWS(cuMemcpyAsync), ROWS(cuMemcpyPeerAsync), ROWS(cuMemcpyHtoDAsync_v2),
    ROWS(cuMemcpyDtoHAsync_v2), ROWS(cuMemcpyDtoDAsync_v2), ROWS(cuMemcpyHtoAAsync_v2),
    ROWS(cuMemcpyAtoHAsync_v2), ROWS(cuMemcpy2DAsync_v2), ROWS(cuMemcpy3DAsync_v2),
    ROWS(cuMemcpy3DPeerAsync), ROWS(cuMemcpyBatchAsync), ROWS(cuMemcpyBatchAsync_v2),
    ROWS(cuMemcpy3DBatchAsync), ROWS(cuMemcpy3DBatchAsync_v2), ROWS(cuMemsetD8Async),
    ROWS(cuMemsetD16Async), ROWS(cuMemsetD32Async), ROWS(cuMemsetD2D8Async),
    ROWS(cuMemsetD2D16Async), ROWS(cuMemsetD2D32Async), ROWS(cuMemAllocAsync),
    ROWS(cuMemAllocFromPoolAsync), ROWS(cuMemFreeAsync), ROWS(cuMemMapArrayAsync),
    ROWS(cuMemPrefetchAsync), ROWS(cuMemPrefetchAsync_v2), ROWS(cuMemPrefetchBatchAsync),
    ROWS(cuMemDiscardBatchAsync), ROWS(cuMemDiscardAndPrefetchBatchAsync),
    ROWS(cuMemBatchDecompressAsync), ROWS(cuEventRecord), ROWS(cuEventRecordWithFlags),
    ROWS(cuStreamWaitEvent), ROWS(cuStreamSynchronize), ROWS(cuStreamQuery),
    ROWS(cuStreamAddCallback), ROWS(cuStreamAttachMemAsync), ROWS(cuStreamBeginCapture),
    ROWS(cuStreamBeginCapture_v2), ROWS(cuStreamBeginCaptureToGraph), ROWS(cuStreamEndCapture),
    ROWS(cuStreamIsCapturing), ROWS(cuStreamGetCaptureInfo), ROWS(cuStreamGetCaptureInfo_v2),
    ROWS(cuStreamGetCaptureInfo_v3), ROWS(cuStreamUpdateCaptureDependencies),
    ROWS(cuStreamUpdateCaptureDependencies_v2), ROWS(cuStreamCopyAttributes),
    ROWS(cuStreamGetAttribute), ROWS(cuStreamSetAttribute), ROWS(cuStreamGetPriority),
    ROWS(cuStreamGetFlags), ROWS(cuStreamGetId), ROWS(cuStreamGetDevice), ROWS(cuStreamGetCtx),
    ROWS(cuStreamGetCtx_v2), ROW(cuStreamGetGreenCtx), ROW(cuStreamDestroy_v2),
    ROWS(cuStreamWaitValue32), ROWS(cuStreamWaitValue32_v2), ROWS(cuStreamWaitValue64),
    ROWS(cuStreamWaitValue64_v2), ROWS(cuStreamWriteValue32), ROWS(cuStreamWriteValue32_v2),
    ROWS(cuStreamWriteValue64), ROWS(cuStreamWriteValue64_v2), ROWS(cuStreamBatchMemOp),
    ROWS(cuStreamBatchMemOp_v2), ROWS(cuSignalExternalSemaphoresAsync),
    ROWS(cuWaitExternalSemaphoresAsync), ROWS(cuGraphicsMapResources),
    ROWS(cuGraphicsUnmapResources),
};
// clang-format on
#undef ROWS
#undef ROW

// --- CUPTI and the driver, opened at run time ---

struct Cupti {
  decltype(&cuptiSubscribe) subscribe = nullptr;
  decltype(&cuptiUnsubscribe) unsubscribe = nullptr;
  decltype(&cuptiEnableDomain) enable_domain = nullptr;
  decltype(&cuptiEnableCallback) enable_callback = nullptr;
  decltype(&cuptiGetCallbackName) callback_name = nullptr;
  decltype(&cuptiGetResultString) result_string = nullptr;
  decltype(&cuptiGetVersion) version = nullptr;
  decltype(&cuPointerGetAttribute) pointer_attribute = nullptr;  // the driver's
};

Error unavailable(const std::string& reason) {
  return Error{ErrorCode::unavailable, "calls into the CUDA driver cannot be watched: " + reason};
}

void* open_first(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    if (void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  }
  return nullptr;
}

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

std::vector<std::string> cupti_paths() {
  if (const char* const named = std::getenv("MILLRACE_CUPTI")) return {named};
  return {
      "libcupti.so.13",
#ifdef MILLRACE_DEPS_DIR
      std::string(MILLRACE_DEPS_DIR) + "/cuda/lib/libcupti.so.13",
#endif
      "/usr/local/cuda/lib64/libcupti.so.13",
      "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so.13",
      "libcupti.so",
  };
}

Result<Cupti> open_cupti() {
  Cupti cupti;
  void* const driver = open_first({"libcuda.so.1"});
  if (driver == nullptr || !find(driver, "cuPointerGetAttribute", cupti.pointer_attribute)) {
    return unavailable("there is no CUDA driver (libcuda.so.1)");
  }
  const std::vector<std::string> paths = cupti_paths();
  void* const library = open_first(paths);
  if (library == nullptr) {
    std::string looked_for;
    for (const std::string& path : paths) looked_for += " " + path;
    return unavailable("no CUPTI was found; looked for" + looked_for);
  }
  if (!find(library, "cuptiSubscribe", cupti.subscribe) ||
      !find(library, "cuptiUnsubscribe", cupti.unsubscribe) ||
      !find(library, "cuptiEnableDomain", cupti.enable_domain) ||
      !find(library, "cuptiEnableCallback", cupti.enable_callback) ||
      !find(library, "cuptiGetCallbackName", cupti.callback_name) ||
      !find(library, "cuptiGetResultString", cupti.result_string) ||
      !find(library, "cuptiGetVersion", cupti.version)) {
    return unavailable("the CUPTI that was found lacks functions");
  }
  std::uint32_t version = 0;
  if (cupti.version(&version) != CUPTI_SUCCESS || version / 10000 != CUPTI_API_VERSION / 10000) {
    return unavailable("expected CUPTI of interface " + std::to_string(CUPTI_API_VERSION) +
                       ", found " + std::to_string(version));
  }
  return cupti;
}

// --- What is recorded ---

struct Record {
  Violation violation;  // without its backtrace
  std::array<void*, kFrames> frames{};
  int frame_count = 0;
};

/// Stays for the life of the process, since a callback may still run on some thread after CUPTI let
/// go of it.
struct State {
  std::array<std::string, kFunctions> names;
  std::array<std::optional<CallFault>, kFunctions> faults;
  std::array<Reader, kFunctions> readers;
  Cupti cupti;
  CUpti_SubscriberHandle subscriber = nullptr;

  std::atomic<bool> taken{false};
  std::atomic<bool> armed{false};
  std::array<std::atomic<std::uint64_t>, kFunctions> counts{};

  std::mutex mutex;
  std::vector<Record> records;
  std::vector<pid_t> allowed_threads;
  std::vector<std::string> allowed_names;
};

State& state() {
  static State* const it = new State;
  return *it;
}

thread_local bool in_callback = false;

void record(std::string_view function, CallFault fault) {
  State& s = state();
  Record made;
  made.violation.function = function;
  made.violation.fault = fault;
  made.violation.count = 1;
  made.violation.thread = gettid();
  std::array<char, 16> name{};
  pthread_getname_np(pthread_self(), name.data(), name.size());
  made.violation.thread_name = name.data();
  {
    const std::scoped_lock lock(s.mutex);
    if (fault == CallFault::synchronizes &&
        (std::count(s.allowed_threads.begin(), s.allowed_threads.end(), made.violation.thread) !=
             0 ||
         std::count(s.allowed_names.begin(), s.allowed_names.end(), made.violation.thread_name) !=
             0)) {
      return;
    }
  }
  // Takes a lock of the dynamic linker, under which another thread may be calling the driver: not
  // while holding ours.
  made.frame_count = backtrace(made.frames.data(), kFrames);
  const std::scoped_lock lock(s.mutex);
  for (Record& known : s.records) {
    if (known.violation.fault == fault && known.violation.thread == made.violation.thread &&
        known.violation.function == function) {
      ++known.violation.count;
      return;
    }
  }
  s.records.push_back(std::move(made));
}

bool is_default(CUstream stream) {
  return stream == nullptr || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD;
}

/// Whether the driver knows nothing about the memory at this address.
bool is_pageable(const void* address) {
  if (address == nullptr) return false;
  unsigned type = 0;
  const CUresult status = state().cupti.pointer_attribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                                          reinterpret_cast<CUdeviceptr>(address));
  return status != CUDA_SUCCESS || type == 0;
}

void on_driver_call(CUpti_CallbackId function, const CUpti_CallbackData& call) {
  State& s = state();
  if (call.callbackSite != CUPTI_API_ENTER || function >= kFunctions) return;
  s.counts[function].fetch_add(1, std::memory_order_relaxed);
  const std::string& name = s.names[function];
  if (s.faults[function]) record(name, *s.faults[function]);
  const Reader& reader = s.readers[function];
  if (reader.stream == nullptr) return;
  if (is_default(reader.stream(call.functionParams))) record(name, CallFault::default_stream);
  if (reader.pageable(call.functionParams, &is_pageable)) record(name, CallFault::pageable);
}

void CUPTIAPI on_callback(void*, CUpti_CallbackDomain domain, CUpti_CallbackId id,
                          const void* data) {
  if (!state().armed.load(std::memory_order_acquire) || in_callback) return;
  in_callback = true;  // what follows calls the driver itself
  if (domain == CUPTI_CB_DOMAIN_DRIVER_API) {
    on_driver_call(id, *static_cast<const CUpti_CallbackData*>(data));
  } else if (domain == CUPTI_CB_DOMAIN_RESOURCE && id == CUPTI_CBID_RESOURCE_MODULE_LOADED) {
    record("(a module was loaded)", CallFault::loads);  // on first use, with no call of its own
  }
  in_callback = false;
}

/// How many of the innermost frames are this file's and CUPTI's.
std::size_t frames_of_the_watch(std::span<void* const> frames) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < frames.size(); ++i) {
    Dl_info info{};
    if (dladdr(frames[i], &info) != 0 && info.dli_fname != nullptr &&
        std::string_view(info.dli_fname).find("libcupti") != std::string_view::npos) {
      count = i + 1;
    }
  }
  return count;
}

std::string describe_frame(void* address) {
  std::array<char, 32> offset{};
  Dl_info info{};
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) {
    std::snprintf(offset.data(), offset.size(), "%p", address);
    return offset.data();
  }
  const std::string_view path = info.dli_fname;
  std::string text(path.substr(path.rfind('/') + 1));
  const bool named = info.dli_sname != nullptr;
  const auto* const base = static_cast<const char*>(named ? info.dli_saddr : info.dli_fbase);
  std::snprintf(offset.data(), offset.size(), "+0x%tx", static_cast<const char*>(address) - base);
  text += '(';
  if (named) {
    int status = 0;
    char* const plain = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
    text += plain != nullptr ? plain : info.dli_sname;
    std::free(plain);
  }
  return text + offset.data() + ")";
}

/// Those with this fault, or all others.
std::vector<Violation> recorded(CallFault fault, bool with) {
  std::vector<Record> records;
  {
    const std::scoped_lock lock(state().mutex);
    records = state().records;
  }
  std::vector<Violation> found;
  for (Record& one : records) {
    if ((one.violation.fault == fault) != with) continue;
    const std::span frames(one.frames.data(), static_cast<std::size_t>(one.frame_count));
    for (void* frame : frames.subspan(frames_of_the_watch(frames))) {
      one.violation.backtrace.push_back(describe_frame(frame));
    }
    found.push_back(std::move(one.violation));
  }
  return found;
}

/// Opens CUPTI and fills the tables, once in the life of the process.
Result<void> make_ready(State& s) {
  if (s.cupti.subscribe != nullptr) return {};
  Result<Cupti> opened = open_cupti();
  if (!opened.ok()) return std::move(opened).error();
  s.cupti = *opened;
  for (std::size_t i = 1; i < kFunctions; ++i) {
    const char* name = nullptr;
    const auto id = static_cast<CUpti_CallbackId>(i);
    s.cupti.callback_name(CUPTI_CB_DOMAIN_DRIVER_API, id, &name);
    s.names[i] = name != nullptr ? name : "function " + std::to_string(i);
    s.faults[i] = fault_of(s.names[i]);
  }
  for (const Row& row : kRows) s.readers[row.function] = row.reader;
  std::array<void*, 1> frame{};
  backtrace(frame.data(), 1);  // the first call loads libgcc
  return {};
}

}  // namespace

std::string_view to_string(CallFault fault) noexcept {
  switch (fault) {
    case CallFault::synchronizes:
      return "synchronizes";
    case CallFault::allocates:
      return "allocates";
    case CallFault::copies:
      return "copies";
    case CallFault::default_stream:
      return "default_stream";
    case CallFault::pageable:
      return "pageable";
    case CallFault::loads:
      return "loads";
    case CallFault::creates:
      return "creates";
  }
  return "unknown";
}

std::optional<CallFault> fault_of(std::string_view function) noexcept {
  struct Rule {
    std::string_view prefix;
    CallFault fault;
  };
  static constexpr Rule kRules[] = {
      {"cuCtxSynchronize", CallFault::synchronizes},
      {"cuStreamSynchronize", CallFault::synchronizes},
      {"cuEventSynchronize", CallFault::synchronizes},
      {"cuMemAlloc", CallFault::allocates},
      {"cuMemFree", CallFault::allocates},
      {"cuMemHostAlloc", CallFault::allocates},
      {"cuMemHostRegister", CallFault::allocates},
      {"cuMemHostUnregister", CallFault::allocates},
      {"cuMemCreate", CallFault::allocates},
      {"cuMemRelease", CallFault::allocates},
      {"cuMemMap", CallFault::allocates},
      {"cuMemUnmap", CallFault::allocates},
      {"cuMemAddress", CallFault::allocates},
      {"cuMemPoolCreate", CallFault::allocates},
      {"cuMemPoolDestroy", CallFault::allocates},
      {"cuMemPoolTrimTo", CallFault::allocates},
      {"cuArrayCreate", CallFault::allocates},
      {"cuArray3DCreate", CallFault::allocates},
      {"cuArrayDestroy", CallFault::allocates},
      {"cuMipmappedArrayCreate", CallFault::allocates},
      {"cuMipmappedArrayDestroy", CallFault::allocates},
      {"cuMemcpy", CallFault::copies},
      {"cuMemset", CallFault::copies},
      {"cuModuleLoad", CallFault::loads},
      {"cuModuleUnload", CallFault::loads},
      {"cuLibraryLoad", CallFault::loads},
      {"cuLibraryUnload", CallFault::loads},
      {"cuLink", CallFault::loads},
      {"cuFuncLoad", CallFault::loads},
      {"cuCtxCreate", CallFault::creates},
      {"cuCtxDestroy", CallFault::creates},
      {"cuDevicePrimaryCtxRe", CallFault::creates},  // Retain, Release, Reset
      {"cuGreenCtxCreate", CallFault::creates},
      {"cuGreenCtxDestroy", CallFault::creates},
      {"cuGreenCtxStreamCreate", CallFault::creates},
      {"cuStreamCreate", CallFault::creates},
      {"cuStreamDestroy", CallFault::creates},
      {"cuEventCreate", CallFault::creates},
      {"cuEventDestroy", CallFault::creates},
      {"cuGraphCreate", CallFault::creates},
      {"cuGraphDestroy", CallFault::creates},
      {"cuGraphInstantiate", CallFault::creates},
      {"cuGraphExecDestroy", CallFault::creates},
  };
  for (const Rule& rule : kRules) {
    if (!function.starts_with(rule.prefix)) continue;
    if (rule.fault == CallFault::copies && function.find("Async") != std::string_view::npos) break;
    return rule.fault;
  }
  return std::nullopt;
}

std::string to_string(const std::vector<Violation>& violations) {
  std::string text;
  for (const Violation& one : violations) {
    text += one.function + " " + std::string(to_string(one.fault)) + ", " +
            std::to_string(one.count) + " times on thread " + std::to_string(one.thread) + " \"" +
            one.thread_name + "\"\n";
    for (const std::string& frame : one.backtrace) text += "    " + frame + "\n";
  }
  return text;
}

Result<std::unique_ptr<SyncWatch>> SyncWatch::start() {
  State& s = state();
  if (s.taken.exchange(true)) return unavailable("this process has a watch already");
  if (Result<void> ready = make_ready(s); !ready.ok()) {
    s.taken = false;
    return std::move(ready).error();
  }
  CUptiResult status = s.cupti.subscribe(&s.subscriber, &on_callback, nullptr);
  const char* function = "cuptiSubscribe";
  if (status == CUPTI_SUCCESS) {
    function = "cuptiEnableDomain";
    status = s.cupti.enable_domain(1, s.subscriber, CUPTI_CB_DOMAIN_DRIVER_API);
    if (status == CUPTI_SUCCESS) {
      function = "cuptiEnableCallback";
      status = s.cupti.enable_callback(1, s.subscriber, CUPTI_CB_DOMAIN_RESOURCE,
                                       CUPTI_CBID_RESOURCE_MODULE_LOADED);
    }
    if (status != CUPTI_SUCCESS) s.cupti.unsubscribe(s.subscriber);
  }
  if (status != CUPTI_SUCCESS) {
    const char* text = "unknown";
    s.cupti.result_string(status, &text);
    s.taken = false;
    return unavailable(std::string(function) + " refused: " + text);
  }
  std::unique_ptr<SyncWatch> watch(new SyncWatch);
  watch->clear();
  const std::scoped_lock lock(s.mutex);
  s.allowed_threads.clear();
  s.allowed_names.clear();
  return watch;
}

SyncWatch::~SyncWatch() {
  disarm();
  state().cupti.unsubscribe(state().subscriber);
  state().taken = false;
}

void SyncWatch::arm() noexcept { state().armed.store(true, std::memory_order_release); }

void SyncWatch::disarm() noexcept { state().armed.store(false, std::memory_order_release); }

void SyncWatch::clear() {
  const std::scoped_lock lock(state().mutex);
  state().records.clear();
  for (std::atomic<std::uint64_t>& count : state().counts) count = 0;
}

void SyncWatch::allow_thread(pid_t thread) {
  const std::scoped_lock lock(state().mutex);
  state().allowed_threads.push_back(thread);
}

void SyncWatch::allow_threads_named(std::string name) {
  const std::scoped_lock lock(state().mutex);
  state().allowed_names.push_back(std::move(name));
}

std::vector<Violation> SyncWatch::violations() const { return recorded(CallFault::creates, false); }

std::vector<Violation> SyncWatch::creations() const { return recorded(CallFault::creates, true); }

std::map<std::string, std::uint64_t> SyncWatch::counts() const {
  std::map<std::string, std::uint64_t> found;
  for (std::size_t i = 0; i < kFunctions; ++i) {
    const std::uint64_t count = state().counts[i];
    if (count != 0) found[state().names[i]] = count;
  }
  return found;
}

std::uint64_t SyncWatch::count(std::string_view prefix) const {
  std::uint64_t sum = 0;
  for (const auto& [function, count] : counts()) {
    if (function.starts_with(prefix)) sum += count;
  }
  return sum;
}

}  // namespace millrace
