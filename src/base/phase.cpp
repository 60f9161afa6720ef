#include <millrace/statistics.h>

#include <numeric>

namespace millrace {

std::string_view to_string(Phase phase) noexcept {
  switch (phase) {
    case Phase::queue:
      return "queue";
    case Phase::stage:
      return "stage";
    case Phase::copy_in:
      return "copy_in";
    case Phase::compute:
      return "compute";
    case Phase::copy_out:
      return "copy_out";
    case Phase::complete:
      return "complete";
    case Phase::total:
      return "total";
  }
  return "unknown";
}

std::string_view to_string(EagerReason reason) noexcept {
  switch (reason) {
    case EagerReason::unknown_shapes:
      return "unknown_shapes";
    case EagerReason::blocking:
      return "blocking";
    case EagerReason::not_captured:
      return "not_captured";
    case EagerReason::cheaper:
      return "cheaper";
  }
  return "unknown";
}

std::uint64_t ModelStatistics::eager() const noexcept {
  return std::accumulate(eager_batches.begin(), eager_batches.end(), std::uint64_t{0});
}

}  // namespace millrace
