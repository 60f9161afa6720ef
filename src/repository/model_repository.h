// Folders of models, their versions, and which of them an engine serves.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/engine.h>

#include "base/live_histogram.h"
#include "repository/model_config.pb.h"
#include "repository/request_policy.h"

namespace millrace {

enum class RepositoryMode : std::uint8_t {
  none,     // all models when it is opened; nothing changes after
  control,  // those that `load` names ("explicit" on the command line)
  poll,     // as the folders say, looked at every `poll_interval`
};

/// Whether models give way when another one is to be loaded and a device's memory is short.
struct EvictionPolicy {
  bool enabled = false;
  /// Only models that nobody asked for in so long, those idle the longest first.
  Duration idle_for{};
  /// How long a load waits for a model to go that is in use just now.
  Duration patience = std::chrono::seconds(10);
};

struct RepositoryOptions {
  /// Each a folder of models, or one model.
  std::vector<std::string> folders;
  RepositoryMode mode = RepositoryMode::none;
  Duration poll_interval = std::chrono::seconds(15);
  /// Loaded at the start in mode `control`; "*": all.
  std::vector<std::string> load_at_start;
  /// Whether opening fails when a model cannot be loaded; if not, that model is listed as
  /// unavailable.
  bool strict = false;
  EvictionPolicy eviction;
};

/// What a version was asked since it was loaded; written by whoever serves it.
struct ServedTraffic {
  std::atomic<std::int64_t> last_inference_ms{0};  // since the epoch; 0: none yet
  std::atomic<std::uint64_t> failures{0};
  std::atomic<std::uint64_t> failure_ns{0};
  std::atomic<std::uint64_t> invalid{0};  // never submitted: they contradicted the model
  /// What was last shown of the copy_in, compute and copy_out times of all requests, in ns.
  std::array<std::atomic<std::uint64_t>, 3> shown{};
  LiveHistogram send;  // nanoseconds: answers, from the first byte to the last
};

/// One version of a model, ready to answer. A lease: the version stays loaded, and takes requests,
/// while the pointer that `find` gave lives; what was submitted is answered after that too.
struct ServedModel {
  std::string name;
  std::string version;
  Model model;
  /// The configuration in force, completed from the model itself.
  std::shared_ptr<const inference::ModelConfig> config;
  /// Names of classes by output; empty: none.
  std::map<std::string, std::vector<std::string>> labels;
  /// What answers when a request names no outputs: those that the configuration states. Empty: all
  /// of the model's.
  std::vector<std::string> default_outputs;
  /// What becomes of a request's priority and timeout.
  RequestPolicy requests;
  std::shared_ptr<ServedTraffic> traffic = std::make_shared<ServedTraffic>();
};

/// What a version is like, whether it is loaded or was evicted.
struct ModelDescription {
  std::string name;
  std::string version;
  std::vector<std::string> versions;  // of the model: those that are described, ascending
  std::shared_ptr<const inference::ModelConfig> config;
  std::vector<TensorInfo> inputs;
  std::vector<TensorInfo> outputs;
};

/// Called once, on a thread of the repository's or on the calling one. It must not throw, nor wait.
using FoundCallback = std::function<void(Result<std::shared_ptr<const ServedModel>> found)>;

struct RepositoryEntry {
  std::string name;
  std::string version;  // empty: none was loaded or found
  std::string state;    // READY, LOADING, UNLOADING, UNAVAILABLE
  std::string reason;   // for what is not ready
};

/// What a client may give along with the request to load a model.
struct LoadParameters {
  std::string config;  // a configuration as JSON, instead of the file; empty: none
  std::map<std::string, std::string>
      files;  // content by path ("1/model.onnx"), instead of the folder's
};

/// Every function may be called from any thread. Loads of different models go on at the same time.
class ModelRepository {
 public:
  /// Looks through the folders and loads what the mode says. Errors: not_found (a folder),
  /// invalid_argument (the same model in two folders); with `strict` also those of loading. The
  /// engine must outlive it.
  [[nodiscard]] static Result<std::unique_ptr<ModelRepository>> open(Engine& engine,
                                                                     RepositoryOptions options);
  /// Stops watching and unloads everything: who still holds a version gets `unavailable`.
  ~ModelRepository();

  /// A version that is ready; an empty one: the largest that is. Never waits, except that a model
  /// which was evicted is loaded again; takes no lock and allocates nothing otherwise. Errors:
  /// not_found (unknown model or version), unavailable (known but not ready, and why).
  [[nodiscard]] Result<std::shared_ptr<const ServedModel>> find(std::string_view name,
                                                                std::string_view version) const;
  /// The same without ever waiting: null for a model that was evicted, which `find` would load
  /// again, on a thread that may wait.
  [[nodiscard]] Result<std::shared_ptr<const ServedModel>> find_now(std::string_view name,
                                                                    std::string_view version) const;
  /// For what `find_now` gave null: the model is loaded again, once for all who wait for it, and
  /// `then` is told what `find` says; or `deadline_exceeded` at the deadline, or what `give_up`
  /// says. Never waits.
  std::uint64_t find_later(std::string_view name, std::string_view version,
                           std::optional<TimePoint> deadline, FoundCallback then);
  /// True when `then` was not called yet: it is told `cancelled`. The load goes on.
  bool give_up(std::uint64_t waiting);
  /// Of a version that is ready or was evicted; an empty one: the largest such. Never waits, nor
  /// loads anything. Errors: as `find`.
  [[nodiscard]] Result<ModelDescription> describe(std::string_view name,
                                                  std::string_view version) const;
  /// All versions that are ready: of one model, or of all where the name is empty.
  [[nodiscard]] std::vector<std::shared_ptr<const ServedModel>> served(std::string_view name) const;
  [[nodiscard]] std::vector<RepositoryEntry> index() const;

  /// Loads a model, or again if its files changed; returns when it is ready. A version that was
  /// serving goes on until the new one is, and stays if the new one is bad. Errors: not_found,
  /// invalid_argument, out_of_memory, unsupported; unsupported in modes other than `control`.
  Result<void> load(std::string_view name, const LoadParameters& parameters);
  /// Refuses new requests, lets the others finish. Errors: not_found; unsupported as above.
  Result<void> unload(std::string_view name, bool unload_dependents);
  /// Whether every model that should be loaded is.
  [[nodiscard]] bool ready() const;
  /// Looks at the folders now, as mode `poll` does every so often: what changed since it was
  /// loaded, and is the same as when it was looked at last, is loaded again or unloaded. Returns
  /// when that is done.
  void look_again();

 private:
  class State;
  explicit ModelRepository(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace millrace
