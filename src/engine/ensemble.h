// A graph of models that answers as one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <millrace/model.h>

#include "engine/model_state.h"

namespace millrace {

/// Each step is submitted to its model as soon as its inputs are there, and batches there with
/// everybody else's requests. Intermediate tensors stay on the device that computed them where
/// every step that takes them can have them from there; else they come to host memory.
class Ensemble {
 public:
  struct Plan {
    std::unique_ptr<Ensemble> ensemble;
    ModelInfo info;
  };
  /// `find` gives the model of a step by name. Errors: not_found (a model), invalid_argument
  /// (unknown tensors, cycles, types that do not fit, tensors produced twice or never).
  [[nodiscard]] static Result<Plan> make(
      const ModelConfig& config,
      const std::function<std::shared_ptr<ModelState>(const std::string&)>& find);

  /// Runs a validated request; answers it through its model. Takes the engine's lease.
  Result<void> start(Lease engines, RequestState& state);
  [[nodiscard]] bool uses(const ModelState& model) const noexcept;

 private:
  struct Wire {
    std::string name;        // of the step's tensor
    std::size_t tensor = 0;  // of the ensemble
    /// Of an output that is wanted for other steps only.
    OutputPlacement placement = OutputPlacement::device;
  };
  struct Step {
    std::shared_ptr<ModelState> model;
    std::vector<Wire> inputs;
    std::vector<Wire> outputs;
  };
  struct Run;

  std::size_t tensor_of(const std::string& name);
  void place_intermediates();
  void launch_ready(const std::shared_ptr<Run>& run);
  void step_done(const std::shared_ptr<Run>& run, std::size_t step, Result<Response> response);
  void finish(Run& run);
  Request request_for(const Run& run, const Step& step) const;

  std::vector<Step> steps_;
  std::vector<std::string> tensors_;
  std::vector<std::size_t> inputs_;   // tensors, in the order of ModelInfo::inputs
  std::vector<std::size_t> outputs_;  // tensors, in the order of ModelInfo::outputs
};

}  // namespace millrace
