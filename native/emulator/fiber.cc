#include "emulator/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// simt_switch(&save, load): pushes the registers that a call keeps, exchanges the stack pointers, pops the other's.
#if SIMT_OWN_SWITCH
extern "C" void simt_switch(void** save, void* load);
#if defined(__x86_64__)
asm(R"(.text
.hidden simt_switch
.globl simt_switch
.type simt_switch,@function
simt_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size simt_switch,.-simt_switch
)");
#else
asm(R"(.text
.hidden simt_switch
.globl simt_switch
.type simt_switch,@function
simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size simt_switch,.-simt_switch
)");
#endif
#endif

namespace mt::simt {
namespace {

constexpr size_t kStack = (SIMT_ASAN ? 256 : 128) << 10, kGuard = 64 << 10;  // the guard: a page on every machine
thread_local Fiber* starting = nullptr;

void change(Context& save, Context& load) {
#if SIMT_OWN_SWITCH
  simt_switch(&save, load);
#else
  swapcontext(&save, &load);
#endif
}

}  // namespace

void poison([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#if SIMT_ASAN
  __asan_poison_memory_region(p, bytes);
#endif
}
void unpoison([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#if SIMT_ASAN
  __asan_unpoison_memory_region(p, bytes);
#endif
}

Fiber::Fiber(void (*entry)(void*), void* argument) : entry_(entry), argument_(argument) {
  void* p = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  mprotect(p, kGuard, PROT_NONE);
  stack_ = static_cast<char*>(p);
#if SIMT_OWN_SWITCH
  void** sp = reinterpret_cast<void**>(stack_ + kGuard + kStack);
#if defined(__x86_64__)
  --sp;  // at its entry a function finds rsp 8 off a multiple of 16
  *--sp = reinterpret_cast<void*>(&Fiber::start);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
#else
  sp -= 20;
  for (int i = 0; i < 20; ++i) sp[i] = nullptr;
  sp[11] = reinterpret_cast<void*>(&Fiber::start);  // x30
#endif
  here_ = sp;
#else
  getcontext(&here_);
  here_.uc_stack.ss_sp = stack_ + kGuard;
  here_.uc_stack.ss_size = kStack;
  here_.uc_link = nullptr;
  makecontext(&here_, &Fiber::start, 0);
#endif
}

Fiber::~Fiber() {
  unpoison(stack_ + kGuard, kStack);  // else whoever maps these pages next inherits the marks of our frames
  munmap(stack_, kGuard + kStack);
}

void Fiber::start() {
  Fiber* f = starting;
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &f->home_stack_, &f->home_size_);
#endif
  f->entry_(f->argument_);
  std::abort();
}

void Fiber::resume() {
  starting = this;
#if SIMT_ASAN
  __sanitizer_start_switch_fiber(&home_fake_, stack_ + kGuard, kStack);
#endif
  change(home_, here_);
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(home_fake_, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
#if SIMT_ASAN
  __sanitizer_start_switch_fiber(&fake_, home_stack_, home_size_);
#endif
  change(here_, home_);
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(fake_, &home_stack_, &home_size_);
#endif
}

}  // namespace mt::simt
