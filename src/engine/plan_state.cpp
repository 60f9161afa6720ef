#include "engine/plan_state.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>
#include <functional>
#include <map>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "device/annotate.h"
#include "engine/device_state.h"
#include "tensor/layout.h"

namespace millrace {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::int64_t kMostItems = std::int64_t{1} << 24;
/// More than any device has, and little enough that sums over lanes and slots do not overflow.
constexpr std::size_t kMostBatchBytes = std::size_t{1} << 48;
constexpr std::size_t kReservedRequests = 4096;
/// Of the pinned memory that a plan puts ready for answers, and how many of them may still be with
/// their callers while all lanes are busy.
constexpr std::size_t kMostFilledBytes = std::size_t{256} << 20;
constexpr std::size_t kAnswersHeld = 2;
/// Bounds of what is kept for runs in place.
constexpr std::size_t kMostInPlaceRuns = 256;
/// Where callers' memory never comes twice, looking for a request that suits a lane is in vain: so
/// often in a row, and then it is left for so many batches.
constexpr int kMostSearchesInVain = 16;
constexpr int kBatchesWithoutSearch = 256;
constexpr std::size_t kMostAddresses = 4096;
/// A word that the stream writes is seen one more copy's time after long copies to the host: 1.1 ms
/// after 62 MB from an H200, while an event behind the same copies is reached at once. From so many
/// bytes on the driver asks an event, which takes it about 1 us: as often as this when the batch
/// should soon be over, and ten times as seldom before.
constexpr std::size_t kAskEventFromBytes = std::size_t{1} << 20;
constexpr Duration kAskEventEvery = std::chrono::microseconds(5);
constexpr int kSeldom = 10;

std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// The largest number there is when the product does not fit.
std::size_t saturated_product(std::size_t a, std::size_t b) {
  std::size_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

std::size_t saturated_sum(std::size_t a, std::size_t b) {
  return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}

std::size_t bucket_of(std::int64_t items) {
  return static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(items)));
}

TensorView block_view(const TensorInfo& info, void* data, std::int64_t items, DeviceId device) {
  return TensorView::of(info.type, data, shape_for(info, items), device);
}

/// Sizes worth preparing: powers of two, what is preferred, and the maximum.
std::vector<std::int64_t> sizes_to_prepare(const BatchPolicy& policy) {
  std::vector<std::int64_t> sizes = policy.preferred_items;
  for (std::int64_t size = 1; size < policy.max_items; size *= 2) sizes.push_back(size);
  sizes.push_back(policy.max_items);
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

/// How often an address must come before a run is prepared for it: more often for each lane that
/// has one already, which it mostly goes to.
int misses_until_prepared(const std::vector<ShapeKey>& by_lane) {
  int misses = 3;
  for (const ShapeKey key : by_lane) {
    if (key != kEager && misses < INT_MAX / 8) misses *= 4;
  }
  return misses;
}

struct Wanted {
  bool on_device = false;
  bool on_host = false;
};

/// Where the requests of a batch want output `i` besides in targets that the device writes itself.
Wanted wanted_where(std::span<RequestState* const> requests, std::size_t i) {
  Wanted result;
  for (const RequestState* request : requests) {
    if (request->wanted.empty()) {
      result.on_host = true;
      continue;
    }
    for (std::size_t k = 0; k < request->wanted.size(); ++k) {
      if (request->wanted[k] != i) continue;
      const OutputPlacement placement = request->request.outputs[k].placement;
      result.on_device |= placement == OutputPlacement::device;
      result.on_host |= placement == OutputPlacement::automatic || request->pageable_target(k);
    }
  }
  return result;
}

}  // namespace

std::optional<std::size_t> item_bytes(const TensorInfo& info) {
  if (info.type == DataType::bytes) return std::nullopt;
  const Result<std::size_t> bytes = byte_count(info.type, shape_for(info, 1));
  return bytes ? std::optional(*bytes) : std::nullopt;
}

Shape shape_for(const TensorInfo& info, std::int64_t items) {
  Shape shape = info.shape;
  if (info.batch_axis >= 0) shape[static_cast<std::size_t>(info.batch_axis)] = items;
  return shape;
}

// ---------------------------------------------------------------------------------------------------------

bool BatchSlot::finished(TimePoint now) noexcept {
  if (run_count) return run_count->load(std::memory_order_acquire) >= run_number;
  if (!asks_event) return word->load(std::memory_order_acquire) == expected;
  if (now < ask_again) return false;
  ask_again = now + (now < soon_over ? kSeldom : 1) * ask_every;
  const Result<bool> reached = done.ref().query();
  return reached && *reached;
}

BatchSlot* LaneState::free_slot() noexcept {
  if (in_flight.size() >= slots.size()) return nullptr;
  for (auto& slot : slots) {
    if (std::find(in_flight.begin(), in_flight.end(), slot.get()) == in_flight.end()) {
      return slot.get();
    }
  }
  return nullptr;
}

void BatchTimes::learn(std::int64_t items, Duration time) noexcept {
  double& known = seconds_[bucket_of(items)];
  const double seconds = std::chrono::duration<double>(time).count();
  known = known == 0 ? seconds : known + 0.2 * (seconds - known);
}

bool BatchTimes::knows(std::int64_t items) const noexcept { return seconds_[bucket_of(items)] > 0; }

