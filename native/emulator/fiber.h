// A fiber: a second stack on an OS thread. It stays on the thread that made it, so thread_local is safe in it.
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#else
#define SIMT_ASAN 0
#endif
#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__)) && !defined(SIMT_UCONTEXT)
#define SIMT_OWN_SWITCH 1
#else
#define SIMT_OWN_SWITCH 0
#include <ucontext.h>
#endif

namespace mt::simt {

#if SIMT_OWN_SWITCH
using Context = void*;  // the stack pointer; the registers lie on the stack
#else
using Context = ucontext_t;
#endif

class Fiber {
 public:
  /// Runs entry(argument) at the first resume. The entry never returns: it ends in a suspend that is never resumed.
  Fiber(void (*entry)(void*), void* argument);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void resume();                 // on the OS thread's own stack: returns when some fiber suspends
  void hand_over(Fiber& other);  // on this fiber: the other goes on instead
  void suspend();                // on this fiber: back to the OS thread's own stack

 private:
  static void start();
  void (*entry_)(void*);
  void* argument_;
  char* stack_;
  Context here_{};
  void* fake_ = nullptr;  // the address sanitizer's state of a suspended stack
};

void poison(const void* p, size_t bytes);
void unpoison(const void* p, size_t bytes);

}  // namespace mt::simt
