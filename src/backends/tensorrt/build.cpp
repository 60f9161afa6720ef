#include <millrace/build.h>

#include "backends/tensorrt/builder.h"
#include "backends/tensorrt/engine_cache.h"
#include "backends/tensorrt/library.h"
#include "backends/tensorrt/options.h"
#include "base/file.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace {

Result<BuildReport> build_engine(const BuildOptions& options, const std::string& path) {
  if (options.min_batch < 1 || options.min_batch > options.max_batch ||
      (options.opt_batch != 0 &&
       (options.opt_batch < options.min_batch || options.opt_batch > options.max_batch))) {
    return Error{ErrorCode::invalid_argument,
                 concat("a batch of ", options.min_batch, "..", options.opt_batch, "..",
                        options.max_batch, ": expected 1 or more, ascending")};
  }
  if (options.optimization_level < 0 || options.optimization_level > 5) {
    return Error{
        ErrorCode::invalid_argument,
        concat("the optimization level is ", options.optimization_level, ", expected 0 to 5")};
  }
  if (!options.calibration_cache.empty() && options.precision != Precision::int8) {
    return Error{ErrorCode::invalid_argument,
                 concat("a calibration cache is for the precision int8, not for ",
                        to_string(options.precision))};
  }
  if (options.device.kind != DeviceKind::cuda) {
    return Error{ErrorCode::invalid_argument,
                 concat("an engine is built on and for a GPU, as in cuda:0; got ", options.device)};
  }
  MILLRACE_ASSIGN(const std::string content, read_file(options.model));
  DeviceSetOptions devices;
  devices.devices = {to_string(options.device)};
  MILLRACE_ASSIGN(const DeviceSet set, DeviceSet::open(devices));
  MILLRACE_ASSIGN(const tensorrt::BuilderLibrary* library, tensorrt::open_builder_library());
  // Opened before the long work, so that a folder that cannot be written to is found first.
  MILLRACE_ASSIGN(AtomicFile file, AtomicFile::create(path));
  MILLRACE_ASSIGN(const tensorrt::Built built, tensorrt::build(options, options.model, content));
  MILLRACE_TRY(file.write(built.plan));
  MILLRACE_TRY(file.commit());
  BuildReport report;
  report.path = path;
  report.bytes = built.plan.size();
  report.took = built.took;
  report.builder = concat("TensorRT ", library->runtime->text);
  report.device = set.devices().front()->info().name;
  report.precision = built.precision;
  report.layers = built.layers;
  return report;
}

std::string engine_cache_folder() { return tensorrt::default_cache_folder(); }

Result<std::vector<CachedEngine>> list_engine_cache() {
  return tensorrt::EngineCache(engine_cache_folder()).list();
}

Result<int> clear_engine_cache() { return tensorrt::EngineCache(engine_cache_folder()).clear(); }

}  // namespace millrace
