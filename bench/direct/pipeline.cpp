#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "direct/direct.h"

namespace direct {
namespace {

using Clock = std::chrono::steady_clock;

struct Request {
  std::vector<std::byte> input;
  std::vector<std::byte> output;
  Clock::time_point sent;
  std::uint32_t sends = 0;
  std::function<void(Request&)> callback;
};

struct Batch {
  std::vector<Request*> requests;
};

// Requests that wait: many producers, one consumer. Never holds more than there are requests in
// all. Producers pay for a wake-up only when the consumer sleeps.
class RequestQueue {
 public:
  explicit RequestQueue(std::size_t capacity) : ring_(capacity) {}
  void push(Request* request) {
    bool wake;
    {
      const std::lock_guard lock(mutex_);
      ring_[(first_ + count_++) % ring_.size()] = request;
      wake = std::exchange(sleeping_, false);
    }
    if (wake) changed_.notify_one();
  }
  // Waits for a request, then takes up to `most`; false when closed.
  bool take(std::size_t most, std::vector<Request*>& out) {
    out.clear();
    std::unique_lock lock(mutex_);
    while (count_ == 0 && !closed_) {
      sleeping_ = true;
      changed_.wait(lock);
    }
    for (; count_ > 0 && out.size() < most; --count_) {
      out.push_back(ring_[first_]);
      first_ = first_ + 1 == ring_.size() ? 0 : first_ + 1;
    }
    return !closed_;
  }
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Request*> ring_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
  bool sleeping_ = false;
  bool closed_ = false;
};

// Batches on their way: one consumer, which takes all there are.
class BatchQueue {
 public:
  void push(Batch* batch) {
    bool wake;
    {
      const std::lock_guard lock(mutex_);
      batches_.push_back(batch);
      wake = std::exchange(sleeping_, false);
    }
    if (wake) changed_.notify_one();
  }
  // Moves everything into `out`; false when closed and empty.
  bool take_all(std::vector<Batch*>& out) {
    out.clear();
    std::unique_lock lock(mutex_);
    while (batches_.empty() && !closed_) {
      sleeping_ = true;
      changed_.wait(lock);
    }
    out.swap(batches_);
    return !out.empty();
  }
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Batch*> batches_;
  bool sleeping_ = false;
  bool closed_ = false;
};

class Pipeline final : public Loop {
 public:
  explicit Pipeline(const PipelineSetup& setup)
      : setup_(setup),
        request_bytes_(setup.item_bytes * static_cast<std::size_t>(setup.request_items)),
        waiting_(static_cast<std::size_t>(setup.concurrency)) {
    requests_.resize(static_cast<std::size_t>(setup.concurrency));
    std::uint32_t value = 1;
    for (Request& request : requests_) {
      request.input.resize(request_bytes_);
      request.output.resize(request_bytes_);
      request.callback = [this](Request& answered) { answer(answered); };
      for (std::byte& byte : request.input)
        byte = static_cast<std::byte>((value = value * 1664525U + 1013904223U) >> 24);
    }
    batches_.resize(static_cast<std::size_t>(setup.lanes) * static_cast<std::size_t>(setup.slots));
    for (Batch& batch : batches_) free_.push_back(&batch);
    for (int i = 0; i < setup.lanes; ++i) streams_.emplace_back(std::make_unique<BatchQueue>());
    threads_.emplace_back([this] { drive(); });
    threads_.emplace_back([this] { complete(); });
    for (auto& stream : streams_) threads_.emplace_back([this, &stream] { compute(*stream); });
  }

