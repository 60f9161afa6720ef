// What every device must do, whatever it is made of. A kind of device instantiates the suite with
// its factory, which says how many there are to test (`present`), makes one, holds a stream shut,
// and names what the kind cannot promise.
//
// Streams are held shut by work that does not end until released, so that what is enqueued behind
// it has not started for certain. Memory of kind `device` is touched only through streams.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <millrace/device.h>
#include <millrace/log.h>

namespace millrace {

using namespace std::chrono_literals;

inline constexpr auto kHangGuard = 60s;

struct FactoryName {
  template <class Factory>
  static std::string GetName(int) {  // NOLINT(readability-identifier-naming): GoogleTest calls it
    return Factory::kName;
  }
};

template <class Factory>
class DeviceConformance : public testing::Test {
 protected:
  /// Holds a stream shut from here until opened or destroyed.
  class Gate {
   public:
    explicit Gate(StreamRef stream) { EXPECT_TRUE(Factory::hold(stream, open_).ok()); }
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;
    ~Gate() { open(); }
    void open() {
      open_->store(true);
      open_->notify_all();
    }
    [[nodiscard]] bool is_open() const { return open_->load(); }

   private:
    std::shared_ptr<std::atomic<bool>> open_ = std::make_shared<std::atomic<bool>>(false);
  };

  [[nodiscard]] Stream new_stream() { return device_->new_stream({}).value(); }
  [[nodiscard]] Event new_event(EventTiming timing = EventTiming::untimed) {
    return device_->new_event(timing).value();
  }
  [[nodiscard]] Buffer allocate(std::size_t bytes, MemoryKind kind = MemoryKind::device) {
    return device_->allocate(bytes, kind).value();
  }
  /// Through pinned memory and a stream of its own.
  [[nodiscard]] std::vector<std::uint8_t> read(const Buffer& buffer) {
    Stream stream = new_stream();
    Buffer pinned = allocate(buffer.bytes(), MemoryKind::pinned);
    EXPECT_TRUE(stream.ref().copy(pinned.data(), buffer.data(), buffer.bytes()).ok());
    EXPECT_TRUE(stream.ref().synchronize().ok());
    const auto* bytes = static_cast<const std::uint8_t*>(pinned.data());
    return {bytes, bytes + buffer.bytes()};
  }
  void write(const Buffer& buffer, const std::vector<std::uint8_t>& bytes) {
    Stream stream = new_stream();
    Buffer pinned = allocate(bytes.size(), MemoryKind::pinned);
    std::memcpy(pinned.data(), bytes.data(), bytes.size());
    EXPECT_TRUE(stream.ref().copy(buffer.data(), pinned.data(), bytes.size()).ok());
    EXPECT_TRUE(stream.ref().synchronize().ok());
  }
  /// Gives a device that does not hold back ample opportunity to show it. A right one cannot fail
  /// this.
  [[nodiscard]] static bool stays_unfinished(StreamRef stream) {
    for (int i = 0; i < 20; ++i) {
      if (stream.query().value()) return false;
      std::this_thread::sleep_for(1ms);
    }
    return true;
  }

  void SetUp() override {
    if (Factory::present() == 0)
      GTEST_SKIP() << "NOT CHECKED: no " << Factory::kName << " device here";
    device_ = Factory::make();
  }

