#include "repository/model_repository.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <system_error>
#include <thread>
#include <unordered_map>

#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "base/try.h"
#include "repository/model_files.h"
#include "repository/model_loader.h"
#include "repository/retirer.h"
#include "repository/returning.h"

namespace millrace {
namespace {

using ServedPtr = std::shared_ptr<const ServedModel>;

struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept {
    return std::hash<std::string_view>()(text);
  }
};

/// When a model was asked for last: nanoseconds of the host's clock.
using LastUse = std::atomic<std::int64_t>;
constexpr std::int64_t kUseGrain = 10'000'000;  // written no more often than that
constexpr auto kRetryAfter =
    std::chrono::seconds(1);  // of an evicted model that does not come back
constexpr auto kUnloadPatience = std::chrono::seconds(30);  // with an evicted one's last requests
constexpr auto kLookForVictims = std::chrono::milliseconds(1);
constexpr std::string_view kGone = "gone";
constexpr std::string_view kEvicted =
    "evicted while memory was short; it is loaded again when a request names it";

std::int64_t now_ns() { return Clock::now().time_since_epoch().count(); }

/// What `find` looks at: it holds no model, so that an old one kept by an idle thread keeps nothing
/// loaded.
struct Snapshot {
  struct Version {
    std::string version;
    std::weak_ptr<const ServedModel> served;
    std::shared_ptr<LastUse> used;
  };
  struct Known {
    std::vector<Version> ready;  // ascending
    /// Of what is ready or was evicted, ascending.
    std::vector<std::shared_ptr<const ModelDescription>> described;
    std::vector<std::pair<std::string, std::string>> not_ready;  // version and reason
    std::string reason;                                          // where there is no version at all
    bool evicted = false;    // it comes back when it is asked for
    TimePoint not_before{};  // but not before then
  };
  std::unordered_map<std::string, Known, TextHash, std::equal_to<>> models;
};

}  // namespace

/// A thread takes one model's turn at a time, and `mutex_` within it.
class ModelRepository::State {
 public:
  State(Engine& engine, RepositoryOptions options)
      : engine_(engine), options_(std::move(options)), retirer_(engine), id_(next_id()) {}

  Result<void> open();
  Result<ServedPtr> find(std::string_view name, std::string_view version);
  Result<ServedPtr> find_now(std::string_view name, std::string_view version);
  std::uint64_t find_later(std::string_view name, std::string_view version,
                           std::optional<TimePoint> deadline, FoundCallback then);
  bool give_up(std::uint64_t waiting) { return returning_.give_up(waiting); }
  Result<ModelDescription> describe(std::string_view name, std::string_view version);
  std::vector<ServedPtr> served(std::string_view name) const;
  std::vector<RepositoryEntry> index();
  Result<void> load(std::string_view name, const LoadParameters& parameters);
  Result<void> unload(std::string_view name, bool unload_dependents);
  bool ready() const;
  void poll();

 private:
  struct Version {
    std::string engine_name;
    std::shared_ptr<LastUse> used = std::make_shared<LastUse>(now_ns());
    ServedPtr served;                                     // null: not ready
    std::shared_ptr<const ModelDescription> description;  // null: it was never ready
    std::string fingerprint;
    std::string reason;  // why it is not ready, or why its successor is not
    bool loading = false;
  };
  struct Record {
    explicit Record(ModelPlace found) : name(found.name), place(std::move(found)) {}
    const std::string name;
    std::mutex turn;  // one load or unload of a model at a time
    // Guarded by mutex_:
    ModelPlace place;
    std::map<std::int64_t, Version> versions;
    std::vector<std::string> parts;  // models that the ensemble uses
    std::string reason;              // of a model without versions
    bool wanted = false;             // should be served
    bool evictable = false;
    bool evicted = false;
    TimePoint not_before{};  // of another try to bring back what was evicted
    int busy = 0;            // loads that go on, or wait for their turn
    // Guarded by poll_turn_:
    std::string seen;         // the fingerprint at the last look
    std::string applied;      // that of the last load, whatever came of it
    bool for_others = false;  // loaded because an ensemble needs it
  };
  using RecordPtr = std::shared_ptr<Record>;

