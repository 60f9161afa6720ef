#include "server/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/text.h"
#include "base/try.h"
#include "server/listening.h"
#include "server/notify.h"
#include "server/turnstile.h"
#include "server/worker_link.h"

namespace millrace::server {
namespace {

/// The loop goes round at least so often.
constexpr Duration kRound = std::chrono::seconds(1);
/// What a worker gets beyond its own limit for draining.
constexpr Duration kAfterDrain = std::chrono::seconds(5);
constexpr const char* kProgram = "/proc/self/exe";

/// SIGTERM, SIGINT, SIGCHLD and, if wanted, SIGHUP, read instead of handled, until it is destroyed.
class SignalQueue {
 public:
  explicit SignalQueue(bool hangup) {
    sigset_t set;
    sigemptyset(&set);
    if (hangup) sigaddset(&set, SIGHUP);
    for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&set, signal);
    sigprocmask(SIG_BLOCK, &set, &before_);
    descriptor_ = Descriptor(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  ~SignalQueue() { restore(); }
  SignalQueue(const SignalQueue&) = delete;
  SignalQueue& operator=(const SignalQueue&) = delete;

  void restore() const noexcept { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  [[nodiscard]] int descriptor() const noexcept { return descriptor_.number(); }
  /// 0: none is left.
  [[nodiscard]] int next() const noexcept {
    signalfd_siginfo info{};
    return read(descriptor(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo)
                                                                 : 0;
  }

 private:
  sigset_t before_{};
  Descriptor descriptor_;
};

void keep_open_in_child(int descriptor) noexcept {
  if (descriptor >= 0) fcntl(descriptor, F_SETFD, 0);
}

class Supervisor {
 public:
  explicit Supervisor(SupervisorOptions options)
      : options_(std::move(options)),
        backoff_(options_.restarts),
        signals_(options_.passes_hangup_on) {}

  Result<void> listen();
  Result<int> run();

 private:
  enum class Phase : std::uint8_t { waiting, starting, serving };

  Result<void> start();
  [[noreturn]] void become_worker(int link, std::vector<char*>& arguments, pid_t parent) noexcept;
  void poll_once();
  [[nodiscard]] Duration patience(TimePoint now) const;
  void hear_signals();
  void hear_worker();
  void hand_over();
  void reap();
  void ended(int status);
  void try_again(Duration served, int code, const std::string& why);
  void look_at_time();
  void stop_worker();
  void end_worker(std::string_view reason);
  [[nodiscard]] bool answering() const noexcept { return phase_ != Phase::serving || stopping_; }
  [[nodiscard]] Absence absence() const;
  void set_status(std::string_view text) const { notifier_.send(concat("STATUS=", text)); }

  const SupervisorOptions options_;
  Backoff backoff_;
  Notifier notifier_;
  const SignalQueue signals_;
  Descriptor http_, metrics_, grpc_;
  Turnstile turnstile_;

  Phase phase_ = Phase::waiting;
  TimePoint since_{};      // when the phase began
  TimePoint start_at_{};   // while waiting
  TimePoint last_beat_{};  // while serving
  TimePoint last_round_{};
  pid_t worker_ = 0;
  Descriptor link_;
  std::string ended_because_;  // what the supervisor ended the worker for; empty: it did not
  std::optional<std::string> last_words_;  // the error that it says it ends with
  bool serves_ = false;                    // this worker said so
  bool ever_served_ = false;
  std::optional<TimePoint> unserved_since_;
  WorkerHistory history_;
  bool stopping_ = false;
  TimePoint stop_until_{};
  std::optional<int> result_;
};

Result<void> Supervisor::listen() {
  const auto open = [this](int port, const char* what, Descriptor& to) -> Result<void> {
    if (port < 0) return {};
    Result<Descriptor> socket = listen_on(options_.host, port);
    if (!socket) return Error{socket.error().code, concat(what, ": ", socket.error().message)};
    to = *std::move(socket);
    return {};
  };
  MILLRACE_TRY(open(options_.http_port, "HTTP", http_));
  MILLRACE_TRY(open(options_.grpc_port, "gRPC", grpc_));
  return open(options_.http_port < 0 ? -1 : options_.metrics_port, "metrics", metrics_);
}

Result<void> Supervisor::start() {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return Error{ErrorCode::unavailable, concat("no sockets: ", std::strerror(errno))};
  }
  link_ = Descriptor(ends[0]);
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  const Descriptor theirs(ends[1]);

  std::vector<std::string> texts = options_.arguments;
  const WorkerStart start{http_.number(),  metrics_.number(), grpc_.number(),
                          theirs.number(), history_,          unserved_since_};
  const auto verb = std::find(texts.begin(), texts.end(), "serve");
  texts.insert(verb == texts.end() ? verb : verb + 1, concat("--worker=", to_string(start)));
  texts.insert(texts.begin(), "millrace");
  std::vector<char*> arguments;
  arguments.reserve(texts.size() + 1);
  for (std::string& text : texts) arguments.push_back(text.data());
  arguments.push_back(nullptr);

  const pid_t self = getpid();
  const pid_t child = fork();
  if (child == 0) become_worker(theirs.number(), arguments, self);
  if (child < 0) {
    return Error{ErrorCode::unavailable,
                 concat("no process for the worker: ", std::strerror(errno))};
  }
  worker_ = child;
  ended_because_.clear();
  last_words_.reset();
  serves_ = false;
  phase_ = Phase::starting;
  since_ = Clock::now();
  return {};
}

// Between fork and exec, in a process of one thread.
void Supervisor::become_worker(int link, std::vector<char*>& arguments, pid_t parent) noexcept {
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  for (const int descriptor : {http_.number(), metrics_.number(), grpc_.number(), link}) {
    keep_open_in_child(descriptor);
  }
  forget_notification_variables();
  signals_.restore();
  execv(kProgram, arguments.data());
  constexpr std::string_view kMessage = "millrace: error: cannot run /proc/self/exe\n";
  (void)!write(STDERR_FILENO, kMessage.data(), kMessage.size());
  _exit(1);
}

Absence Supervisor::absence() const {
  Absence out;
  out.restarts = history_.restarts;
  if (stopping_) {
    out.reason = "the server is stopping";
    return out;
  }
  out.reason = history_.restarts == 0 && phase_ == Phase::starting
                   ? "the server is starting; try again in a moment"
                   : "the server is being started again; try again in a moment";
  if (phase_ == Phase::waiting) {
    const auto left =
        std::chrono::duration_cast<std::chrono::seconds>(start_at_ - Clock::now()).count();
    out.retry_after_s = static_cast<int>(std::max<std::int64_t>(left, 0)) + 1;
  }
  return out;
}

Duration Supervisor::patience(TimePoint now) const {
  Duration out = kRound;
  const auto until = [&](TimePoint time) {
    out = std::clamp<Duration>(time - now, Duration::zero(), out);
  };
  if (phase_ == Phase::waiting) until(start_at_);
  if (!turnstile_.empty()) until(now + std::chrono::milliseconds(100));
  if (const auto interval = notifier_.watchdog_interval()) until(now + *interval / 2);
  return out;
}

void Supervisor::poll_once() {
  std::vector<pollfd> polled{{signals_.descriptor(), POLLIN, 0}};
  if (link_) polled.push_back({link_.number(), POLLIN, 0});
  const std::size_t first_listener = polled.size();
  if (answering()) {
    for (const Descriptor* listener : {&http_, &metrics_, &grpc_}) {
      if (*listener) polled.push_back({listener->number(), POLLIN, 0});
    }
  }
  const std::size_t listeners = polled.size();
  turnstile_.add_to(polled);
  const auto wait = std::chrono::ceil<std::chrono::milliseconds>(patience(Clock::now())).count();
  (void)poll(polled.data(), polled.size(), static_cast<int>(wait));
  hear_signals();
  hear_worker();
  for (std::size_t i = first_listener; i < listeners && answering(); ++i) {
    if (polled[i].revents == 0) continue;
    const int listener = polled[i].fd;
    const bool plain =
        listener == metrics_.number() || (listener == http_.number() && !options_.tls);
    turnstile_.accept(listener, plain);
  }
  if (!turnstile_.empty()) turnstile_.go_on(absence(), Clock::now());
}

void Supervisor::hear_signals() {
  for (int signal = signals_.next(); signal != 0; signal = signals_.next()) {
    if (signal == SIGCHLD) {
      hear_worker();  // what it said last
      reap();
    } else if (signal == SIGHUP) {
      if (phase_ == Phase::serving && worker_ != 0) kill(worker_, SIGHUP);
    } else {
      stop_worker();
    }
  }
}

void Supervisor::hear_worker() {
  if (!link_) return;
  std::array<char, kMostLastWords + 256> said;
  const ssize_t bytes = recv(link_.number(), said.data(), said.size(), 0);
  if (bytes == 0) link_ = Descriptor();  // it ends, and SIGCHLD says when it has
  if (bytes <= 0) return;
  last_beat_ = Clock::now();
  auto end = said.begin() + bytes;
  const auto words = last_words_ ? said.begin() : std::find(said.begin(), end, kFails);
  if (words != end) {
    last_words_ = last_words_.value_or("") + std::string(words + (last_words_ ? 0 : 1), end);
    end = words;
  }
  if (phase_ == Phase::starting && std::find(said.begin(), end, kTakesOver) != end) hand_over();
  if (phase_ == Phase::serving && !serves_ && std::find(said.begin(), end, kBeat) != end) {
    serves_ = true;
    ever_served_ = true;
    if (unserved_since_) history_.down += since_ - *unserved_since_;
    unserved_since_.reset();
    notifier_.send("READY=1\nSTATUS=serving");
  }
}

void Supervisor::hand_over() {
  phase_ = Phase::serving;
  since_ = last_beat_;
  (void)send(link_.number(), &kTakesOver, 1, MSG_NOSIGNAL);
}

// As the first process of a container it also ends what its children left behind.
void Supervisor::reap() {
  for (;;) {
    int status = 0;
    const pid_t child = waitpid(-1, &status, WNOHANG);
    if (child <= 0) return;
    if (child == worker_) ended(status);
  }
}

void Supervisor::ended(int status) {
  const TimePoint now = Clock::now();
  const Duration served = serves_ ? std::max<Duration>(now - since_, Duration(1)) : Duration();
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  worker_ = 0;
  link_ = Descriptor();
  if (serves_) unserved_since_ = now;
  phase_ = Phase::waiting;
  if (stopping_) {
    result_ = code >= 0 ? code : ended_because_.empty() ? 1 : 0;
    return;
  }
  if (code >= 0 && code != options_.restart_code && !ever_served_) {
    result_ = code;
    return;
  }
  std::string why = !ended_because_.empty()         ? ended_because_
                    : code == options_.restart_code ? "a device failed for good"
                    : code >= 0                     ? concat("it ended with exit code ", code)
                                : concat("it was ended by signal ", WTERMSIG(status));
  if (last_words_) why += ": " + *last_words_;
  try_again(served, code, why);
}

void Supervisor::try_again(Duration served, int code, const std::string& why) {
  const Duration delay = backoff_.next(served);
  if (backoff_.hopeless()) {
    log_error("the worker is not started again after ", backoff_.failed_starts(),
              " failed starts in a row (--give-up-after): ", why);
    result_ = std::max(code, 1);
    return;
  }
  start_at_ = Clock::now() + delay;
  ++history_.restarts;
  const std::string text =
      concat("the worker is started again in ", format_duration(delay), ": ", why);
  log_error(text);
  set_status(text);
}

void Supervisor::stop_worker() {
  if (!stopping_) {
    stopping_ = true;
    stop_until_ = Clock::now() + options_.drain_limit + kAfterDrain;
    notifier_.send("STOPPING=1\nSTATUS=draining");
    if (worker_ == 0) {
      result_ = 0;
    } else if (phase_ == Phase::serving) {
      kill(worker_, SIGTERM);
    } else {
      end_worker("nothing was begun yet");
    }
  } else if (worker_ != 0) {
    kill(worker_, SIGKILL);
  }
}

void Supervisor::end_worker(std::string_view reason) {
  if (!ended_because_.empty()) return;
  ended_because_ = reason;
  kill(worker_, SIGKILL);
}

void Supervisor::look_at_time() {
  const TimePoint now = Clock::now();
  // This process was stopped for a while, and the worker perhaps with it.
  if (const Duration gap = now - last_round_; gap > 2 * kRound) last_beat_ += gap;
  last_round_ = now;
  notifier_.beat(now);
  const auto over = [now](TimePoint since, Duration limit) {
    return limit > Duration::zero() && now - since > limit;
  };
  if (stopping_) {
    if (worker_ != 0 && now > stop_until_) kill(worker_, SIGKILL);
  } else if (phase_ == Phase::serving && over(last_beat_, options_.hang_limit)) {
    end_worker(concat("nothing was heard of it for ", format_duration(options_.hang_limit)));
  } else if (phase_ == Phase::starting && over(since_, options_.start_limit)) {
    end_worker(concat("it did not serve within ", format_duration(options_.start_limit)));
  }
}

Result<int> Supervisor::run() {
  MILLRACE_TRY(start());
  last_round_ = Clock::now();
  while (!result_) {
    poll_once();
    look_at_time();
    if (result_ || phase_ != Phase::waiting || stopping_ || Clock::now() < start_at_) continue;
    if (const Result<void> started = start(); !started.ok()) {
      try_again(Duration::zero(), 1, started.error().message);
    }
  }
  return *result_;
}

}  // namespace

Result<int> supervise(SupervisorOptions options) {
  Supervisor supervisor(std::move(options));
  MILLRACE_TRY(supervisor.listen());
  return supervisor.run();
}

}  // namespace millrace::server
