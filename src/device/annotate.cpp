#include "device/annotate.h"

#include <mutex>

#if MILLRACE_WITH_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

namespace millrace {

std::atomic<bool> annotations_on{false};

#if MILLRACE_WITH_NVTX

namespace {

nvtxDomainHandle_t domain = nullptr;  // written before `annotations_on`

}  // namespace

void start_annotations() {
  static std::once_flag once;
  std::call_once(once, [] {
    domain = nvtxDomainCreateA("millrace");  // null when no tool is there
    annotations_on.store(domain != nullptr, std::memory_order_release);
  });
}

void Annotation::begin(const std::string& text) noexcept {
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = text.c_str();
  (void)nvtxDomainRangePushEx(domain, &attributes);
  open_ = true;
}

void Annotation::end() noexcept { (void)nvtxDomainRangePop(domain); }

#else

void start_annotations() {}
void Annotation::begin(const std::string&) noexcept {}
void Annotation::end() noexcept {}

#endif

}  // namespace millrace
