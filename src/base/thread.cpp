#include "base/thread.h"

#include <pthread.h>

#include <exception>
#include <system_error>
#include <utility>

#include "base/log.h"

namespace millrace {

Thread::Thread(std::string name, std::function<void()> body)
    : thread_([name = std::move(name), body = std::move(body)]() noexcept {
        name_this_thread(name);
        try {
          body();
        } catch (const std::exception& e) {
          log_error("thread ", quote(name), " ended by an exception: ", e.what());
        } catch (...) {
          log_error("thread ", quote(name), " ended by an exception of unknown type");
        }
      }) {}

Result<Thread> Thread::start(const std::string& name, std::function<void()> body) {
  try {
    return Thread(name, std::move(body));
  } catch (const std::system_error& e) {
    return Error{ErrorCode::unavailable,
                 concat("the system gave no thread for ", quote(name), ": ", e.what(),
                        "; see the limits on processes (ulimit -u) and memory"),
                 Scope::process};
  }
}

Thread& Thread::operator=(Thread&& other) noexcept {
  if (this != &other) {
    join();
    thread_ = std::move(other.thread_);
  }
  return *this;
}

Thread::~Thread() { join(); }

void Thread::join() noexcept {
  if (!thread_.joinable()) return;
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

void Thread::detach() noexcept {
  if (thread_.joinable()) thread_.detach();
}

void name_this_thread(std::string_view name) noexcept {
  char text[16] = {};
  name.copy(text, sizeof text - 1);
  pthread_setname_np(pthread_self(), text);
}

}  // namespace millrace
