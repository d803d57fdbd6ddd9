// Images cut into square patches: a convolution with stride = kernel becomes a matrix product on its rows.
#pragma once
#include "core/view.h"

namespace mt {

/// pixels [B,C,H,W] contiguous; patch divides H and W; y [B,(H/p)(W/p),C·p·p], each row in the order (c, row,
/// column) of a flattened convolution weight. Patches run along the rows of the image.
void check_patchify_forward(const Act& pixels, int64_t patch, ActOut y);
/// dpixels: every pixel lies in one patch, so its gradient is moved back.
void check_patchify_backward(const Act& dy, int64_t patch, ActOut dpixels);

namespace cpu {
void patchify_forward(const View& pixels, int64_t patch, Out y);
void patchify_backward(const View& dy, int64_t patch, Out dpixels);
}  // namespace cpu
namespace cuda {
void patchify_forward(const Act& pixels, int64_t patch, ActOut y);
void patchify_backward(const Act& dy, int64_t patch, ActOut dpixels);
}  // namespace cuda
}  // namespace mt
