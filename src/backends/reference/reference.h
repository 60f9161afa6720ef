// The built-in backend: models that compute next to nothing and can be told to be difficult.
#pragma once

#include "backends/backend.h"

namespace millrace::reference {

[[nodiscard]] Backend backend() noexcept;

}  // namespace millrace::reference