  static std::uint64_t next_id() {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
  }
  Result<std::vector<ModelPlace>> look() const;
  RecordPtr record(std::string_view name) const;
  Result<RecordPtr> known_record(std::string_view name);
  Error not_there(std::string_view name) const;
  Result<void> add_places();
  Result<void> bring(const RecordPtr& record, const LoadParameters& parameters,
                     std::vector<std::string>& above);
  Result<void> bring_in_turn(const RecordPtr& record, const LoadParameters& parameters,
                             std::vector<std::string>& missing);
  Result<void> bring_parts(const std::string& name, const std::vector<std::string>& parts,
                           std::vector<std::string>& above);
  Result<void> load_all(const RecordPtr& record, const ModelPlan& plan,
                        std::map<std::int64_t, Version>& fresh, std::vector<std::string>& missing);
  Result<std::vector<EnsembleStep>> resolve(const ModelPlan& plan, std::vector<ServedPtr>& held,
                                            std::vector<std::string>& missing);
  Result<Version> load_one(const ModelPlan& plan, std::int64_t version,
                           const std::vector<EnsembleStep>& steps, std::vector<ServedPtr> parts);
  void rebuild_dependents(const std::string& name, std::vector<std::string>& above);
  void note_failure(const RecordPtr& record, const Error& error);
  std::string engine_name_of(const std::string& name, std::int64_t version);
  void publish();
  const Snapshot& snapshot();
  Result<ServedPtr> look_up(const Snapshot& snapshot, std::string_view name,
                            std::string_view version) const;
  Result<void> unload_one(const RecordPtr& record, std::string_view reason);
  Result<void> bring_back(const RecordPtr& record);
  bool evict_one(const ModelPlan& plan);
  struct Victim {
    RecordPtr record;       // null: none now
    bool may_come = false;  // when some are not in use any more
  };
  Victim choose_victim(const ModelPlan& plan) const;
  bool part_of_another(const std::string& name) const;
  std::vector<std::string> evict(Record& record, std::vector<ServedPtr>& old);
  void poll_one(const std::string& name, const RecordPtr& record, const std::string& print);

  Engine& engine_;
  const RepositoryOptions options_;
  Retirer retirer_;
  const std::uint64_t id_;  // tells repositories apart in a thread's copy of the snapshot

  mutable std::mutex mutex_;
  // Guarded by mutex_:
  std::map<std::string, RecordPtr, std::less<>> records_;
  std::map<std::string, std::uint64_t> incarnations_;
  std::shared_ptr<const Snapshot> snapshot_ = std::make_shared<const Snapshot>();

  std::atomic<std::uint64_t> generation_{1};  // of snapshot_; written with mutex_ held

  std::mutex poll_turn_;                      // before any other
  std::condition_variable_any stop_polling_;  // never told: its wait ends with the thread
  std::jthread poller_;

  // Last, so that it ends first.
  Returning returning_{
      [this](const std::string& name, const std::string& version) { return find(name, version); },
      [this](const std::string& name, const std::string& version) {
        return find_now(name, version);
      }};
};

// ------------------------------------------------------------------------------------ finding

/// Every thread keeps the snapshot it used last, and looks whether there is a newer one by reading
/// one word.
const Snapshot& ModelRepository::State::snapshot() {
  struct Kept {
    std::uint64_t repository = 0;
    std::uint64_t generation = 0;
    std::shared_ptr<const Snapshot> snapshot;
  };
  thread_local Kept kept;
  const std::uint64_t now = generation_.load(std::memory_order_acquire);
  if (kept.repository != id_ || kept.generation != now) {
    std::lock_guard lock(mutex_);
    kept = {id_, generation_.load(std::memory_order_relaxed), snapshot_};
  }
  return *kept.snapshot;
}

Result<ServedPtr> ModelRepository::State::look_up(const Snapshot& snapshot, std::string_view name,
                                                  std::string_view version) const {
  const auto at = snapshot.models.find(name);
  if (at == snapshot.models.end()) {
    return Error{ErrorCode::not_found, concat("there is no model ", quote(name))};
  }
  const Snapshot::Known& known = at->second;
  for (auto candidate = known.ready.rbegin(); candidate != known.ready.rend(); ++candidate) {
    if (!version.empty() && candidate->version != version) continue;
    if (options_.eviction.enabled) {
      const std::int64_t now = now_ns();
      LastUse& used = *candidate->used;
      if (now - used.load(std::memory_order_relaxed) > kUseGrain)
        used.store(now, std::memory_order_relaxed);
    }
    return ServedPtr(candidate->served.lock());
  }
  for (const auto& [number, reason] : known.not_ready) {
    if (!version.empty() && number != version) continue;
    return Error{ErrorCode::unavailable,
                 concat("model ", quote(name), ", version ", number, ", is not ready: ", reason)};
  }
  if (known.ready.empty()) {
    return Error{ErrorCode::unavailable,
                 concat("model ", quote(name), " is not ready: ", known.reason)};
  }
  std::vector<std::string_view> ready;
  ready.reserve(known.ready.size());
  for (const Snapshot::Version& candidate : known.ready) ready.push_back(candidate.version);
  return Error{ErrorCode::not_found, concat("model ", quote(name), " has no version ",
                                            quote(version), "; ready are ", join(ready, ", "))};
}

