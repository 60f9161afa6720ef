// Traces as OTLP has them in JSON: the protobuf JSON mapping of ExportTraceServiceRequest, with ids
// in hexadecimal, 64-bit numbers as text and enumerations as numbers.
#pragma once

#include <chrono>
#include <deque>
#include <span>
#include <string>

#include <millrace/statistics.h>

#include "server/tracing.h"

namespace millrace::server {

/// One request for an OTLP collector. A trace is a span of the request, and below it one for each
/// phase, end to end: receive, queue, stage, copy_in, compute, copy_out, complete, send. Where
/// `timelines` has no device times of the request's batch, `run` stands for those from copy_in to
/// complete. `epoch` is what the host's clock showed at the beginning of 1970.
[[nodiscard]] std::string otlp_json(const std::deque<TraceRecord>& records,
                                    std::span<const BatchTimeline> timelines, TimePoint epoch);

/// What `epoch` is now. It moves when the system's time is set.
[[nodiscard]] TimePoint epoch_now() noexcept;

}  // namespace millrace::server
