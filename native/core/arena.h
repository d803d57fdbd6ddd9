// A memory pool that captured graphs share, since only one of them runs at a time.
#pragma once
#include <cstddef>

#include "core/cuda.h"

namespace mt::cuda {

/// While it lives, captures that this thread begins allocate from the pool that their stream's other shared captures
/// use. What such a graph computes is overwritten when another of them runs.
class Shared {
 public:
  explicit Shared(bool shared);
  ~Shared();
  Shared(const Shared&) = delete;

 private:
  bool before_;
};

/// Bytes of a graph's memory pool.
size_t graph_bytes(const Graph& graph);

}  // namespace mt::cuda