Duration BatchTimes::estimate(std::int64_t items) const noexcept {
  const std::size_t bucket = bucket_of(items);
  double seconds = seconds_[bucket];
  for (std::size_t distance = 1; seconds == 0 && distance < seconds_.size(); ++distance) {
    if (bucket >= distance) seconds = seconds_[bucket - distance];
    if (seconds == 0 && bucket + distance < seconds_.size()) seconds = seconds_[bucket + distance];
  }
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

// ---------------------------------------------------------------------------------------------------------

PlanState::PlanState(DeviceState& device, const ModelConfig& config)
    : device_(device),
      apart_(device.device()->separate_memory()),
      asks_events_(device.device()->id().kind == DeviceKind::cuda),
      name_(config.name),
      config_(config),
      batching_(config.batching) {}

PlanState::~PlanState() = default;

Result<void> PlanState::load(const ModelSpec& spec) {
  const Annotation loading("load ", name_);
  Result<void> loaded = try_load(spec);
  if (loaded || loaded.error().code != ErrorCode::out_of_memory) return loaded;
  // Blocks that wait to be used again count as free memory.
  if (device_.pool().trim() == 0) return loaded;
  lanes.clear();
  plan_.reset();
  reservation_ = Reservation();
  return try_load(spec);
}

Result<void> PlanState::try_load(const ModelSpec& spec) {
  MILLRACE_ASSIGN(const BackendChoice choice,
                  choose_backend(config_.backend, spec, device_.device()));
  backend_name_ = choice.backend->name;
  backend_reason_ = choice.reason;
  MILLRACE_ASSIGN(plan_, choice.backend->load(spec, device_.device(), device_.ledger()));
  MILLRACE_TRY(check_types());
  MILLRACE_TRY(settle_batching());
  const int lanes_wanted = config_.lanes > 0 ? config_.lanes : plan_info().default_lanes;
  return make_lanes(lanes_wanted, config_.slots);
}

/// Strings are laid out by the host, in its own memory.
Result<void> PlanState::check_types() const {
  if (!apart_) return {};
  for (const auto* infos : {&plan_info().inputs, &plan_info().outputs}) {
    for (const TensorInfo& info : *infos) {
      if (info.type != DataType::bytes) continue;
      return Error{
          ErrorCode::unsupported,
          concat("model \"", name_, "\" on ", device_.device()->id(), ": ",
                 infos == &plan_info().inputs ? "input \"" : "output \"", info.name,
                 "\" is BYTES, which lies in host memory and this device has memory of its "
                 "own; load the model on a device that computes in host memory")};
    }
  }
  return {};
}

Result<void> PlanState::settle_batching() {
  const std::int64_t limit = plan_info().max_items;
  if (batching_.max_items < 0 || batching_.max_items > kMostItems) {
    return Error{ErrorCode::invalid_argument,
                 concat("model \"", name_, "\": batching.max_items is ", batching_.max_items,
                        ", expected 0 (automatic) to ", kMostItems)};
  }
  if (limit > 0 && batching_.max_items > limit) {
    return Error{ErrorCode::invalid_argument,
                 concat("model \"", name_, "\": batching.max_items is ", batching_.max_items,
                        ", but the model takes at most ", limit,
                        limit == 1 ? " (it has no batch dimension)" : "")};
  }
  if (batching_.max_items == 0) batching_.max_items = limit > 0 ? limit : 32;
  std::sort(batching_.preferred_items.begin(), batching_.preferred_items.end());
  for (const std::int64_t size : batching_.preferred_items) {
    if (size < 1 || size > batching_.max_items) {
      return Error{ErrorCode::invalid_argument,
                   concat("model \"", name_, "\": a preferred batch of ", size,
                          " items is outside 1..", batching_.max_items)};
    }
  }
  return check_batch_bytes();
}

Result<void> PlanState::check_batch_bytes() const {
  std::size_t total = 0;
  for (const auto* infos : {&plan_info().inputs, &plan_info().outputs}) {
    for (const TensorInfo& info : *infos) {
      if (!item_bytes(info)) continue;
      MILLRACE_ASSIGN(const std::size_t bytes, byte_count(info.type, shape_for(info, max_items())));
      total = saturated_sum(total, bytes);
    }
  }
  if (total <= kMostBatchBytes) return {};
  return Error{ErrorCode::invalid_argument,
               concat("model \"", name_, "\": a batch of ", max_items(), " items takes ",
                      format_bytes(total), ", more than any device has; lower batching.max_items")};
}

std::size_t PlanState::slot_bytes() const {
  std::size_t total = 0;
  for (const TensorInfo& input : plan_info().inputs) {
    if (input.on_host) continue;
    total += aligned(item_bytes(input).value_or(0) * static_cast<std::size_t>(max_items()));
  }
  for (const TensorInfo& output : plan_info().outputs) {
    total += aligned(item_bytes(output).value_or(0) * static_cast<std::size_t>(max_items()));
  }
  return total;
}

Result<void> PlanState::make_lanes(int lane_count, int slot_count) {
  const Footprint footprint = plan_->footprint();
  const auto slots = static_cast<std::size_t>(slot_count);
  const std::size_t per_lane = saturated_sum(
      saturated_sum(footprint.lane_bytes, slot_bytes() * slots),
      saturated_product(footprint.prepared_bytes, sizes_to_prepare(batching_).size() * slots));
  const std::size_t all_lanes = saturated_product(per_lane, static_cast<std::size_t>(lane_count));
  MILLRACE_ASSIGN(reservation_,
                  device_.ledger().reserve(concat("model \"", name_, "\""),
                                           saturated_sum(all_lanes, footprint.shared_bytes)));
  inputs_fixed_ = std::all_of(plan_info().inputs.begin(), plan_info().inputs.end(),
                              [](const TensorInfo& info) { return item_bytes(info).has_value(); });
  for (int i = 0; i < lane_count; ++i) {
    auto state = std::make_unique<LaneState>();
    state->plan = this;
    state->index = i;
    LaneOptions options;
    options.index = i;
    options.slots = slot_count;
    options.priority = config_.priority_class;
    MILLRACE_ASSIGN(state->lane, plan_->new_lane(options));
    state->traits = state->lane->traits();
    if (state->traits.enqueue_blocks) {
      state->thread = std::make_unique<TaskThread>("mr-lane-" + std::to_string(i));
      state->thread->post([device = device_.device()] { device->place_this_thread(); });
    }
    MILLRACE_ASSIGN(state->words,
                    device_.device()->allocate(
                        sizeof(std::atomic<std::uint64_t>) * static_cast<std::size_t>(slot_count),
                        MemoryKind::pinned));
    for (int slot = 0; slot < slot_count; ++slot) MILLRACE_TRY(make_slot(*state, slot));
    if (state->traits.wants_prepare) MILLRACE_TRY(prepare(*state));
    lanes.push_back(std::move(state));
  }
  fill_pools();
  return reserve_measured();
}

/// Blocks for the answers of one batch on the host, of whatever size: how many of each size,
/// largest first.
std::map<std::size_t, std::size_t, std::greater<>> PlanState::answer_blocks() const {
  std::map<std::size_t, std::size_t, std::greater<>> most;
  for (const std::int64_t size : sizes_to_prepare(batching_)) {
    for (const std::int64_t items : {size, (size * 3 + 3) / 4}) {
      std::map<std::size_t, std::size_t> of_batch;
      for (const TensorInfo& output : plan_info().outputs) {
        const std::size_t bytes = item_bytes(output).value_or(0) * static_cast<std::size_t>(items);
        if (bytes > 0) ++of_batch[BlockPool::rounded_bytes(bytes)];
      }
      for (const auto& [bytes, count] : of_batch) most[bytes] = std::max(most[bytes], count);
    }
  }
  return most;
}

/// The driver is to find blocks for the answers of what can be in flight, and not to have to ask
/// the device for pinned memory, which takes it long.
void PlanState::fill_pools() {
  if (!apart_) return;
  const std::size_t batches = lanes.size() * static_cast<std::size_t>(config_.slots) + kAnswersHeld;
  std::vector<Block> blocks;
  std::size_t left = kMostFilledBytes;
  for (const auto& [bytes, count] : answer_blocks()) {
    const std::size_t share = left / 2;  // so that smaller ones get some
    std::size_t taken = 0;
    for (std::size_t i = 0; i < batches * count; ++i) {
      if (taken + bytes > share) break;
      Result<Block> block = device_.pinned_pool().take(bytes);
      if (!block) return;  // it is asked for again when it is needed, and that request is told
      taken += bytes;
      blocks.push_back(std::move(*block));
    }
    left -= taken;
  }
}

/// Of what runs on the caller's inputs write to, for each lane.
std::size_t PlanState::scratch_bytes() const {
  std::size_t total = 0;
  for (const Buffer& block : lanes.front()->scratch_outputs) total += aligned(block.bytes());
  return total;
}

/// Of its contexts, activations and graphs.
std::size_t PlanState::lane_bytes(const LaneState& lane) const {
  const std::size_t measured = lane.lane->memory().total();
  return measured > 0 ? measured : plan_->footprint().lane_bytes;
}

/// What lanes take in all is known once they are made.
Result<void> PlanState::reserve_measured() {
  const std::size_t blocks =
      slot_bytes() * static_cast<std::size_t>(config_.slots) + scratch_bytes();
  std::size_t total = plan_->footprint().shared_bytes;
  for (const auto& lane : lanes) total = saturated_sum(total, lane_bytes(*lane) + blocks);
  if (total <= reservation_.bytes()) return {};
  return reservation_.grow(total - reservation_.bytes());
}

Result<void> PlanState::make_slot(LaneState& lane, int index) {
  auto slot = std::make_unique<BatchSlot>();
  slot->lane = &lane;
  slot->index = index;
  auto* words = static_cast<std::atomic<std::uint64_t>*>(lane.words.data());
  slot->word = std::construct_at(words + index, 0);
  Device& device = *device_.device();
  for (Event* event : {&slot->started, &slot->copied_in, &slot->computed, &slot->copied_out}) {
    MILLRACE_ASSIGN(*event, device.new_event(EventTiming::timed));
  }
  MILLRACE_ASSIGN(slot->done, device.new_event(EventTiming::untimed));

  const auto& inputs = plan_info().inputs;
  const auto& outputs = plan_info().outputs;
  const auto items = static_cast<std::size_t>(max_items());
  const auto new_block = [&](const TensorInfo& info) -> Result<Buffer> {
    const std::size_t bytes = item_bytes(info).value_or(0) * items;
    MILLRACE_ASSIGN(Buffer block, device.allocate(bytes, MemoryKind::device));
    if (block) MILLRACE_TRY(lane.lane->stream().fill(block.data(), 0, bytes));
    return block;
  };
  slot->inputs.resize(inputs.size());
  slot->input_leases.resize(inputs.size());
  for (const TensorInfo& input : inputs) {
    Buffer block;
    if (!input.on_host) {
      MILLRACE_ASSIGN(block, new_block(input));
    }
    slot->input_blocks.push_back(std::move(block));
  }
  slot->outputs.resize(outputs.size());
  slot->output_leases.resize(outputs.size());
  slot->results.resize(outputs.size());
  slot->computed_at.resize(outputs.size());
  slot->host_results.resize(outputs.size());
  slot->host_leases.resize(outputs.size());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (lane.traits.fixed_addresses || apart_) {
      MILLRACE_ASSIGN(Buffer block, new_block(outputs[i]));
      slot->output_blocks.push_back(std::move(block));
    }
    if (!item_bytes(outputs[i])) {
      slot->outputs[i].allocate = [this, raw = slot.get(), i](DataType type, const Shape& shape,
                                                              std::size_t bytes_size) {
        return allocate_late(*raw, i, type, shape, bytes_size);
      };
    }
  }
  slot->requests.reserve(std::min(items, kReservedRequests));
  lane.slots.push_back(std::move(slot));
  return {};
}

