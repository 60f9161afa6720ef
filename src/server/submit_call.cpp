#include "server/submit_call.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "server/classification.h"
#include "server/tracing.h"
#include "server/wire_bytes.h"

namespace millrace::server {
namespace {

/// An output that was asked for, with what is done to it once it is computed.
struct Wanted {
  std::string name;
  std::int64_t classes = 0;
  std::optional<RegionSlice> region;
  RegionMemory memory;    // of the region
  bool in_place = false;  // the engine writes it into the region itself
};

/// What is needed until the last answer comes, and the memory of small inputs, which the engine may
/// hold for longer. One for the engine's callback, which costs no further memory then.
struct Pending final : Lease::Counted {
  std::shared_ptr<const ServedModel> served;
  AnswerCallback callback;
  std::vector<Wanted> wanted;               // empty: all, as they come
  std::vector<RegionMemory> input_regions;  // looked at when it is over
  TimePoint begun;
  RequestTracePtr trace;

  static constexpr std::size_t kSmallBytes = 256;
  static constexpr std::size_t kAlignment = 16;
  std::size_t small_used = 0;
  alignas(kAlignment) std::byte small[kSmallBytes];

  /// Null: there is not so much left.
  std::byte* take_small(std::size_t bytes) noexcept {
    const std::size_t left = kSmallBytes - small_used;
    if (bytes > left) return nullptr;
    std::byte* const taken = small + small_used;
    small_used += std::min(left, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    return taken;
  }
  /// The last answer was given.
  void over() noexcept {
    callback = nullptr;
    served.reset();
    wanted.clear();
    input_regions.clear();
    trace.reset();
  }
  void dispose() noexcept override { delete this; }
};

std::string name_of(std::string_view kind, const std::string& name) {
  return concat(kind, ' ', quote(name));
}

// -------------------------------------------------------------------------------------------------
// inputs

Result<NamedTensor> input_of_bytes(CallInput& input, const void* data, std::size_t bytes) {
  MILLRACE_ASSIGN(Tensor tensor, read_wire_bytes({static_cast<const std::byte*>(data), bytes},
                                                 input.shape, name_of("input", input.name)));
  return NamedTensor{std::move(input.name), tensor.view(), tensor.lease()};
}

Result<void> check_size(const CallInput& input, std::size_t found) {
  MILLRACE_ASSIGN(const std::size_t expected, byte_count(input.type, input.shape));
  if (expected == found) return {};
  return Error{ErrorCode::invalid_argument,
               concat(name_of("input", input.name), ": expected ", expected, " bytes for ",
                      input.type, ' ', input.shape, ", got ", found)};
}

/// Memory that stays until the lease goes is used where it lies, unless it starts at an odd
/// address.
Result<NamedTensor> input_of_raw(CallInput& input, Pending& pending, const Lease& held) {
  const auto [data, bytes] = *input.raw;
  if (input.type == DataType::bytes) return input_of_bytes(input, data, bytes);
  MILLRACE_TRY(check_size(input, bytes));
  const bool aligned = reinterpret_cast<std::uintptr_t>(data) % size_of(input.type) == 0;
  if (input.raw_lease && aligned) {
    return NamedTensor{std::move(input.name), TensorView::of(input.type, data, input.shape),
                       std::move(input.raw_lease)};
  }
  if (std::byte* const place = pending.take_small(bytes)) {
    if (bytes > 0) std::memcpy(place, data, bytes);
    return NamedTensor{std::move(input.name), TensorView::of(input.type, place, input.shape), held};
  }
  MILLRACE_ASSIGN(Tensor tensor, Tensor::allocate(input.type, input.shape));
  if (bytes > 0) std::memcpy(tensor.view().data, data, bytes);
  return NamedTensor{std::move(input.name), tensor.view(), tensor.lease()};
}

Result<NamedTensor> input_of_region(const Regions& regions, CallInput& input, Pending& pending) {
  MILLRACE_ASSIGN(RegionMemory memory, regions.find(*input.region));
  if (input.type == DataType::bytes) {
    if (memory.device.kind != DeviceKind::host) {
      return Error{ErrorCode::unsupported,
                   concat(name_of("input", input.name), ": BYTES cannot lie on a GPU")};
    }
    MILLRACE_ASSIGN(NamedTensor tensor, input_of_bytes(input, memory.data, memory.bytes));
    MILLRACE_TRY(memory.check());
    return tensor;
  }
  MILLRACE_TRY(check_size(input, memory.bytes));
  NamedTensor tensor{std::move(input.name),
                     TensorView::of(input.type, memory.data, input.shape, memory.device),
                     memory.lease};
  if (memory.device.kind == DeviceKind::host) {
    if (reinterpret_cast<std::uintptr_t>(memory.data) % size_of(input.type) != 0) {
      MILLRACE_ASSIGN(const Tensor copy, Tensor::allocate(input.type, input.shape));
      if (memory.bytes > 0) std::memcpy(copy.view().data, memory.data, memory.bytes);
      tensor.view = copy.view();
      tensor.lease = copy.lease();
    }
    pending.input_regions.push_back(std::move(memory));
  }
  return tensor;
}

/// `held`: on `pending`.
Result<NamedTensor> input_of(const Regions& regions, CallInput& input, Pending& pending,
                             const Lease& held) {
  if (input.region) return input_of_region(regions, input, pending);
  if (input.raw) return input_of_raw(input, pending, held);
  if (!input.tensor) {
    return Error{ErrorCode::invalid_argument,
                 concat(name_of("input", input.name), ": expected data, got none")};
  }
  return NamedTensor{std::move(input.name), input.tensor->view(), input.tensor->lease()};
}

// -------------------------------------------------------------------------------------------------
// outputs

/// Whether the engine can write an output straight into a region: its size is known and it fits.
bool fits_in_place(const TensorInfo& info, const Request& request, const RegionMemory& memory,
                   Shape& shape) {
  if (info.type == DataType::bytes) return false;
  shape = info.shape;
  if (info.batch_axis == 0 && !request.inputs.empty() && request.inputs[0].view.shape.rank() > 0) {
    shape[0] = request.inputs[0].view.shape[0];
  }
  const Result<std::size_t> bytes = byte_count(info.type, shape);
  return bytes && *bytes <= memory.bytes &&
         reinterpret_cast<std::uintptr_t>(memory.data) % size_of(info.type) == 0;
}

Result<void> add_output(const Regions& regions, CallOutput& output, Request& request,
                        Pending& pending) {
  Wanted wanted;
  wanted.name = std::move(output.name);
  wanted.classes = output.classes;
  wanted.region = std::move(output.region);
  RequestedOutput requested;
  requested.name = wanted.name;
  if (wanted.region) {
    MILLRACE_ASSIGN(wanted.memory, regions.find(*wanted.region));
    const auto& infos = pending.served->model.info().outputs;
    const auto info = std::find_if(infos.begin(), infos.end(), [&wanted](const TensorInfo& one) {
      return one.name == wanted.name;
    });
    Shape shape;
    if (wanted.classes == 0 && info != infos.end() &&
        fits_in_place(*info, request, wanted.memory, shape)) {
      wanted.in_place = true;
      requested.placement = OutputPlacement::target;
      requested.target =
          TensorView::of(info->type, wanted.memory.data, shape, wanted.memory.device);
      requested.lease = wanted.memory.lease;
    } else if (wanted.memory.device.kind != DeviceKind::host) {
      return Error{
          ErrorCode::unsupported,
          concat(name_of("output", wanted.name),
                 ": only a tensor of a size known before the run, which fits the region of ",
                 wanted.memory.bytes, " bytes, can go to a GPU's shared memory")};
    }
  }
  request.outputs.push_back(std::move(requested));
  pending.wanted.push_back(std::move(wanted));
  return {};
}

Result<void> copy_to_region(const Wanted& wanted, AnsweredOutput& output) {
  const bool is_bytes = output.type == DataType::bytes;
  MILLRACE_ASSIGN(const std::size_t plain, byte_count(output.type, output.shape));
  const std::size_t bytes = is_bytes ? wire_bytes_size(output.view) : plain;
  if (bytes > wanted.memory.bytes) {
    return Error{ErrorCode::invalid_argument,
                 concat(name_of("output", wanted.name), " takes ", bytes,
                        " bytes, the shared memory given for it has ", wanted.memory.bytes)};
  }
  auto* const target = static_cast<std::byte*>(wanted.memory.data);
  if (is_bytes) {
    write_wire_bytes(output.view, target);
  } else if (bytes > 0) {
    std::memcpy(target, output.view.data, bytes);
  }
  output.region = RegionSlice{wanted.region->region, wanted.region->offset, bytes};
  return {};
}

Result<void> finish_output(const ServedModel& served, const Wanted& wanted,
                           AnsweredOutput& output) {
  if (wanted.classes > 0) {
    const auto labels = served.labels.find(wanted.name);
    static const std::vector<std::string> none;
    MILLRACE_ASSIGN(const Tensor classes,
                    classify(output.view, wanted.classes,
                             labels == served.labels.end() ? none : labels->second));
    output.type = DataType::bytes;
    output.shape = classes.shape();
    output.view = classes.view();
    output.lease = classes.lease();
  }
  if (!wanted.region) return {};
  if (wanted.in_place) {
    MILLRACE_ASSIGN(const std::size_t bytes, byte_count(output.type, output.shape));
    output.region = RegionSlice{wanted.region->region, wanted.region->offset, bytes};
  } else {
    MILLRACE_TRY(copy_to_region(wanted, output));
  }
  output.view = {};
  output.lease.reset();
  return wanted.memory.check();
}

Result<Answer> answer_of(Pending& pending, Response& response) {
  for (const RegionMemory& region : pending.input_regions) MILLRACE_TRY(region.check());
  Answer answer;
  answer.model = pending.served->name;
  answer.version = pending.served->version;
  answer.id = std::move(response.id);
  answer.times = response.times;
  answer.traffic = pending.served->traffic;
  answer.outputs.reserve(response.outputs.size());
  for (std::size_t i = 0; i < response.outputs.size(); ++i) {
    NamedTensor& computed = response.outputs[i];
    AnsweredOutput& output = answer.outputs.emplace_back();
    output.name = std::move(computed.name);
    output.type = computed.view.type;
    output.shape = computed.view.shape;
    output.view = computed.view;
    output.lease = std::move(computed.lease);
    if (i < pending.wanted.size()) {
      MILLRACE_TRY(finish_output(*pending.served, pending.wanted[i], output));
    }
  }
  return answer;
}

void finish(Pending& pending, Result<Response>& response, bool last) {
  ServedTraffic& traffic = *pending.served->traffic;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  traffic.last_inference_ms.store(
      std::chrono::duration_cast<std::chrono::milliseconds>(now).count(),
      std::memory_order_relaxed);
  if (pending.trace && response) pending.trace->ran(*response);
  Result<Answer> answer = response ? answer_of(pending, *response) : std::move(response).error();
  if (!answer) {
    traffic.failures.fetch_add(1, std::memory_order_relaxed);
    traffic.failure_ns.fetch_add(static_cast<std::uint64_t>((Clock::now() - pending.begun).count()),
                                 std::memory_order_relaxed);
    if (pending.trace) pending.trace->failed(answer.error());
  }
  if (last) pending.trace.reset();
  pending.callback(std::move(answer), last);
}

// -------------------------------------------------------------------------------------------------
// parameters

Result<std::uint64_t> whole_number(const Parameters& parameters, std::string_view name) {
  const Parameter* found = parameters.find(name);
  if (!found) return std::uint64_t{0};
  const auto* number = std::get_if<std::int64_t>(found);
  if (!number || *number < 0) {
    return Error{ErrorCode::invalid_argument,
                 concat("parameter ", quote(name), ": expected a whole number of at least 0")};
  }
  return static_cast<std::uint64_t>(*number);
}

bool truth(const Parameters& parameters, std::string_view name) {
  const Parameter* found = parameters.find(name);
  const bool* value = found ? std::get_if<bool>(found) : nullptr;
  return value && *value;
}

Result<void> apply_parameters(const Call& call, const ServedModel& served, TimePoint now,
                              Request& request) {
  request.deadline = call.deadline;
  if (call.parameters.empty() && served.requests.priority_levels == 0 &&
      served.requests.by_default.timeout == Duration::zero()) {
    return {};
  }
  MILLRACE_ASSIGN(const std::uint64_t priority, whole_number(call.parameters, "priority"));
  MILLRACE_ASSIGN(const std::uint64_t timeout_us, whole_number(call.parameters, "timeout"));
  constexpr std::uint64_t kMostUs = 365ULL * 24 * 3600 * 1'000'000;
  const RequestPolicy::Terms terms =
      served.requests.terms(priority, std::chrono::microseconds(std::min(timeout_us, kMostUs)));
  request.priority = terms.priority;
  if (terms.timeout) {
    const TimePoint until = now + *terms.timeout;
    request.deadline = request.deadline ? std::min(*request.deadline, until) : until;
  }
  if (const Parameter* id = call.parameters.find("sequence_id")) {
    const auto* number = std::get_if<std::int64_t>(id);
    const auto* text = std::get_if<std::string>(id);
    request.sequence.id = number                   ? static_cast<std::uint64_t>(*number)
                          : text && !text->empty() ? std::hash<std::string>{}(*text) | 1
                                                   : 0;
    request.sequence.start = truth(call.parameters, "sequence_start");
    request.sequence.end = truth(call.parameters, "sequence_end");
  }
  return {};
}

/// Fills in the engine's request. What the answer needs goes into `pending`; `held` is on that.
Result<void> fill_request(const Regions& regions, Call& call, Pending& pending, const Lease& held,
                          Request& request) {
  request.id = std::move(call.id);
  request.brief_callback = call.any_order;  // it sends the answer
  MILLRACE_TRY(apply_parameters(call, *pending.served, pending.begun, request));
  for (CallInput& input : call.inputs) {
    MILLRACE_ASSIGN(NamedTensor tensor, input_of(regions, input, pending, held));
    request.inputs.push_back(std::move(tensor));
  }
  for (CallOutput& output : call.outputs) {
    MILLRACE_TRY(add_output(regions, output, request, pending));
  }
  if (call.outputs.empty()) {
    for (const std::string& name : pending.served->default_outputs) {
      RequestedOutput& output = request.outputs.emplace_back();
      output.name = name;
    }
  }
  return {};
}

Error counted(ServedTraffic& traffic, Error error) {
  if (error.code == ErrorCode::invalid_argument || error.code == ErrorCode::unsupported) {
    traffic.invalid.fetch_add(1, std::memory_order_relaxed);
  }
  return error;
}

}  // namespace

Result<RegionMemory> Regions::find(const RegionSlice& slice) const {
  Result<RegionMemory> memory = system.find(slice);
  if (memory || memory.error().code != ErrorCode::not_found) return memory;
  return cuda.find(slice);
}

Result<Ticket> submit_call(const Regions& regions, std::shared_ptr<const ServedModel> served,
                           Call call, AnswerCallback callback) {
  auto* const pending = new Pending;
  const Lease held = Lease::adopt(pending);
  pending->begun = Clock::now();
  if (call.trace) call.trace->submitted(served->version, call.id);
  pending->trace = std::move(call.trace);
  pending->served = served;
  Request request;
  if (Result<void> filled = fill_request(regions, call, *pending, held, request); !filled) {
    return counted(*served->traffic, std::move(filled).error());
  }
  pending->callback = std::move(callback);
  // A count of `pending` is the callback's, which gives it back with the last answer.
  (void)Lease(held).release();
  Result<Ticket> ticket =
      served->model.submit(std::move(request), [pending](Result<Response>&& response, bool last) {
        const Lease answers = last ? Lease::adopt(pending) : Lease();
        finish(*pending, response, last);
        if (last) pending->over();
      });
  if (ticket) return ticket;
  const Lease unanswered = Lease::adopt(pending);
  pending->over();
  return counted(*served->traffic, std::move(ticket).error());
}

}  // namespace millrace::server
