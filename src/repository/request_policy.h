// What a model's configuration makes of the priority and the timeout of a request.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include <millrace/request.h>

namespace millrace {

/// A pure value. Levels are as clients give them: 1 is the most urgent.
struct RequestPolicy {
  struct Level {
    Duration timeout{};             // zero: none
    bool may_be_overridden = true;  // by a shorter one, or where there is none
  };
  /// What the engine is to be asked.
  struct Terms {
    int priority = 0;                 // as Request::priority
    std::optional<Duration> timeout;  // from now
  };

  std::uint64_t priority_levels = 0;  // 0: requests have no priority
  std::uint64_t default_level = 0;
  Level by_default;
  std::map<std::uint64_t, Level> levels;  // those that differ from `by_default`

  /// `level` 0 and levels that are not there mean the default one; `timeout` zero: none was asked
  /// for.
  [[nodiscard]] Terms terms(std::uint64_t level, Duration timeout) const;
};

}  // namespace millrace
