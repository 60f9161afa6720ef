#include "server/otlp_json.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <millrace/version.h>

#include "base/text.h"
#include "server/json_writer.h"

namespace millrace::server {
namespace {

// Numbers of the protocol.
constexpr std::int64_t kInternal = 1;
constexpr std::int64_t kServer = 2;
constexpr std::int64_t kError = 2;

/// With what the protocol calls an attribute.
class Writer : public JsonWriter {
 public:
  void attribute(std::string_view key, std::string_view value) {
    begin_attribute(key);
    text("stringValue", value);
    end_attribute();
  }
  void attribute(std::string_view key, std::int64_t value) {
    begin_attribute(key);
    text("intValue", concat(value));
    end_attribute();
  }

 private:
  void begin_attribute(std::string_view key) {
    open("", '{');
    text("key", key);
    open("value", '{');
  }
  void end_attribute() {
    close('}');
    close('}');
  }
};

std::string hex(std::uint64_t number) {
  std::string out;
  append_hex(out, number);
  return out;
}

const BatchTimeline* timeline_of(const TraceRecord& record,
                                 std::span<const BatchTimeline> timelines) {
  const auto found = std::ranges::find_if(timelines, [&record](const BatchTimeline& batch) {
    return batch.picked == record.times.picked && batch.device == record.device &&
           batch.lane == record.lane && batch.copied_out.has_value();
  });
  return found == timelines.end() ? nullptr : &*found;
}

class TraceWriter {
 public:
  TraceWriter(Writer& out, TimePoint epoch) : out_(out), epoch_(epoch) {}

  void write(const TraceRecord& record, const BatchTimeline* batch) {
    at_ = record.received;
    begin_span(record, record.context.span, record.parent_span);
    out_.text("name", "infer " + record.model);
    out_.number("kind", kServer);
    times(record.received, std::max(record.received, record.ended));
    attributes(record);
    if (record.failed) {
      out_.open("status", '{');
      out_.number("code", kError);
      if (!record.error.empty()) out_.text("message", record.error);
      out_.close('}');
    }
    out_.close('}');
    if (record.times.submitted != TimePoint()) phases(record, batch);
  }

 private:
  // What is measured on a device may be off by what its clock is, so that each phase begins where
  // the one before ended, and none ends after the request.
  void phases(const TraceRecord& record, const BatchTimeline* batch) {
    const RequestTimes& times = record.times;
    phase(record, "receive", times.submitted);
    phase(record, "queue", times.picked);
    if (batch) {
      phase(record, "stage", std::min(*batch->started, times.completed));
      phase(record, "copy_in", std::min(*batch->copied_in, times.completed));
      phase(record, "compute", std::min(*batch->computed, times.completed));
      phase(record, "copy_out", std::min(*batch->copied_out, times.completed));
      phase(record, "complete", times.completed);
    } else {
      phase(record, "stage", times.staged);
      phase(record, "run", times.completed);
    }
    phase(record, "send", record.ended);
  }
  void phase(const TraceRecord& record, std::string_view name, TimePoint until) {
    until = std::max(at_, std::min(until, record.ended));
    begin_span(record, new_trace_number(), record.context.span);
    out_.text("name", name);
    out_.number("kind", kInternal);
    times(at_, until);
    out_.close('}');
    at_ = until;
  }
  void begin_span(const TraceRecord& record, std::uint64_t span, std::uint64_t parent) {
    out_.open("", '{');
    out_.text("traceId", hex(record.context.trace_high) + hex(record.context.trace_low));
    out_.text("spanId", hex(span));
    if (parent != 0) out_.text("parentSpanId", hex(parent));
  }
  void times(TimePoint from, TimePoint until) {
    out_.text("startTimeUnixNano", concat((from - epoch_).count()));
    out_.text("endTimeUnixNano", concat((until - epoch_).count()));
  }
  void attributes(const TraceRecord& record) {
    out_.open("attributes", '[');
    out_.attribute("millrace.protocol", record.protocol);
    out_.attribute("millrace.model", record.model);
    if (!record.version.empty()) out_.attribute("millrace.version", record.version);
    if (!record.id.empty()) out_.attribute("millrace.request_id", record.id);
    if (record.batch_items > 0) {
      out_.attribute("millrace.batch_items", record.batch_items);
      out_.attribute("millrace.device", to_string(record.device));
      out_.attribute("millrace.lane", std::int64_t{record.lane});
    }
    if (record.status >= 0) {
      out_.attribute(
          record.protocol == "grpc" ? "rpc.grpc.status_code" : "http.response.status_code",
          std::int64_t{record.status});
    }
    out_.close(']');
  }

  Writer& out_;
  const TimePoint epoch_;
  TimePoint at_;
};

}  // namespace

std::string otlp_json(const std::deque<TraceRecord>& records,
                      std::span<const BatchTimeline> timelines, TimePoint epoch) {
  Writer out;
  out.open("", '{');
  out.open("resourceSpans", '[');
  out.open("", '{');
  out.open("resource", '{');
  out.open("attributes", '[');
  out.attribute("service.name", "millrace");
  out.attribute("service.version", version());
  out.close(']');
  out.close('}');
  out.open("scopeSpans", '[');
  out.open("", '{');
  out.open("scope", '{');
  out.text("name", "millrace");
  out.close('}');
  out.open("spans", '[');
  TraceWriter writer(out, epoch);
  for (const TraceRecord& record : records) writer.write(record, timeline_of(record, timelines));
  out.close(']');
  out.close('}');
  out.close(']');
  out.close('}');
  out.close(']');
  out.close('}');
  return out.take();
}

TimePoint epoch_now() noexcept {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return Clock::now() - std::chrono::duration_cast<Duration>(since);
}

}  // namespace millrace::server
