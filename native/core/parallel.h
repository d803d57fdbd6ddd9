// The thread pool. It sleeps when idle. Work is cut into fixed pieces, so results do not depend on the number of
// threads.
#pragma once
#include <cstdint>
#include <functional>

namespace mt {

/// Calls body(begin, end) for pieces of [0, n), on all threads, and returns when all are done. `cost` is the rough
/// number of scalar operations per item: work too small to share runs on the caller. An exception of a piece is
/// rethrown.
void parallel_for(int64_t n, int64_t cost, const std::function<void(int64_t begin, int64_t end)>& body);

/// Threads in use: MT_THREADS, else the machine's.
int threads();
void set_threads(int n);

}  // namespace mt
