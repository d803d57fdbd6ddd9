// The memory of CPU tensors, counted for the whole process: blocks that are freed are kept for the next tensor of their
// size. And the rehearsal of a computation, which counts what it would take and takes nothing.
#pragma once
#include <cstddef>

namespace mt {

struct MemoryStats {
  size_t bytes;    // of all storages alive, allocated or about to be
  size_t peak;     // most bytes really allocated at one time
  size_t cached;   // freed, kept for the next allocation
  size_t tensors;  // storages alive
  size_t packed;   // of frozen weights in the layout of the kernels
  size_t mapped;   // of files that tensors lie in; the system keeps of them in memory what it has room for
};
MemoryStats memory_stats();
void reset_peak();
/// Gives the freed blocks that are kept for the next tensors back to the system.
void release_cached();

/// The most bytes that may be allocated at one time: MT_MEMORY_LIMIT, else what limit_memory() said, else the machine's
/// memory. Throws where MT_MEMORY_LIMIT is no number.
size_t memory_limit();
/// What the process may use where that is less than the machine has, as in a container.
void limit_memory(size_t bytes);

/// Throws std::runtime_error where the limit would be exceeded.
void* allocate(size_t bytes);
void release(void* block, size_t bytes);
/// For an optional use: null where more than so many quarters of the limit would be in use.
void* allocate_packed(size_t bytes, int quarters);
void release_packed(void* block, size_t bytes);
/// Storages that begin or end.
void count_storages(ptrdiff_t bytes, ptrdiff_t storages);
void count_mapped(ptrdiff_t bytes);

/// What a rehearsed computation would take at one time: in use, and with the freed blocks that would be kept.
struct Rehearsed {
  size_t peak, resident;
};
/// Begins a rehearsal: nothing is in use.
void rehearse();
void rehearse_allocate(size_t bytes);
void rehearse_release(size_t bytes);
Rehearsed rehearsed();

}  // namespace mt
