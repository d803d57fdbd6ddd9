// Keys and values of new tokens, written into a cache at a place that lies in memory: a captured decoding step appends
// elsewhere each time.
#pragma once
#include "core/view.h"

namespace mt {

/// keys[b, at+i, :] = k[b, i, :] and values[b, at+i, :] = v[b, i, :]. k and v [B,n,D], the last
/// dimension contiguous (strided otherwise); at [1] int32; keys and values [B,M,D] of their dtype, contiguous. Rows
/// outside the M of the cache fail in the queue, with the place and M.
void check_cache_append(const Act& k, const Act& v, const View& at, ActInOut keys, ActInOut values);

namespace cpu {
void cache_append(const Act& k, const Act& v, const View& at, ActInOut keys, ActInOut values);
}  // namespace cpu
namespace cuda {
void cache_append(const Act& k, const Act& v, const View& at, ActInOut keys, ActInOut values);
}  // namespace cuda
}  // namespace mt
