#include "repository/returning.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/text.h"
#include "base/try.h"

namespace millrace {
namespace {

using ServedPtr = std::shared_ptr<const ServedModel>;

Error stopped(const std::string& name) {
  return {ErrorCode::unavailable,
          concat("model ", quote(name), " does not come back: the server is stopping")};
}

}  // namespace

Returning::~Returning() {
  std::map<std::string, std::list<Waiter>> left;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (auto& [name, model] : models_) left[name].swap(model.waiters);
    changed_.notify_all();
  }
  for (auto& [name, waiters] : left) {
    for (Waiter& waiter : waiters) waiter.then(stopped(name));
  }
  timekeeper_.join();
  for (auto& [name, model] : models_) model.thread.join();
}

std::uint64_t Returning::wait(const std::string& name, std::string version,
                              std::optional<TimePoint> deadline, FoundCallback then) {
  std::list<Waiter> refused;
  Result<void> begun;
  std::uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    Return& model = models_[name];
    id = ++last_id_;
    model.waiters.push_back(
        {id, std::move(version), deadline.value_or(TimePoint::max()), std::move(then)});
    if (stopping_) begun = stopped(name);
    if (begun && deadline) begun = keep_time();
    if (begun) begun = begin(name, model);
    if (!begun) refused.splice(refused.end(), model.waiters, std::prev(model.waiters.end()));
  }
  for (Waiter& waiter : refused) waiter.then(begun.error());
  return id;
}

bool Returning::give_up(std::uint64_t id) {
  std::list<Waiter> gone;
  std::string from;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [name, model] : models_) {
      const auto at = std::ranges::find(model.waiters, id, &Waiter::id);
      if (at == model.waiters.end()) continue;
      gone.splice(gone.end(), model.waiters, at);
      from = name;
      break;
    }
  }
  for (Waiter& waiter : gone) {
    waiter.then(Error{ErrorCode::cancelled, concat("model ", quote(from),
                                                   ": the request was cancelled before the model "
                                                   "was loaded again")});
  }
  return !gone.empty();
}

/// With mutex_ held.
Result<void> Returning::begin(const std::string& name, Return& model) {
  if (model.going_on) return {};
  MILLRACE_ASSIGN(model.thread, Thread::start("mr-return", [this, name] { bring_back(name); }));
  model.going_on = true;
  return {};
}

void Returning::bring_back(const std::string& name) {
  Lock lock(mutex_);
  Return& model = models_.at(name);
  while (!model.waiters.empty()) {
    const std::string version = model.waiters.front().version;
    lock.unlock();
    Result<ServedPtr> found = ServedPtr();
    try {
      found = find_(name, version);
    } catch (const std::exception& error) {
      found = Error{ErrorCode::internal,
                    concat("model ", quote(name), " was not loaded: ", error.what())};
    }
    lock.lock();
    tell(name, model, version, found, lock);
  }
  model.going_on = false;
}

/// Everybody who waits by now; who asks for a version that is gone again goes on waiting.
void Returning::tell(const std::string& name, Return& model, const std::string& version,
                     const Result<ServedPtr>& found, Lock& lock) {
  const std::uint64_t last = last_id_;
  std::list<Waiter> again;
  while (!model.waiters.empty() && model.waiters.front().id <= last) {
    std::list<Waiter> one;
    one.splice(one.end(), model.waiters, model.waiters.begin());
    lock.unlock();
    Waiter& waiter = one.front();
    Result<ServedPtr> its = waiter.version == version ? found : find_now_(name, waiter.version);
    const bool gone_again = its && !*its;
    if (!gone_again) waiter.then(std::move(its));
    lock.lock();
    if (gone_again) again.splice(again.end(), one);
  }
  model.waiters.splice(model.waiters.begin(), again);
}

/// With mutex_ held.
Result<void> Returning::keep_time() {
  if (!timekeeper_.joinable()) {
    MILLRACE_ASSIGN(timekeeper_, Thread::start("mr-return-time", [this] { expire(); }));
  }
  changed_.notify_all();
  return {};
}

/// Of all models, and when the next one is due. With mutex_ held.
std::list<Returning::Waiter> Returning::take_expired(TimePoint now, TimePoint& next) {
  std::list<Waiter> out;
  next = TimePoint::max();
  for (auto& [name, model] : models_) {
    for (auto at = model.waiters.begin(); at != model.waiters.end();) {
      const auto waiter = at++;
      if (waiter->deadline <= now) {
        out.splice(out.end(), model.waiters, waiter);
      } else {
        next = std::min(next, waiter->deadline);
      }
    }
  }
  return out;
}

void Returning::expire() {
  Lock lock(mutex_);
  while (!stopping_) {
    TimePoint next;
    std::list<Waiter> expired = take_expired(Clock::now(), next);
    if (!expired.empty()) {
      lock.unlock();
      for (Waiter& waiter : expired) {
        waiter.then(Error{ErrorCode::deadline_exceeded,
                          "the deadline passed while the model was being loaded again"});
      }
      lock.lock();
    } else if (next == TimePoint::max()) {
      changed_.wait(lock);
    } else {
      changed_.wait_until(lock, next);
    }
  }
}

}  // namespace millrace