// -------------------------------------------------------------------------------------------
// prepared runs

Result<void> PlanState::prepare(LaneState& lane) {
  const auto known = [](const TensorInfo& info) { return item_bytes(info).has_value(); };
  const PlanInfo& info = plan_info();
  if (!std::all_of(info.inputs.begin(), info.inputs.end(), known) ||
      !std::all_of(info.outputs.begin(), info.outputs.end(), known)) {
    log_info("model \"", name_,
             "\": shapes are not known before a request, so nothing is prepared");
    return {};
  }
  // Blocking lanes choose their runs on threads of their own; what is known of addresses is the
  // driver's.
  runs_in_place_ = apart_ && !lane.traits.enqueue_blocks && lane.traits.fixed_addresses &&
                   lane.traits.prepares_any_address &&
                   info.inputs.size() + info.outputs.size() <= AddressKey::kMost;
  for (const TensorInfo& output : info.outputs) {
    if (!runs_in_place_) break;
    MILLRACE_ASSIGN(Buffer block, device_.device()->allocate(
                                      *item_bytes(output) * static_cast<std::size_t>(max_items()),
                                      MemoryKind::device));
    lane.scratch_outputs.push_back(std::move(block));
  }
  const std::vector<std::int64_t> sizes = sizes_to_prepare(batching_);
  const std::size_t before = lane.lane->memory().total();
  for (auto& slot : lane.slots) MILLRACE_TRY(prepare_slot(lane, *slot, sizes));
  const std::size_t taken = lane.lane->memory().total() - before;
  prepared_bytes_ =
      std::max(plan_->footprint().prepared_bytes, taken / (sizes.size() * lane.slots.size()));
  BatchSlot& slot = *lane.slots.front();
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    RunCost cost{sizes[i]};
    MILLRACE_ASSIGN(cost.prepared, time_run(lane, slot, slot.prepared[i], sizes[i]));
    if (!lane.traits.only_prepared && !lane.traits.avoids_eager) {
      MILLRACE_ASSIGN(cost.eager, time_run(lane, slot, kEager, sizes[i]));
    }
    lane.run_costs.push_back(cost);
  }
  return {};
}

void PlanState::fixed_io(BatchSlot& slot, std::int64_t items) {
  const PlanInfo& info = plan_info();
  const DeviceId device = device_.device()->id();
  for (std::size_t i = 0; i < info.inputs.size(); ++i) {
    slot.inputs[i] = block_view(info.inputs[i], slot.input_blocks[i].data(), items, device);
  }
  for (std::size_t i = 0; i < info.outputs.size(); ++i) {
    void* data = slot.lane->traits.fixed_addresses ? slot.output_blocks[i].data()
                                                   : slot.outputs[i].view.data;
    slot.outputs[i].view = block_view(info.outputs[i], data, items, device);
  }
  slot.status.reset();
  slot.io = BatchIo{slot.inputs, slot.outputs, {}, slot.done, &slot.status, slot.index};
}

Result<void> PlanState::prepare_slot(LaneState& lane, BatchSlot& slot,
                                     std::span<const std::int64_t> sizes) {
  Block scratch;  // outputs of lanes that write wherever they are told
  if (!lane.traits.fixed_addresses) {
    std::size_t bytes = 0;
    for (const TensorInfo& output : plan_info().outputs) {
      bytes += aligned(*item_bytes(output) * static_cast<std::size_t>(max_items()));
    }
    MILLRACE_ASSIGN(scratch, device_.pool().take(bytes));
    auto* at = static_cast<std::byte*>(scratch.data);
    for (std::size_t i = 0; i < plan_info().outputs.size(); ++i) {
      slot.outputs[i].view.data = at;
      at += aligned(*item_bytes(plan_info().outputs[i]) * static_cast<std::size_t>(max_items()));
    }
  }
  for (const std::int64_t items : sizes) {
    const Annotation preparing("prepare ", name_, ", ", items, " items, lane ", lane.index,
                               ", slot ", slot.index);
    fixed_io(slot, items);
    MILLRACE_ASSIGN(const ShapeKey key, lane.lane->prepare(slot.io));
    MILLRACE_TRY(lane.lane->stream().synchronize());
    if (slot.status.failed()) return slot.status.error();
    slot.prepared.push_back(key);
  }
  if (!lane.traits.fixed_addresses) {
    slot.output_leases.front() = std::move(scratch.lease);  // until the costs are measured
  }
  return {};
}

