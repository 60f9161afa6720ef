// Timelines in the Trace Event Format.
#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

#include <nlohmann/json.hpp>

#include <millrace/statistics.h>

#include "base/file.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace {
namespace {

using nlohmann::json;

// A phase of a batch, as a span of a track. Device phases that were not sampled are one span,
// `device`.
enum class Row : int { queue, stage, device, copy_in, compute, copy_out, complete };
constexpr std::string_view kRowNames[] = {"queue",   "stage",    "on the device", "copy in",
                                          "compute", "copy out", "complete"};

struct Span {
  Row row = Row::queue;
  TimePoint begin;
  TimePoint end;
  const BatchTimeline* batch = nullptr;
};

struct TrackKey {
  int process = 0;
  int lane = 0;
  Row row = Row::queue;
  int copy =
      0;  // spans of one phase may overlap (batches wait side by side): each then has its own track
  friend auto operator<=>(const TrackKey&, const TrackKey&) = default;
};

void add_spans(const BatchTimeline& batch, std::vector<Span>& out) {
  const auto add = [&](Row row, TimePoint begin, TimePoint end) {
    if (begin != TimePoint{} && end >= begin) out.push_back({row, begin, end, &batch});
  };
  add(Row::queue, batch.submitted, batch.picked);
  add(Row::stage, batch.picked, batch.staged);
  const bool sampled = batch.started && batch.copied_in && batch.computed && batch.copied_out;
  if (!sampled) {
    add(Row::device, batch.staged, batch.completed);
    return;
  }
  add(Row::copy_in, *batch.started, *batch.copied_in);
  add(Row::compute, *batch.copied_in, *batch.computed);
  add(Row::copy_out, *batch.computed, *batch.copied_out);
  add(Row::complete, *batch.copied_out, batch.completed);
}

double micros(Duration time) {
  return static_cast<double>(std::chrono::duration_cast<std::chrono::nanoseconds>(time).count()) /
         1000;
}

// Gives every span a track on which it overlaps no other.
class Tracks {
 public:
  [[nodiscard]] TrackKey place(const Span& span) {
    TrackKey key{process_of(span.batch->device), span.batch->lane, span.row, 0};
    while (true) {
      const auto [track, is_new] = busy_until_.try_emplace(key, span.end);
      if (is_new) return key;
      if (track->second <= span.begin) {
        track->second = span.end;
        return key;
      }
      ++key.copy;
    }
  }
  [[nodiscard]] const std::vector<DeviceId>& processes() const { return processes_; }
  // Known once all spans are placed: tracks in the order in which they are to be shown.
  [[nodiscard]] std::map<TrackKey, int> numbers() const {
    std::map<TrackKey, int> numbers;
    for (const auto& [key, unused] : busy_until_)
      numbers.emplace(key, static_cast<int>(numbers.size()) + 1);
    return numbers;
  }

 private:
  int process_of(DeviceId device) {
    const auto at = std::find(processes_.begin(), processes_.end(), device);
    if (at == processes_.end()) processes_.push_back(device);
    return static_cast<int>(at - processes_.begin()) + 1;
  }

  std::vector<DeviceId> processes_;
  std::map<TrackKey, TimePoint> busy_until_;
};

json name_event(std::string_view what, int process, int track, const std::string& name) {
  json event = {{"ph", "M"}, {"name", what}, {"pid", process}, {"args", {{"name", name}}}};
  if (track > 0) event["tid"] = track;
  return event;
}

std::string track_name(const TrackKey& key) {
  std::string name = concat("lane ", key.lane, ": ", kRowNames[static_cast<std::size_t>(key.row)]);
  if (key.copy > 0) name += concat(" (", key.copy + 1, ")");
  return name;
}

json span_event(const Span& span, TimePoint origin, int process, int track) {
  const BatchTimeline& batch = *span.batch;
  json event = {{"ph", "X"},
                {"name", batch.model},
                {"cat", kRowNames[static_cast<std::size_t>(span.row)]},
                {"ts", micros(span.begin - origin)},
                {"dur", micros(span.end - span.begin)},
                {"pid", process},
                {"tid", track},
                {"args",
                 {{"batch", batch.batch},
                  {"items", batch.items},
                  {"requests", batch.requests},
                  {"slot", batch.slot}}}};
  if (batch.failed) event["args"]["failed"] = true;
  return event;
}

class EventWriter {
 public:
  explicit EventWriter(AtomicFile& file) : file_(file) {}
  Result<void> write(const json& event) {
    const char* before = first_ ? "{\"displayTimeUnit\": \"ns\", \"traceEvents\": [\n" : ",\n";
    first_ = false;
    return file_.write(before + event.dump(-1, ' ', false, json::error_handler_t::replace));
  }
  Result<void> finish() { return file_.write(first_ ? "{\"traceEvents\": []}\n" : "\n]}\n"); }

 private:
  AtomicFile& file_;
  bool first_ = true;
};

}  // namespace

Result<void> write_chrome_trace(std::span<const BatchTimeline> timelines, const std::string& path) {
  std::vector<Span> spans;
  for (const BatchTimeline& batch : timelines) add_spans(batch, spans);
  std::stable_sort(spans.begin(), spans.end(),
                   [](const Span& a, const Span& b) { return a.begin < b.begin; });
  Tracks tracks;
  std::vector<TrackKey> places;
  places.reserve(spans.size());
  for (const Span& span : spans) places.push_back(tracks.place(span));
  const std::map<TrackKey, int> numbers = tracks.numbers();

  MILLRACE_ASSIGN(AtomicFile file, AtomicFile::create(path));
  EventWriter events(file);
  for (std::size_t i = 0; i < tracks.processes().size(); ++i) {
    MILLRACE_TRY(events.write(
        name_event("process_name", static_cast<int>(i) + 1, 0, to_string(tracks.processes()[i]))));
  }
  for (const auto& [key, number] : numbers) {
    MILLRACE_TRY(events.write(name_event("thread_name", key.process, number, track_name(key))));
    json order = name_event("thread_sort_index", key.process, number, "");
    order["args"] = {{"sort_index", number}};
    MILLRACE_TRY(events.write(order));
  }
  for (std::size_t i = 0; i < spans.size(); ++i) {
    MILLRACE_TRY(events.write(
        span_event(spans[i], spans.front().begin, places[i].process, numbers.at(places[i]))));
  }
  MILLRACE_TRY(events.finish());
  return file.commit();
}

}  // namespace millrace
