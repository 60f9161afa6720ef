#include "device/transfer.h"

#include <algorithm>

#include "base/try.h"

namespace millrace {
namespace {

constexpr std::size_t kLittle = 256;
constexpr std::size_t kMuch = std::size_t{16} << 20;

/// The best of several copies after one that is not counted.
Result<Duration> time_copy(const Stream& stream, const Event& begin, const Event& end, void* target,
                           const void* source, std::size_t bytes, int times) {
  Duration best = Duration::max();
  for (int i = 0; i <= times; ++i) {
    MILLRACE_TRY(stream.ref().record(begin));
    MILLRACE_TRY(stream.ref().copy(target, source, bytes));
    MILLRACE_TRY(stream.ref().record(end));
    MILLRACE_TRY(stream.ref().synchronize());
    MILLRACE_ASSIGN(const TimePoint begun, begin.ref().time());
    MILLRACE_ASSIGN(const TimePoint ended, end.ref().time());
    if (i > 0) best = std::min(best, ended - begun);
  }
  // The clock of a GPU counts in half microseconds.
  return std::max<Duration>(best, std::chrono::nanoseconds(100));
}

}  // namespace

Result<TransferSpeed> measure_transfer(Device& from, Device& to) {
  MILLRACE_ASSIGN(const Buffer source, from.allocate(kMuch, MemoryKind::device));
  MILLRACE_ASSIGN(const Buffer target, to.allocate(kMuch, MemoryKind::device));
  MILLRACE_ASSIGN(const Stream stream, to.new_stream({}));
  MILLRACE_ASSIGN(const Event begin, to.new_event(EventTiming::timed));
  MILLRACE_ASSIGN(const Event end, to.new_event(EventTiming::timed));
  MILLRACE_ASSIGN(const Duration little,
                  time_copy(stream, begin, end, target.data(), source.data(), kLittle, 8));
  MILLRACE_ASSIGN(const Duration much,
                  time_copy(stream, begin, end, target.data(), source.data(), kMuch, 3));
  const Duration difference =
      std::max<Duration>(much - little, std::chrono::nanoseconds(100));  // however busy the machine
  return TransferSpeed{little, static_cast<double>(kMuch - kLittle) /
                                   std::chrono::duration<double>(difference).count()};
}

}  // namespace millrace
