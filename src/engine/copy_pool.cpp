#include "engine/copy_pool.h"

#include <algorithm>
#include <cstring>

namespace millrace {
namespace {

constexpr std::size_t kPortionBytes = std::size_t{256} << 10;
constexpr int kMostHelpers = 4;
constexpr int kProcessorsPerHelper = 4;
constexpr int kFewProcessors = 8;

}  // namespace

int CopyPool::helpers_for(int processors) noexcept {
  if (processors < kFewProcessors) return 0;
  return std::min(kMostHelpers, processors / kProcessorsPerHelper);
}

CopyPool::CopyPool(int helpers) {
  for (int i = 0; i < helpers; ++i) {
    helpers_.emplace_back("mr-copy-" + std::to_string(i), [this] { help(); });
  }
}

CopyPool::~CopyPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wanted_.notify_all();
}

std::size_t CopyPool::work_on(Job& job) noexcept {
  std::size_t portions = 0;
  for (;;) {
    const std::size_t first = job.next.fetch_add(kPortionBytes, std::memory_order_relaxed);
    if (first >= job.bytes) return portions;
    std::memcpy(job.target + first, job.source + first, std::min(kPortionBytes, job.bytes - first));
    ++portions;
  }
}

void CopyPool::help() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wanted_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    Job& job = *jobs_.front();
    jobs_.pop_front();  // to the end, so that every caller gets some of the help
    jobs_.push_back(&job);
    ++job.helpers;
    lock.unlock();
    helped_.fetch_add(work_on(job), std::memory_order_relaxed);
    lock.lock();
    std::erase(jobs_, &job);  // nothing is left to be begun
    if (--job.helpers == 0) left_.notify_all();
  }
}

void CopyPool::copy(void* target, const void* source, std::size_t bytes) noexcept {
  if (helpers_.empty() || bytes < kLeastBytes) {
    if (bytes > 0) std::memcpy(target, source, bytes);
    return;
  }
  Job job{static_cast<std::byte*>(target), static_cast<const std::byte*>(source), bytes};
  {
    std::lock_guard lock(mutex_);
    jobs_.push_back(&job);
  }
  wanted_.notify_all();
  (void)work_on(job);
  std::unique_lock lock(mutex_);
  std::erase(jobs_, &job);
  left_.wait(lock, [&job] { return job.helpers == 0; });
}

}  // namespace millrace
