// A memory pool that captured graphs share, since only one of them runs at a time.
#pragma once
#include <cstddef>

#include "core/cuda.h"

namespace mt::cuda {

/// For as long as it lives, captures that this thread begins compute in one memory with all others of their stream that
/// began so. What such a graph makes is lost when another of them runs.
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