  std::unique_ptr<Device> device_;
};

TYPED_TEST_SUITE_P(DeviceConformance);

TYPED_TEST_P(DeviceConformance, DescribesItself) {
  const DeviceInfo& info = this->device_->info();
  EXPECT_FALSE(info.uuid.empty());
  EXPECT_FALSE(info.name.empty());
  EXPECT_GT(info.cores, 0);
  EXPECT_GT(info.memory_bytes, 0u);
  EXPECT_GE(info.id.index, 0);
}

TYPED_TEST_P(DeviceConformance, EnqueuingReturnsBeforeTheWorkStarts) {
  Stream stream = this->new_stream();
  Event event = this->new_event();
  Buffer a = this->allocate(4096);
  Buffer b = this->allocate(4096);
  Buffer pinned = this->allocate(sizeof(std::atomic<std::uint64_t>), MemoryKind::pinned);
  auto& word = *new (pinned.data()) std::atomic<std::uint64_t>(0);
  std::atomic<int> ran{0};
  {
    typename TestFixture::Gate gate(stream);
    const CopyPiece piece{b.data(), a.data(), 16};
    for (int i = 0; i < TypeParam::kPending; ++i) {
      ASSERT_TRUE(stream.ref().fill(a.data(), 1, a.bytes()).ok());
      ASSERT_TRUE(stream.ref().copy(b.data(), a.data(), a.bytes()).ok());
      ASSERT_TRUE(stream.ref().gather({&piece, 1}).ok());
      ASSERT_TRUE(stream.ref().record(event).ok());
      ASSERT_TRUE(stream.ref().wait(event).ok());
      ASSERT_TRUE(stream.ref().run([&ran] { ++ran; }).ok());
      ASSERT_TRUE(stream.ref().signal(word, 1, nullptr).ok());
    }
    EXPECT_FALSE(stream.ref().query().value());
    EXPECT_FALSE(event.ref().query().value());
    EXPECT_EQ(ran, 0);
    EXPECT_EQ(word, 0u);
  }
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_EQ(ran, TypeParam::kPending);
  EXPECT_EQ(word, 1u);
}

TYPED_TEST_P(DeviceConformance, WorkOfAStreamIsDoneInOrder) {
  Stream stream = this->new_stream();
  Buffer a = this->allocate(1000);
  Buffer b = this->allocate(1000);
  std::vector<int> order;
  {
    typename TestFixture::Gate gate(stream);
    ASSERT_TRUE(stream.ref().fill(a.data(), 1, 1000).ok());
    ASSERT_TRUE(stream.ref().run([&] { order.push_back(1); }).ok());
    ASSERT_TRUE(stream.ref().copy(b.data(), a.data(), 1000).ok());
    ASSERT_TRUE(stream.ref().fill(a.data(), 2, 1000).ok());
    ASSERT_TRUE(stream.ref().run([&] { order.push_back(2); }).ok());
    const std::array<CopyPiece, 1> piece{{{b.data(), a.data(), 500}}};
    ASSERT_TRUE(stream.ref().gather(piece).ok());
    ASSERT_TRUE(stream.ref().fill(a.data(), 3, 1000).ok());
    ASSERT_TRUE(stream.ref().run([&] { order.push_back(3); }).ok());
  }
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_EQ(order, (std::vector{1, 2, 3}));
  const auto b_bytes = this->read(b);
  EXPECT_TRUE(std::all_of(b_bytes.begin(), b_bytes.begin() + 500, [](int x) { return x == 2; }));
  EXPECT_TRUE(std::all_of(b_bytes.begin() + 500, b_bytes.end(), [](int x) { return x == 1; }));
  EXPECT_EQ(this->read(a), std::vector<std::uint8_t>(1000, 3));
}

TYPED_TEST_P(DeviceConformance, AShutStreamHoldsNoOtherUp) {
  Stream shut = this->new_stream();
  typename TestFixture::Gate gate(shut);
  std::vector<Stream> others;
  int ran = 0;
  for (int i = 0; i < 4; ++i) {
    others.push_back(this->new_stream());
    ASSERT_TRUE(others.back().ref().run([&ran] { ++ran; }).ok());
    ASSERT_TRUE(others.back().ref().synchronize().ok());
  }
  EXPECT_EQ(ran, 4);
  EXPECT_FALSE(shut.ref().query().value());
}

TYPED_TEST_P(DeviceConformance, AWaitHoldsAStreamUntilTheEventIsReached) {
  Stream first = this->new_stream();
  Stream second = this->new_stream();
  Event event = this->new_event();
  typename TestFixture::Gate gate(first);
  int value = 0;  // not atomic: the event alone orders its uses
  int seen = 0;
  ASSERT_TRUE(first.ref().run([&] { value = 42; }).ok());
  ASSERT_TRUE(first.ref().record(event).ok());
  ASSERT_TRUE(second.ref().wait(event).ok());
  ASSERT_TRUE(second.ref().run([&] { seen = value; }).ok());
  EXPECT_TRUE(this->stays_unfinished(second));
  EXPECT_FALSE(event.ref().query().value());
  gate.open();
  ASSERT_TRUE(second.ref().synchronize().ok());
  EXPECT_EQ(seen, 42);
  EXPECT_TRUE(event.ref().query().value());
}

TYPED_TEST_P(DeviceConformance, AnEventIsReachedBeforeLaterWorkOfItsStream) {
  Stream first = this->new_stream();
  Stream second = this->new_stream();
  Event event = this->new_event();
  ASSERT_TRUE(first.ref().run([] {}).ok());
  ASSERT_TRUE(first.ref().record(event).ok());
  typename TestFixture::Gate gate(first);
  ASSERT_TRUE(second.ref().wait(event).ok());
  EXPECT_TRUE(second.ref().synchronize().ok());
  EXPECT_TRUE(event.ref().synchronize().ok());
  EXPECT_TRUE(event.ref().query().value());
  EXPECT_FALSE(first.ref().query().value());
}

TYPED_TEST_P(DeviceConformance, AWaitKeepsThePointItSawWhenTheEventMovesOn) {
  Stream first = this->new_stream();
  Stream second = this->new_stream();
  Event event = this->new_event();
  ASSERT_TRUE(first.ref().run([] {}).ok());
  ASSERT_TRUE(first.ref().record(event).ok());
  typename TestFixture::Gate entrance(
      second);  // so that the wait is looked at after the event moved
  ASSERT_TRUE(second.ref().wait(event).ok());
  typename TestFixture::Gate gate(first);
  ASSERT_TRUE(first.ref().record(event).ok());
  entrance.open();
  EXPECT_TRUE(second.ref().synchronize().ok());  // would hang if it waited for the second point
  EXPECT_FALSE(event.ref().query().value());
}

TYPED_TEST_P(DeviceConformance, AWaitIsNotReleasedByALaterRecordElsewhere) {
  Stream first = this->new_stream();
  Stream second = this->new_stream();
  Stream third = this->new_stream();
  Event event = this->new_event();
  typename TestFixture::Gate gate(first);
  ASSERT_TRUE(first.ref().record(event).ok());
  ASSERT_TRUE(second.ref().wait(event).ok());
  ASSERT_TRUE(second.ref().run([] {}).ok());
  ASSERT_TRUE(third.ref().run([] {}).ok());
  ASSERT_TRUE(third.ref().record(event).ok());
  EXPECT_TRUE(event.ref().synchronize().ok());  // the later point, of the third stream
  EXPECT_TRUE(this->stays_unfinished(second));
  gate.open();
  EXPECT_TRUE(second.ref().synchronize().ok());
}

TYPED_TEST_P(DeviceConformance, ANeverRecordedEventHoldsNobody) {
  Stream stream = this->new_stream();
  Event event = this->new_event();
  EXPECT_TRUE(event.ref().query().value());
  EXPECT_TRUE(event.ref().synchronize().ok());
  ASSERT_TRUE(stream.ref().wait(event).ok());
  ASSERT_TRUE(stream.ref().wait(EventRef()).ok());
  EXPECT_TRUE(stream.ref().synchronize().ok());
}

TYPED_TEST_P(DeviceConformance, EventsMayGoWhileTheyArePending) {
  Stream first = this->new_stream();
  Stream second = this->new_stream();
  int value = 0;
  int seen = 0;
  {
    typename TestFixture::Gate gate(first);
    Event event = this->new_event(EventTiming::timed);
    Event unused = this->new_event();
    ASSERT_TRUE(first.ref().run([&] { value = 7; }).ok());
    ASSERT_TRUE(first.ref().record(event).ok());
    ASSERT_TRUE(first.ref().record(unused).ok());
    ASSERT_TRUE(second.ref().wait(event).ok());
    ASSERT_TRUE(second.ref().run([&] { seen = value; }).ok());
    event = Event();
    unused = Event();
    EXPECT_FALSE(second.ref().query().value());
  }
  ASSERT_TRUE(second.ref().synchronize().ok());
  EXPECT_EQ(seen, 7);
}

TYPED_TEST_P(DeviceConformance, EventsOutliveTheirStream) {
  Event event = this->new_event();
  {
    Stream stream = this->new_stream();
    ASSERT_TRUE(stream.ref().run([] {}).ok());
    ASSERT_TRUE(stream.ref().record(event).ok());
  }
  EXPECT_TRUE(event.ref().synchronize().ok());
  EXPECT_TRUE(event.ref().query().value());
  Stream other = this->new_stream();
  ASSERT_TRUE(other.ref().wait(event).ok());
  EXPECT_TRUE(other.ref().synchronize().ok());
}

TYPED_TEST_P(DeviceConformance, StreamsTakeTurnsByEvents) {
  constexpr int kRounds = 2000;
  Stream first = this->new_stream();
  Stream second = this->new_stream();
  Event to_second = this->new_event();
  Event to_first = this->new_event();
  int value = 0;  // not atomic: the events alone order its uses
  bool in_turn = true;
  for (int i = 0; i < kRounds; ++i) {
    ASSERT_TRUE(first.ref().wait(to_first).ok());
    ASSERT_TRUE(
        first.ref().run([&, i] { in_turn &= std::exchange(value, 2 * i + 1) == 2 * i; }).ok());
    ASSERT_TRUE(first.ref().record(to_second).ok());
    ASSERT_TRUE(second.ref().wait(to_second).ok());
    ASSERT_TRUE(
        second.ref().run([&, i] { in_turn &= std::exchange(value, 2 * i + 2) == 2 * i + 1; }).ok());
    ASSERT_TRUE(second.ref().record(to_first).ok());
  }
  ASSERT_TRUE(to_first.ref().synchronize().ok());
  EXPECT_TRUE(in_turn);
  EXPECT_EQ(value, 2 * kRounds);
}

TYPED_TEST_P(DeviceConformance, StreamsWaitForEventsOfOtherDevices) {
  if (TypeParam::present() < 2) GTEST_SKIP() << "NOT CHECKED: needs two devices";
  auto other = TypeParam::make(1);
  Stream first = this->new_stream();
  Stream second = other->new_stream({}).value();
  Event event = this->new_event();
  int value = 0;
  int seen = 0;
  typename TestFixture::Gate gate(first);
  ASSERT_TRUE(first.ref().run([&] { value = 3; }).ok());
  ASSERT_TRUE(first.ref().record(event).ok());
  ASSERT_TRUE(second.ref().wait(event).ok());
  ASSERT_TRUE(second.ref().run([&] { seen = value; }).ok());
  EXPECT_TRUE(this->stays_unfinished(second));
  gate.open();
  ASSERT_TRUE(second.ref().synchronize().ok());
  EXPECT_EQ(seen, 3);
  auto recorded = second.ref().record(event);
  ASSERT_FALSE(recorded.ok());
  EXPECT_EQ(recorded.error().code, ErrorCode::invalid_argument);
}

TYPED_TEST_P(DeviceConformance, CopiesGathersAndFillsMoveTheRightBytes) {
  constexpr std::size_t kBytes = std::size_t{64} << 10;
  std::mt19937 random(20260711);
  auto below = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
  };
  std::vector<std::uint8_t> source(kBytes);
  for (auto& byte : source) byte = static_cast<std::uint8_t>(random());
  std::vector<std::uint8_t> expected(kBytes, 0);
  Buffer from = this->allocate(kBytes);
  Buffer to = this->allocate(kBytes);
  this->write(from, source);
  this->write(to, expected);
  auto* from_bytes = static_cast<std::uint8_t*>(from.data());
  auto* to_bytes = static_cast<std::uint8_t*>(to.data());

