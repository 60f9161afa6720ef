// Engines that were built before, each fit for one model, GPU and set of options.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/build.h>
#include <millrace/error.h>

namespace millrace::tensorrt {

/// All that an engine depends on.
struct EngineKey {
  std::string model;  // the file's name, for people only
  std::string model_hash;
  std::vector<std::string> plugin_hashes;
  std::string options;  // describe(BuildOptions)
  std::string device;   // name and compute capability
  std::string builder;  // "TensorRT 10.6.0"

  /// The file's name in the cache, without extension: "resnet50-<32 hexadecimal digits>".
  [[nodiscard]] std::string file_name() const;
};

/// 128 bits (XXH3) in hexadecimal.
[[nodiscard]] std::string hash_of(std::string_view bytes);
/// Of a model's content and of the files beside it that hold its weights; `path` is the model's
/// own, from whose folder those are named. Errors: as `read_file`, naming model and file.
[[nodiscard]] Result<std::string> hash_of_model(std::string_view content, const std::string& path);

/// A folder of engines: NAME.plan beside NAME.json, which says what it is. Files appear whole or
/// not at all, so that several processes may share a folder.
class EngineCache {
 public:
  /// The folder is made when something is stored. An empty name: nothing is found or stored.
  explicit EngineCache(std::string folder) : folder_(std::move(folder)) {}

  /// The serialized engine, or nothing.
  [[nodiscard]] std::optional<std::string> find(const EngineKey& key) const;
  /// Errors: unavailable (disk full, no permission). The cache is then as it was.
  Result<void> store(const EngineKey& key, std::string_view plan) const;
  void remove(const EngineKey& key) const noexcept;
  /// Where the engine is kept; empty without a folder.
  [[nodiscard]] std::string plan_file(const EngineKey& key) const;
  [[nodiscard]] Result<std::vector<CachedEngine>> list() const;
  Result<int> clear() const;

  /// Held by who builds an engine, so that another process that wants the same waits and finds it.
  class Lock {
   public:
    Lock() = default;
    Lock(Lock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
    Lock& operator=(Lock&&) = delete;
    ~Lock();

   private:
    friend class EngineCache;
    explicit Lock(int descriptor) : descriptor_(descriptor) {}
    int descriptor_ = -1;
  };
  /// Waits for others; without a folder, or where it cannot be written to, nothing is locked.
  [[nodiscard]] Lock lock(const EngineKey& key) const;

 private:
  [[nodiscard]] std::string path(const EngineKey& key, const char* extension) const;
  const std::string folder_;
};

}  // namespace millrace::tensorrt
