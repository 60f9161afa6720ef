#include "engine/task_thread.h"

#include "base/log.h"

namespace millrace {

TaskThread::TaskThread(std::string name) : shared_(std::make_shared<Shared>()) {
  thread_ = Thread(std::move(name), [shared = shared_] {
    std::vector<std::function<void()>> tasks;
    for (;;) {
      {
        std::unique_lock lock(shared->mutex);
        shared->wake.wait(lock, [&] { return shared->stop || !shared->tasks.empty(); });
        if (shared->tasks.empty()) return;
        tasks.swap(shared->tasks);
      }
      for (std::function<void()>& task : tasks) {
        try {
          task();
        } catch (const std::exception& error) {
          log_error("a task threw: ", error.what());
        } catch (...) {
          log_error("a task threw");
        }
        task = nullptr;  // what it holds goes with it, not with the last of these tasks
      }
      tasks.clear();
    }
  });
}

TaskThread::~TaskThread() {
  {
    std::lock_guard lock(shared_->mutex);
    shared_->stop = true;
  }
  shared_->wake.notify_one();
}

void TaskThread::post(std::function<void()> task) {
  {
    std::lock_guard lock(shared_->mutex);
    shared_->tasks.push_back(std::move(task));
  }
  shared_->wake.notify_one();
}

void TaskThread::call(std::function<void()> task) {
  auto done = std::make_shared<std::promise<void>>();
  std::future<void> waiting = done->get_future();
  post([task = std::move(task), done = std::move(done)] {
    task();
    done->set_value();
  });
  try {
    waiting.get();
  } catch (const std::future_error&) {  // the task threw, which is in the log
  }
}

void TaskThread::abandon() noexcept {
  {
    std::lock_guard lock(shared_->mutex);
    shared_->stop = true;
    shared_->tasks.clear();
  }
  thread_.detach();
}

}  // namespace millrace
