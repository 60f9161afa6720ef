// What the suites of the engine share: engines over host devices, requests that know their data,
// and gates that hold streams shut, so that what happens before what is decided by the test and not
// by luck.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <millrace/engine.h>
#include <millrace/log.h>

namespace millrace::testing {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

/// Longer than anything takes that does not hang, sanitizers included.
inline constexpr Duration kGuard = seconds(60);
/// For what must not happen by itself.
inline constexpr Duration kAges = std::chrono::hours(1);

template <class T>
std::string text_of(const Result<T>& result) {
  if (result.ok()) return "success";
  return std::string(to_string(result.error().code)) + ": " + result.error().message;
}

/// The value; an error ends the test.
template <class T>
T must(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(text_of(result));
  return std::move(result).value();
}
inline void must(const Result<void>& result) {
  if (!result.ok()) throw std::runtime_error(text_of(result));
}

template <class T>
void expect_error(const Result<T>& result, ErrorCode code,
                  std::initializer_list<std::string_view> words = {}) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, code) << result.error().message;
  for (const std::string_view word : words) {
    EXPECT_NE(result.error().message.find(word), std::string::npos)
        << "\"" << word << "\" is missing in: " << result.error().message;
  }
}

/// Waits for what another thread brings about.
template <class Condition>
[[nodiscard]] bool eventually(Condition condition) {
  const TimePoint until = Clock::now() + kGuard;
  while (!condition()) {
    if (Clock::now() > until) return false;
    std::this_thread::sleep_for(microseconds(100));
  }
  return true;
}

/// Gathers log messages while it lives, so that those that are expected do not litter the output.
class Log {
 public:
  Log() {
    log_to([this](LogLevel, std::string_view message) {
      const std::lock_guard lock(mutex_);
      messages_.emplace_back(message);
    });
  }
  ~Log() { log_to({}); }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  [[nodiscard]] bool has(std::string_view words) const {
    const std::lock_guard lock(mutex_);
    for (const std::string& message : messages_) {
      if (message.find(words) != std::string::npos) return true;
    }
    return false;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> messages_;
};

/// An event that is reached when the test says so. A lane whose batch waits for it is held shut
/// until then.
class Gate {
 public:
  explicit Gate(DeviceRef device) {
    stream_ = must(device->new_stream({}));
    event_ = must(device->new_event(EventTiming::untimed));
    must(stream_.ref().run([open = open_] { open->wait(false); }));
    must(stream_.ref().record(event_));
  }
  ~Gate() { open(); }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  [[nodiscard]] EventRef event() const noexcept { return event_; }
  void open() noexcept {
    *open_ = true;
    open_->notify_all();
  }

 private:
  std::shared_ptr<std::atomic<bool>> open_ = std::make_shared<std::atomic<bool>>(false);
  Stream stream_;
  Event event_;
};

// -------------------------------------------------------------------------------------------------
// engines, models

[[nodiscard]] inline EngineOptions host_devices(int count = 1) {
  EngineOptions options;
  for (int i = 0; i < count; ++i) options.devices.devices.push_back("host:" + std::to_string(i));
  return options;
}

[[nodiscard]] inline Engine make_engine(EngineOptions options = host_devices()) {
  return must(Engine::create(std::move(options)));
}

/// One lane with one slot, so that a batch that is held shut holds up all behind it.
[[nodiscard]] inline ModelConfig one_at_a_time(std::string path) {
  ModelConfig config;
  config.path = std::move(path);
  config.lanes = 1;
  config.slots = 1;
  return config;
}

[[nodiscard]] inline ModelConfig from(std::string path) {
  ModelConfig config;
  config.path = std::move(path);
  return config;
}

[[nodiscard]] inline BatchPolicy batching(std::int64_t max_items, Duration max_delay = {},
                                          std::vector<std::int64_t> preferred_items = {}) {
  BatchPolicy policy;
  policy.max_items = max_items;
  policy.max_delay = max_delay;
  policy.preferred_items = std::move(preferred_items);
  return policy;
}

[[nodiscard]] inline ModelConfig named(std::string name, std::string path) {
  ModelConfig config;
  config.name = std::move(name);
  config.path = std::move(path);
  return config;
}

/// As `named`, with one lane of one slot.
[[nodiscard]] inline ModelConfig named_one(std::string name, std::string path) {
  ModelConfig config = one_at_a_time(std::move(path));
  config.name = std::move(name);
  return config;
}

// -------------------------------------------------------------------------------------------------
// data, requests

/// Items of 16 numbers each, as reference models take them by default, counting on from `first`.
class Numbers {
 public:
  explicit Numbers(std::int64_t items = 1, float first = 1)
      : shape_{items, 16}, values_(static_cast<std::size_t>(items) * 16) {
    std::iota(values_.begin(), values_.end(), first);
  }
  [[nodiscard]] const std::vector<float>& values() const noexcept { return values_; }
  [[nodiscard]] std::vector<float>& values() noexcept { return values_; }
  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  [[nodiscard]] TensorView view(EventRef ready = {}) const {
    TensorView view = TensorView::of(values_.data(), shape_);
    view.ready = ready;
    return view;
  }
  /// Borrows the numbers, which must stay.
  [[nodiscard]] Request request(EventRef ready = {}) const {
    Request request;
    request.inputs.push_back({"input", view(ready), {}});
    return request;
  }