Result<ServedPtr> ModelRepository::State::find_now(std::string_view name,
                                                   std::string_view version) {
  // A version that went while an old snapshot was looked at is not in the new one.
  while (true) {
    const Snapshot& now = snapshot();
    Result<ServedPtr> found = look_up(now, name, version);
    if (found && *found) return found;
    if (found) continue;
    const auto at = now.models.find(name);
    const bool evicted = at != now.models.end() && at->second.evicted;
    if (!evicted || Clock::now() < at->second.not_before) return found;
    return ServedPtr();
  }
}

Result<ServedPtr> ModelRepository::State::find(std::string_view name, std::string_view version) {
  while (true) {
    Result<ServedPtr> found = find_now(name, version);
    if (!found || *found) return found;
    if (RecordPtr evicted = record(name)) MILLRACE_TRY(bring_back(evicted));
  }
}

std::uint64_t ModelRepository::State::find_later(std::string_view name, std::string_view version,
                                                 std::optional<TimePoint> deadline,
                                                 FoundCallback then) {
  return returning_.wait(std::string(name), std::string(version), deadline, std::move(then));
}

Result<ModelDescription> ModelRepository::State::describe(std::string_view name,
                                                          std::string_view version) {
  while (true) {
    const Result<ServedPtr> found = find_now(name, version);
    if (!found) return found.error();
    const auto at = snapshot().models.find(name);
    if (at == snapshot().models.end()) continue;  // it went meanwhile
    const auto& described = at->second.described;
    const auto last = std::find_if(
        described.rbegin(), described.rend(),
        [&version](const auto& one) { return version.empty() || one->version == version; });
    if (last == described.rend()) {
      if (*found) continue;
      return Error{ErrorCode::not_found,
                   concat("model ", quote(name), " has no version ", quote(version))};
    }
    ModelDescription out = **last;
    for (const auto& one : described) out.versions.push_back(one->version);
    return out;
  }
}

/// With mutex_ held, after every change of what `find` may answer.
void ModelRepository::State::publish() {
  auto next = std::make_shared<Snapshot>();
  for (const auto& [name, record] : records_) {
    Snapshot::Known& known = next->models[name];
    known.evicted = record->evicted;
    known.not_before = record->not_before;
    known.reason = record->reason.empty() ? "it was not loaded" : record->reason;
    for (const auto& [number, version] : record->versions) {
      if (version.served) {
        known.ready.push_back({std::to_string(number), version.served, version.used});
      } else {
        known.not_ready.emplace_back(std::to_string(number),
                                     version.loading ? "it is being loaded" : version.reason);
      }
      const bool back_on_demand = record->evicted && version.description;
      if (version.served || back_on_demand) known.described.push_back(version.description);
    }
  }
  snapshot_ = std::move(next);
  generation_.fetch_add(1, std::memory_order_release);
}

std::vector<ServedPtr> ModelRepository::State::served(std::string_view name) const {
  std::lock_guard lock(mutex_);
  std::vector<ServedPtr> out;
  for (const auto& [own, record] : records_) {
    if (!name.empty() && own != name) continue;
    for (const auto& [number, version] : record->versions) {
      if (version.served) out.push_back(version.served);
    }
  }
  return out;
}

std::vector<RepositoryEntry> ModelRepository::State::index() {
  if (const Result<void> looked = add_places(); !looked) log_warning(looked.error().message);
  std::lock_guard lock(mutex_);
  std::vector<RepositoryEntry> out;
  for (const auto& [name, record] : records_) {
    if (record->versions.empty()) {
      const bool tried = !record->reason.empty();
      out.push_back({name, "", tried ? "UNAVAILABLE" : "", record->reason});
    }
    for (const auto& [number, version] : record->versions) {
      RepositoryEntry& entry = out.emplace_back();
      entry.name = name;
      entry.version = std::to_string(number);
      entry.reason = version.reason;
      const bool leaving = !version.served && !retirer_.gone(version.engine_name);
      entry.state = version.served    ? "READY"
                    : version.loading ? "LOADING"
                    : leaving         ? "UNLOADING"
                                      : "UNAVAILABLE";
    }
  }
  return out;
}

