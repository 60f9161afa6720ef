// One model in the library: what the lanes of a plan share.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "backends/onnxruntime/runtime.h"

namespace millrace {
struct OnnxSummary;
}

namespace millrace::onnxruntime {

/// The options of docs/backends.md.
struct SessionOptions {
  std::optional<int> intra_op_threads;
  std::optional<int> inter_op_threads;
  std::optional<bool> spinning;
  GraphOptimizationLevel graph_optimization = ORT_ENABLE_ALL;
  ExecutionMode execution_mode = ORT_SEQUENTIAL;
  bool batch_axis = true;  // whether a free first dimension of all tensors counts items
  std::string profile;     // where the library writes its profile; empty: nowhere
};

/// Errors: invalid_argument, naming the options known.
[[nodiscard]] Result<SessionOptions> parse_session_options(
    const std::map<std::string, std::string>& texts);

[[nodiscard]] std::optional<DataType> data_type_of(ONNXTensorElementDataType type) noexcept;
[[nodiscard]] ONNXTensorElementDataType element_type_of(DataType type) noexcept;

/// Lanes hold it too: an abandoned lane outlives its plan.
class Session {
 public:
  /// Errors: not_found, invalid_argument, unsupported, out_of_memory, with the model's name and the
  /// library's words.
  [[nodiscard]] static Result<std::shared_ptr<Session>> load(const ModelSpec& spec,
                                                             MemoryLedger& ledger);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const PlanInfo& info() const noexcept { return info_; }
  [[nodiscard]] std::size_t weights_bytes() const noexcept { return weights_bytes_; }
  [[nodiscard]] Runtime& runtime() const noexcept { return *runtime_; }
  [[nodiscard]] OrtSession* get() const noexcept { return session_.get(); }
  /// In the order of `info`; the library's functions take them in this form.
  [[nodiscard]] const std::vector<const char*>& input_names() const noexcept {
    return input_names_;
  }
  [[nodiscard]] const std::vector<const char*>& output_names() const noexcept {
    return output_names_;
  }
  /// "model "digits" (ONNX Runtime 1.21.0)".
  [[nodiscard]] const std::string& title() const noexcept { return title_; }

 private:
  Session(const ModelSpec& spec, std::shared_ptr<Runtime> runtime);
  Result<void> open(const ModelSpec& spec, const SessionOptions& options);
  Result<void> describe(const OnnxSummary& summary, const SessionOptions& options);
  Result<void> describe_metadata(const OnnxSummary& summary);

  const std::string name_;
  const std::string title_;
  const std::shared_ptr<Runtime> runtime_;
  Reservation reservation_;
  std::size_t weights_bytes_ = 0;
  bool profiling_ = false;
  Owned<OrtSession> session_;
  PlanInfo info_;
  std::vector<const char*> input_names_;
  std::vector<const char*> output_names_;
};

}  // namespace millrace::onnxruntime
