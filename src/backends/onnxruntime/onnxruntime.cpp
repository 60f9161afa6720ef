#include "backends/onnxruntime/onnxruntime.h"

#include <fstream>

#include "backends/onnx_file.h"
#include "backends/onnxruntime/lane.h"
#include "backends/onnxruntime/library.h"
#include "backends/onnxruntime/session.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace::onnxruntime {
namespace {

class OnnxPlan final : public Plan {
 public:
  OnnxPlan(std::shared_ptr<Session> session, DeviceRef device)
      : session_(std::move(session)), device_(device) {}

  const PlanInfo& info() const override { return session_->info(); }
  // What a run needs in between is the library's, and not known beforehand.
  Footprint footprint() const override { return {session_->weights_bytes(), 0, 0}; }
  Result<std::unique_ptr<Lane>> new_lane(const LaneOptions& options) override {
    return OnnxLane::make(session_, device_, options);
  }

 private:
  const std::shared_ptr<Session> session_;
  const DeviceRef device_;
};

BackendInfo info() {
  const auto library = open_library();
  if (!library.ok()) return {"onnxruntime", false, "", library.error().message};
  return {"onnxruntime", true, (*library)->version, ""};
}

// Why the model is taken for ONNX; empty when it is not.
std::string reason_for(const ModelSpec& spec) {
  if (spec.content) {
    const std::size_t first = spec.content->find_first_not_of(" \t\r\n");
    const bool is_description = first != std::string::npos && (*spec.content)[first] == '{';
    return is_description ? "" : "a model in memory is taken for ONNX";
  }
  if (spec.path.ends_with(".onnx") || spec.path.ends_with(".ort"))
    return "the file's name says ONNX";
  char first[2] = {};
  std::ifstream file(spec.path, std::ios::binary);
  if (file.read(first, sizeof first) && starts_like_onnx({first, sizeof first})) {
    return "the file begins as ONNX files do";
  }
  return "";
}

Support supports(const ModelSpec& spec, DeviceRef device) {
  std::string reason = reason_for(spec);
  if (reason.empty())
    return {false, "takes ONNX models: a file ending in \".onnx\" or \".ort\", or one in memory"};
  if (device->id().kind != DeviceKind::host) {
    return {false,
            "runs on the CPU only in this build, so it needs a host device (--devices host)"};
  }
  return {true, std::move(reason)};
}

Result<std::unique_ptr<Plan>> load(const ModelSpec& spec, DeviceRef device, MemoryLedger& ledger) {
  MILLRACE_ASSIGN(auto session, Session::load(spec, ledger));
  return std::unique_ptr<Plan>(std::make_unique<OnnxPlan>(std::move(session), device));
}

}  // namespace

Backend backend() noexcept { return {"onnxruntime", info, supports, load}; }

}  // namespace millrace::onnxruntime
