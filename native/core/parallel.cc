#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/awake.h"

namespace mt {
namespace {

constexpr int64_t kPieceCost = 40'000;  // about 10 microseconds: below it, waking a thread costs more than it saves
constexpr int kPiecesPerThread = 8;
constexpr std::chrono::microseconds kAwake{200};  // longer than waking takes, and than what lies between two operators
thread_local bool inside = false;                 // a nested parallel_for runs on the calling thread

class Pool {
 public:
  Pool() { resize(configured()); }
  ~Pool() { resize(1); }

  int size() const { return size_; }

  void resize(int n) {
    std::lock_guard guard(owner_);
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& t : workers_) t.join();
    workers_.clear();
    stopping_ = false;
    size_ = 1;
    // Where the system refuses more threads, the existing ones do the work.
    for (int i = 1; i < std::clamp(n, 1, 256); ++i, ++size_) workers_.emplace_back([this] { work(); });
  }

  void run(int64_t n, int64_t cost, const std::function<void(int64_t, int64_t)>& body) {
    if (n <= 0) return;
    double worth = double(n) * double(std::max<int64_t>(cost, 1)) / double(kPieceCost);  // in integers it may overflow
    int64_t pieces = std::min(n, int64_t(std::min(double(size_ * kPiecesPerThread), worth)));
    // Another queue (of a Node worker thread) may own the pool: then this one works alone and does not wait.
    std::unique_lock own(owner_, std::defer_lock);
    if (inside || size_ == 1 || pieces < 2 || !own.try_lock()) return body(0, n);
    {
      std::lock_guard lock(mutex_);
      body_ = &body;
      n_ = n;
      pieces_ = pieces;
      next_ = 0;
      left_ = pieces;
      error_ = nullptr;
      ++generation_;
    }
    wake_.notify_all();
    help(body, n, pieces);
    stay_awake(kAwake, [this] { return left_ == 0 && busy_ == 0; });
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0 && busy_ == 0; });
    body_ = nullptr;
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static int configured() {
    const char* s = std::getenv("MT_THREADS");
    int n = s ? std::atoi(s) : 0;
    return n > 0 ? n : int(std::max(1u, std::thread::hardware_concurrency()));
  }

  void help(const std::function<void(int64_t, int64_t)>& body, int64_t n, int64_t pieces) {
    int64_t did = 0;
    inside = true;
    for (int64_t i; (i = next_.fetch_add(1)) < pieces; ++did) {
      try {
        body(n * i / pieces, n * (i + 1) / pieces);
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
    inside = false;
    std::lock_guard lock(mutex_);
    left_ -= did;
  }

  void work() {
    uint64_t seen = 0;
    while (true) {
      stay_awake(kAwake, [&] { return stopping_ || generation_ != seen; });
      std::unique_lock lock(mutex_);
      if (!body_ && !stopping_ && generation_ != seen) {  // done without this thread
        seen = generation_;
        continue;
      }
      wake_.wait(lock, [&] { return stopping_ || (body_ && generation_ != seen); });
      if (stopping_) return;
      seen = generation_;
      const auto& body = *body_;
      int64_t n = n_, pieces = pieces_;
      ++busy_;
      lock.unlock();
      help(body, n, pieces);
      lock.lock();
      --busy_;
      if (left_ == 0 && busy_ == 0) done_.notify_one();
    }
  }

  std::mutex owner_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  const std::function<void(int64_t, int64_t)>* body_ = nullptr;
  int64_t n_ = 0, pieces_ = 0;
  std::atomic<int64_t> next_{0};
  // Written under the mutex; read without it while spinning.
  std::atomic<int64_t> left_{0};
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> busy_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<int> size_{1};
  std::exception_ptr error_;
};

/// Never destroyed: queues of other Node threads may still be at work while the process ends.
Pool& pool() {
  static Pool* p = new Pool;
  return *p;
}

}  // namespace

void parallel_for(int64_t n, int64_t cost, const std::function<void(int64_t, int64_t)>& body) {
  pool().run(n, cost, body);
}
int threads() { return pool().size(); }
void set_threads(int n) { pool().resize(n); }

}  // namespace mt
