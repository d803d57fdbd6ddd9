// The call queue: one native thread that runs operators in the order of their calls. The task of a CPU operator
// computes it; the task of a GPU operator launches it.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace mt {

class CallQueue {
 public:
  /// `wait_elsewhere` waits for work that tasks started elsewhere, as on a GPU. It runs before every sync, which
  /// reports its exceptions.
  explicit CallQueue(std::function<void()> wait_elsewhere);
  /// Finishes the running task and drops the rest.
  ~CallQueue();

  /// Runs `task` after all earlier ones. If it throws, later tasks are skipped up to the next sync, which reports it.
  void enqueue(const char* name, std::function<void()> task);
  /// The same, but never skipped.
  void enqueue_always(const char* name, std::function<void()> task);
  /// Whether something failed since the last sync. For tasks alone.
  bool failed() const { return !failure_.empty(); }
  /// Runs `done` on the queue's thread after everything before it, with the first failure since the last sync ("" if
  /// none).
  void sync(std::function<void(const std::string& failure)> done);
  /// Waits on the calling thread. Throws std::runtime_error with the failure, if there was one.
  void sync_blocking();
  /// From now on tasks wait until a sync is called, however long that takes, or no more: of a rehearsal, in which tasks
  /// would else be over before their caller has gone on.
  void hold(bool on);
  /// Finishes the running task and drops the waiting ones; later ones run.
  void drop();
  void stop();

 private:
  struct Task {
    const char* name;
    std::function<void()> run;
    std::function<void(const std::string&)> done;
    bool always = false;
  };
  void push(Task task);
  bool ready() const { return !tasks_.empty() && (!held_ || syncs_ > 0); }
  void loop();

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<Task> tasks_;
  bool running_ = false, stopping_ = false, asleep_ = false, held_ = false;
  int syncs_ = 0;                    // that wait
  std::atomic<bool> called_{false};  // since the queue was last found empty
  std::string failure_;              // touched by the queue's thread alone
  std::function<void()> wait_elsewhere_;
  std::thread thread_;
};

}  // namespace mt
