#include "device/ipc_mappings.h"

#include "base/try.h"

namespace millrace {

IpcMappings::~IpcMappings() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
}

Result<IpcMappings::Mapping> IpcMappings::take(const Key& key) {
  // Unmapping is serialized with it: an entry that this finds stays open.
  std::lock_guard opening(opening_);
  if (!closer_.joinable()) {
    MILLRACE_ASSIGN(closer_, Thread::start("mr-ipc", [this] { close_unused(); }));
  }
  void* base = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (const auto at = entries_.find(key); at != entries_.end()) {
      ++at->second.users;
      base = at->second.base;
    }
  }
  if (!base) {
    MILLRACE_ASSIGN(base, calls_.open(key));
    std::lock_guard lock(mutex_);
    entries_.emplace(key, Entry{base, 1});
  }
  return Mapping{base, Lease::on_release([this, key] { give_back(key); })};
}

std::size_t IpcMappings::count() const {
  std::lock_guard lock(mutex_);
  return entries_.size();
}

/// On any thread, a driver's too: only notes what is to be done.
void IpcMappings::give_back(const Key& key) noexcept {
  {
    std::lock_guard lock(mutex_);
    if (--entries_.at(key).users > 0) return;
    unused_.push_back(key);
  }
  changed_.notify_one();
}

void IpcMappings::close_unused() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stop_ || !unused_.empty(); });
      if (unused_.empty()) return;
    }
    std::lock_guard opening(opening_);
    Key key;
    void* base = nullptr;
    {
      std::lock_guard lock(mutex_);
      key = unused_.back();
      unused_.pop_back();
      const auto at = entries_.find(key);
      if (at == entries_.end() || at->second.users > 0) continue;
      base = at->second.base;
    }
    calls_.close(key, base);
    std::lock_guard lock(mutex_);
    entries_.erase(key);
  }
}

}  // namespace millrace
