// The CPU's queue: one native thread that runs operators in the order of their calls, as a CUDA stream does.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace mt {

class Stream {
 public:
  Stream();
  /// Finishes the task that is running, drops the rest.
  ~Stream();

  /// Runs `task` after all before it. If it throws, what follows is skipped up to the next sync, which reports it.
  void enqueue(const char* name, std::function<void()> task);
  /// Runs `done` on the queue's thread after everything before it, with the first failure since the last sync ("" if none).
  void sync(std::function<void(const std::string& failure)> done);
  /// Waits on the calling thread. Throws std::runtime_error with the failure, if there was one.
  void sync_blocking();
  void stop();

 private:
  struct Task {
    const char* name;
    std::function<void()> run;
    std::function<void(const std::string&)> done;
  };
  void push(Task task);
  void loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Task> tasks_;
  bool stopping_ = false;
  std::string failure_;  // touched by the queue's thread alone
  std::thread thread_;
};

}  // namespace mt