  Stream stream = this->new_stream();
  for (int round = 0; round < 200; ++round) {
    // Pieces of one gather do not overlap: their order is not promised.
    std::vector<CopyPiece> pieces;
    std::size_t target = 0;
    const std::size_t most = below(100) + 1;
    while (pieces.size() < most) {
      target += below(200);
      const std::size_t bytes = std::min(below(1000), kBytes);
      const std::size_t start = below(kBytes - bytes);
      if (target + bytes > kBytes) break;
      pieces.push_back({to_bytes + target, from_bytes + start, bytes});
      std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(start), bytes,
                  expected.begin() + static_cast<std::ptrdiff_t>(target));
      target += bytes;
    }
    ASSERT_TRUE(stream.ref().gather(pieces).ok());

    const std::size_t bytes = below(2000);
    const std::size_t start = below(kBytes - bytes);
    const std::size_t place = below(kBytes - bytes);
    ASSERT_TRUE(stream.ref().copy(to_bytes + place, from_bytes + start, bytes).ok());
    std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(start), bytes,
                expected.begin() + static_cast<std::ptrdiff_t>(place));

    const std::size_t filled = below(300);
    const std::size_t hole = below(kBytes - filled);
    const auto value = static_cast<std::uint8_t>(random());
    ASSERT_TRUE(stream.ref().fill(to_bytes + hole, value, filled).ok());
    std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(hole), filled, value);
  }
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_EQ(this->read(to), expected);
}

