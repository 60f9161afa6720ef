#include "engine/ensemble.h"

#include <algorithm>
#include <mutex>

#include "base/text.h"
#include "base/try.h"
#include "engine/device_state.h"
#include "engine/plan_state.h"

namespace millrace {

/// One request on its way through the graph.
struct Ensemble::Run {
  RequestState* state = nullptr;
  std::shared_ptr<ModelState> model;  // and with it the ensemble, while a thread is still in here

  std::mutex mutex;
  // Guarded by mutex:
  std::vector<std::optional<NamedTensor>> tensors;
  std::vector<bool> launched;
  std::size_t unfinished = 0;  // steps launched and not answered
  std::size_t steps_left = 0;
  std::optional<Error> error;  // the first
  bool answered = false;
};

namespace {

const TensorInfo* find_tensor(const std::vector<TensorInfo>& tensors, const std::string& name) {
  const auto at = std::find_if(tensors.begin(), tensors.end(),
                               [&name](const TensorInfo& info) { return info.name == name; });
  return at == tensors.end() ? nullptr : &*at;
}

/// Whether every device of `to` takes tensors from every device that `from` runs on: where they
/// lie, or by a copy from one device to the other. Of an ensemble that is not known.
bool takes_from_devices(const ModelState& from, const ModelState& to) {
  const auto takes = [](PlanState* reader, PlanState* writer) {
    return reader->device().device()->separate_memory() ==
           writer->device().device()->separate_memory();
  };
  if (from.plans().empty() || to.plans().empty()) return false;
  return std::all_of(from.plans().begin(), from.plans().end(), [&](PlanState* writer) {
    return std::all_of(to.plans().begin(), to.plans().end(),
                       [&](PlanState* reader) { return takes(reader, writer); });
  });
}

}  // namespace

std::size_t Ensemble::tensor_of(const std::string& name) {
  const auto at = std::find(tensors_.begin(), tensors_.end(), name);
  if (at != tensors_.end()) return static_cast<std::size_t>(at - tensors_.begin());
  tensors_.push_back(name);
  return tensors_.size() - 1;
}

Result<Ensemble::Plan> Ensemble::make(
    const ModelConfig& config,
    const std::function<std::shared_ptr<ModelState>(const std::string&)>& find) {
  const auto invalid = [&config](const auto&... pieces) {
    return Error{ErrorCode::invalid_argument,
                 concat("ensemble \"", config.name, "\": ", pieces...)};
  };
  Plan plan;
  plan.ensemble.reset(new Ensemble);
  Ensemble& ensemble = *plan.ensemble;
  std::vector<std::optional<TensorInfo>> infos;  // per tensor, as first seen
  std::vector<bool> produced;
  const auto note = [&](std::size_t tensor, TensorInfo info, bool output) -> Result<void> {
    infos.resize(std::max(infos.size(), tensor + 1));
    produced.resize(std::max(produced.size(), tensor + 1));
    const std::string& name = ensemble.tensors_[tensor];
    if (output && produced[tensor])
      return invalid("tensor \"", name, "\" is produced by two steps");
    if (infos[tensor] && infos[tensor]->type != info.type) {
      return invalid("tensor \"", name, "\" is ", infos[tensor]->type, " in one step and ",
                     info.type, " in another");
    }
    info.name = name;
    if (output || !infos[tensor]) infos[tensor] = std::move(info);
    if (output) produced[tensor] = true;
    return {};
  };

  plan.info.max_items = INT64_MAX;
  for (const EnsembleStep& step_config : config.ensemble) {
    Step step;
    step.model = find(step_config.model);
    if (!step.model) {
      return Error{ErrorCode::not_found, concat("ensemble \"", config.name, "\": no model \"",
                                                step_config.model, "\" is loaded; load it first")};
    }
    const ModelInfo& info = step.model->info();
    plan.info.max_items = std::min(plan.info.max_items, info.max_items);
    for (const TensorInfo& input : info.inputs) {
      const auto wire = step_config.inputs.find(input.name);
      if (wire == step_config.inputs.end()) {
        return invalid("step \"", step_config.model, "\" says nothing of its input \"", input.name,
                       "\"");
      }
      step.inputs.push_back({input.name, ensemble.tensor_of(wire->second)});
      MILLRACE_TRY(note(step.inputs.back().tensor, input, false));
    }
    for (const auto& [name, tensor] : step_config.inputs) {
      if (!find_tensor(info.inputs, name)) {
        return invalid("model \"", step_config.model, "\" has no input \"", name, "\"");
      }
    }
    for (const auto& [name, tensor] : step_config.outputs) {
      const TensorInfo* output = find_tensor(info.outputs, name);
      if (!output) return invalid("model \"", step_config.model, "\" has no output \"", name, "\"");
      step.outputs.push_back({name, ensemble.tensor_of(tensor)});
      MILLRACE_TRY(note(step.outputs.back().tensor, *output, true));
    }
    if (step.outputs.empty()) {
      return invalid("step \"", step_config.model, "\" gives none of its outputs a name");
    }
    ensemble.steps_.push_back(std::move(step));
  }

  // Inputs are what nobody produces; then every step must be reachable from them.
  std::vector<bool> known(ensemble.tensors_.size());
  for (std::size_t tensor = 0; tensor < known.size(); ++tensor) {
    if (produced[tensor]) continue;
    known[tensor] = true;
    ensemble.inputs_.push_back(tensor);
    plan.info.inputs.push_back(*infos[tensor]);
  }
  std::vector<bool> reached(ensemble.steps_.size());
  for (bool progress = true; progress;) {
    progress = false;
    for (std::size_t i = 0; i < ensemble.steps_.size(); ++i) {
      const Step& step = ensemble.steps_[i];
      if (reached[i] || !std::all_of(step.inputs.begin(), step.inputs.end(),
                                     [&](const Wire& wire) { return known[wire.tensor]; })) {
        continue;
      }
      reached[i] = progress = true;
      for (const Wire& wire : step.outputs) known[wire.tensor] = true;
    }
  }
  for (std::size_t i = 0; i < reached.size(); ++i) {
    if (!reached[i]) {
      return invalid("the step of model \"", config.ensemble[i].model,
                     "\" waits for itself (a cycle)");
    }
  }
  if (config.ensemble_outputs.empty())
    return invalid("ensemble_outputs is empty; name at least one");
  for (const std::string& name : config.ensemble_outputs) {
    const auto at = std::find(ensemble.tensors_.begin(), ensemble.tensors_.end(), name);
    const auto tensor = static_cast<std::size_t>(at - ensemble.tensors_.begin());
    if (at == ensemble.tensors_.end() || !produced[tensor]) {
      return invalid("no step produces the output \"", name, "\"");
    }
    ensemble.outputs_.push_back(tensor);
    plan.info.outputs.push_back(*infos[tensor]);
  }
  ensemble.place_intermediates();
  plan.info.name = config.name;
  plan.info.backend = "ensemble";
  plan.info.backend_reason = concat("a graph of ", ensemble.steps_.size(), " models");
  return plan;
}

void Ensemble::place_intermediates() {
  for (Step& from : steps_) {
    for (Wire& output : from.outputs) {
      for (const Step& to : steps_) {
        for (const Wire& input : to.inputs) {
          if (input.tensor != output.tensor) continue;
          const auto& infos = to.model->info().inputs;
          const bool read_by_host = std::any_of(
              infos.begin(), infos.end(),
              [&input](const TensorInfo& info) { return info.name == input.name && info.on_host; });
          if (read_by_host || !takes_from_devices(*from.model, *to.model)) {
            output.placement = OutputPlacement::automatic;
          }
        }
      }
    }
  }
}

bool Ensemble::uses(const ModelState& model) const noexcept {
  return std::any_of(steps_.begin(), steps_.end(),
                     [&model](const Step& step) { return step.model.get() == &model; });
}

Result<void> Ensemble::start(Lease engines, RequestState& state) {
  auto run = std::make_shared<Run>();
  (void)engines.release();  // `answer` adopts it
  run->state = &state;
  run->model = state.model->shared_from_this();
  run->tensors.resize(tensors_.size());
  run->launched.resize(steps_.size());
  run->steps_left = steps_.size();
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    run->tensors[inputs_[i]] = state.request.inputs[i];
  }
  launch_ready(run);
  return {};
}

