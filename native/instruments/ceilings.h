// The measured peak rates of this machine, to which benchmarks relate their times. Each call blocks for a few hundred
// milliseconds and runs on all threads of the pool.
#pragma once
#include <string_view>

namespace mt {

/// A rate per second, of the fastest of several passes; 0 where the machine has no such thing:
///
/// - "float32": operations of fused multiply-adds of the chosen instruction set (two each), operands in registers
/// - "bfloat16": the same for products of bfloat16 pairs that are summed in float32 (AVX512_BF16)
/// - "read": bytes read once, in order, from memory larger than caches, in huge pages where the system gives them
/// - "readSmallPages": the same from pages of 4 KiB
/// - "copy": bytes read and bytes written, in huge pages
///
/// Throws shape_error for any other name.
double ceiling(std::string_view what);

}  // namespace mt