  ~Pipeline() override {
    waiting_.close();
    for (auto& stream : streams_) stream->close();
    done_.close();
    {
      const std::lock_guard lock(free_mutex_);
      stopping_ = true;
    }
    free_changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  Figures run(double ramp_s, double seconds) override {
    figures_ = {};
    running_.store(true);
    outstanding_.store(setup_.concurrency);
    for (Request& request : requests_) send(request);
    std::this_thread::sleep_for(std::chrono::duration<double>(ramp_s));
    counting_.store(true);
    const auto start = Clock::now();
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    counting_.store(false);
    const auto end = Clock::now();
    running_.store(false);
    {
      std::unique_lock lock(idle_mutex_);
      idle_.wait(lock, [&] { return outstanding_.load() == 0; });
    }
    figures_.seconds = std::chrono::duration<double>(end - start).count();
    return figures_;
  }

 private:
  void send(Request& request) {
    request.sent = Clock::now();
    waiting_.push(&request);
  }

  // The driver: with a free slot, a batch as full as what waits allows.
  void drive() {
    const auto most = static_cast<std::size_t>(
        std::max<std::int64_t>(1, setup_.max_batch_items / setup_.request_items));
    for (std::size_t stream = 0;; stream = (stream + 1) % streams_.size()) {
      Batch* const batch = take_slot();
      if (!batch || !waiting_.take(most, batch->requests)) return;
      streams_[stream]->push(batch);
    }
  }

  Batch* take_slot() {
    std::unique_lock lock(free_mutex_);
    free_changed_.wait(lock, [&] { return !free_.empty() || stopping_; });
    if (stopping_) return nullptr;
    Batch* batch = free_.back();
    free_.pop_back();
    return batch;
  }

  void compute(BatchQueue& stream) {
    std::vector<Batch*> batches;
    while (stream.take_all(batches)) {
      for (Batch* batch : batches) {
        for (Request* request : batch->requests) copy_items(*request);
        done_.push(batch);
      }
    }
  }

  void copy_items(Request& request) const {
    for (std::size_t at = 0; at < request_bytes_; at += setup_.item_bytes) {
      std::memcpy(request.output.data() + at, request.input.data() + at, setup_.item_bytes);
    }
  }

  void complete() {
    std::vector<Batch*> batches;
    std::vector<Request*> answered;
    while (done_.take_all(batches)) {
      answered.clear();
      for (Batch* batch : batches)
        answered.insert(answered.end(), batch->requests.begin(), batch->requests.end());
      {
        const std::lock_guard lock(free_mutex_);
        free_.insert(free_.end(), batches.begin(), batches.end());
      }
      free_changed_.notify_one();
      for (Request* request : answered) request->callback(*request);
    }
  }

  // As the load generator's callback: takes the time, checks one answer in 64, sends again.
  void answer(Request& request) {
    const auto now = Clock::now();
    if (counting_.load(std::memory_order_relaxed)) {
      figures_.latency.record(
          static_cast<std::uint64_t>(std::chrono::nanoseconds(now - request.sent).count()));
      ++figures_.requests;
      figures_.items += static_cast<std::uint64_t>(setup_.request_items);
    }
    if (++request.sends % 64 == 0 && request.input != request.output) ++figures_.wrong;
    if (running_.load(std::memory_order_relaxed)) return send(request);
    if (outstanding_.fetch_sub(1) == 1) {
      const std::lock_guard lock(idle_mutex_);
      idle_.notify_all();
    }
  }

  const PipelineSetup setup_;
  const std::size_t request_bytes_;
  std::vector<Request> requests_;
  std::vector<Batch> batches_;

  RequestQueue waiting_;
  std::vector<std::unique_ptr<BatchQueue>> streams_;
  BatchQueue done_;
  std::mutex free_mutex_;
  std::condition_variable free_changed_;
  std::vector<Batch*> free_;  // guarded by free_mutex_
  bool stopping_ = false;     // guarded by free_mutex_

  std::atomic<bool> running_{false};
  std::atomic<bool> counting_{false};
  std::atomic<int> outstanding_{0};
  std::mutex idle_mutex_;
  std::condition_variable idle_;
  Figures figures_;  // the completion thread's while a run is on

  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Loop> make_pipeline(const PipelineSetup& setup) {
  return std::make_unique<Pipeline>(setup);
}

}  // namespace direct