bool ModelRepository::State::ready() const {
  std::lock_guard lock(mutex_);
  return std::all_of(records_.begin(), records_.end(), [](const auto& entry) {
    const Record& record = *entry.second;
    if (!record.wanted || record.evicted) return true;
    return !record.versions.empty() &&
           std::all_of(record.versions.begin(), record.versions.end(),
                       [](const auto& version) { return version.second.served != nullptr; });
  });
}

// ------------------------------------------------------------------------------------ records

Result<std::vector<ModelPlace>> ModelRepository::State::look() const {
  std::vector<ModelPlace> out;
  for (const std::string& folder : options_.folders) {
    MILLRACE_ASSIGN(const std::vector<ModelPlace> found, find_models(folder));
    for (const ModelPlace& place : found) {
      const auto same = std::find_if(out.begin(), out.end(), [&place](const ModelPlace& other) {
        return other.name == place.name;
      });
      if (same != out.end()) {
        return Error{ErrorCode::invalid_argument,
                     concat("two models are called ", quote(place.name), ": ", same->path, " and ",
                            place.path, "; rename or remove one")};
      }
      out.push_back(place);
    }
  }
  return out;
}

/// Takes note of models that came since, or lie elsewhere.
Result<void> ModelRepository::State::add_places() {
  MILLRACE_ASSIGN(const std::vector<ModelPlace> places, look());
  std::lock_guard lock(mutex_);
  bool changed = false;
  for (const ModelPlace& place : places) {
    RecordPtr& record = records_[place.name];
    if (record) {
      record->place = place;
      continue;
    }
    record = std::make_shared<Record>(place);
    changed = true;
  }
  if (changed) publish();
  return {};
}

ModelRepository::State::RecordPtr ModelRepository::State::record(std::string_view name) const {
  std::lock_guard lock(mutex_);
  const auto at = records_.find(name);
  return at == records_.end() ? nullptr : at->second;
}

/// Looks into the folders again for one that is not known yet.
Result<ModelRepository::State::RecordPtr> ModelRepository::State::known_record(
    std::string_view name) {
  if (RecordPtr known = record(name)) return known;
  MILLRACE_TRY(add_places());
  if (RecordPtr known = record(name)) return known;
  return not_there(name);
}

Error ModelRepository::State::not_there(std::string_view name) const {
  return {ErrorCode::not_found,
          concat("there is no model ", quote(name), " in ", join(options_.folders, ", "))};
}

/// Names are never used twice, so that a version and its successor live side by side.
std::string ModelRepository::State::engine_name_of(const std::string& name, std::int64_t version) {
  std::string plain = concat(name, "/", version);
  std::lock_guard lock(mutex_);
  const std::uint64_t count = ++incarnations_[plain];
  return count == 1 ? plain : concat(plain, "#", count);
}

// ------------------------------------------------------------------------------------ loading

/// `above` are the models that this one is loaded for, which it must not need itself.
Result<void> ModelRepository::State::bring(const RecordPtr& record,
                                           const LoadParameters& parameters,
                                           std::vector<std::string>& above) {
  struct Busy {
    State& state;
    Record& record;
    Busy(State& in, Record& of) : state(in), record(of) { add(1); }
    Busy(const Busy&) = delete;
    ~Busy() { add(-1); }
    void add(int by) const {
      std::lock_guard lock(state.mutex_);
      record.busy += by;
    }
  };
  const Busy busy(*this, *record);
  Result<void> brought;
  while (true) {
    std::vector<std::string> missing;  // what an ensemble needs first
    {
      std::lock_guard turn(record->turn);
      brought = bring_in_turn(record, parameters, missing);
      if (!brought && missing.empty()) note_failure(record, brought.error());
    }
    if (missing.empty()) break;
    // Not within this model's turn: turns are never taken one within another.
    brought = bring_parts(record->name, missing, above);
    if (brought) continue;
    std::lock_guard turn(record->turn);
    note_failure(record, brought.error());
    break;
  }
  if (brought) rebuild_dependents(record->name, above);
  return brought;
}

