// Copies between strides and dtypes, fills, counter-based random numbers.
#pragma once
#include "core/view.h"

namespace mt {

/// y = x, element by element, between any strides of at most kMaxRank dimensions. The shapes are equal; strides of x
/// may be 0. Converts between float32, bfloat16 and float16 (to nearest, ties to even), and from int64, int32 and uint8
/// to int32, int64 or float32. The backward of a copy is a copy.
void check_copy(const View& x, Out y);
/// y = value in every element; y float32, bfloat16, int32 or uint8.
void check_fill(double value, ActOut y);
/// Philox4x32-10 with counter (element / 4, stream) and key seed: the same numbers whatever the order of calls and the
/// number of threads. Uniform in [low, high), or normal by the Box-Muller transform. y float32, contiguous.
void check_random_uniform(int64_t seed, int64_t stream, double low, double high, Out y);
void check_random_normal(int64_t seed, int64_t stream, double mean, double std, Out y);

namespace cpu {
void copy(const View& x, Out y);
void fill(double value, Out y);
void random_uniform(int64_t seed, int64_t stream, double low, double high, Out y);
void random_normal(int64_t seed, int64_t stream, double mean, double std, Out y);
}  // namespace cpu
namespace cuda {
void copy(const View& x, Out y);
void fill(double value, ActOut y);
void random_uniform(int64_t seed, int64_t stream, double low, double high, Out y);
void random_normal(int64_t seed, int64_t stream, double mean, double std, Out y);
}  // namespace cuda
}  // namespace mt