TYPED_TEST_P(DeviceConformance, GatherKeepsItsOwnCopyOfThePieces) {
  Buffer from = this->allocate(256);
  Buffer to = this->allocate(256);
  this->write(from, std::vector<std::uint8_t>(256, 9));
  this->write(to, std::vector<std::uint8_t>(256, 0));
  Stream stream = this->new_stream();
  {
    typename TestFixture::Gate gate(stream);
    std::vector<CopyPiece> pieces{{to.data(), from.data(), 128}};
    ASSERT_TRUE(stream.ref().gather(pieces).ok());
    pieces[0] = {to.data(), from.data(), 256};
  }
  ASSERT_TRUE(stream.ref().synchronize().ok());
  const auto bytes = this->read(to);
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 9), 128);
}

TYPED_TEST_P(DeviceConformance, GathersBringRowsCloselyTogether) {
  constexpr std::size_t kBytes = std::size_t{1} << 20;
  std::mt19937 random(20260712);
  auto below = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
  };
  std::vector<std::uint8_t> source(kBytes);
  for (auto& byte : source) byte = static_cast<std::uint8_t>(random());
  std::vector<std::uint8_t> expected(kBytes, 0);
  Buffer from = this->allocate(kBytes);
  Buffer to = this->allocate(kBytes);
  this->write(from, source);
  this->write(to, expected);
  auto* from_bytes = static_cast<std::uint8_t*>(from.data());
  auto* to_bytes = static_cast<std::uint8_t*>(to.data());
  Stream stream = this->new_stream();
  // Rows of one byte, odd ones, those of pictures, without a gap, long ones, and repeated ones.
  const std::vector<std::pair<std::size_t, std::size_t>> rows = {
      {1, 3}, {7, 8}, {450, 512}, {672, 1024}, {96, 96}, {40000, 50000}, {1000, 0}, {33, 37}};
  std::vector<CopyPiece> pieces;
  std::size_t target = 0;
  for (int round = 0; round < 150; ++round) {
    const auto [bytes, pitch] = rows[static_cast<std::size_t>(round) % rows.size()];
    const std::size_t count = bytes > 10000 ? 1 + below(3) : below(12);
    const std::size_t start = below(kBytes - count * std::max(bytes, pitch));
    target += below(20);
    if (target + count * bytes > kBytes) break;
    pieces.push_back({to_bytes + target, from_bytes + start, bytes, count, pitch});
    for (std::size_t i = 0; i < count; ++i, target += bytes) {
      std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(start + i * pitch), bytes,
                  expected.begin() + static_cast<std::ptrdiff_t>(target));
    }
  }
  ASSERT_GT(pieces.size(), 80u);
  ASSERT_TRUE(stream.ref().gather(pieces).ok());
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_EQ(this->read(to), expected);
}

