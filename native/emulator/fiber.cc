#include "emulator/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

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

/// The OS thread's own stack, left in resume() and returned to in suspend().
struct Home {
  Context context{};
  Fiber* starting = nullptr;
  const void* stack = nullptr;
  size_t size = 0;
  bool left = false;  // no fiber has run since; the stack to return to is the OS thread's
};
thread_local Home home;

/// Notifies the address sanitizer before and after a change of stacks.
void leave([[maybe_unused]] void** fake, [[maybe_unused]] const void* stack, [[maybe_unused]] size_t size) {
#if SIMT_ASAN
  __sanitizer_start_switch_fiber(fake, stack, size);
#endif
}
void arrive([[maybe_unused]] void* fake) {
#if SIMT_ASAN
  const void* from;
  size_t size;
  __sanitizer_finish_switch_fiber(fake, &from, &size);
  if (std::exchange(home.left, false)) home.stack = from, home.size = size;
#endif
}

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
  --sp;  // at a function's entry rsp is 8 off a multiple of 16
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
  unpoison(stack_ + kGuard, kStack);  // else the next user of these pages inherits the marks of these frames
  munmap(stack_, kGuard + kStack);
}

void Fiber::start() {
  Fiber* f = home.starting;
  arrive(nullptr);
  f->entry_(f->argument_);
  std::abort();
}

void Fiber::resume() {
  home.starting = this;
  void* fake = nullptr;
  home.left = true;
  leave(&fake, stack_ + kGuard, kStack);
  change(home.context, here_);
  arrive(fake);
}

void Fiber::hand_over(Fiber& other) {
  home.starting = &other;
  leave(&fake_, other.stack_ + kGuard, kStack);
  change(here_, other.here_);
  arrive(fake_);
}

void Fiber::suspend() {
  leave(&fake_, home.stack, home.size);
  change(here_, home.context);
  arrive(fake_);
}

}  // namespace mt::simt
