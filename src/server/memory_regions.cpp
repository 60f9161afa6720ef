#include "server/memory_regions.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <shared_mutex>

#include <millrace/ipc.h>
#include <millrace/pinned.h>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "engine/task_thread.h"
#include "server/shared_mapping.h"

namespace millrace::server {

/// Held by the list of regions and by the requests that use it. Taking it down may wait for a GPU,
/// which the thread that drops the last lease must not: a thread of its own does that.
struct MemoryRegions::Region final : Lease::Counted {
  RegionInfo info;
  std::unique_ptr<SharedMapping> mapping;
  Lease pinned;  // goes before the mapping
  Tensor gpu_memory;
  std::shared_ptr<TaskThread> undertaker;

  void dispose() noexcept override {
    try {
      const std::shared_ptr<TaskThread> thread = undertaker;
      thread->post([this] { delete this; });
    } catch (...) {  // no memory for the task
      delete this;
    }
  }
  ~Region() override { pinned.reset(); }

  [[nodiscard]] void* data() const noexcept {
    return mapping ? mapping->data() : gpu_memory.view().data;
  }
  [[nodiscard]] Result<void> check() const {
    if (!mapping || !mapping->torn()) return {};
    return Error{
        ErrorCode::invalid_argument,
        concat("shared-memory region ", quote(info.name), ": the object ", quote(info.key),
               " became shorter than the ", info.bytes,
               " bytes registered; unregister it, and register it again once it is whole")};
  }
};

struct MemoryRegions::State {
  struct Entry {
    Region* region = nullptr;
    Lease lease;
  };

  explicit State(Engine& used) : engine(used) {}

  Engine& engine;
  std::shared_ptr<TaskThread> undertaker = std::make_shared<TaskThread>("mr-regions");
  mutable std::shared_mutex mutex;
  std::map<std::string, Entry, std::less<>> regions;  // guarded by mutex

  [[nodiscard]] bool has_gpus() const {
    return std::any_of(engine.devices().begin(), engine.devices().end(),
                       [](DeviceRef device) { return device->id().kind == DeviceKind::cuda; });
  }
  [[nodiscard]] static Error taken(const std::string& name) {
    return {ErrorCode::invalid_argument, concat("shared-memory region ", quote(name),
                                                " is registered already; unregister it first")};
  }
  [[nodiscard]] bool has(const std::string& name) const {
    std::shared_lock lock(mutex);
    return regions.contains(name);
  }
  Result<void> add(const std::string& name, std::unique_ptr<Region> region) {
    region->undertaker = undertaker;
    Entry entry;
    entry.region = region.get();
    entry.lease = Lease::adopt(region.release());
    std::unique_lock lock(mutex);
    if (!regions.try_emplace(name, entry).second) return taken(name);
    return {};
  }
};

Result<void> RegionMemory::check() const {
  return region_ ? static_cast<const MemoryRegions::Region*>(region_)->check() : Result<void>();
}

MemoryRegions::MemoryRegions(Engine& engine) : state_(std::make_unique<State>(engine)) {}
MemoryRegions::~MemoryRegions() = default;

Result<void> MemoryRegions::register_system(const std::string& name, const std::string& key,
                                            std::size_t offset, std::size_t bytes) {
  if (name.empty()) {
    return Error{ErrorCode::invalid_argument, "a shared-memory region needs a name"};
  }
  if (state_->has(name)) return State::taken(name);
  auto region = std::make_unique<Region>();
  region->info = {name, key, offset, bytes, 0};
  MILLRACE_ASSIGN(region->mapping, SharedMapping::open(key, offset, bytes));
  if (state_->has_gpus()) {
    Result<Lease> pinned = pin_host_memory(region->mapping->pages(), region->mapping->page_bytes());
    if (pinned) {
      region->pinned = std::move(*pinned);
    } else {
      log_warning("shared-memory region ", quote(name),
                  " is not pinned, so that its data is copied once more: ", pinned.error().message);
    }
  }
  return state_->add(name, std::move(region));
}

Result<void> MemoryRegions::register_cuda(const std::string& name,
                                          std::span<const std::byte> handle, int gpu,
                                          std::size_t bytes) {
  if (name.empty()) {
    return Error{ErrorCode::invalid_argument, "a shared-memory region needs a name"};
  }
  if (state_->has(name)) return State::taken(name);
  IpcMemoryHandle memory;
  if (handle.size() != memory.memory.size()) {
    return Error{ErrorCode::invalid_argument,
                 concat("CUDA shared-memory region ", quote(name), ": expected a handle of ",
                        memory.memory.size(), " bytes, got ", handle.size())};
  }
  std::copy(handle.begin(), handle.end(), memory.memory.begin());
  memory.bytes = bytes;
  const auto devices = state_->engine.devices();
  const auto device = std::find_if(devices.begin(), devices.end(), [gpu](DeviceRef candidate) {
    return candidate->id() == DeviceId::cuda(gpu);
  });
  if (device == devices.end()) {
    return Error{ErrorCode::not_found, concat("CUDA shared-memory region ", quote(name), ": GPU ",
                                              gpu, " is not one that this server uses")};
  }
  const std::string& uuid = (*device)->info().uuid;
  std::copy_n(uuid.begin(), std::min(uuid.size(), memory.device.size() - 1), memory.device.begin());
  auto region = std::make_unique<Region>();
  region->info = {name, {}, 0, bytes, gpu};
  MILLRACE_ASSIGN(region->gpu_memory,
                  import_memory(memory, DataType::uint8, {static_cast<std::int64_t>(bytes)}));
  return state_->add(name, std::move(region));
}

void MemoryRegions::unregister(std::string_view name) {
  std::unique_lock lock(state_->mutex);
  if (name.empty()) {
    state_->regions.clear();
  } else if (const auto at = state_->regions.find(name); at != state_->regions.end()) {
    state_->regions.erase(at);
  }
}

Result<std::vector<RegionInfo>> MemoryRegions::status(std::string_view name) const {
  std::vector<RegionInfo> all;
  std::shared_lock lock(state_->mutex);
  for (const auto& [key, entry] : state_->regions) {
    if (name.empty() || key == name) all.push_back(entry.region->info);
  }
  if (all.empty() && !name.empty()) {
    return Error{ErrorCode::not_found,
                 concat("there is no shared-memory region ", quote(name), "; register it first")};
  }
  return all;
}

Result<RegionMemory> MemoryRegions::find(const RegionSlice& slice) const {
  RegionMemory memory;
  {
    std::shared_lock lock(state_->mutex);
    const auto at = state_->regions.find(slice.region);
    if (at == state_->regions.end()) {
      return Error{ErrorCode::not_found, concat("there is no shared-memory region ",
                                                quote(slice.region), "; register it first")};
    }
    memory.lease = at->second.lease;
    memory.region_ = at->second.region;
  }
  const auto& region = *static_cast<const Region*>(memory.region_);
  if (slice.offset > region.info.bytes || slice.bytes > region.info.bytes - slice.offset) {
    return Error{ErrorCode::invalid_argument,
                 concat("shared-memory region ", quote(slice.region), " has ", region.info.bytes,
                        " bytes, got ", slice.bytes, " from ", slice.offset)};
  }
  MILLRACE_TRY(region.check());
  memory.data = static_cast<std::byte*>(region.data()) + slice.offset;
  memory.bytes = slice.bytes;
  memory.device = region.mapping ? DeviceId::host_memory() : region.gpu_memory.view().device;
  return memory;
}

}  // namespace millrace::server
