#include "backends/tensorrt/engine_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>

#include "backends/onnx_file.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace::tensorrt {
namespace {

namespace fs = std::filesystem;

std::string text_of(const nlohmann::json& json, const char* key) {
  const auto at = json.find(key);
  return at != json.end() && at->is_string() ? at->get<std::string>() : std::string();
}

// Letters, digits, '-' and '_' of a file's name.
std::string plain_name(std::string_view model) {
  model.remove_prefix(std::min(model.find_last_of('/') + 1, model.size()));
  std::string name;
  for (const char c : model.substr(0, model.find('.'))) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    name += plain || c == '-' ? c : '_';
  }
  return name.empty() ? "model" : name.substr(0, 64);
}

std::string digits_of(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : canonical.digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

// Of a file that may be larger than memory.
Result<std::string> hash_of_file(const std::string& path) {
  const auto error = [&](int reason) {
    return Error{
        reason == ENOENT ? ErrorCode::not_found : ErrorCode::unavailable,
        concat("cannot read ", quote(path), ": ", std::generic_category().message(reason))};
  };
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return error(errno);
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                       &XXH3_freeState);
  std::string chunk(std::size_t{1} << 20, '\0');
  XXH3_128bits_reset(state.get());
  for (;;) {
    const ssize_t count = read(file, chunk.data(), chunk.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const int reason = errno;
      close(file);
      if (count < 0) return error(reason);
      return digits_of(XXH3_128bits_digest(state.get()));
    }
    XXH3_128bits_update(state.get(), chunk.data(), static_cast<std::size_t>(count));
  }
}

}  // namespace

std::string hash_of(std::string_view bytes) {
  return digits_of(XXH3_128bits(bytes.data(), bytes.size()));
}

Result<std::string> hash_of_model(std::string_view content, const std::string& path) {
  const OnnxSummary summary = summarize_onnx(content);
  if (summary.external_files.empty()) return hash_of(content);
  std::string all = hash_of(content);
  for (const std::string& name : summary.external_files) {
    Result<std::string> hash = hash_of_file((fs::path(path).parent_path() / name).string());
    if (!hash) {
      return Error{hash.error().code,
                   concat("the weights of ", quote(path), ": ", hash.error().message)};
    }
    all += concat("\n", name, "\n", *hash);
  }
  return hash_of(all);
}

std::string EngineKey::file_name() const {
  std::string all = concat(model_hash, "\n", options, "\n", device, "\n", builder);
  for (const std::string& plugin : plugin_hashes) all += "\n" + plugin;
  return concat(plain_name(model), "-", hash_of(all));
}

std::string EngineCache::path(const EngineKey& key, const char* extension) const {
  return concat(folder_, "/", key.file_name(), extension);
}

std::string EngineCache::plan_file(const EngineKey& key) const {
  return folder_.empty() ? std::string() : path(key, ".plan");
}

std::optional<std::string> EngineCache::find(const EngineKey& key) const {
  if (folder_.empty()) return std::nullopt;
  Result<std::string> plan = read_file(path(key, ".plan"));
  if (!plan) {
    if (plan.error().code != ErrorCode::not_found) log_warning(plan.error().message);
    return std::nullopt;
  }
  return std::move(*plan);
}

Result<void> EngineCache::store(const EngineKey& key, std::string_view plan) const {
  if (folder_.empty()) return {};
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) {
    return Error{ErrorCode::unavailable,
                 concat("the engine cache ", quote(folder_), " cannot be made: ", error.message())};
  }
  const nlohmann::json about = {{"model", key.model},       {"model_hash", key.model_hash},
                                {"options", key.options},   {"device", key.device},
                                {"builder", key.builder},   {"plugins", key.plugin_hashes},
                                {"plan_bytes", plan.size()}};
  const std::string text =
      about.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  const std::string about_file = path(key, ".json");
  const bool known = fs::exists(about_file, error);
  MILLRACE_TRY(write_file(about_file, text));
  Result<void> stored = write_file(path(key, ".plan"), plan);
  if (!stored && !known) fs::remove(about_file, error);
  return stored;
}

void EngineCache::remove(const EngineKey& key) const noexcept {
  if (folder_.empty()) return;
  std::error_code error;
  fs::remove(path(key, ".plan"), error);
  fs::remove(path(key, ".json"), error);
}

Result<std::vector<CachedEngine>> EngineCache::list() const {
  std::vector<CachedEngine> engines;
  std::error_code error;
  if (folder_.empty() || !fs::exists(folder_, error)) return engines;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    if (entry.path().extension() != ".plan") continue;
    CachedEngine engine;
    engine.file = entry.path().string();
    std::error_code no_size;
    engine.bytes = entry.file_size(no_size);
    if (no_size) continue;  // no file, or removed meanwhile
    const Result<std::string> about = read_file(fs::path(entry.path()).replace_extension(".json"));
    const auto json = nlohmann::json::parse(about ? *about : "{}", nullptr, false);
    if (json.is_object()) {
      engine.model = text_of(json, "model");
      engine.device = text_of(json, "device");
      engine.builder = text_of(json, "builder");
      engine.options = text_of(json, "options");
    }
    engines.push_back(std::move(engine));
  }
  if (error) {
    return Error{ErrorCode::unavailable,
                 concat("the engine cache ", quote(folder_), " cannot be read: ", error.message())};
  }
  std::sort(engines.begin(), engines.end(),
            [](const CachedEngine& a, const CachedEngine& b) { return a.file < b.file; });
  return engines;
}

Result<int> EngineCache::clear() const {
  MILLRACE_ASSIGN(const std::vector<CachedEngine> engines, list());
  int removed = 0;
  for (const CachedEngine& engine : engines) {
    std::error_code error;
    const bool was_there = fs::remove(engine.file, error);
    if (error) {
      return Error{ErrorCode::unavailable,
                   concat(quote(engine.file), " cannot be removed: ", error.message())};
    }
    fs::remove(fs::path(engine.file).replace_extension(".json"), error);
    fs::remove(fs::path(engine.file).replace_extension(".lock"), error);
    if (was_there) ++removed;
  }
  return removed;
}

EngineCache::Lock EngineCache::lock(const EngineKey& key) const {
  if (folder_.empty()) return {};
  std::error_code error;
  fs::create_directories(folder_, error);
  const int descriptor = open(path(key, ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) return {};
  while (flock(descriptor, LOCK_EX) != 0 && errno == EINTR) {
  }
  return Lock(descriptor);
}

EngineCache::Lock::~Lock() {
  if (descriptor_ >= 0) close(descriptor_);
}

}  // namespace millrace::tensorrt
