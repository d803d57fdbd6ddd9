// The layout of tensor-core fragments: as measured on the device, and as the PTX manual states it. Kernels and emulator
// follow the manual; on a device with another layout all of them would be wrong.
#pragma once
#include <vector>

namespace mt::cuda {

/// Answers in a fixed order: for each of A's 256 register halves alone, what the 128 sums of the product name (0, or 1
/// + B's register half); then for ldmatrix x4, x4_trans, x2, x2_trans the element of shared memory in each register
/// half; then pack_bf16's order.
std::vector<int> probe_fragments();
std::vector<int> expected_fragments();

}  // namespace mt::cuda
