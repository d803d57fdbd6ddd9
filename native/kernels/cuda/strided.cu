// Copies of elements as bytes, for the operators that are nothing else: copies, permutations, patches.
#include "kernels/cuda/strided.h"

namespace mt::cuda {
namespace {

struct Same {
  template <typename T>
  __device__ T operator()(T v) const {
    return v;
  }
};

}  // namespace

void move(const View& x, const View& y) {
  const size_t size = size_of(x.dtype);
  auto first = [size](const View& v) { return static_cast<char*>(v.storage->data()) + v.offset * int64_t(size); };
  const char* from = first(x);
  char* to = first(y);
  const Walk w = plan_walk(Loop(x, y), uintptr_t(from), uintptr_t(to), size, size, int(16 / size));
  each_unit(size_t(w.width) * size, [&](auto unit) {
    using U = decltype(unit);
    launch_walk<U, U, 1>(reinterpret_cast<const U*>(from), reinterpret_cast<U*>(to), w, Same{});
  });
}

}  // namespace mt::cuda