Result<void> ModelRepository::State::bring_parts(const std::string& name,
                                                 const std::vector<std::string>& parts,
                                                 std::vector<std::string>& above) {
  above.push_back(name);
  for (const std::string& part : parts) {
    if (std::find(above.begin(), above.end(), part) != above.end()) {
      return Error{ErrorCode::invalid_argument,
                   concat("ensemble ", quote(name), " would need itself: ", join(above, " needs "),
                          " needs ", part)};
    }
    MILLRACE_ASSIGN(const RecordPtr needed, known_record(part));
    Result<void> brought = bring(needed, {}, above);
    if (!brought) {
      brought.error().message =
          concat("ensemble ", quote(name), " needs ", quote(part), ": ", brought.error().message);
      return brought;
    }
    std::lock_guard lock(mutex_);
    needed->for_others = true;
  }
  above.pop_back();
  return {};
}

void ModelRepository::State::note_failure(const RecordPtr& record, const Error& error) {
  log_warning("model ", quote(record->name), " was not loaded: ", error.message);
  std::lock_guard lock(mutex_);
  record->reason = error.message;
  for (auto& [number, version] : record->versions) {
    version.loading = false;
    version.reason = error.message;
  }
  publish();
}

Result<void> ModelRepository::State::bring_in_turn(const RecordPtr& record,
                                                   const LoadParameters& parameters,
                                                   std::vector<std::string>& missing) {
  ModelPlace place;
  {
    std::lock_guard lock(mutex_);
    record->wanted = true;
    place = record->place;
  }
  MILLRACE_ASSIGN(const ModelPlan plan, plan_model(place, parameters, engine_));
  {
    std::lock_guard lock(mutex_);
    record->parts.clear();
    for (const EnsemblePart& part : plan.mapping.parts) record->parts.push_back(part.model);
  }
  std::map<std::int64_t, Version> fresh;
  MILLRACE_TRY(load_all(record, plan, fresh, missing));
  std::map<std::int64_t, Version> old;  // let go outside of the lock
  std::lock_guard lock(mutex_);
  record->reason.clear();
  record->evicted = false;
  record->evictable = plan.mapping.evictable && parameters.config.empty() &&
                      parameters.files.empty() && plan.mapping.parts.empty();
  old.swap(record->versions);
  record->versions = std::move(fresh);
  // What is not chosen any more stays listed, as unavailable.
  for (auto& [number, version] : old) {
    if (record->versions.contains(number)) continue;
    Version& gone = record->versions[number];
    gone.engine_name = version.engine_name;
    gone.reason = "unloaded: the version policy does not choose it";
  }
  publish();
  return {};
}

/// All versions or none: those that did not change stay as they are.
Result<void> ModelRepository::State::load_all(const RecordPtr& record, const ModelPlan& plan,
                                              std::map<std::int64_t, Version>& fresh,
                                              std::vector<std::string>& missing) {
  std::vector<ServedPtr> parts;
  std::vector<EnsembleStep> steps;
  if (!plan.mapping.parts.empty()) {
    MILLRACE_ASSIGN(steps, resolve(plan, parts, missing));
  }
  std::string ties;  // an ensemble is new when what it consists of is
  for (const EnsembleStep& step : steps) ties += concat("\n", step.model);
  for (const std::int64_t number : plan.versions) {
    const std::string print = fingerprint(plan, number) + ties;
    {
      std::lock_guard lock(mutex_);
      const auto at = record->versions.find(number);
      if (at != record->versions.end() && at->second.served && at->second.fingerprint == print) {
        fresh[number] = at->second;
        fresh[number].reason.clear();
        continue;
      }
      if (at == record->versions.end() || !at->second.served) {
        record->versions[number].loading = true;
        publish();
      }
    }
    MILLRACE_ASSIGN(fresh[number], load_one(plan, number, steps, parts));
    fresh[number].fingerprint = print;
  }
  return {};
}

Result<ModelRepository::State::Version> ModelRepository::State::load_one(
    const ModelPlan& plan, std::int64_t number, const std::vector<EnsembleStep>& steps,
    std::vector<ServedPtr> parts) {
  Version out;
  out.engine_name = engine_name_of(plan.name, number);
  for (const std::string& hint : plan.mapping.hints) log_warning(hint);
  Result<EngineModel> tried = load_version(engine_, plan, number, out.engine_name, steps);
  while (!tried && tried.error().code == ErrorCode::out_of_memory && evict_one(plan)) {
    tried = load_version(engine_, plan, number, out.engine_name, steps);
  }
  MILLRACE_ASSIGN(EngineModel loaded, std::move(tried));
  out.description = std::make_shared<const ModelDescription>(
      ModelDescription{plan.name,
                       loaded.served.version,
                       {},
                       loaded.served.config,
                       loaded.served.model.info().inputs,
                       loaded.served.model.info().outputs});
  out.served = retirer_.adopt(std::move(loaded.served), out.engine_name, std::move(parts));
  return out;
}

