#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "direct/direct.h"

namespace direct {
namespace {

using Clock = std::chrono::steady_clock;

struct Request {
  std::vector<std::byte> input;
  std::vector<std::byte> output;
  Clock::time_point sent;
  std::uint32_t sends = 0;
};

struct Batch {
  std::vector<Request*> requests;
};

// Many producers, consumers that take all there is. Producers pay for a wake-up only when one sleeps.
template <class T>
class Queue {
 public:
  void push(T value) {
    bool wake;
    {
      const std::lock_guard lock(mutex_);
      values_.push_back(value);
      wake = sleeping_;
      sleeping_ = false;
    }
    if (wake) changed_.notify_one();
  }
  // Moves everything into `out` (emptied first); false when closed and empty.
  bool take_all(std::vector<T>& out) {
    out.clear();
    std::unique_lock lock(mutex_);
    while (values_.empty() && !closed_) {
      sleeping_ = true;
      changed_.wait(lock);
    }
    out.swap(values_);
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
  std::vector<T> values_;
  bool sleeping_ = false;
  bool closed_ = false;
};

// The batches of one stream: one producer, one consumer, one at a time.
class BatchQueue {
 public:
  void push(Batch* batch) {
    {
      const std::lock_guard lock(mutex_);
      batches_.push_back(batch);
    }
    changed_.notify_one();
  }
  Batch* take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return next_ < batches_.size() || closed_; });
    if (next_ == batches_.size()) return nullptr;
    Batch* batch = batches_[next_++];
    if (next_ == batches_.size()) {
      batches_.clear();
      next_ = 0;
    }
    return batch;
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
  std::size_t next_ = 0;
  bool closed_ = false;
};

class Pipeline final : public Loop {
 public:
  explicit Pipeline(const PipelineSetup& setup)
      : setup_(setup), request_bytes_(setup.item_bytes * static_cast<std::size_t>(setup.request_items)) {
    requests_.resize(static_cast<std::size_t>(setup.concurrency));
    std::uint32_t value = 1;
    for (Request& request : requests_) {
      request.input.resize(request_bytes_);
      request.output.resize(request_bytes_);
      for (std::byte& byte : request.input) byte = static_cast<std::byte>((value = value * 1664525U + 1013904223U) >> 24);
    }
    batches_.resize(static_cast<std::size_t>(setup.lanes * setup.slots));
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

  // The driver: a batch as soon as a slot is free, as full as what waits allows.
  void drive() {
    std::vector<Request*> taken;
    std::size_t next_stream = 0;
    const auto most = static_cast<std::size_t>(std::max<std::int64_t>(1, setup_.max_batch_items / setup_.request_items));
    while (waiting_.take_all(taken)) {
      for (std::size_t at = 0; at < taken.size();) {
        Batch* batch = take_slot();
        if (!batch) return;
        const std::size_t count = std::min(most, taken.size() - at);
        batch->requests.assign(taken.begin() + static_cast<std::ptrdiff_t>(at),
                               taken.begin() + static_cast<std::ptrdiff_t>(at + count));
        at += count;
        streams_[next_stream++ % streams_.size()]->push(batch);
      }
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
    while (Batch* batch = stream.take()) {
      for (Request* request : batch->requests) {
        for (std::size_t at = 0; at < request_bytes_; at += setup_.item_bytes) {
          std::memcpy(request->output.data() + at, request->input.data() + at, setup_.item_bytes);
        }
      }
      done_.push(batch);
    }
  }

  void complete() {
    std::vector<Batch*> batches;
    std::vector<Request*> answered;
    while (done_.take_all(batches)) {
      answered.clear();
      for (Batch* batch : batches) answered.insert(answered.end(), batch->requests.begin(), batch->requests.end());
      {
        const std::lock_guard lock(free_mutex_);
        free_.insert(free_.end(), batches.begin(), batches.end());
      }
      free_changed_.notify_one();
      for (Request* request : answered) call_back(*request);
    }
  }

  // As the load generator's callback: takes the time, checks one answer in 64, sends again.
  void call_back(Request& request) {
    const auto now = Clock::now();
    if (counting_.load(std::memory_order_relaxed)) {
      figures_.latency.record(static_cast<std::uint64_t>(std::chrono::nanoseconds(now - request.sent).count()));
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

  Queue<Request*> waiting_;
  std::vector<std::unique_ptr<BatchQueue>> streams_;
  Queue<Batch*> done_;
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
