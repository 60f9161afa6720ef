#include "backends/shared_block.h"

#include "base/try.h"

namespace millrace {

Result<std::unique_ptr<SharedBlock>> SharedBlock::make(DeviceRef device, std::size_t bytes) {
  std::unique_ptr<SharedBlock> shared(new SharedBlock);
  MILLRACE_ASSIGN(shared->block_, device->allocate(bytes, MemoryKind::device));
  MILLRACE_ASSIGN(shared->over_, device->new_event(EventTiming::untimed));
  return shared;
}

}  // namespace millrace