TYPED_TEST_P(DeviceConformance, ManagedMemoryIsReachedByBothSides) {
  Buffer managed = this->allocate(4096, MemoryKind::managed);
  EXPECT_TRUE(managed.device().is_host_memory());
  EXPECT_TRUE(this->device_->pinned(managed.data(), managed.bytes()));
  EXPECT_TRUE(this->device_->owns(managed.data(), managed.bytes()));
  auto* bytes = static_cast<std::uint8_t*>(managed.data());
  std::iota(bytes, bytes + 4096, std::uint8_t{0});
  Buffer on_device = this->allocate(4096);
  Stream stream = this->new_stream();
  const std::array<CopyPiece, 2> pieces{
      {{on_device.data(), bytes, 2048},
       {static_cast<std::uint8_t*>(on_device.data()) + 2048, bytes + 2048, 2048}}};
  ASSERT_TRUE(stream.ref().gather(pieces).ok());
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_EQ(this->read(on_device), std::vector<std::uint8_t>(bytes, bytes + 4096));
  ASSERT_TRUE(stream.ref().fill(bytes, 7, 4096).ok());
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_EQ(bytes[4095], 7);
}

TYPED_TEST_P(DeviceConformance, EmptyAndImpossibleWorkIsToldApart) {
  Stream stream = this->new_stream();
  Buffer buffer = this->allocate(16);
  EXPECT_TRUE(stream.ref().copy(nullptr, nullptr, 0).ok());
  EXPECT_TRUE(stream.ref().fill(nullptr, 0, 0).ok());
  EXPECT_TRUE(stream.ref().gather({}).ok());
  const CopyPiece empty{nullptr, nullptr, 0};
  EXPECT_TRUE(stream.ref().gather({&empty, 1}).ok());
  EXPECT_TRUE(stream.ref().synchronize().ok());

  const CopyPiece bad{nullptr, buffer.data(), 1};
  const std::array refused{stream.ref().copy(nullptr, buffer.data(), 1),
                           stream.ref().copy(buffer.data(), nullptr, 1),
                           stream.ref().fill(nullptr, 0, 1),
                           stream.ref().gather({&bad, 1}),
                           stream.ref().run(nullptr),
                           stream.ref().record(EventRef()),
                           StreamRef().synchronize(),
                           StreamRef().wait(EventRef())};
  for (const auto& result : refused) {
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
  }
}