/// The model idle the longest, of those that may go and whose going helps. With mutex_ held.
ModelRepository::State::Victim ModelRepository::State::choose_victim(const ModelPlan& plan) const {
  const auto on_its_devices = [&plan](const Version& version) {
    const std::vector<DeviceId>& devices = plan.mapping.engine.devices;
    const auto& placements = version.served->model.info().placements;
    return devices.empty() ||
           std::any_of(placements.begin(), placements.end(), [&](const auto& placement) {
             return std::find(devices.begin(), devices.end(), placement.device) != devices.end();
           });
  };
  Victim best;
  std::int64_t oldest = now_ns() - std::chrono::nanoseconds(options_.eviction.idle_for).count();
  for (const auto& [name, record] : records_) {
    if (name == plan.name || !record->evictable) continue;
    std::int64_t used = 0;
    bool helps = false;
    bool held = record->busy > 0;
    for (const auto& [number, version] : record->versions) {
      if (!version.served) continue;
      used = std::max(used, version.used->load(std::memory_order_relaxed));
      helps = helps || on_its_devices(version);
      held = held || version.served.use_count() > 1;
    }
    best.may_come = best.may_come || (held && !part_of_another(name));
    if (!helps || held || used > oldest) continue;
    best.record = record;
    oldest = used;
  }
  return best;
}

/// Whether an ensemble keeps it. With mutex_ held.
bool ModelRepository::State::part_of_another(const std::string& name) const {
  return std::any_of(records_.begin(), records_.end(), [&name](const auto& entry) {
    const std::vector<std::string>& parts = entry.second->parts;
    return std::find(parts.begin(), parts.end(), name) != parts.end();
  });
}

/// Whether there is memory now that was not there before.
bool ModelRepository::State::evict_one(const ModelPlan& plan) {
  if (!options_.eviction.enabled) return false;
  const TimePoint patience = Clock::now() + options_.eviction.patience;
  std::vector<std::string> gone;
  while (true) {
    std::vector<ServedPtr> old;  // let go outside of the lock
    std::unique_lock lock(mutex_);
    const Victim victim = choose_victim(plan);
    if (victim.record) {
      log_info("model ", quote(victim.record->name), " gives way to ", quote(plan.name));
      gone = evict(*victim.record, old);
      break;
    }
    lock.unlock();
    if (!victim.may_come || Clock::now() >= patience) return false;
    std::this_thread::sleep_for(kLookForVictims);
  }
  const TimePoint until = Clock::now() + kUnloadPatience;
  return std::all_of(gone.begin(), gone.end(),
                     [&](const std::string& name) { return retirer_.wait_gone(name, until); });
}

/// The engine's names of what goes, which `old` holds to the last. With mutex_ held.
std::vector<std::string> ModelRepository::State::evict(Record& record,
                                                       std::vector<ServedPtr>& old) {
  std::vector<std::string> gone;
  record.evicted = true;
  record.not_before = {};
  for (auto& [number, version] : record.versions) {
    if (!version.served) continue;
    gone.push_back(version.engine_name);
    old.push_back(std::move(version.served));
    version.served = nullptr;
    version.reason = kEvicted;
  }
  publish();
  return gone;
}

Result<void> ModelRepository::State::bring_back(const RecordPtr& record) {
  std::vector<std::string> above;
  Result<void> brought = bring(record, {}, above);
  if (brought) return brought;
  std::lock_guard lock(mutex_);
  record->not_before = Clock::now() + kRetryAfter;
  publish();
  return Error{ErrorCode::unavailable, brought.error().message};
}

/// An ensemble's steps with the engine's names of the models that are ready now, each held. What is
/// not ready is `missing`.
Result<std::vector<EnsembleStep>> ModelRepository::State::resolve(
    const ModelPlan& plan, std::vector<ServedPtr>& held, std::vector<std::string>& missing) {
  std::vector<EnsembleStep> steps;
  std::lock_guard lock(mutex_);
  for (const EnsemblePart& part : plan.mapping.parts) {
    const auto at = records_.find(part.model);
    const Version* found = nullptr;
    if (at != records_.end()) {
      for (const auto& [number, version] : at->second->versions) {
        const bool chosen = part.version == -1 || part.version == number;
        if (chosen && version.served) found = &version;
      }
    }
    if (found) {
      held.push_back(found->served);
      steps.push_back(part.step);
      steps.back().model = found->engine_name;
      continue;
    }
    const bool loaded =
        at != records_.end() &&
        std::any_of(at->second->versions.begin(), at->second->versions.end(),
                    [](const auto& version) { return version.second.served != nullptr; });
    if (loaded) {
      return Error{ErrorCode::not_found,
                   concat("ensemble ", quote(plan.name), " needs version ", part.version, " of ",
                          quote(part.model), ", which is not served")};
    }
    missing.push_back(part.model);
  }
  if (missing.empty()) return steps;
  return Error{ErrorCode::unavailable,
               concat("ensemble ", quote(plan.name), " needs ", join(missing, ", "))};
}

