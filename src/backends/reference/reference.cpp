#include "backends/reference/reference.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <thread>

#include "backends/reference/compute.h"
#include "backends/reference/lane.h"
#include "backends/reference/options.h"
#include "backends/reference/pace.h"
#include "base/text.h"
#include "base/try.h"
#include "device/host/host_device.h"

namespace millrace::reference {
namespace {

class ReferencePlan final : public Plan {
 public:
  ReferencePlan(std::shared_ptr<Model> model, PlanInfo info)
      : model_(std::move(model)), info_(std::move(info)) {}

  const PlanInfo& info() const override { return info_; }
  Footprint footprint() const override {
    const Options& options = model_->options;
    if (options.share_weights)
      return {options.weights_bytes, options.lane_bytes, options.prepared_bytes};
    return {0, options.lane_bytes + options.weights_bytes, options.prepared_bytes};
  }
  Result<std::unique_ptr<Lane>> new_lane(const LaneOptions& options) override {
    return ReferenceLane::make(model_, options);
  }

 private:
  const std::shared_ptr<Model> model_;
  const PlanInfo info_;
};

Result<std::string> read_description(const std::string& path) {
  constexpr std::size_t kMost = 1 << 20;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return Error{ErrorCode::not_found,
                 concat("cannot open ", quote(path), ": ", std::strerror(errno))};
  }
  std::string content(kMost + 1, '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<std::size_t>(file.gcount()));
  if (content.size() > kMost) {
    return Error{ErrorCode::invalid_argument,
                 concat(quote(path), " is larger than a reference description can be (1 MiB)")};
  }
  return content;
}

Result<Options> read_options(const ModelSpec& spec) {
  if (spec.content) return parse_json_options(*spec.content, spec.options);
  if (spec.path.starts_with("reference:")) return parse_options(spec.path, spec.options);
  MILLRACE_ASSIGN(const std::string content, read_description(spec.path));
  return parse_json_options(content, spec.options);
}

PlanInfo plan_info(const Options& options) {
  PlanInfo info;
  info.inputs = inputs_of(options);
  info.outputs = outputs_of(options);
  info.max_items = options.batched && options.batch_axis ? options.max_items : 1;
  info.default_lanes = options.lanes;
  info.lanes_share_weights = options.share_weights;
  info.metadata.emplace_back("kind", to_string(options.kind));
  return info;
}

BackendInfo info() { return {"reference", true, MILLRACE_VERSION, ""}; }

Support supports(const ModelSpec& spec, DeviceRef device) {
  const bool ours =
      spec.content ? is_reference_content(*spec.content) : is_reference_path(spec.path);
  if (!ours) {
    return {false,
            "takes \"reference:KIND?option=value&...\" or a file ending in \".reference.json\""};
  }
  if (device->id().kind != DeviceKind::host) {
    return {false, "computes on the host, so it needs a host device (--devices host)"};
  }
  return {true, "the name says that it is a reference model"};
}

Result<std::unique_ptr<Plan>> load(const ModelSpec& spec, DeviceRef device, MemoryLedger& ledger) {
  auto model = std::make_shared<Model>();
  model->name = spec.name;
  auto options = read_options(spec);
  if (!options.ok()) {
    Error error = std::move(options).error();
    error.message = concat("model ", quote(spec.name), ": ", error.message);
    return error;
  }
  model->options = std::move(options).value();
  model->device = device;
  const HostDevice* const host = as_host(device);
  if (host == nullptr) {
    return Error{ErrorCode::unsupported,
                 concat("model ", quote(spec.name), ": ", supports(spec, device).reason)};
  }
  if (device->separate_memory() && !sizes_known(model->options) && !model->options.blocking) {
    return Error{ErrorCode::unsupported,
                 concat("model ", quote(spec.name), ": on ", device->id(),
                        ", which has memory of its own, outputs whose size is known only after "
                        "computing need blocking=1")};
  }
  model->slowness = host->slowness();
  const Duration time = model->slowed(model->options.load_time);
  if (time > Duration::zero()) sleep_until(Clock::now() + time, nullptr);
  if (model->options.share_weights && model->options.weights_bytes > 0) {
    MILLRACE_ASSIGN(model->reservation, ledger.reserve(concat("model \"", spec.name, "\""),
                                                       model->options.weights_bytes));
    MILLRACE_ASSIGN(model->weights,
                    device->allocate(model->options.weights_bytes, MemoryKind::device));
  }
  if (model->options.fail_load) return model->error(ErrorCode::internal, "loading fails, as asked");
  PlanInfo plan = plan_info(model->options);
  return std::unique_ptr<Plan>(std::make_unique<ReferencePlan>(std::move(model), std::move(plan)));
}

}  // namespace

Backend backend() noexcept { return {"reference", info, supports, load}; }

}  // namespace millrace::reference
