// Images cut into square patches, so that a convolution with stride = kernel becomes a matrix product of their rows.
// Pixels are never trained: there is no backward.
#pragma once
#include "core/view.h"

namespace mt {

/// pixels [B,C,H,W] contiguous; p = patch divides H and W; y [B,(H/p)(W/p),C·p·p]. A row of y has the order (c, row,
/// column) of a flattened convolution weight. Patches run along the rows of the image.
void check_patchify(const Act& pixels, int64_t patch, ActOut y);

namespace cpu {
void patchify(const View& pixels, int64_t patch, Out y);
}  // namespace cpu
namespace cuda {
void patchify(const Act& pixels, int64_t patch, ActOut y);
}  // namespace cuda
}  // namespace mt
