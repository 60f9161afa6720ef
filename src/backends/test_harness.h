// What tests of backends share: a host device, a ledger, and runs with their memory. Tests only.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <millrace/device.h>
#include <millrace/tensor.h>

#include "backends/backend.h"
#include "device/ledger.h"

namespace millrace::testing {

/// The error's text, for EXPECT_... << text_of(result).
template <class T>
std::string text_of(const Result<T>& result) {
  if (result.ok()) return "success";
  return std::string(to_string(result.error().code)) + ": " + result.error().message;
}

#define MILLRACE_EXPECT_ERROR(result, expected_code, words)                                       \
  do {                                                                                            \
    const auto& checked = (result);                                                               \
    ASSERT_FALSE(checked.ok());                                                                   \
    EXPECT_EQ(checked.error().code, expected_code) << checked.error().message;                    \
    EXPECT_NE(checked.error().message.find(words), std::string::npos) << checked.error().message; \
  } while (false)

/// Memory of one tensor, with guards around it that show writes beyond its ends.
class Memory {
 public:
  explicit Memory(std::size_t bytes) : bytes_(bytes), all_(bytes + 2 * kGuard, kMark) {}
  [[nodiscard]] void* data() noexcept { return all_.data() + kGuard; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] bool intact() const noexcept {
    for (std::size_t i = 0; i < kGuard; ++i) {
      if (all_[i] != kMark || all_[all_.size() - 1 - i] != kMark) return false;
    }
    return true;
  }

 private:
  static constexpr std::size_t kGuard = 64;
  static constexpr std::byte kMark{0xa5};
  std::size_t bytes_;
  std::vector<std::byte> all_;
};

/// One run of a lane: its tensors, events and status. Must stay where it is until the run is over.
class TestRun {
 public:
  explicit TestRun(DeviceRef device) : device_(device) {
    done_ = device->new_event(EventTiming::untimed).value();
    consumed_ = device->new_event(EventTiming::untimed).value();
  }
  TestRun(const TestRun&) = delete;
  TestRun& operator=(const TestRun&) = delete;

  /// Adds an input that views the caller's memory.
  void input(const TensorView& view) { inputs_.push_back(view); }
  template <class T>
  void input(const std::vector<T>& values, const Shape& shape) {
    input(TensorView::of(values.data(), shape));
  }
  void strings(std::span<const std::string_view> values, const Shape& shape) {
    held_.push_back(Tensor::of_strings(values, shape).value());
    input(held_.back().view());
  }
  /// Adds an output with memory of that type and shape.
  void output(DataType type, const Shape& shape) {
    memory_.push_back(std::make_unique<Memory>(byte_count(type, shape).value()));
    OutputSlot slot;
    slot.view = TensorView::of(type, memory_.back()->data(), shape, device_->id());
    outputs_.push_back(std::move(slot));
  }
  /// Adds an output that allocates.
  void late_output(DataType type) {
    OutputSlot slot;
    slot.view.type = type;
    slot.view.device = device_->id();
    slot.allocate = [this](DataType wanted, const Shape& shape,
                           std::size_t bytes) -> Result<void*> {
      ++allocations;
      allocated_on = std::this_thread::get_id();
      if (refuse_memory) return Error{ErrorCode::out_of_memory, "no memory for this output"};
      if (wanted == DataType::bytes) {
        bytes +=
            (static_cast<std::size_t>(element_count(shape).value()) + 1) * sizeof(std::uint64_t);
      } else {
        EXPECT_EQ(bytes, byte_count(wanted, shape).value());
      }
      memory_.push_back(std::make_unique<Memory>(bytes));
      return memory_.back()->data();
    };
    outputs_.push_back(std::move(slot));
  }

  [[nodiscard]] BatchIo& io() {
    io_.inputs = inputs_;
    io_.outputs = outputs_;
    io_.inputs_consumed = consumed_;
    io_.done = done_;
    io_.status = &status_;
    return io_;
  }
  /// Enqueues and waits until done. The status's error where the run failed.
  Result<void> on(Lane& lane, ShapeKey key = kEager) {
    if (auto enqueued = lane.enqueue(key, io()); !enqueued.ok()) return enqueued;
    return wait();
  }
  Result<void> wait() {
    if (auto done = done_.ref().synchronize(); !done.ok()) return done;
    for (const auto& memory : memory_)
      EXPECT_TRUE(memory->intact()) << "a write beyond a tensor's memory";
    if (status_.failed()) return status_.error();
    return {};
  }
  [[nodiscard]] bool done() const { return done_.ref().query().value(); }
  void reset_status() { status_.reset(); }
  [[nodiscard]] std::vector<OutputSlot>& outputs() noexcept { return outputs_; }
  [[nodiscard]] std::vector<TensorView>& inputs() noexcept { return inputs_; }
  template <class T>
  [[nodiscard]] std::vector<T> values(std::size_t output) const {
    const TensorView& view = outputs_[output].view;
    EXPECT_EQ(sizeof(T), size_of(view.type));
    std::vector<T> values(static_cast<std::size_t>(element_count(view.shape).value()));
    std::memcpy(values.data(), view.data, values.size() * sizeof(T));
    return values;
  }
  [[nodiscard]] std::vector<std::string> text(std::size_t output) const {
    const TensorView& view = outputs_[output].view;
    std::vector<std::string> values;
    for (std::size_t i = 0; i < static_cast<std::size_t>(element_count(view.shape).value()); ++i) {
      values.emplace_back(static_cast<const char*>(view.data) + view.offsets[i],
                          view.offsets[i + 1] - view.offsets[i]);
    }
    return values;
  }

  int allocations = 0;
  bool refuse_memory = false;
  std::thread::id allocated_on;

 private:
  const DeviceRef device_;
  std::vector<TensorView> inputs_;
  std::vector<OutputSlot> outputs_;
  std::vector<std::unique_ptr<Memory>> memory_;
  std::vector<Tensor> held_;
  Event done_, consumed_;
  BatchStatus status_;
  BatchIo io_;
};

/// A host device of a settable size and speed, with its ledger.
class Host {
 public:
  explicit Host(HostDeviceOptions options = {}) {
    DeviceSetOptions set;
    set.devices = {"host:0"};
    set.host = {options};
    devices_ = DeviceSet::open(set).value();
    ledger_ = std::make_unique<MemoryLedger>(*device());
  }
  [[nodiscard]] DeviceRef device() const noexcept { return devices_.devices()[0]; }
  [[nodiscard]] MemoryLedger& ledger() noexcept { return *ledger_; }

  [[nodiscard]] Result<std::unique_ptr<Plan>> load(ModelSpec spec) {
    if (spec.name.empty()) spec.name = "m";
    auto choice = choose_backend("auto", spec, device());
    if (!choice.ok()) return std::move(choice).error();
    return choice->backend->load(spec, device(), *ledger_);
  }
  [[nodiscard]] Result<std::unique_ptr<Plan>> load(
      const std::string& path, std::map<std::string, std::string> options = {}) {
    ModelSpec spec;
    spec.path = path;
    spec.options = std::move(options);
    return load(std::move(spec));
  }

 private:
  DeviceSet devices_;
  std::unique_ptr<MemoryLedger> ledger_;
};

}  // namespace millrace::testing
