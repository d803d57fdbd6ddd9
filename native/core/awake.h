// A thread that waits for what comes within microseconds does not sleep: being woken takes longer.
#pragma once
#include <chrono>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace mt {

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

/// Waits for `ready`, which must be cheap, without sleeping; no longer than `most`.
template <typename Ready>
void stay_awake(std::chrono::microseconds most, Ready ready) {
  const auto until = std::chrono::steady_clock::now() + most;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < until);
}

}  // namespace mt
