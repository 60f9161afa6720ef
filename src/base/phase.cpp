#include <millrace/statistics.h>

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

}  // namespace millrace
