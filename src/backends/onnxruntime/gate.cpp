#include "backends/onnxruntime/gate.h"

#include <algorithm>

namespace millrace::onnxruntime {

bool Gate::enter(Pass& pass, const std::atomic<bool>& ended) {
  std::unique_lock lock(mutex_);
  if (free_ > 0) {  // then nobody waits
    --free_;
    pass.state_ = Pass::State::inside;
    return true;
  }
  pass.state_ = Pass::State::waiting;
  waiting_.push_back(&pass);
  pass.changed_.wait(lock, [&] { return pass.state_ == Pass::State::inside || ended.load(); });
  if (pass.state_ == Pass::State::inside) return true;
  // It may have been let in and made to leave again before this thread woke.
  if (pass.state_ == Pass::State::waiting) waiting_.erase(std::ranges::find(waiting_, &pass));
  pass.state_ = Pass::State::outside;
  return false;
}

void Gate::squeeze_in(Pass& pass) noexcept {
  const std::lock_guard lock(mutex_);
  --free_;
  pass.state_ = Pass::State::inside;
}

void Gate::leave(Pass& pass) noexcept {
  const std::lock_guard lock(mutex_);
  if (pass.state_ != Pass::State::inside) return;
  pass.state_ = Pass::State::outside;
  ++free_;
  admit();
}

void Gate::wake(Pass& pass) noexcept {
  const std::lock_guard lock(mutex_);
  pass.changed_.notify_all();
}

void Gate::set_capacity(int capacity) noexcept {
  const std::lock_guard lock(mutex_);
  free_ += capacity - capacity_;
  capacity_ = capacity;
  admit();
}

int Gate::capacity() const noexcept {
  const std::lock_guard lock(mutex_);
  return capacity_;
}

int Gate::inside() const noexcept {
  const std::lock_guard lock(mutex_);
  return capacity_ - free_;
}

int Gate::waiting() const noexcept {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(waiting_.size());
}

void Gate::admit() noexcept {
  while (free_ > 0 && !waiting_.empty()) {
    Pass* const next = waiting_.front();
    waiting_.pop_front();
    next->state_ = Pass::State::inside;
    next->changed_.notify_all();
    --free_;
  }
}

}  // namespace millrace::onnxruntime
