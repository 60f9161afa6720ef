// What all ONNX Runtime models of the process share: the environment, its one thread pool, the
// thread budget.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "backends/onnxruntime/gate.h"
#include "backends/onnxruntime/library.h"

namespace millrace::onnxruntime {

/// What a model asks for; nothing: whatever there is.
struct ThreadRequest {
  int cpu_threads = 1;
  std::optional<int> intra_op;  // threads within an operator, the calling lane's included
  std::optional<int> inter_op;  // threads between operators, likewise
  std::optional<bool> spinning;
};

struct ThreadSettings {
  int intra_op = 1;
  int inter_op = 1;
  bool spinning = false;

  /// Threads of the pool, beside those of the lanes.
  [[nodiscard]] int workers() const noexcept { return intra_op - 1 + inter_op - 1; }
  friend bool operator==(const ThreadSettings&, const ThreadSettings&) = default;
};

/// Runs at a time that keep `cpu_threads` busy beside the pool's workers; at least 1.
[[nodiscard]] int runs_at_a_time(int cpu_threads, const ThreadSettings& threads) noexcept;

/// Errors: invalid_argument when more threads are asked for than `cpu_threads`.
[[nodiscard]] Result<ThreadSettings> choose_threads(const ThreadRequest& request);

/// Made for the first model, shared by those that follow, gone with the last one.
class Runtime {
 public:
  /// Errors: unavailable without the library; invalid_argument when other threads are asked for
  /// than a model loaded now was given.
  [[nodiscard]] static Result<std::shared_ptr<Runtime>> share(const ThreadRequest& request);

  [[nodiscard]] const Library& library() const noexcept { return library_; }
  [[nodiscard]] const OrtEnv* env() const noexcept { return env_.get(); }
  [[nodiscard]] const OrtMemoryInfo* cpu_memory() const noexcept { return cpu_memory_.get(); }
  [[nodiscard]] const ThreadSettings& threads() const noexcept { return threads_; }
  [[nodiscard]] Gate& gate() noexcept { return gate_; }

 private:
  Runtime(const Library& library, const ThreadSettings& threads, int capacity)
      : library_(library), threads_(threads), gate_(capacity) {}
  [[nodiscard]] static Result<std::shared_ptr<Runtime>> make(const ThreadRequest& request);

  const Library& library_;
  const ThreadSettings threads_;
  Gate gate_;
  Owned<OrtEnv> env_;
  Owned<OrtMemoryInfo> cpu_memory_;
};

}  // namespace millrace::onnxruntime