TYPED_TEST_P(DeviceConformance, ASignalSetsItsWordAndWakes) {
  Stream stream = this->new_stream();
  Event event = this->new_event();
  Buffer pinned = this->allocate(sizeof(std::atomic<std::uint64_t>), MemoryKind::pinned);
  auto* word = new (pinned.data()) std::atomic<std::uint64_t>(0);
  Waker waker;
  int value = 0;  // not atomic: the word alone orders its uses
  for (std::uint64_t i = 1; i <= 500; ++i) {
    ASSERT_TRUE(stream.ref().run([&] { ++value; }).ok());
    ASSERT_TRUE(stream.ref().signal(*word, i, &waker).ok());
    ASSERT_TRUE(stream.ref().record(event).ok());
    ASSERT_TRUE(this->device_->wake_after(event, waker).ok());
    const TimePoint give_up = Clock::now() + kHangGuard;
    while (word->load(std::memory_order_acquire) != i) ASSERT_TRUE(waker.wait_until(give_up));
    EXPECT_EQ(value, static_cast<int>(i));
  }
  ASSERT_TRUE(stream.ref().signal(*word, 7, nullptr).ok());
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_EQ(word->load(), 7u);
}

TYPED_TEST_P(DeviceConformance, TimedEventsTellWhenTheyWereReached) {
  Stream stream = this->new_stream();
  Event before = this->new_event(EventTiming::timed);
  Event after = this->new_event(EventTiming::timed);
  EXPECT_EQ(before.ref().time().error().code, ErrorCode::unavailable);  // never recorded
  const TimePoint start = Clock::now();
  TimePoint opened;
  {
    typename TestFixture::Gate gate(stream);
    ASSERT_TRUE(stream.ref().record(before).ok());
    ASSERT_TRUE(stream.ref().run([] {}).ok());
    ASSERT_TRUE(stream.ref().record(after).ok());
    EXPECT_EQ(before.ref().time().error().code, ErrorCode::unavailable);  // not reached
    opened = Clock::now();
  }
  ASSERT_TRUE(after.ref().synchronize().ok());
  const TimePoint end = Clock::now();
  EXPECT_LE(start, opened);
  EXPECT_LE(opened, before.ref().time().value() + TypeParam::kClockError);
  EXPECT_LE(before.ref().time().value(), after.ref().time().value());
  EXPECT_LE(after.ref().time().value(), end + TypeParam::kClockError);

  ASSERT_TRUE(stream.ref().record(before).ok());  // moves on
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_LE(after.ref().time().value(), before.ref().time().value());

  Event untimed = this->new_event();
  ASSERT_TRUE(stream.ref().record(untimed).ok());
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_EQ(untimed.ref().time().error().code, ErrorCode::invalid_argument);
}

TYPED_TEST_P(DeviceConformance, ATimedEventKeepsTheTimeOfItsLatestRecord) {
  Stream first = this->new_stream();
  Stream second = this->new_stream();
  Event event = this->new_event(EventTiming::timed);
  TimePoint reached;
  {
    typename TestFixture::Gate gate(first);
    ASSERT_TRUE(first.ref().record(event).ok());
    ASSERT_TRUE(second.ref().record(event).ok());
    ASSERT_TRUE(event.ref().synchronize().ok());
    reached = event.ref().time().value();
  }
  ASSERT_TRUE(
      first.ref().synchronize().ok());  // the earlier record is reached later and changes nothing
  EXPECT_EQ(event.ref().time().value(), reached);
}

