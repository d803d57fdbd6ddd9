// Spinning waits: waking a sleeping thread takes longer than the microseconds that it waits.
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

/// Spins until `ready` (which must be cheap) is true, for at most `most`.
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