Request Ensemble::request_for(const Run& run, const Step& step) const {
  Request request;
  const Request& whole = run.state->request;
  request.priority = whole.priority;
  if (run.state->deadline != TimePoint::max()) request.deadline = run.state->deadline;
  for (const Wire& wire : step.inputs) {
    const NamedTensor& tensor = *run.tensors[wire.tensor];
    request.inputs.push_back({wire.name, tensor.view, tensor.lease});
  }
  for (const Wire& wire : step.outputs) {
    RequestedOutput wanted;
    wanted.name = wire.name;
    const auto output = std::find(outputs_.begin(), outputs_.end(), wire.tensor);
    if (output == outputs_.end()) {
      wanted.placement = wire.placement;
    } else {
      const auto index = static_cast<std::size_t>(output - outputs_.begin());
      for (std::size_t k = 0; k < run.state->wanted.size(); ++k) {
        if (run.state->wanted[k] != index) continue;
        wanted = whole.outputs[k];
        wanted.name = wire.name;
      }
    }
    request.outputs.push_back(std::move(wanted));
  }
  return request;
}

void Ensemble::launch_ready(const std::shared_ptr<Run>& run) {
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    Request request;
    {
      std::lock_guard lock(run->mutex);
      const bool ready = !run->launched[i] && !run->error &&
                         std::all_of(step.inputs.begin(), step.inputs.end(), [&](const Wire& wire) {
                           return run->tensors[wire.tensor].has_value();
                         });
      if (!ready) continue;
      run->launched[i] = true;
      ++run->unfinished;
      request = request_for(*run, step);
    }
    RequestState* state = nullptr;
    Result<Lease> submitted = step.model->submit(
        std::move(request),
        [this, run, i](Result<Response> response, bool) { step_done(run, i, std::move(response)); },
        &state);
    if (!submitted) step_done(run, i, std::move(submitted).error());
  }
}