Result<Duration> PlanState::time_run(LaneState& lane, BatchSlot& slot, ShapeKey key,
                                     std::int64_t items) {
  Duration best = Duration::max();
  for (int i = 0; i < 3; ++i) {
    fixed_io(slot, items);
    const TimePoint start = Clock::now();
    MILLRACE_TRY(lane.lane->enqueue(key, slot.io));
    MILLRACE_TRY(lane.lane->stream().synchronize());
    if (slot.status.failed()) return slot.status.error();
    best = std::min(best, Clock::now() - start);
  }
  return best;
}

// -------------------------------------------------------------------------------------------------
// staging

void PlanState::stage(BatchSlot& slot) {
  const Annotation batch(name_, ": batch ", slot.number, ", ", slot.items, " items, lane ",
                         slot.lane->index, ", slot ", slot.index);
  slot.status.reset();
  const StreamRef stream = slot.lane->lane->stream();
  if (Result<void> staged = try_stage(slot); !staged) slot.status.fail(std::move(staged).error());
  if (slot.run_count) {
    slot.staged = Clock::now();
    return;
  }
  // Even a batch that failed may have copies in the stream: it is over when the stream passes this.
  Result<void> marked = slot.sampled ? stream.record(slot.copied_out) : Result<void>();
  slot.staged = Clock::now();
  if (marked && asks_events_ && !slot.lane->thread && slot.piece_bytes >= kAskEventFromBytes) {
    // A driver that the event wakes asks whenever it is woken.
    slot.ask_every = device_.waits_for_events() ? Duration::zero() : kAskEventEvery;
    slot.ask_again = slot.staged;
    slot.soon_over = slot.staged + slot.estimate * 3 / 4;
    marked = stream.record(slot.done);
    slot.asks_event = marked.ok();
  } else if (marked) {
    marked = stream.signal(*slot.word, slot.expected, &device_.waker());
  }
  if (!marked) {
    slot.status.fail(std::move(marked).error());
    slot.word->store(slot.expected, std::memory_order_release);
    device_.waker().wake();
  }
}

Result<void> PlanState::try_stage(BatchSlot& slot) {
  const StreamRef stream = slot.lane->lane->stream();
  choose_run(slot);
  slot.bound_in_place = true;
  slot.run_is_last = false;
  slot.piece_bytes = 0;
  slot.leaves_device = false;
  if (slot.sampled) MILLRACE_TRY(stream.record(slot.started));
  {
    const Annotation phase("copy_in");
    for (std::size_t i = 0; i < slot.inputs.size(); ++i) MILLRACE_TRY(stage_input(slot, i, stream));
    MILLRACE_TRY(place_outputs(slot));
  }
  if (slot.sampled) MILLRACE_TRY(stream.record(slot.copied_in));
  const EventRef done = device_.waits_for_events() ? slot.done.ref() : EventRef();
  slot.io = BatchIo{slot.inputs, slot.outputs, {}, done, &slot.status, slot.index};
  {
    const Annotation phase("compute");
    MILLRACE_TRY(slot.lane->lane->enqueue(slot.key, slot.io));
  }
  // Counted whatever happens to the rest of the batch: the stream will.
  const std::atomic<std::uint64_t>* const run_count = slot.lane->lane->run_count(slot.key);
  if (run_count) slot.run_number = ++slot.lane->counted_runs;
  if (slot.sampled) MILLRACE_TRY(stream.record(slot.computed));
  const Annotation phase("copy_out");
  MILLRACE_TRY(scatter(slot, stream));
  // Of a sampled batch an event comes behind the run.
  if (slot.run_is_last && !slot.sampled) slot.run_count = run_count;
  return {};
}

std::size_t AddressHash::operator()(const AddressKey& key) const noexcept {
  auto hash = static_cast<std::uint64_t>(key.items);
  for (const void* address : key.addresses) {
    hash ^= reinterpret_cast<std::uintptr_t>(address);
    hash *= 0x9e3779b97f4a7c15U;  // splitmix64's increment, an odd number
    hash ^= hash >> 29;
  }
  return hash;
}

std::optional<AddressKey> PlanState::address_key(std::span<RequestState* const> requests) const {
  if (!runs_in_place_ || requests.size() != 1) return std::nullopt;
  const RequestState& only = *requests.front();
  const DeviceId here = device_.device()->id();
  AddressKey key;
  key.items = only.items;
  std::size_t next = 0;
  for (const NamedTensor& input : only.request.inputs) {
    if (input.view.device != here || !input.view.contiguous() || !aligned_for_plan(input.view)) {
      return std::nullopt;
    }
    key.addresses[next++] = input.view.data;
  }
  const std::size_t outputs = plan_info().outputs.size();
  for (std::size_t i = 0; i < outputs; ++i) {
    const TensorView* target = only_target(requests, i);
    if (!target) {  // then all outputs are the lane's
      std::fill_n(key.addresses.begin() + static_cast<std::ptrdiff_t>(next), i, nullptr);
      break;
    }
    key.addresses[next + i] = target->data;
  }
  return key;
}

void PlanState::count_search(bool found) noexcept {
  if (found) {
    searches_in_vain_ = 0;
  } else if (++searches_in_vain_ >= kMostSearchesInVain) {
    searches_in_vain_ = 0;
    searches_paused_ = kBatchesWithoutSearch;
  }
}

/// One request is asked about up to three times in a launch.
const PlanState::Lookup& PlanState::look_up(std::span<RequestState* const> requests) {
  static const Lookup nothing;
  if (!runs_in_place_ || requests.size() != 1) return nothing;
  if (lookup_.request == requests.front()) return lookup_;
  lookup_ = {requests.front(), address_key(requests), nullptr};
  if (lookup_.key) {
    const auto runs = in_place_.find(*lookup_.key);
    if (runs != in_place_.end()) lookup_.runs = &runs->second;
  }
  return lookup_;
}

bool PlanState::prepared_on(const LaneState& lane, const RequestState& request) {
  RequestState* const only = const_cast<RequestState*>(&request);
  const InPlaceRuns* const runs = look_up({&only, 1}).runs;
  return runs && runs->by_lane[static_cast<std::size_t>(lane.index)] != kEager;
}

LaneState* PlanState::lane_for(std::span<RequestState* const> requests, LaneState* fallback) {
  const InPlaceRuns* const runs = look_up(requests).runs;
  if (!runs || runs->by_lane[static_cast<std::size_t>(fallback->index)] != kEager) return fallback;
  LaneState* best = nullptr;
  for (const auto& lane : lanes) {
    const bool free = !lane->quarantined && !lane->terminating &&
                      lane->in_flight.size() < lane->slots.size() &&
                      runs->by_lane[static_cast<std::size_t>(lane->index)] != kEager;
    if (free && (!best || lane->in_flight.size() < best->in_flight.size())) best = lane.get();
  }
  return best ? best : fallback;
}