TYPED_TEST_P(DeviceConformance, MemoryIsAlignedAndOwned) {
  for (std::size_t bytes : {1u, 3u, 255u, 256u, 257u, 100'000u}) {
    for (MemoryKind kind : {MemoryKind::device, MemoryKind::pinned}) {
      Buffer buffer = this->allocate(bytes, kind);
      ASSERT_TRUE(buffer);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 256, 0u);
      EXPECT_EQ(buffer.bytes(), bytes);
      EXPECT_EQ(buffer.kind(), kind);
      EXPECT_EQ(buffer.device(),
                kind == MemoryKind::device ? this->device_->id() : DeviceId::host_memory());
      void* data = buffer.data();
      Buffer moved = std::move(buffer);
      EXPECT_FALSE(buffer);  // NOLINT: moved from on purpose
      EXPECT_EQ(moved.data(), data);
    }
  }
  EXPECT_FALSE(this->allocate(0));
}

TYPED_TEST_P(DeviceConformance, MemoryIsCountedAgainstTheLimit) {
  if (!TypeParam::kTakesALimit) GTEST_SKIP() << "the size of its memory is the hardware's";
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  auto device = TypeParam::make(0, 16 * kMiB);
  EXPECT_EQ(device->memory().limit_bytes, 16 * kMiB);
  EXPECT_EQ(device->memory().used_bytes, 0u);
  {
    Buffer held = device->allocate(10 * kMiB, MemoryKind::device).value();
    EXPECT_EQ(device->memory().used_bytes, 10 * kMiB);
    EXPECT_EQ(device->memory().free_bytes, 6 * kMiB);

    auto refused = device->allocate(7 * kMiB, MemoryKind::device);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::out_of_memory);
    for (const std::string& part : {std::string("needed 7 MiB"), std::string("free 6 MiB"),
                                    std::string("16 MiB"), to_string(device->id())}) {
      EXPECT_NE(refused.error().message.find(part), std::string::npos) << refused.error().message;
    }
    EXPECT_EQ(device->memory().used_bytes, 10 * kMiB);
    EXPECT_FALSE(device->allocate(SIZE_MAX, MemoryKind::device).ok());

    Buffer rest = device->allocate(6 * kMiB, MemoryKind::device).value();
    EXPECT_EQ(device->memory().free_bytes, 0u);
    // Pinned memory is the host's, not the device's.
    EXPECT_TRUE(device->allocate(kMiB, MemoryKind::pinned).ok());
  }
  EXPECT_EQ(device->memory().used_bytes, 0u);
  EXPECT_FALSE(device->allocate(SIZE_MAX, MemoryKind::pinned).ok());
}

TYPED_TEST_P(DeviceConformance, DestroyingAStreamLetsItsWorkFinish) {
  int ran = 0;
  {
    Stream stream = this->new_stream();
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(stream.ref().run([&ran] { ++ran; }).ok());
    Stream moved = std::move(stream);
    EXPECT_FALSE(stream);  // NOLINT: moved from on purpose
  }
  EXPECT_EQ(ran, 1000);
}

TYPED_TEST_P(DeviceConformance, AnAbandonedStreamIsNotWaitedFor) {
  auto finished = std::make_shared<std::atomic<bool>>(false);
  Event event = this->new_event();
  Stream stream = this->new_stream();
  typename TestFixture::Gate gate(stream);
  ASSERT_TRUE(stream.ref()
                  .run([finished] {
                    finished->store(true);
                    finished->notify_all();
                  })
                  .ok());
  ASSERT_TRUE(stream.ref().record(event).ok());
  stream.abandon();  // would hang if it waited
  EXPECT_FALSE(stream);
  EXPECT_FALSE(finished->load());
  EXPECT_FALSE(event.ref().query().value());
  gate.open();  // should it come to an end after all, it goes on as if nothing had happened
  finished->wait(false);
  EXPECT_TRUE(event.ref().synchronize().ok());
}

