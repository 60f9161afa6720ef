// What both protocols translate to and from: one inference, named as the Open Inference Protocol
// names it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <millrace/request.h>

namespace millrace {
struct ServedTraffic;
}

namespace millrace::server {

class RequestTrace;

using Parameter = std::variant<bool, std::int64_t, double, std::string>;

/// Parameters in the order given. Few, so that looking one up is a walk.
class Parameters {
 public:
  void set(std::string name, Parameter value) {
    entries_.emplace_back(std::move(name), std::move(value));
  }
  [[nodiscard]] const Parameter* find(std::string_view name) const noexcept {
    for (const auto& [key, value] : entries_) {
      if (key == name) return &value;
    }
    return nullptr;
  }
  [[nodiscard]] bool empty() const noexcept { return entries_.empty(); }
  [[nodiscard]] auto begin() const noexcept { return entries_.begin(); }
  [[nodiscard]] auto end() const noexcept { return entries_.end(); }

 private:
  std::vector<std::pair<std::string, Parameter>> entries_;
};

/// Part of a registered shared-memory region.
struct RegionSlice {
  std::string region;
  std::size_t offset = 0;
  std::size_t bytes = 0;
};

/// An input. Either `tensor` holds the data (of any type but BYTES: contiguous, as long as its
/// shape says; BYTES: offsets and block), or `raw` does, in the wire's format, or `region` says
/// where it lies.
struct CallInput {
  std::string name;
  DataType type = DataType::fp32;
  Shape shape;
  /// The wire's bytes: a BYTES element is a length of 4 bytes, little-endian, and as many bytes;
  /// anything else is the row-major elements. `raw_lease` keeps them; without one they need only
  /// last for the call to `Service::infer`.
  std::optional<std::pair<const void*, std::size_t>> raw;
  Lease raw_lease;
  std::optional<Tensor> tensor;
  std::optional<RegionSlice> region;
};

/// An output that is asked for.
struct CallOutput {
  std::string name;
  /// Not 0: instead of the tensor, the best so many classes of each item, as BYTES
  /// "VALUE:INDEX[:LABEL]".
  std::int64_t classes = 0;
  /// The tensor is written there, and the answer carries none of its bytes.
  std::optional<RegionSlice> region;
};

/// An inference as a client asks for it.
struct Call {
  std::string model;
  std::string version;  // empty: the one that the model's version policy prefers
  std::string id;       // echoed
  /// Those that the protocol or an extension gives a meaning (priority, timeout in microseconds,
  /// sequence_id, sequence_start, sequence_end) and any others.
  Parameters parameters;
  std::vector<CallInput> inputs;
  std::vector<CallOutput> outputs;  // empty: all of the model's
  /// By the transport (gRPC's deadline, a header).
  std::optional<TimePoint> deadline;
  /// Null where it is not traced, which is the rule. See Service::begin_trace.
  std::shared_ptr<RequestTrace> trace;
  /// The answer may come as soon as possible, before that of an earlier call of the same caller.
  bool any_order = true;
};

/// An output as it answers.
struct AnsweredOutput {
  std::string name;
  DataType type = DataType::fp32;
  Shape shape;
  /// Host memory, contiguous. No data where `region` holds it.
  TensorView view;
  Lease lease;
  std::optional<RegionSlice> region;
};

struct Answer {
  std::string model;
  std::string version;
  std::string id;
  Parameters parameters;
  std::vector<AnsweredOutput> outputs;  // in the order asked for, else in the model's
  RequestTimes times;
  std::shared_ptr<ServedTraffic> traffic;  // of the model
};

/// Called once for each answer of a call (`last` on the final one), on a thread of the engine's
/// executor or on the calling one. It should not block and must not throw.
using AnswerCallback = std::function<void(Result<Answer> answer, bool last)>;

}  // namespace millrace::server