/// Takes a run that was prepared for the caller's own addresses; asks for one to be prepared when
/// they come again and again.
bool PlanState::choose_in_place(BatchSlot& slot) {
  slot.in_place_run = false;
  const Lookup& found = look_up(slot.requests);
  if (!found.key) return false;
  const AddressKey& key = *found.key;
  LaneState& lane = *slot.lane;
  InPlaceRuns& runs = found.runs ? *found.runs : in_place_[key];
  if (runs.by_lane.empty()) runs.by_lane.assign(lanes.size(), kEager);
  const ShapeKey known = runs.by_lane[static_cast<std::size_t>(lane.index)];
  if (known != kEager) {
    slot.key = known;
    slot.run_items = slot.items;
    slot.in_place_run = true;
    return true;
  }
  if (!runs.preparing && ++runs.misses >= misses_until_prepared(runs.by_lane) &&
      in_place_count_ < kMostInPlaceRuns) {
    runs.misses = 0;
    runs.preparing = true;
    ++in_place_count_;
    prepare_in_place(lane, key);
  }
  if (in_place_.size() > kMostAddresses) {  // forgets those that never came again
    std::erase_if(in_place_, [](const auto& entry) {
      const InPlaceRuns& other = entry.second;
      return !other.preparing && std::all_of(other.by_lane.begin(), other.by_lane.end(),
                                             [](ShapeKey shape) { return shape == kEager; });
    });
  }
  return false;
}

void PlanState::prepare_in_place(LaneState& lane, const AddressKey& key) {
  device_.loader().post([this, &lane, key] {
    const Result<ShapeKey> prepared = prepare_for(lane, key);
    if (!prepared) {
      log_warning("model \"", name_, "\", lane ", lane.index,
                  ": runs in place are not prepared: ", prepared.error().message);
    }
    device_.on_driver([&] {
      const auto at = in_place_.find(key);
      if (at == in_place_.end()) return;
      at->second.preparing = false;
      if (prepared) {
        at->second.by_lane[static_cast<std::size_t>(lane.index)] = *prepared;
      } else {
        --in_place_count_;
        at->second.misses = INT_MIN / 2;  // not again soon
      }
    });
  });
}

/// On the loader. What the run takes is reserved before it is made.
Result<ShapeKey> PlanState::prepare_for(LaneState& lane, const AddressKey& key) {
  const Annotation preparing("prepare ", name_, ", ", key.items, " items in place, lane ",
                             lane.index);
  const PlanInfo& info = plan_info();
  const DeviceId device = device_.device()->id();
  std::vector<TensorView> inputs;
  inputs.reserve(info.inputs.size());
  std::vector<OutputSlot> outputs(info.outputs.size());
  std::size_t next = 0;
  for (const TensorInfo& input : info.inputs) {
    inputs.push_back(block_view(input, key.addresses[next++], key.items, device));
  }
  const bool to_targets = key.addresses[next] != nullptr;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    void* data = to_targets ? key.addresses[next + i] : lane.scratch_outputs[i].data();
    outputs[i].view = block_view(info.outputs[i], data, key.items, device);
  }
  BatchStatus status;
  // First what a run with a context of its own takes; most share one.
  MILLRACE_TRY(reservation_.grow(prepared_bytes_));
  const std::size_t before = lane.lane->memory().total();
  Result<ShapeKey> prepared =
      lane.lane->prepare(BatchIo{inputs, outputs, {}, {}, &status, kNoSlot});
  const std::size_t taken = lane.lane->memory().total() - before;
  reservation_.shrink(prepared_bytes_ - std::min(prepared_bytes_, taken));
  return prepared;
}

std::optional<EagerReason> PlanState::why_eager(const BatchSlot& slot) {
  const LaneState& lane = *slot.lane;
  if (!lane.traits.wants_graphs) return std::nullopt;
  if (slot.key != kEager) {
    if (lane.lane->not_captured(slot.key).empty()) return std::nullopt;
    return EagerReason::not_captured;
  }
  if (!lane.run_costs.empty()) return EagerReason::cheaper;
  return lane.traits.enqueue_blocks ? EagerReason::blocking : EagerReason::unknown_shapes;
}

/// For people; empty where graphs run, or were not asked for.
std::string PlanState::why_no_graphs() const {
  for (const auto& lane : lanes) {
    if (!lane->traits.wants_graphs) return {};
    if (lane->run_costs.empty()) {
      return lane->traits.enqueue_blocks ? "the size of an output is known only after computing"
                                         : "shapes are known only with a request";
    }
    for (const auto& slot : lane->slots) {
      for (const ShapeKey key : slot->prepared) {
        if (const std::string_view why = lane->lane->not_captured(key); !why.empty()) {
          return std::string(why);
        }
      }
    }
  }
  return {};
}

/// One request that is on the device already, where runs take any address: padding would cost it a
/// copy.
bool PlanState::lies_here(const BatchSlot& slot) const {
  if (!apart_ || slot.lane->traits.fixed_addresses || slot.lane->traits.only_prepared ||
      slot.requests.size() != 1) {
    return false;
  }
  const DeviceId here = device_.device()->id();
  const auto& inputs = slot.requests.front()->request.inputs;
  return std::all_of(inputs.begin(), inputs.end(),
                     [here](const NamedTensor& input) { return input.view.device == here; });
}

void PlanState::choose_run(BatchSlot& slot) {
  if (!choose_in_place(slot)) choose_prepared(slot);
  slot.eager = why_eager(slot);
}

void PlanState::choose_prepared(BatchSlot& slot) {
  slot.key = kEager;
  slot.run_items = slot.items;
  const std::vector<RunCost>& costs = slot.lane->run_costs;
  const std::int64_t size = choose_run_size(slot.items, costs);
  if (size == 0 || (size != slot.items && lies_here(slot))) return;
  const auto cost = std::find_if(costs.begin(), costs.end(),
                                 [size](const RunCost& known) { return known.items == size; });
  slot.run_items = size;
  slot.key = slot.prepared[static_cast<std::size_t>(cost - costs.begin())];
}

bool PlanState::aligned_for_plan(const TensorView& view) const {
  const std::size_t unit =
      std::max<std::size_t>({size_of(view.type), plan_info().alignment, std::size_t{1}});
  return reinterpret_cast<std::uintptr_t>(view.data) % unit == 0;
}

bool PlanState::binds_in_place(const BatchSlot& slot, const TensorView& view) const {
  if (slot.requests.size() != 1 || slot.run_items != slot.items) return false;
  if (slot.in_place_run) return true;
  if (slot.key != kEager && slot.lane->traits.fixed_addresses) return false;
  const DeviceId here = device_.device()->id();
  const bool reachable = apart_ ? view.device == here : view.device.kind == DeviceKind::host;
  return reachable && view.contiguous() && aligned_for_plan(view) &&
         slot.requests.front()->late_inputs.empty();
}

