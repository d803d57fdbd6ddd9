#include "core/call_queue.h"

#include <chrono>
#include <future>
#include <memory>
#include <stdexcept>

#include "core/awake.h"

namespace mt {

constexpr std::chrono::microseconds kAwake{50};  // with an empty queue: longer than lies between two operators

CallQueue::CallQueue(std::function<void()> wait_elsewhere)
    : wait_elsewhere_(std::move(wait_elsewhere)), thread_([this] { loop(); }) {}
CallQueue::~CallQueue() { stop(); }

void CallQueue::stop() {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    stopping_ = called_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void CallQueue::drop() {
  std::deque<Task> dropped;  // destroyed after the lock is: tensors are let go with them
  std::unique_lock lock(mutex_);
  dropped.swap(tasks_);
  syncs_ = 0;
  idle_.wait(lock, [this] { return !running_; });
}

void CallQueue::push(Task task) {
  bool asleep;
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    asleep = asleep_;
    syncs_ += task.done != nullptr;
    tasks_.push_back(std::move(task));
    called_ = true;
  }
  if (asleep) wake_.notify_one();
}

void CallQueue::hold(bool on) {
  {
    std::lock_guard lock(mutex_);
    held_ = on;
  }
  wake_.notify_one();
}

void CallQueue::enqueue(const char* name, std::function<void()> task) { push({name, std::move(task), nullptr}); }
void CallQueue::enqueue_always(const char* name, std::function<void()> task) {
  push({name, std::move(task), nullptr, true});
}
void CallQueue::sync(std::function<void(const std::string&)> done) { push({"sync", nullptr, std::move(done)}); }

void CallQueue::sync_blocking() {
  // Shared: set_value may still be on its way out when this thread goes on.
  auto promise = std::make_shared<std::promise<std::string>>();
  auto future = promise->get_future();
  sync([promise](const std::string& failure) { promise->set_value(failure); });
  if (std::string failure = future.get(); !failure.empty()) throw std::runtime_error(failure);
}

void CallQueue::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (!stopping_ && !ready()) {
      // The next call is mostly microseconds away, and waking a thread would cost its caller as many.
      called_ = false;
      lock.unlock();
      stay_awake(kAwake, [this] { return called_.load(std::memory_order_acquire); });
      lock.lock();
      asleep_ = true;
      wake_.wait(lock, [this] { return stopping_ || ready(); });
      asleep_ = false;
    }
    if (stopping_) return tasks_.clear();
    {
      Task task = std::move(tasks_.front());
      tasks_.pop_front();
      syncs_ -= task.done != nullptr;
      running_ = true;
      lock.unlock();
      if (task.done) {
        try {
          wait_elsewhere_();
        } catch (const std::exception& e) {
          if (failure_.empty()) failure_ = e.what();
        }
        std::string failure = std::move(failure_);
        failure_.clear();
        task.done(failure);
      } else if (failure_.empty() || task.always) {
        try {
          task.run();
        } catch (const std::exception& e) {
          if (failure_.empty()) failure_ = std::string(task.name) + ": " + e.what();
        }
      }
    }  // the task's views are let go here, before the next task or sync
    lock.lock();
    running_ = false;
    idle_.notify_all();
  }
}

}  // namespace mt