void Ensemble::step_done(const std::shared_ptr<Run>& run, std::size_t step,
                         Result<Response> response) {
  bool over = false;
  {
    std::lock_guard lock(run->mutex);
    --run->unfinished;
    --run->steps_left;
    if (response) {
      for (std::size_t i = 0; i < response->outputs.size(); ++i) {
        run->tensors[steps_[step].outputs[i].tensor] = std::move(response->outputs[i]);
      }
    } else if (!run->error) {
      run->error = std::move(response).error();
    }
    // Borrowed inputs may be in use until every launched step has answered.
    over = run->unfinished == 0 && (run->error || run->steps_left == 0) && !run->answered;
    if (over) run->answered = true;
  }
  if (over) {
    finish(*run);
  } else {
    launch_ready(run);
  }
}

void Ensemble::finish(Run& run) {
  ModelState& model = *run.model;
  RequestState& state = *run.state;
  Delivery delivery(model.executor());
  if (run.error) {
    run.error->message = concat("ensemble \"", model.config().name, "\": ", run.error->message);
    state.release_tensors();
    model.answer(state, std::move(*run.error), delivery);
    return;
  }
  Response response;
  response.id = std::move(state.request.id);
  response.times = {state.submitted, state.submitted, state.submitted, Clock::now()};
  const auto add = [&](std::size_t index) {
    NamedTensor tensor = *run.tensors[outputs_[index]];
    tensor.name = tensors_[outputs_[index]];
    response.outputs.push_back(std::move(tensor));
  };
  if (state.wanted.empty()) {
    for (std::size_t i = 0; i < outputs_.size(); ++i) add(i);
  } else {
    for (const std::size_t index : state.wanted) add(index);
  }
  state.release_tensors();
  model.answer(state, std::move(response), delivery);
}

}  // namespace millrace