Result<void> PlanState::stage_input(BatchSlot& slot, std::size_t input, StreamRef stream) {
  const TensorView& first = slot.requests.front()->request.inputs[input].view;
  if (plan_info().inputs[input].on_host) {  // of one request, and ready: see `submit`
    slot.inputs[input] = first;
    return {};
  }
  if (binds_in_place(slot, first)) {
    slot.inputs[input] = first;
    return {};
  }
  slot.bound_in_place = false;
  for (const RequestState* request : slot.requests) {
    MILLRACE_TRY(await_input(*request, input, stream));
  }
  if (first.type == DataType::bytes) return gather_bytes(slot, input, stream);

  const TensorInfo& info = plan_info().inputs[input];
  Shape shape = first.shape;
  if (info.batch_axis >= 0) shape[static_cast<std::size_t>(info.batch_axis)] = slot.run_items;
  MILLRACE_ASSIGN(const std::size_t bytes, byte_count(first.type, shape));
  void* block = slot.input_blocks[input].data();
  if (!block) {
    MILLRACE_ASSIGN(Block pooled, device_.pool().take(bytes));
    block = pooled.data;
    slot.input_leases[input] = std::move(pooled.lease);
  }
  auto* target = static_cast<std::byte*>(block);
  slot.pieces.clear();
  for (const RequestState* request : slot.requests) {
    const TensorView& source = request->request.inputs[input].view;
    MILLRACE_ASSIGN(const std::size_t part, source.bytes());
    if (source.device != device_.device()->id()) slot.leaves_device = true;
    if (gathers_from(source)) {
      append_pieces(source, target, slot.pieces);
    } else {
      MILLRACE_TRY(copy_from_afar(source, target, stream));
    }
    target += part;
  }
  slot.inputs[input] = TensorView::of(first.type, block, shape, device_.device()->id());
  return stream.gather(slot.pieces);
}

/// The stream's later work sees the input as it is to be.
Result<void> PlanState::await_input(const RequestState& request, std::size_t input,
                                    StreamRef stream) const {
  const TensorView& view = request.request.inputs[input].view;
  if (view.ready) MILLRACE_TRY(stream.wait(view.ready));
  for (const RequestState::LateInput& late : request.late_inputs) {
    if (late.input != input) continue;
    MILLRACE_TRY(
        stream.run([&late, target = view.data] { copy_to_contiguous(late.source, target); }));
  }
  return {};
}

/// Whether the device itself reads and writes memory on `other`.
bool PlanState::reached_by_device(DeviceId other) const {
  return other.is_host_memory() || device_.device()->reaches(other);
}

/// Whether a view is read by the one piece of work that gathers a batch. Dense memory of another
/// device is copied instead: it may come from a pool that only copies reach.
bool PlanState::gathers_from(const TensorView& view) const {
  if (view.device.is_host_memory() || view.device == device_.device()->id()) return true;
  return reached_by_device(view.device) && (!apart_ || !view.contiguous());
}

/// Devices that compute in host memory reach no GPU's.
Result<void> PlanState::check_reach(const TensorView& view) const {
  if (apart_ || reached_by_device(view.device)) return {};
  return Error{ErrorCode::unsupported,
               concat("model \"", name_, "\": a tensor lies on ", view.device, ", which ",
                      device_.device()->id(), " does not reach; bring it to the host first")};
}

/// A copy between devices. Where they have no direct access to each other, CUDA's driver takes the
/// way over the host.
Result<void> PlanState::copy_from_afar(const TensorView& source, void* target,
                                       StreamRef stream) const {
  MILLRACE_TRY(check_reach(source));
  if (!source.contiguous()) {
    return Error{ErrorCode::unsupported, concat("model \"", name_, "\" on ", device_.device()->id(),
                                                ": a tensor on ", source.device, " has strides ",
                                                source.strides, ", and ", device_.device()->id(),
                                                " has no direct access to that device; make it "
                                                "contiguous first")};
  }
  MILLRACE_ASSIGN(const std::size_t bytes, source.bytes());
  return stream.copy(target, source.data, bytes);
}

Result<void> PlanState::gather_bytes(BatchSlot& slot, std::size_t input, StreamRef stream) {
  const TensorInfo& info = plan_info().inputs[input];
  std::size_t block_bytes = 0;
  std::int64_t elements = 0;
  for (const RequestState* request : slot.requests) {
    const TensorView& view = request->request.inputs[input].view;
    MILLRACE_ASSIGN(const std::size_t bytes, view.bytes());
    MILLRACE_ASSIGN(const std::int64_t count, element_count(view.shape));
    block_bytes += bytes;
    elements += count;
  }
  // Padding repeats nothing: padded elements are empty strings.
  Shape shape = slot.requests.front()->request.inputs[input].view.shape;
  if (info.batch_axis >= 0) shape[static_cast<std::size_t>(info.batch_axis)] = slot.run_items;
  MILLRACE_ASSIGN(const std::int64_t all_elements, element_count(shape));
  const std::size_t offsets_bytes =
      (static_cast<std::size_t>(std::max(all_elements, elements)) + 1) * sizeof(std::uint64_t);
  MILLRACE_ASSIGN(Block pooled, device_.pool().take(offsets_bytes + block_bytes));
  auto* offsets = static_cast<std::uint64_t*>(pooled.data);
  auto* bytes = static_cast<std::byte*>(pooled.data) + offsets_bytes;
  slot.input_leases[input] = std::move(pooled.lease);
  TensorView& view = slot.inputs[input];
  view = TensorView::of(DataType::bytes, bytes, shape, device_.device()->id());
  view.offsets = offsets;
  return stream.run([&slot, input, offsets, bytes, all_elements] {
    std::uint64_t* next = offsets;
    std::uint64_t position = 0;
    for (const RequestState* request : slot.requests) {
      const TensorView& part = request->request.inputs[input].view;
      const auto count = static_cast<std::size_t>(element_count(part.shape).value());
      const std::uint64_t size = part.offsets[count] - part.offsets[0];
      if (size > 0) {
        std::memcpy(bytes + position, static_cast<const std::byte*>(part.data) + part.offsets[0],
                    size);
      }
      for (std::size_t i = 0; i < count; ++i) {
        *next++ = position + part.offsets[i] - part.offsets[0];
      }
      position += size;
    }
    while (next <= offsets + all_elements) *next++ = position;
  });
}

/// The caller's memory that can take the place of ours, of a request that is a batch by itself.
const TensorView* PlanState::sole_target(const RequestState& only, std::size_t output) const {
  for (std::size_t k = 0; k < only.wanted.size(); ++k) {
    const RequestedOutput& wanted = only.request.outputs[k];
    if (only.wanted[k] != output || wanted.placement != OutputPlacement::target) continue;
    const TensorView& target = wanted.target;
    const bool here =
        apart_ ? target.device == device_.device()->id() : target.device.kind == DeviceKind::host;
    if (target.ready || !here) continue;
    if (apart_ && !aligned_for_plan(target)) continue;
    return &target;
  }
  return nullptr;
}

