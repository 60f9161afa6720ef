// What only a host device does; the rest is in tests/conformance/.
#include "device/host/host_stream.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <millrace/log.h>

#include "device/host/host_device.h"
#include "device/host/host_queue.h"

namespace millrace {
namespace {

using testing::HasSubstr;

// An event of another kind of device, reached when the test says so.
class ForeignEvent final : public EventImpl {
 public:
  struct Point final : StreamPoint {
    std::atomic<bool> reached{false};
    std::optional<Error> error;
    Result<void> synchronize() const override {
      reached.wait(false);
      if (error) return *error;
      return {};
    }
    void reach() {
      reached = true;
      reached.notify_all();
    }
  };

  DeviceId device() const noexcept override { return DeviceId::cuda(0); }
  Result<bool> query() const override { return point_->reached.load(); }
  Result<void> synchronize() const override { return point_->synchronize(); }
  Result<TimePoint> time() const override { return Error{ErrorCode::invalid_argument, "untimed"}; }
  Result<std::shared_ptr<const StreamPoint>> point() const override {
    return std::shared_ptr<const StreamPoint>(point_);
  }

  std::shared_ptr<Point> point_ = std::make_shared<Point>();
};

class HostStreamTest : public testing::Test {
 protected:
  HostDevice device_{0, {}};
  Stream stream_ = device_.new_stream({}).value();
};

TEST_F(HostStreamTest, WaitsForEventsOfOtherKindsOfDevices) {
  auto foreign = std::make_unique<ForeignEvent>();
  const auto point = foreign->point_;
  bool ran = false;
  ASSERT_TRUE(stream_.ref().wait(EventRef(foreign.get())).ok());
  ASSERT_TRUE(stream_.ref().run([&ran] { ran = true; }).ok());
  foreign.reset();                // the stream holds the point, not the event
  for (int i = 0; i < 20; ++i) {  // ample opportunity for a stream that does not wait
    EXPECT_FALSE(stream_.ref().query().value());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  point->reach();
  ASSERT_TRUE(stream_.ref().synchronize().ok());
  EXPECT_TRUE(ran);
}

TEST_F(HostStreamTest, PassesAFaultOfAnotherDeviceOnToAllThatWaitForIt) {
  ForeignEvent foreign;
  foreign.point_->error = Error{ErrorCode::gpu_fault, "the device fell over", Scope::process};
  foreign.point_->reach();
  Event event = device_.new_event(EventTiming::untimed).value();
  Stream other = device_.new_stream({}).value();
  std::atomic<bool> open{false};
  ASSERT_TRUE(stream_.ref().run([&open] { open.wait(false); }).ok());
  ASSERT_TRUE(stream_.ref().wait(EventRef(&foreign)).ok());
  ASSERT_TRUE(stream_.ref().record(event).ok());
  ASSERT_TRUE(other.ref().wait(event).ok());
  open = true;
  open.notify_all();
  const auto done = stream_.ref().synchronize();
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().message, "the device fell over");
  EXPECT_EQ(stream_.ref().query().error().code, ErrorCode::gpu_fault);
  EXPECT_EQ(event.ref().query().error().code, ErrorCode::gpu_fault);
  EXPECT_EQ(event.ref().synchronize().error().code, ErrorCode::gpu_fault);
  EXPECT_EQ(other.ref().synchronize().error().code, ErrorCode::gpu_fault);
  Stream late = device_.new_stream({}).value();
  EXPECT_EQ(late.ref().wait(event).error().code, ErrorCode::gpu_fault);
}

TEST_F(HostStreamTest, ItsEventsNameAPointForOtherDevices) {
  Event event = device_.new_event(EventTiming::untimed).value();
  EXPECT_EQ(event.ref().impl()->point().value(), nullptr);
  int value = 0;
  ASSERT_TRUE(stream_.ref().run([&value] { value = 5; }).ok());
  ASSERT_TRUE(stream_.ref().record(event).ok());
  const auto point = event.ref().impl()->point().value();
  event = Event();
  ASSERT_TRUE(point->synchronize().ok());
  EXPECT_EQ(value, 5);
}

TEST_F(HostStreamTest, ATaskThatWaitsForItsOwnStreamIsToldSo) {
  Event event = device_.new_event(EventTiming::untimed).value();
  Result<void> stream_wait;
  Result<void> event_wait;
  ASSERT_TRUE(stream_.ref()
                  .run([&] {
                    event_wait = stream_.ref().record(event);
                    event_wait = event.ref().synchronize();
                    stream_wait = stream_.ref().synchronize();
                  })
                  .ok());
  ASSERT_TRUE(stream_.ref().synchronize().ok());
  ASSERT_FALSE(stream_wait.ok());
  EXPECT_EQ(stream_wait.error().code, ErrorCode::invalid_argument);
  EXPECT_FALSE(event_wait.ok());
}

TEST_F(HostStreamTest, ATaskMayEnqueueAndDestroyStreams) {
  int ran = 0;
  auto own = std::make_shared<Stream>(device_.new_stream({}).value());
  Event event = device_.new_event(EventTiming::untimed).value();
  ASSERT_TRUE(stream_.ref()
                  .run([&, other = std::move(own)]() mutable {
                    EXPECT_TRUE(other->ref().run([&ran] { ++ran; }).ok());
                    other.reset();  // waits for its work
                    EXPECT_EQ(ran, 1);
                    EXPECT_TRUE(stream_.ref().run([&ran] { ++ran; }).ok());
                    EXPECT_TRUE(stream_.ref().record(event).ok());
                  })
                  .ok());
  ASSERT_TRUE(stream_.ref().synchronize().ok());  // the second task is enqueued
  ASSERT_TRUE(stream_.ref().synchronize().ok());  // and done
  EXPECT_EQ(ran, 2);
  EXPECT_TRUE(event.ref().query().value());
}

TEST_F(HostStreamTest, ATaskMayDestroyItsOwnStream) {
  auto own = std::make_unique<Stream>(device_.new_stream({}).value());
  const auto ran = std::make_shared<std::atomic<bool>>(false);
  const StreamRef ref = own->ref();
  ASSERT_TRUE(ref.run([ran, stream = std::make_shared<std::unique_ptr<Stream>>(std::move(own))] {
                   stream->reset();  // cannot wait for itself
                   ran->store(true);
                   ran->notify_all();
                 })
                  .ok());
  ran->wait(false);
}

TEST_F(HostStreamTest, HeldWakesComeAtTheEndOrWhenSomebodyWaits) {
  std::atomic<int> ran{0};
  ASSERT_TRUE(stream_.ref().synchronize().ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // its thread goes to sleep
  {
    const HeldWakes held;
    ASSERT_TRUE(stream_.ref().run([&] { ++ran; }).ok());
    ASSERT_TRUE(stream_.ref().run([&] { ++ran; }).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(ran, 0) << "nobody woke it";
    ASSERT_TRUE(stream_.ref().synchronize().ok());
    EXPECT_EQ(ran, 2);
    ASSERT_TRUE(stream_.ref().run([&] { ++ran; }).ok());
  }
  ASSERT_TRUE(stream_.ref().synchronize().ok());
  EXPECT_EQ(ran, 3);
}

TEST_F(HostStreamTest, LogsWhatATaskThrows) {
  std::string logged;
  log_to([&logged](LogLevel, std::string_view message) { logged += message; });
  ASSERT_TRUE(stream_.ref().run([] { throw std::runtime_error("a thrown word"); }).ok());
  ASSERT_TRUE(stream_.ref().synchronize().ok());
  log_to(nullptr);
  EXPECT_THAT(logged, HasSubstr("a thrown word"));
}

TEST_F(HostStreamTest, HasNoNativeHandle) { EXPECT_EQ(stream_.ref().native_handle(), nullptr); }

}  // namespace
}  // namespace millrace