/// Ensembles go on with what they consist of until they are made anew.
void ModelRepository::State::rebuild_dependents(const std::string& name,
                                                std::vector<std::string>& above) {
  std::vector<RecordPtr> dependents;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [other, record] : records_) {
      const bool uses =
          std::find(record->parts.begin(), record->parts.end(), name) != record->parts.end();
      const bool waits = std::find(above.begin(), above.end(), other) != above.end();
      if (uses && record->wanted && !waits) dependents.push_back(record);
    }
  }
  for (const RecordPtr& dependent : dependents) {
    if (const Result<void> rebuilt = bring(dependent, {}, above); !rebuilt) {
      log_warning("ensemble ", quote(dependent->name), " goes on with the former ", quote(name),
                  ": ", rebuilt.error().message);
    }
  }
}

// ------------------------------------------------------------------------------------ control

Result<void> ModelRepository::State::open() {
  std::lock_guard polling(poll_turn_);
  MILLRACE_TRY(add_places());
  std::vector<std::string> names;
  if (options_.mode == RepositoryMode::control) {
    names = options_.load_at_start;
  }
  const bool all = options_.mode != RepositoryMode::control ||
                   std::find(names.begin(), names.end(), "*") != names.end();
  if (all) {
    names.clear();
    for (const auto& [name, record] : records_) names.push_back(name);
  }
  for (const std::string& name : names) {
    MILLRACE_ASSIGN(const RecordPtr found, known_record(name));
    {
      std::lock_guard lock(mutex_);
      found->applied =
          fingerprint_of(found->place);  // before: what changes meanwhile is seen later
      const bool there = !found->versions.empty() && found->reason.empty();
      if (there) {  // brought along with an ensemble
        found->for_others = false;
        continue;
      }
    }
    std::vector<std::string> above;
    Result<void> brought = bring(found, {}, above);
    if (!brought && options_.strict) return brought;
  }
  if (options_.mode != RepositoryMode::poll) return {};
  try {
    poller_ = std::jthread([this](const std::stop_token& stop) {
      name_this_thread("mr-poll");
      std::mutex mutex;
      std::unique_lock lock(mutex);
      while (!stop_polling_.wait_for(lock, stop, options_.poll_interval,
                                     [&stop] { return stop.stop_requested(); })) {
        try {
          poll();
        } catch (const std::exception& error) {
          log_error("looking at the folders of models: ", error.what());
        }
      }
    });
  } catch (const std::system_error& error) {
    return Error{ErrorCode::unavailable, concat("no thread to watch the folders: ", error.what())};
  }
  return {};
}

/// Looks at everything once.
void ModelRepository::State::poll() {
  std::lock_guard turn(poll_turn_);
  const Result<std::vector<ModelPlace>> places = look();
  if (!places) return log_warning("the folders of models are not read: ", places.error().message);
  std::map<std::string, std::string> prints;
  for (const ModelPlace& place : *places) prints[place.name] = fingerprint_of(place);
  if (const Result<void> added = add_places(); !added) return log_warning(added.error().message);
  std::map<std::string, RecordPtr, std::less<>> all;
  {
    std::lock_guard lock(mutex_);
    all = records_;
  }
  for (const auto& [name, record] : all) {
    const auto at = prints.find(name);
    poll_one(name, record, at == prints.end() ? std::string(kGone) : at->second);
  }
}

void ModelRepository::State::poll_one(const std::string& name, const RecordPtr& record,
                                      const std::string& print) {
  const bool stable = print == record->seen;
  record->seen = print;
  if (print == record->applied || !stable) return;
  record->applied = print;
  if (print != kGone) {
    std::vector<std::string> above;
    (void)bring(record, {}, above);  // what fails is in the log and in the index
    return;
  }
  (void)unload_one(record, "its files are gone");
  std::lock_guard lock(mutex_);
  records_.erase(name);
  publish();
}