TYPED_TEST_P(DeviceConformance, ManyThreadsEnqueueOnOneStream) {
  constexpr int kThreads = 8;
  constexpr int kTasks = 2000;
  Stream stream = this->new_stream();
  std::array<int, kThreads> next{};
  int total = 0;
  bool in_order = true;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kTasks; ++i) {
        const auto enqueued = stream.ref().run([&, t, i] {
          in_order &= next[static_cast<std::size_t>(t)]++ == i;
          ++total;
        });
        EXPECT_TRUE(enqueued.ok());
      }
      EXPECT_TRUE(stream.ref().synchronize().ok());
      EXPECT_EQ(next[static_cast<std::size_t>(t)], kTasks);
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(in_order);
  EXPECT_EQ(total, kThreads * kTasks);
}

TYPED_TEST_P(DeviceConformance, ManyThreadsShareOneEvent) {
  constexpr int kThreads = 6;
  Event event = this->new_event(EventTiming::timed);
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      Stream stream = this->new_stream();
      for (int i = 0; i < 300; ++i) {
        EXPECT_TRUE(stream.ref().record(event).ok());
        EXPECT_TRUE(stream.ref().wait(event).ok());
        EXPECT_TRUE(event.ref().query().ok());
        (void)event.ref().time();
        EXPECT_TRUE(event.ref().synchronize().ok());
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(event.ref().query().value());
  EXPECT_TRUE(event.ref().time().ok());
}

TYPED_TEST_P(DeviceConformance, AThrowingTaskHarmsNobody) {
  log_to([](LogLevel, std::string_view) {});
  Stream stream = this->new_stream();
  bool ran = false;
  ASSERT_TRUE(stream.ref().run([] { throw std::runtime_error("on purpose"); }).ok());
  ASSERT_TRUE(stream.ref().run([] { throw 1; }).ok());
  ASSERT_TRUE(stream.ref().run([&] { ran = true; }).ok());
  EXPECT_TRUE(stream.ref().synchronize().ok());
  EXPECT_TRUE(ran);
  log_to(nullptr);
}

TYPED_TEST_P(DeviceConformance, TasksLetGoOfWhatTheyHoldBeforeTheyCountAsDone) {
  Stream stream = this->new_stream();
  Event event = this->new_event();
  auto held = std::make_shared<int>(1);
  typename TestFixture::Gate entrance(stream);  // so that all is enqueued before any of it is done
  ASSERT_TRUE(stream.ref().run([held] {}).ok());
  ASSERT_TRUE(stream.ref().record(event).ok());
  typename TestFixture::Gate exit(stream);
  entrance.open();
  ASSERT_TRUE(event.ref().synchronize().ok());
  EXPECT_EQ(held.use_count(), 1);
}

REGISTER_TYPED_TEST_SUITE_P(
    DeviceConformance, DescribesItself, EnqueuingReturnsBeforeTheWorkStarts,
    WorkOfAStreamIsDoneInOrder, AShutStreamHoldsNoOtherUp, AWaitHoldsAStreamUntilTheEventIsReached,
    AnEventIsReachedBeforeLaterWorkOfItsStream, AWaitKeepsThePointItSawWhenTheEventMovesOn,
    AWaitIsNotReleasedByALaterRecordElsewhere, ANeverRecordedEventHoldsNobody,
    EventsMayGoWhileTheyArePending, EventsOutliveTheirStream, StreamsTakeTurnsByEvents,
    StreamsWaitForEventsOfOtherDevices, CopiesGathersAndFillsMoveTheRightBytes,
    GatherKeepsItsOwnCopyOfThePieces, GathersBringRowsCloselyTogether,
    ManagedMemoryIsReachedByBothSides, EmptyAndImpossibleWorkIsToldApart,
    ASignalSetsItsWordAndWakes, TimedEventsTellWhenTheyWereReached,
    ATimedEventKeepsTheTimeOfItsLatestRecord, MemoryIsAlignedAndOwned,
    MemoryIsCountedAgainstTheLimit, DestroyingAStreamLetsItsWorkFinish,
    AnAbandonedStreamIsNotWaitedFor, ManyThreadsEnqueueOnOneStream, ManyThreadsShareOneEvent,
    AThrowingTaskHarmsNobody, TasksLetGoOfWhatTheyHoldBeforeTheyCountAsDone);

}  // namespace millrace
