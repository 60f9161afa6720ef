#include "repository/retirer.h"

#include <algorithm>
#include <condition_variable>
#include <list>
#include <mutex>

#include "base/log.h"
#include "base/thread.h"

namespace millrace {
namespace {

constexpr auto kPatience = std::chrono::milliseconds(20);  // with one model, while others wait
constexpr auto kLast = std::chrono::seconds(10);           // for what is held when all must go

}  // namespace

/// Outlives the retirer where somebody still holds a model.
class Retirer::Core {
 public:
  struct Entry {
    std::string engine_name;
    std::vector<std::shared_ptr<const ServedModel>> parts;
  };
  using Entries = std::list<Entry>;

  explicit Core(Engine& engine) : engine_(&engine) {
    thread_ = Thread("mr-retire", [this] { work(); });
  }

  /// An entry moves between lists without an allocation, so that nothing can fail when a model is
  /// let go.
  Entries::iterator add(Entry entry) {
    Entries one;
    one.push_back(std::move(entry));
    const auto at = one.begin();
    std::lock_guard lock(mutex_);
    held_.splice(held_.end(), one);
    return at;
  }

  void retire(Entries::iterator at) noexcept {
    std::lock_guard lock(mutex_);
    if (stopped_) return;  // it was unloaded already
    retired_.splice(retired_.end(), held_, at);
    changed_.notify_all();
  }

  [[nodiscard]] bool gone(const std::string& name) const {
    std::lock_guard lock(mutex_);
    return !knows(name);
  }

  bool wait_gone(const std::string& name, TimePoint until) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, until, [&] { return !knows(name); });
  }

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    thread_.join();
    Entries all;
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
      all.splice(all.end(), held_);
      all.splice(all.end(), retired_);
    }
    // Ensembles came after what they consist of. `parts` go with `all`, when retiring does nothing
    // any more.
    for (auto entry = all.rbegin(); entry != all.rend(); ++entry) {
      const Result<void> unloaded = engine_->unload(entry->engine_name, kLast);
      if (!unloaded && unloaded.error().code != ErrorCode::not_found) {
        log_warning("the repository goes: ", unloaded.error().message);
      }
    }
  }

 private:
  /// With the mutex held.
  [[nodiscard]] bool knows(const std::string& name) const {
    const auto same = [&name](const Entry& entry) { return entry.engine_name == name; };
    return std::any_of(held_.begin(), held_.end(), same) ||
           std::any_of(retired_.begin(), retired_.end(), same);
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !retired_.empty(); });
      if (stopping_) return;
      for (auto at = retired_.begin(); at != retired_.end() && !stopping_;) {
        const std::string name = at->engine_name;
        lock.unlock();
        const bool done = unload(name);
        lock.lock();
        if (!done) {
          ++at;
          continue;
        }
        Entries finished;
        finished.splice(finished.end(), retired_, at++);
        changed_.notify_all();
        lock.unlock();
        finished.clear();  // its parts may be the last copies, and retire themselves
        lock.lock();
      }
      if (!retired_.empty()) {
        changed_.wait_for(lock, kPatience, [this] { return stopping_; });
      }
    }
  }

  /// Whether the engine is rid of it.
  bool unload(const std::string& name) {
    const Result<void> unloaded = engine_->unload(name, kPatience);
    if (unloaded || unloaded.error().code == ErrorCode::not_found) return true;
    if (unloaded.error().scope != Scope::model) return false;  // it still has work: try again
    log_warning(unloaded.error().message);
    return true;
  }

  Engine* const engine_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  // Guarded by mutex_:
  Entries held_;
  Entries retired_;
  bool stopping_ = false;
  bool stopped_ = false;
  Thread thread_;
};

Retirer::Retirer(Engine& engine) : core_(std::make_shared<Core>(engine)) {}
Retirer::~Retirer() { core_->stop(); }

std::shared_ptr<const ServedModel> Retirer::adopt(
    ServedModel served, std::string engine_name,
    std::vector<std::shared_ptr<const ServedModel>> parts) {
  auto owned = std::make_unique<ServedModel>(std::move(served));
  const auto at = core_->add({std::move(engine_name), std::move(parts)});
  return {owned.release(), [core = core_, at](const ServedModel* model) {
            delete model;
            core->retire(at);
          }};
}

bool Retirer::gone(const std::string& engine_name) const { return core_->gone(engine_name); }

bool Retirer::wait_gone(const std::string& engine_name, TimePoint until) const {
  return core_->wait_gone(engine_name, until);
}

}  // namespace millrace