 private:
  Shape shape_;
  std::vector<float> values_;
};

[[nodiscard]] inline std::vector<float> floats(const TensorView& view) {
  const auto count = static_cast<std::size_t>(must(element_count(view.shape)));
  std::vector<float> values(count);
  EXPECT_EQ(view.type, DataType::fp32);
  if (count > 0) std::memcpy(values.data(), view.data, count * sizeof(float));
  return values;
}

/// The one response to come; a future that hangs ends the test.
[[nodiscard]] inline Result<Response> get(Future& future) {
  if (!future.wait_until(Clock::now() + kGuard))
    throw std::runtime_error("a request was not answered");
  return future.get();
}
[[nodiscard]] inline Result<Response> get(Future&& future) { return get(future); }

inline void expect_echo(const Result<Response>& response, const Numbers& numbers) {
  ASSERT_TRUE(response.ok()) << text_of(response);
  ASSERT_EQ(response->outputs.size(), 1u);
  EXPECT_EQ(response->outputs[0].name, "output");
  EXPECT_EQ(response->outputs[0].view.shape, numbers.shape());
  EXPECT_EQ(floats(response->outputs[0].view), numbers.values());
}
inline void expect_echo(Future& future, const Numbers& numbers) {
  expect_echo(get(future), numbers);
}

/// Requests for one model that are submitted together, each with data of its own.
class Requests {
 public:
  explicit Requests(Model model) : model_(std::move(model)) {}
  /// Adds and submits one of `items` items.
  Future& submit(std::int64_t items = 1, EventRef ready = {}) {
    numbers_.push_back(
        std::make_unique<Numbers>(items, static_cast<float>(1000 * numbers_.size())));
    return submit(numbers_.back()->request(ready));
  }
  Future& submit(Request request) {
    futures_.push_back(std::make_unique<Future>(model_.submit(std::move(request))));
    return *futures_.back();
  }
  [[nodiscard]] Future& operator[](std::size_t i) { return *futures_[i]; }
  /// Waits for all; each must be its own echo. Returns the items of the batch that each ran in.
  std::vector<std::int64_t> batches() {
    std::vector<std::int64_t> items;
    for (std::size_t i = 0; i < futures_.size(); ++i) {
      SCOPED_TRACE(i);
      const Result<Response> response = get(*futures_[i]);
      expect_echo(response, *numbers_[i]);
      items.push_back(response.ok() ? response->batch_items : -1);
    }
    return items;
  }

 private:
  Model model_;
  std::vector<std::unique_ptr<Numbers>> numbers_;
  std::vector<std::unique_ptr<Future>> futures_;
};

/// Takes answers by callback and keeps their order.
class Answers {
 public:
  [[nodiscard]] Callback callback(int tag) {
    return [this, tag](Result<Response> response, bool last) {
      EXPECT_TRUE(last);
      const std::lock_guard lock(mutex_);
      order_.push_back(tag);
      results_.push_back(std::move(response));
      changed_.notify_all();
    };
  }
  [[nodiscard]] bool wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kGuard, [&] { return order_.size() >= count; });
  }
  [[nodiscard]] std::vector<int> order() const {
    const std::lock_guard lock(mutex_);
    return order_;
  }
  /// In that order. Only when no more are to come.
  [[nodiscard]] std::vector<Result<Response>>& results() noexcept { return results_; }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int> order_;
  std::vector<Result<Response>> results_;
};

/// Counts how often leases are dropped.
class LeaseCount {
 public:
  [[nodiscard]] Lease lease() {
    return Lease::on_release([count = count_] { ++*count; });
  }
  [[nodiscard]] int released() const noexcept { return *count_; }

 private:
  std::shared_ptr<std::atomic<int>> count_ = std::make_shared<std::atomic<int>>(0);
};

[[nodiscard]] inline RequestedOutput placed(std::string name, OutputPlacement placement) {
  RequestedOutput output;
  output.name = std::move(name);
  output.placement = placement;
  return output;
}

[[nodiscard]] inline RequestedOutput into(std::string name, const TensorView& target,
                                          Lease lease = {}) {
  RequestedOutput output;
  output.name = std::move(name);
  output.placement = OutputPlacement::target;
  output.target = target;
  output.lease = std::move(lease);
  return output;
}

}  // namespace millrace::testing
