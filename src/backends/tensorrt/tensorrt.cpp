#include "backends/tensorrt/tensorrt.h"

#include <filesystem>

#include "backends/tensorrt/builder.h"
#include "backends/tensorrt/engine.h"
#include "backends/tensorrt/engine_cache.h"
#include "backends/tensorrt/lane.h"
#include "backends/tensorrt/library.h"
#include "backends/tensorrt/options.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace::tensorrt {
namespace {

class TensorrtPlan final : public Plan {
 public:
  explicit TensorrtPlan(std::shared_ptr<LoadedEngine> engine) : engine_(std::move(engine)) {}

  const PlanInfo& info() const override { return engine_->info(); }
  Footprint footprint() const override { return engine_->footprint(); }
  Result<std::unique_ptr<Lane>> new_lane(const LaneOptions& options) override {
    return TensorrtLane::make(engine_, options);
  }

 private:
  const std::shared_ptr<LoadedEngine> engine_;
};

BackendInfo info() {
  if (const CudaStatus cuda = cuda_status(); cuda.visible_gpus == 0) {
    return {"tensorrt", false, "", concat("needs a GPU; ", cuda.reason)};
  }
  const auto library = open_library();
  if (!library) return {"tensorrt", false, "", library.error().message};
  return {"tensorrt", true, (*library)->text, ""};
}

bool is_plan(const std::string& path) {
  return path.ends_with(".plan") || path.ends_with(".engine") || path.ends_with(".trt");
}

Support supports(const ModelSpec& spec, DeviceRef device) {
  const bool onnx = spec.path.ends_with(".onnx");
  if (!onnx && !is_plan(spec.path)) {
    return {false, "takes TensorRT engines (.plan, .engine) and ONNX files (.onnx)"};
  }
  if (device->id().kind != DeviceKind::cuda) return {false, "runs on GPUs only"};
  return {true, onnx ? "an ONNX file on a GPU: an engine is built for it once"
                     : "the file's name says TensorRT engine"};
}

std::string device_text(DeviceRef device) {
  const DeviceInfo& info = device->info();
  return concat(info.name, " (", info.compute_major, ".", info.compute_minor, ")");
}

Result<EngineKey> key_for(const ModelSpec& spec, const Options& options, const std::string& content,
                          DeviceRef device) {
  MILLRACE_ASSIGN(const Library* library, open_library());
  EngineKey key;
  key.model = spec.path;
  MILLRACE_ASSIGN(key.model_hash, hash_of_model(content, spec.path));
  key.options = describe(options.build);
  if (!options.build.calibration_cache.empty()) {
    MILLRACE_ASSIGN(const std::string ranges, read_file(options.build.calibration_cache));
    key.options += concat(" calibration=", hash_of(ranges));
  }
  key.device = device_text(device);
  key.builder = concat("TensorRT ", library->text);
  for (const std::string& plugin : options.build.plugins) {
    MILLRACE_ASSIGN(const std::string bytes, read_file(plugin));
    key.plugin_hashes.push_back(hash_of(bytes));
  }
  return key;
}

Result<std::shared_ptr<LoadedEngine>> load_onnx(const ModelSpec& spec, Options options,
                                                const std::string& content, DeviceRef device,
                                                MemoryLedger& ledger) {
  options.build.model = spec.path;
  options.build.device = device->id();
  if (spec.max_items > 0) {
    options.build.max_batch = spec.max_items;
    options.build.min_batch = std::min(options.build.min_batch, spec.max_items);
    options.build.opt_batch = std::min(options.build.opt_batch, spec.max_items);
  }
  const EngineCache cache(options.cache);
  MILLRACE_ASSIGN(const EngineKey key, key_for(spec, options, content, device));
  const EngineCache::Lock lock = cache.lock(key);
  if (const std::optional<std::string> plan = cache.find(key)) {
    auto loaded = LoadedEngine::load(spec, options, *plan, cache.plan_file(key), device, ledger);
    if (loaded || loaded.error().code != ErrorCode::invalid_argument) return loaded;
    log_warning("a cached engine is of no use and is built again: ", loaded.error().message);
    cache.remove(key);
  }
  log_info("model \"", spec.name, "\": building an engine for ", key.device, " (", key.options,
           "); this takes a while, once");
  MILLRACE_ASSIGN(const Built built, build(options.build, spec.name, content));
  log_info("model \"", spec.name, "\": built in ", format_duration(built.took));
  if (Result<void> stored = cache.store(key, built.plan); !stored) {
    log_warning("the engine is used but not kept: ", stored.error().message);
  }
  return LoadedEngine::load(spec, options, built.plan, cache.plan_file(key), device, ledger);
}

Result<std::unique_ptr<Plan>> load(const ModelSpec& spec, DeviceRef device, MemoryLedger& ledger) {
  const auto named = [&spec](Error error) {
    error.message = concat("model \"", spec.name, "\": ", error.message);
    return error;
  };
  Result<Options> options = parse_options(spec.options);
  if (!options) return named(std::move(options).error());
  options->build.plugins = spec.plugins;
  std::string content;
  if (spec.content) {
    content = *spec.content;
  } else {
    Result<std::string> file = read_file(spec.path);
    if (!file) return named(std::move(file).error());
    content = std::move(*file);
  }
  if (content.empty()) {
    return named({ErrorCode::invalid_argument, concat(quote(spec.path), " is empty")});
  }
  std::shared_ptr<LoadedEngine> engine;
  if (is_plan(spec.path)) {
    MILLRACE_ASSIGN(engine, LoadedEngine::load(spec, *options, content, spec.path, device, ledger));
  } else {
    MILLRACE_ASSIGN(engine, load_onnx(spec, std::move(*options), content, device, ledger));
  }
  return std::unique_ptr<Plan>(std::make_unique<TensorrtPlan>(std::move(engine)));
}

}  // namespace

Backend backend() noexcept { return {"tensorrt", info, supports, load, true}; }

}  // namespace millrace::tensorrt
