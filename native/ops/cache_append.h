// Writes keys and values of new tokens into a cache. The position is read from memory, so that a captured decoding step
// appends at another one each time.
#pragma once
#include "core/view.h"

namespace mt {

/// keys[b, at+i, :] = k[b, i, :] and values[b, at+i, :] = v[b, i, :]. k and v [B,n,D], any strides, but 1 for D; at [1]
/// int32; keys and values [B,M,D] of the same dtype, contiguous. Rows outside the M of the cache fail in the queue,
/// with the position and M.
void check_cache_append(const Act& k, const Act& v, const View& at, ActInOut keys, ActInOut values);

namespace cpu {
void cache_append(const Act& k, const Act& v, const View& at, ActInOut keys, ActInOut values);
}  // namespace cpu
namespace cuda {
void cache_append(const Act& k, const Act& v, const View& at, ActInOut keys, ActInOut values);
}  // namespace cuda
}  // namespace mt
