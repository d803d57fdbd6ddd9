// Runs CUDA kernels on the CPU: a fiber for every CUDA thread that has to wait, one OS thread for a launch.
//
// Threads run in a chosen order, each up to a barrier or a warp operation. As long as none waits, one fiber runs them
// all, so a kernel without barriers costs little more than a loop. A pass over the threads without progress is a
// deadlock; the report says which threads wait where. Shared memory starts as NaN in every block. Not modelled: weak
// memory order, bank conflicts, registers, time.
#pragma once
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator/fiber.h"
#include "emulator/vector_types.h"

namespace mt::simt {

/// An operation and its source location. The column distinguishes two operations on one line.
struct Site {
  const char* op = nullptr;
  std::source_location at{};
  bool operator==(const Site& other) const;
  std::string text() const;
};
std::string text(const std::source_location& at);

/// An error of a kernel.
struct fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A rendezvous of threads: the block's barrier, or the lanes of one mask of a warp.
struct Meeting {
  unsigned mask = 0, arrived = 0;
  uint64_t generation = 0;
  Site site;
  void* slot[32] = {};
  void (*all)(void** lanes, const Site&) = nullptr;
  void complete();
};
struct Warp {
  unsigned live = 0;
  std::deque<Meeting> meetings;  // one for every mask in use; a deque, because waiting threads point into it
};
struct Copy {
  void* to;
  uint32_t group;
  alignas(16) char bytes[16];
};
struct Block {
  dim3 grid, dim;
  uint3 idx{};
  char* shared = nullptr;
  unsigned live = 0;
  Meeting barrier;
  bool some[2] = {};  // what threads brought to the barrier of an even or odd generation
};
struct Thread {
  uint3 tid{};
  unsigned rank = 0, lane = 0;
  Block* block = nullptr;
  Warp* warp = nullptr;
  Fiber* fiber = nullptr;
  const uint64_t* wait = nullptr;  // waits until this generation is no longer the one seen
  uint64_t seen = 0;
  Site at;
  bool done = false;
  std::vector<Copy> copies;  // cp.async in flight
  uint32_t group = 0;
};

/// The CUDA thread that runs on this OS thread.
extern constinit thread_local Thread* cur;

/// A kernel's launch with its arguments bound.
struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  std::function<void()> body;
  std::source_location at;
  const void* kernel = nullptr;  // whose limit of shared memory holds; null: none does
};
/// Empty, or why a device would refuse the launch's sizes.
std::string refused(const Launch& l);
/// Runs the grid to its end. Throws `fault`.
void run(const Launch& l);

void sync_block(Site site);
/// A barrier that also tells every thread whether some thread of the block passed `yes`.
bool sync_block_or(Site site, bool yes);
/// The calling lane joins the rendezvous of `mask` and waits for all lanes; the last one computes for all.
void meet(Site site, unsigned mask, void* mine, void (*all)(void**, const Site&));

/// Every lane passes a Slot on its own stack; `compute` gets all of them (null: absent) and writes the results into
/// them.
template <auto compute, typename Slot>
void warp_op(Site site, unsigned mask, Slot& mine) {
  meet(site, mask, &mine, [](void** lanes, const Site& s) {
    Slot* slots[32];
    for (int i = 0; i < 32; ++i) slots[i] = static_cast<Slot*>(lanes[i]);
    compute(slots, s);
  });
}

/// Modes as in MT_EMULATOR, a comma list: null (calls are checked and counted, kernels and copies do not run, device
/// memory is address space alone, what is read from it is 0), order=forward|reversed|random:SEED, late, devices=N,
/// nodriver, driver=VERSION, nodevice, fail=malloc:N, fail=launch:N, fail=memcpy:N, sticky=N, memory=BYTES, pool, slow.
/// The N-th such call from here on fails; `sticky` is the N-th kernel that runs, after which every call fails. `pool`:
/// memory released in stream order is reused by cudaMallocAsync alone, for a block of its size or less, until the pool
/// is trimmed. `slow`: captures begin and end, and the runtime is unloaded, with a pause, so that races show. Also
/// clears errors.
void configure(const std::string& modes);
/// Resets errors as a new process would, in the same modes.
void clear_errors();
/// How often a kernel's limit of shared memory was set since configure().
uint64_t shared_limits_set();
/// The message of the last failed launch of this process; empty if none failed.
std::string last_report();

struct Order {
  enum Kind { forward, reversed, random } kind = forward;
  uint64_t seed = 0;
};
void set_order(Order order);
/// Work so far on this OS thread: lets a test see that a kernel without barriers needs no switches.
struct Work {
  uint64_t threads, switches;
};
Work work_done();

}  // namespace mt::simt
