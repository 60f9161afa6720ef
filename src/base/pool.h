// Objects used again instead of made anew.
#pragma once

#include <cassert>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace millrace {

/// Hands out objects and takes them back, keeping at most `retained` idle ones; the last one
/// returned goes out first. Objects come back as they were left, with the memory they hold: whoever
/// takes one resets it.
///
/// All functions are safe to call from any thread. Objects may be returned after the pool is gone.
template <class T>
class Pool {
  struct Core;

 public:
  struct Return {
    Core* core = nullptr;
    void operator()(T* object) const noexcept { Core::put(core, object); }
  };
  using Pointer = std::unique_ptr<T, Return>;

  explicit Pool(std::size_t retained) : core_(new Core) {
    core_->idle.reserve(retained);
    core_->retained = retained;
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { Core::close(core_); }

  /// An idle object, or else `new T(arguments...)`.
  template <class... Arguments>
  [[nodiscard]] Pointer take(Arguments&&... arguments) {
    {
      const std::lock_guard lock(core_->mutex);
      ++core_->taken;
      if (!core_->idle.empty()) {
        T* object = core_->idle.back();
        core_->idle.pop_back();
        return Pointer(object, Return{core_});
      }
    }
    try {
      return Pointer(new T(std::forward<Arguments>(arguments)...), Return{core_});
    } catch (...) {
      const std::lock_guard lock(core_->mutex);
      --core_->taken;
      throw;
    }
  }
  /// Takes back what a Pointer was released of.
  void put(T* object) noexcept { Core::put(core_, object); }

  [[nodiscard]] std::size_t idle() const {
    const std::lock_guard lock(core_->mutex);
    return core_->idle.size();
  }
  [[nodiscard]] std::size_t taken() const {
    const std::lock_guard lock(core_->mutex);
    return core_->taken;
  }

 private:
  // Lives until the pool is closed and all objects are back.
  struct Core {
    std::mutex mutex;
    std::vector<T*> idle;  // guarded by mutex; its capacity is `retained`
    std::size_t retained = 0;
    std::size_t taken = 0;  // guarded by mutex
    bool closed = false;    // guarded by mutex

    static void destroy([[maybe_unused]] Core* core) noexcept {
#ifndef __clang_analyzer__  // which takes every count for the last one
      delete core;
#endif
    }
    static void put(Core* core, T* object) noexcept {
      bool last = false;
      {
        const std::lock_guard lock(core->mutex);
        assert(core->taken > 0);
        --core->taken;
        if (!core->closed && core->idle.size() < core->retained) {
          core->idle.push_back(object);
          return;
        }
        last = core->closed && core->taken == 0;
      }
      delete object;
      if (last) destroy(core);
    }
    static void close(Core* core) noexcept {
      std::vector<T*> idle;
      bool last = false;
      {
        const std::lock_guard lock(core->mutex);
        core->closed = true;
        idle.swap(core->idle);
        last = core->taken == 0;
      }
      for (T* object : idle) delete object;
      if (last) destroy(core);
    }
  };

  Core* core_;
};

}  // namespace millrace
