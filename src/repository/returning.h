// Callers that wait for models which were evicted and come back.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "base/thread.h"
#include "repository/model_repository.h"

namespace millrace {

/// Every function may be called from any thread. A model is brought back by one thread, however
/// many wait for it; different models by different threads.
class Returning {
 public:
  using Find = std::function<Result<std::shared_ptr<const ServedModel>>(
      const std::string& name, const std::string& version)>;

  /// `find` brings the model back, and may take long; `find_now` never waits, and gives null for
  /// one that is gone again.
  Returning(Find find, Find find_now) : find_(std::move(find)), find_now_(std::move(find_now)) {}
  /// Who still waits is told `unavailable`; then the loads that go on are waited for.
  ~Returning();
  Returning(const Returning&) = delete;
  Returning& operator=(const Returning&) = delete;

  /// As ModelRepository::find_later and give_up.
  std::uint64_t wait(const std::string& name, std::string version,
                     std::optional<TimePoint> deadline, FoundCallback then);
  bool give_up(std::uint64_t id);

 private:
  struct Waiter {
    std::uint64_t id = 0;
    std::string version;
    TimePoint deadline = TimePoint::max();
    FoundCallback then;
  };
  struct Return {
    std::list<Waiter> waiters;
    bool going_on = false;
    Thread thread;
  };
  using Lock = std::unique_lock<std::mutex>;

  void bring_back(const std::string& name);
  void tell(const std::string& name, Return& model, const std::string& version,
            const Result<std::shared_ptr<const ServedModel>>& found, Lock& lock);
  Result<void> begin(const std::string& name, Return& model);
  Result<void> keep_time();
  void expire();
  [[nodiscard]] std::list<Waiter> take_expired(TimePoint now, TimePoint& next);

  const Find find_, find_now_;
  std::mutex mutex_;
  std::condition_variable changed_;  // a deadline, or the end
  // Guarded by mutex_; a thread is only let go once it has said that it does not go on.
  std::uint64_t last_id_ = 0;
  bool stopping_ = false;
  std::map<std::string, Return> models_;
  Thread timekeeper_;
};

}  // namespace millrace