Result<void> ModelRepository::State::load(std::string_view name, const LoadParameters& parameters) {
  if (options_.mode != RepositoryMode::control) {
    return Error{ErrorCode::unsupported,
                 "models are loaded on request in the mode \"control\" only"};
  }
  if (Result<void> looked = add_places(); !looked) return looked;
  RecordPtr target = record(name);
  if (!target && parameters.files.empty()) return not_there(name);
  if (!target) {
    if (name.empty() || name.find('/') != std::string_view::npos) {
      return Error{ErrorCode::invalid_argument,
                   concat("expected a name for the model without \"/\", got ", quote(name))};
    }
    std::lock_guard lock(mutex_);
    RecordPtr& made = records_[std::string(name)];
    if (!made) {
      made = std::make_shared<Record>(ModelPlace{std::string(name), "", true});
    }
    target = made;
  }
  {
    std::lock_guard lock(mutex_);
    target->for_others = false;
  }
  std::vector<std::string> above;
  return bring(target, parameters, above);
}

Result<void> ModelRepository::State::unload_one(const RecordPtr& record, std::string_view reason) {
  std::lock_guard turn(record->turn);
  std::vector<ServedPtr> old;  // let go outside of the lock
  std::lock_guard lock(mutex_);
  record->wanted = false;
  record->evicted = false;
  record->for_others = false;
  record->parts.clear();
  record->reason = reason;
  for (auto& [number, version] : record->versions) {
    old.push_back(std::move(version.served));
    version.served = nullptr;
    version.reason = reason;
  }
  publish();
  return {};
}

Result<void> ModelRepository::State::unload(std::string_view name, bool unload_dependents) {
  if (options_.mode != RepositoryMode::control) {
    return Error{ErrorCode::unsupported,
                 "models are unloaded on request in the mode \"control\" only"};
  }
  const RecordPtr target = record(name);
  if (!target) {
    return Error{ErrorCode::not_found, concat("there is no model ", quote(name))};
  }
  std::vector<std::string> parts;
  {
    std::lock_guard lock(mutex_);
    parts = target->parts;
  }
  MILLRACE_TRY(unload_one(target, "unloaded"));
  if (!unload_dependents) return {};
  for (const std::string& part : parts) {
    const RecordPtr found = record(part);
    bool goes = false;
    {
      std::lock_guard lock(mutex_);
      goes = found && found->for_others;
      for (const auto& [other, entry] : records_) {
        const auto& used = entry->parts;
        if (std::find(used.begin(), used.end(), part) != used.end()) goes = false;
      }
    }
    if (goes) MILLRACE_TRY(unload(part, true));
  }
  return {};
}

// ------------------------------------------------------------------------------------ public

ModelRepository::ModelRepository(std::unique_ptr<State> state) noexcept
    : state_(std::move(state)) {}
ModelRepository::~ModelRepository() = default;

Result<std::unique_ptr<ModelRepository>> ModelRepository::open(Engine& engine,
                                                               RepositoryOptions options) {
  auto state = std::make_unique<State>(engine, std::move(options));
  MILLRACE_TRY(state->open());
  return std::unique_ptr<ModelRepository>(new ModelRepository(std::move(state)));
}

Result<ServedPtr> ModelRepository::find(std::string_view name, std::string_view version) const {
  return state_->find(name, version);
}

Result<ServedPtr> ModelRepository::find_now(std::string_view name, std::string_view version) const {
  return state_->find_now(name, version);
}

std::uint64_t ModelRepository::find_later(std::string_view name, std::string_view version,
                                          std::optional<TimePoint> deadline, FoundCallback then) {
  return state_->find_later(name, version, deadline, std::move(then));
}

bool ModelRepository::give_up(std::uint64_t waiting) { return state_->give_up(waiting); }

Result<ModelDescription> ModelRepository::describe(std::string_view name,
                                                   std::string_view version) const {
  return state_->describe(name, version);
}

std::vector<ServedPtr> ModelRepository::served(std::string_view name) const {
  return state_->served(name);
}

std::vector<RepositoryEntry> ModelRepository::index() const { return state_->index(); }

Result<void> ModelRepository::load(std::string_view name, const LoadParameters& parameters) {
  return state_->load(name, parameters);
}

Result<void> ModelRepository::unload(std::string_view name, bool unload_dependents) {
  return state_->unload(name, unload_dependents);
}

bool ModelRepository::ready() const { return state_->ready(); }

void ModelRepository::look_again() { state_->poll(); }

}  // namespace millrace
