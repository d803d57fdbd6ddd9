// Frozen weights in 8 and 4 bits (docs/weights.md): a matrix W [N,K] of any float type to dtype int8 or nf4 and back.
// core/quantised.h has the layout. Linear layers read such a matrix as it is.
#pragma once
#include "core/list.h"
#include "core/view.h"

namespace mt {

/// out [ΣN_i,K], int8 or nf4: the rows of all ws [N_i,K] behind each other. int8 chooses the columns that it keeps for
/// all of them; nf4 quantises each by itself, and all but the last have a multiple of 16384 elements. On the CPU alone.
void check_quantize(const Views& ws, Out out);
/// w [N,K] float32, of q [N,K], int8 or nf4.
void check_dequantize(const View& q, Out w);

namespace cpu {
void quantize(const Views& ws, Out out);
void dequantize(const View& q, Out w);
}  // namespace cpu
namespace cuda {
void dequantize(const View& q, Out w);
}  // namespace cuda
}  // namespace mt