/// The same, where the output is wanted nowhere else.
const TensorView* PlanState::only_target(std::span<RequestState* const> requests,
                                         std::size_t output) const {
  const auto [on_device, on_host] = wanted_where(requests, output);
  return on_device || on_host ? nullptr : sole_target(*requests.front(), output);
}

Result<void> PlanState::place_outputs(BatchSlot& slot) {
  if (apart_) return place_outputs_apart(slot);
  const auto& infos = plan_info().outputs;
  const DeviceId device = device_.device()->id();
  const bool fixed = slot.key != kEager && slot.lane->traits.fixed_addresses;
  std::size_t pooled_bytes = 0;
  const auto bytes_of = [&](std::size_t i) {
    return *item_bytes(infos[i]) * static_cast<std::size_t>(slot.run_items);
  };
  for (std::size_t i = 0; i < infos.size(); ++i) {
    slot.outputs[i].view = TensorView{};
    slot.outputs[i].view.type = infos[i].type;
    slot.outputs[i].view.device = device;
    slot.outputs[i].view.shape = shape_for(infos[i], slot.run_items);
    if (slot.outputs[i].allocate) continue;
    const bool sole = slot.requests.size() == 1 && slot.run_items == slot.items && !fixed;
    if (const TensorView* target = sole ? only_target(slot.requests, i) : nullptr) {
      slot.outputs[i].view.data = target->data;
      slot.results[i] = slot.outputs[i].view;
    } else {
      pooled_bytes += aligned(bytes_of(i));
    }
  }
  if (pooled_bytes == 0) return {};
  MILLRACE_ASSIGN(const Block pooled, device_.pool().take(pooled_bytes));
  auto* at = static_cast<std::byte*>(pooled.data);
  for (std::size_t i = 0; i < infos.size(); ++i) {
    OutputSlot& output = slot.outputs[i];
    if (output.allocate || output.view.data) continue;
    output.view.data = fixed ? slot.output_blocks[i].data() : at;
    slot.results[i] = output.view;
    slot.results[i].data = at;
    slot.output_leases[i] = pooled.lease;
    at += aligned(bytes_of(i));
  }
  return {};
}

/// Results go where they stay: on the device in blocks of the pool for those who keep them there,
/// else only to the slot's own block, and from there to pinned memory for those who want them on
/// the host.
Result<void> PlanState::place_outputs_apart(BatchSlot& slot) {
  const auto& infos = plan_info().outputs;
  const DeviceId device = device_.device()->id();
  const bool fixed = slot.key != kEager && slot.lane->traits.fixed_addresses;
  const bool sole = slot.requests.size() == 1 && slot.run_items == slot.items;
  // A run that was prepared for the caller's addresses writes to all of its targets or to none.
  bool to_targets = sole && (slot.in_place_run || !fixed);
  for (std::size_t i = 0; slot.in_place_run && i < infos.size(); ++i) {
    to_targets = to_targets && only_target(slot.requests, i) != nullptr;
  }
  for (std::size_t i = 0; i < infos.size(); ++i) {
    OutputSlot& output = slot.outputs[i];
    output.view =
        TensorView::of(infos[i].type, nullptr, shape_for(infos[i], slot.run_items), device);
    slot.results[i] = output.view;
    slot.host_results[i] = output.view;
    slot.host_results[i].device = DeviceId::host_memory();
    slot.computed_at[i] = nullptr;
    if (output.allocate) continue;
    output.view.data =
        slot.in_place_run ? slot.lane->scratch_outputs[i].data() : slot.output_blocks[i].data();
    if (const TensorView* target = to_targets ? only_target(slot.requests, i) : nullptr) {
      output.view.data = target->data;
      slot.results[i].data = target->data;
      slot.computed_at[i] = target->data;
      continue;
    }
    const auto [on_device, on_host] = wanted_where(slot.requests, i);
    const std::size_t bytes = *item_bytes(infos[i]) * static_cast<std::size_t>(slot.run_items);
    if (on_device) {
      MILLRACE_ASSIGN(Block kept, device_.pool().take(bytes));
      slot.results[i].data = kept.data;
      slot.output_leases[i] = std::move(kept.lease);
      if (!fixed) output.view.data = kept.data;
    }
    if (on_host) {
      MILLRACE_ASSIGN(Block copy, device_.pinned_pool().take(bytes));
      slot.host_results[i].data = copy.data;
      slot.host_leases[i] = std::move(copy.lease);
    }
    slot.computed_at[i] = output.view.data;
  }
  return {};
}

Result<void*> PlanState::allocate_late(BatchSlot& slot, std::size_t output, DataType type,
                                       const Shape& shape, std::size_t bytes_size) {
  MILLRACE_ASSIGN(std::size_t bytes, byte_count(type, shape));
  if (type == DataType::bytes) bytes += bytes_size;
  MILLRACE_ASSIGN(Block pooled, device_.pool().take(std::max<std::size_t>(bytes, 1)));
  slot.output_leases[output] = std::move(pooled.lease);
  return pooled.data;
}

Result<void> PlanState::scatter_apart(BatchSlot& slot, StreamRef stream) {
  slot.pieces.clear();
  slot.run_is_last = true;
  // The lane may already be writing to the views of outputs whose size was known before: they are
  // not looked at here. Where it was not, the lane has called `allocate` by now.
  const auto computed = [&](std::size_t i) {
    if (slot.outputs[i].allocate) return slot.outputs[i].view;
    TensorView view = slot.results[i];
    view.data = slot.computed_at[i];
    return view;
  };
  const auto add = [&slot](void* target, const void* source,
                           const TensorView& size) -> Result<void> {
    MILLRACE_ASSIGN(const std::size_t bytes, size.bytes());
    if (bytes > 0 && target != source) slot.pieces.push_back({target, source, bytes});
    return {};
  };
  for (std::size_t i = 0; i < slot.outputs.size(); ++i) {
    const TensorView from = computed(i);
    if (slot.outputs[i].allocate) {
      slot.results[i] = from;
      slot.host_results[i].shape = from.shape;
      if (!wanted_where(slot.requests, i).on_host) continue;
      MILLRACE_ASSIGN(const std::size_t bytes, from.bytes());
      MILLRACE_ASSIGN(Block copy, device_.pinned_pool().take(std::max<std::size_t>(bytes, 1)));
      slot.host_results[i].data = copy.data;
      slot.host_leases[i] = std::move(copy.lease);
    }
    if (slot.results[i].data) MILLRACE_TRY(add(slot.results[i].data, from.data, from));
    if (slot.host_results[i].data) {
      slot.leaves_device = true;
      MILLRACE_TRY(add(slot.host_results[i].data, from.data, from));
    }
  }
  bool pageable = false;
  std::int64_t first = 0;
  for (const RequestState* request : slot.requests) {
    for (std::size_t k = 0; k < request->wanted.size(); ++k) {
      const RequestedOutput& wanted = request->request.outputs[k];
      if (wanted.placement != OutputPlacement::target) continue;
      if (request->pageable_target(k)) {
        pageable = true;
        slot.run_is_last = false;
        if (wanted.target.ready) MILLRACE_TRY(stream.wait(wanted.target.ready));
        continue;
      }
      const std::size_t i = request->wanted[k];
      const TensorView from = computed(i);
      if (from.data == wanted.target.data) continue;
      const TensorView part =
          plan_info().outputs[i].batch_axis == 0 ? slice(from, first, request->items) : from;
      MILLRACE_TRY(check_room(i, part, wanted.target));
      slot.run_is_last = false;
      if (wanted.target.device != device_.device()->id()) slot.leaves_device = true;
      if (wanted.target.ready) MILLRACE_TRY(stream.wait(wanted.target.ready));
      if (gathers_from(wanted.target)) {
        MILLRACE_TRY(add(wanted.target.data, part.data, part));
      } else {
        MILLRACE_TRY(copy_from_afar(part, wanted.target.data, stream));
      }
    }
    first += request->items;
  }
  if (!slot.pieces.empty()) {
    slot.run_is_last = false;
    for (const CopyPiece& piece : slot.pieces) slot.piece_bytes += piece.bytes * piece.rows;
    MILLRACE_TRY(stream.gather(slot.pieces));
  }
  if (!pageable) return {};
  return stream.run([this, &slot] { copy_pageable_targets(slot); });
}

