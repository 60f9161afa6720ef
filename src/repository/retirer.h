// Takes models out of the engine when nobody uses them any more.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <millrace/engine.h>

#include "repository/model_repository.h"

namespace millrace {

/// Every function may be called from any thread.
class Retirer {
 public:
  /// The engine must outlive this.
  explicit Retirer(Engine& engine);
  /// Unloads all that it was given, whoever still holds it: those answer `unavailable` from then
  /// on.
  ~Retirer();

  /// When the last copy of what is returned is gone, the model is unloaded from the engine: what
  /// was submitted to it is answered first. Then `parts` are let go, which are what an ensemble
  /// consists of. Nothing waits in that: a thread of the retirer's does.
  [[nodiscard]] std::shared_ptr<const ServedModel> adopt(
      ServedModel served, std::string engine_name,
      std::vector<std::shared_ptr<const ServedModel>> parts);

  /// Whether the engine is rid of it.
  [[nodiscard]] bool gone(const std::string& engine_name) const;
  /// Waits for that; false when it is there still by `until`.
  bool wait_gone(const std::string& engine_name, TimePoint until) const;

 private:
  class Core;
  std::shared_ptr<Core> core_;
};

}  // namespace millrace
