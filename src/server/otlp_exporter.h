// Sends traces to an OTLP collector, over HTTP in JSON.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <millrace/statistics.h>

#include "base/thread.h"
#include "server/tracing.h"

namespace millrace::server {

struct OtlpOptions {
  std::string url;  // http://HOST[:4318][/v1/traces]
  /// Traces that wait at most; what comes beyond is dropped.
  std::size_t queue = 4096;
  std::size_t batch = 256;  // traces of one request at most
  /// How long a trace waits for others to be sent with.
  Duration interval = std::chrono::milliseconds(200);
  /// For a request, from connecting to the last byte of its answer.
  Duration timeout = std::chrono::seconds(10);
  /// A batch that is not taken is tried again after this, twice as long each time, up to `attempts`
  /// times; then it is dropped.
  Duration first_pause = std::chrono::milliseconds(250);
  Duration longest_pause = std::chrono::seconds(10);
  int attempts = 6;
  /// How long the destructor tries to send what is left.
  Duration last_effort = std::chrono::seconds(2);
};

struct OtlpCounters {
  std::uint64_t exported = 0;  // traces
  std::uint64_t refused = 0;   // dropped, because the collector did not take them
  std::uint64_t retries = 0;   // requests that were made again
};

/// Exports what comes into its queue from a thread of its own, until it is destroyed.
class OtlpExporter {
 public:
  /// `timelines` tells the latest batches with their device times; it is called on the thread.
  /// Errors: invalid_argument for a URL that is none of those above.
  [[nodiscard]] static Result<std::unique_ptr<OtlpExporter>> start(
      OtlpOptions options, std::function<std::vector<BatchTimeline>()> timelines);
  ~OtlpExporter();
  OtlpExporter(const OtlpExporter&) = delete;
  OtlpExporter& operator=(const OtlpExporter&) = delete;

  /// Where requests write themselves down.
  [[nodiscard]] const std::shared_ptr<TraceQueue>& queue() const noexcept { return queue_; }
  [[nodiscard]] OtlpCounters counters() const noexcept;

 private:
  struct Address {
    std::string host, port, target;
  };
  class Client;
  OtlpExporter(OtlpOptions options, Address address,
               std::function<std::vector<BatchTimeline>()> timelines);
  [[nodiscard]] static Result<Address> parse(const std::string& url);

  void work();
  void send(Client& client, const std::deque<TraceRecord>& records);
  /// False: the end has come.
  bool pause(Duration time);
  [[nodiscard]] bool stopping() const noexcept { return stopping_.load(std::memory_order_acquire); }
  void say(const std::string& problem);

  const OtlpOptions options_;
  const Address address_;
  const std::function<std::vector<BatchTimeline>()> timelines_;
  const std::shared_ptr<TraceQueue> queue_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool pressed_ = false;  // guarded by mutex_
  std::atomic<bool> stopping_{false};
  std::atomic<TimePoint::rep> give_up_at_{0};  // while stopping
  std::atomic<std::uint64_t> exported_{0}, refused_{0}, retries_{0};
  bool failing_ = false;  // the thread's: it was said
  Thread thread_;
};

}  // namespace millrace::server