/// The device writes to pinned memory only; from there on a thread of the stream.
void PlanState::copy_pageable_targets(BatchSlot& slot) const {
  if (slot.status.failed()) return;
  std::int64_t first = 0;
  for (const RequestState* request : slot.requests) {
    for (std::size_t k = 0; k < request->wanted.size(); ++k) {
      if (!request->pageable_target(k)) continue;
      const std::size_t i = request->wanted[k];
      const TensorView& target = request->request.outputs[k].target;
      TensorView part = slot.host_results[i];
      if (plan_info().outputs[i].batch_axis == 0) part = slice(part, first, request->items);
      if (Result<void> room = check_room(i, part, target); !room) {
        slot.status.fail(std::move(room).error());
        return;
      }
      const std::size_t bytes = part.bytes().value();
      if (bytes > 0) std::memcpy(target.data, part.data, bytes);
    }
    first += request->items;
  }
}

Result<void> PlanState::check_room(std::size_t output, const TensorView& part,
                                   const TensorView& target) const {
  MILLRACE_ASSIGN(const std::size_t bytes, part.bytes());
  MILLRACE_ASSIGN(const std::size_t room, target.bytes());
  if (bytes <= room) return {};
  return Error{ErrorCode::invalid_argument,
               concat("output \"", plan_info().outputs[output].name, "\" came out as ", part.shape,
                      ", ", bytes, " bytes; its target has room for ", room)};
}

Result<void> PlanState::scatter(BatchSlot& slot, StreamRef stream) {
  if (apart_) return scatter_apart(slot, stream);
  slot.pieces.clear();
  bool late_targets = false;
  // The lane may already be writing to the views of slot.outputs: they are not looked at here.
  const bool fixed = slot.key != kEager && slot.lane->traits.fixed_addresses;
  for (std::size_t i = 0; fixed && i < slot.outputs.size(); ++i) {
    if (slot.outputs[i].allocate) continue;
    MILLRACE_ASSIGN(const std::size_t bytes, slot.results[i].bytes());
    slot.pieces.push_back({slot.results[i].data, slot.output_blocks[i].data(), bytes});
  }
  std::int64_t first = 0;
  for (const RequestState* request : slot.requests) {
    for (std::size_t k = 0; k < request->wanted.size(); ++k) {
      const RequestedOutput& wanted = request->request.outputs[k];
      if (wanted.placement != OutputPlacement::target) continue;
      const std::size_t i = request->wanted[k];
      if (slot.outputs[i].allocate) {
        late_targets = true;
        if (wanted.target.ready) MILLRACE_TRY(stream.wait(wanted.target.ready));
        continue;
      }
      TensorView computed = slot.results[i];
      if (fixed) computed.data = slot.output_blocks[i].data();
      if (computed.data == wanted.target.data) continue;
      const TensorView part = plan_info().outputs[i].batch_axis == 0
                                  ? slice(computed, first, request->items)
                                  : computed;
      MILLRACE_ASSIGN(const std::size_t bytes, part.bytes());
      MILLRACE_TRY(check_reach(wanted.target));
      if (wanted.target.ready) MILLRACE_TRY(stream.wait(wanted.target.ready));
      slot.pieces.push_back({wanted.target.data, part.data, bytes});
    }
    first += request->items;
  }
  if (!slot.pieces.empty()) MILLRACE_TRY(stream.gather(slot.pieces));
  if (!late_targets) return {};
  return stream.run([this, &slot] { copy_late_targets(slot); });
}

void PlanState::copy_late_targets(BatchSlot& slot) {
  if (slot.status.failed()) return;
  std::int64_t first = 0;
  for (const RequestState* request : slot.requests) {
    for (std::size_t k = 0; k < request->wanted.size(); ++k) {
      const RequestedOutput& wanted = request->request.outputs[k];
      const std::size_t i = request->wanted[k];
      if (wanted.placement != OutputPlacement::target || !slot.outputs[i].allocate) continue;
      TensorView part = slot.outputs[i].view;
      if (plan_info().outputs[i].batch_axis == 0) part = slice(part, first, request->items);
      if (Result<void> room = check_room(i, part, wanted.target); !room) {
        slot.status.fail(std::move(room).error());
        return;
      }
      const std::size_t bytes = part.bytes().value();
      if (bytes > 0) std::memcpy(wanted.target.data, part.data, bytes);
    }
    first += request->items;
  }
}

ModelInfo::Placement PlanState::placement() const {
  ModelInfo::Placement placement;
  const Footprint footprint = plan_->footprint();
  placement.device = device_.device()->id();
  placement.lanes = static_cast<int>(lanes.size());
  placement.slots = config_.slots;
  placement.lanes_share_weights = plan_info().lanes_share_weights;
  placement.weights_bytes = footprint.weights_bytes;
  // The first lane also takes what all need but once: kernels.
  LaneMemory memory = lanes.front()->lane->memory();
  if (const std::size_t others = lanes.size() - 1; others > 0) {
    memory = {};
    for (std::size_t i = 1; i < lanes.size(); ++i) memory += lanes[i]->lane->memory();
    memory /= others;
  }
  if (memory.total() == 0) memory.context_bytes = footprint.lane_bytes;
  placement.lane_bytes = memory.total();
  placement.context_bytes = memory.context_bytes;
  placement.activation_bytes = memory.activation_bytes;
  placement.graph_bytes = memory.graph_bytes;
  placement.shared_bytes = footprint.shared_bytes;
  placement.slot_bytes = slot_bytes() * static_cast<std::size_t>(config_.slots) + scratch_bytes();
  placement.not_graphs = why_no_graphs();
  placement.prepared_shapes = static_cast<int>(lanes.front()->run_costs.size());
  placement.enqueue_blocks = lanes.front()->traits.enqueue_blocks;
  return placement;
}

}  // namespace millrace
