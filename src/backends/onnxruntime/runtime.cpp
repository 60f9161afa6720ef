#include "backends/onnxruntime/runtime.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace::onnxruntime {
namespace {

// The library's errors come back as statuses too, and its warnings are for those who tune it.
LogLevel level_of(OrtLoggingLevel severity) noexcept {
  switch (severity) {
    case ORT_LOGGING_LEVEL_FATAL:
      return LogLevel::error;
    case ORT_LOGGING_LEVEL_ERROR:
    case ORT_LOGGING_LEVEL_WARNING:
      return LogLevel::info;
    default:
      return LogLevel::debug;
  }
}

void ORT_API_CALL write_log(void* /*param*/, OrtLoggingLevel severity, const char* /*category*/,
                            const char* model, const char* /*where*/,
                            const char* message) noexcept {
  log_at(level_of(severity), "onnxruntime: ", model, ": ", message);
}

OrtLoggingLevel library_level() noexcept {
  if (log_level() == LogLevel::debug) return ORT_LOGGING_LEVEL_INFO;
  return log_level() == LogLevel::info ? ORT_LOGGING_LEVEL_WARNING : ORT_LOGGING_LEVEL_FATAL;
}

Error conflict(std::string_view option, int asked, int present) {
  return {ErrorCode::invalid_argument,
          concat("option \"", option, "\": asked for ", asked,
                 ", but all ONNX Runtime models of a process share one "
                 "thread pool, which was made with ",
                 present,
                 " for the first of them; "
                 "give them all the same, or leave the option out")};
}

Result<void> check_against(const ThreadRequest& request, const ThreadSettings& present) {
  if (request.intra_op && *request.intra_op != present.intra_op) {
    return conflict("intra_op_threads", *request.intra_op, present.intra_op);
  }
  if (request.inter_op && *request.inter_op != present.inter_op) {
    return conflict("inter_op_threads", *request.inter_op, present.inter_op);
  }
  if (request.spinning && *request.spinning != present.spinning) {
    return conflict("spinning", *request.spinning ? 1 : 0, present.spinning ? 1 : 0);
  }
  return {};
}

}  // namespace

int runs_at_a_time(int cpu_threads, const ThreadSettings& threads) noexcept {
  return std::max(1, cpu_threads - threads.workers());
}

Result<ThreadSettings> choose_threads(const ThreadRequest& request) {
  // Small machines do best with a batch on each thread; large ones with a few lanes and a pool for
  // them.
  const int budget = std::max(1, request.cpu_threads);
  const int lanes = budget <= 4 ? budget : std::max(1, budget / 4);
  ThreadSettings threads;
  threads.inter_op = request.inter_op.value_or(1);
  threads.intra_op =
      request.intra_op.value_or(std::max(1, budget - lanes - (threads.inter_op - 1) + 1));
  threads.spinning = request.spinning.value_or(false);
  if (threads.workers() >= budget && threads.workers() > 0) {
    return Error{
        ErrorCode::invalid_argument,
        concat("expected intra_op_threads and inter_op_threads that leave a thread for the lanes "
               "out of the "
               "budget of ",
               budget, " (cpu_threads), got ", threads.intra_op, " and ", threads.inter_op)};
  }
  return threads;
}

Result<std::shared_ptr<Runtime>> Runtime::make(const ThreadRequest& request) {
  MILLRACE_ASSIGN(const Library* library, open_library());
  MILLRACE_ASSIGN(const ThreadSettings threads, choose_threads(request));
  std::shared_ptr<Runtime> runtime(
      new Runtime(*library, threads, runs_at_a_time(request.cpu_threads, threads)));
  const std::string_view context = "cannot start ONNX Runtime";
  Owned<OrtThreadingOptions> options;
  MILLRACE_TRY(check(api().CreateThreadingOptions(made(options)), context));
  MILLRACE_TRY(check(api().SetGlobalIntraOpNumThreads(options.get(), threads.intra_op), context));
  MILLRACE_TRY(check(api().SetGlobalInterOpNumThreads(options.get(), threads.inter_op), context));
  MILLRACE_TRY(check(api().SetGlobalSpinControl(options.get(), threads.spinning ? 1 : 0), context));
  // The library reports usage to its maker unless told not to, with a thread of its own outside our
  // budget. A user who sets the variable decides.
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
  MILLRACE_TRY(check(
      api().CreateEnvWithCustomLoggerAndGlobalThreadPools(
          write_log, nullptr, library_level(), "millrace", options.get(), made(runtime->env_)),
      context));
  MILLRACE_TRY(check(
      api().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, made(runtime->cpu_memory_)),
      context));
  return runtime;
}

Result<std::shared_ptr<Runtime>> Runtime::share(const ThreadRequest& request) {
  static std::mutex mutex;
  static std::weak_ptr<Runtime> shared;  // under mutex
  const std::lock_guard lock(mutex);
  if (std::shared_ptr<Runtime> present = shared.lock()) {
    MILLRACE_TRY(check_against(request, present->threads_));
    present->gate_.set_capacity(runs_at_a_time(request.cpu_threads, present->threads_));
    return present;
  }
  auto runtime = make(request);
  if (runtime.ok()) shared = *runtime;
  return runtime;
}

}  // namespace millrace::onnxruntime
