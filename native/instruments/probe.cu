#include "instruments/probe.h"

#include "kernels/cuda/port.h"

namespace mt::cuda {
namespace {

constexpr int kA = 256, kD = 128, kX4 = 256, kX2 = 128;  // register halves of 32 lanes
constexpr int kTotal = kA * kD + 2 * kX4 + 2 * kX2 + 2;

/// One warp. A's half i of lane l has number 8·l + i, B's 4·l + i, D's element e 4·l + e.
__global__ void probe(int* out) {
  SHARED(uint16_t, s);
  const int lane = int(threadIdx.x);
  uint32_t b[2];  // every half holds its own number plus 1: whole numbers to 256 are exact in bf16
  for (int i = 0; i < 2; ++i) b[i] = pack_bf16(float(4 * lane + 2 * i + 1), float(4 * lane + 2 * i + 2));
  for (int one = 0; one < kA; ++one) {
    uint32_t a[4];
    for (int i = 0; i < 4; ++i)
      a[i] = pack_bf16(one == 8 * lane + 2 * i ? 1.0f : 0.0f, one == 8 * lane + 2 * i + 1 ? 1.0f : 0.0f);
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_m16n8k16(d, a, b);
    for (int e = 0; e < 4; ++e) out[one * kD + 4 * lane + e] = int(d[e]);
  }
  out += kA * kD;

  for (int i = lane; i < 256; i += 32) s[i] = uint16_t(i);
  __syncwarp();
  const uint16_t* row = s + 8 * lane;
  uint32_t x4[4], x2[2];
  ldmatrix_x4(x4, row);
  for (int i = 0; i < 8; ++i) out[8 * lane + i] = int(x4[i / 2] >> 16 * (i % 2) & 0xffff);
  out += kX4;
  ldmatrix_x4_trans(x4, row);
  for (int i = 0; i < 8; ++i) out[8 * lane + i] = int(x4[i / 2] >> 16 * (i % 2) & 0xffff);
  out += kX4;
  ldmatrix_x2(x2, row);
  for (int i = 0; i < 4; ++i) out[4 * lane + i] = int(x2[i / 2] >> 16 * (i % 2) & 0xffff);
  out += kX2;
  ldmatrix_x2_trans(x2, row);
  for (int i = 0; i < 4; ++i) out[4 * lane + i] = int(x2[i / 2] >> 16 * (i % 2) & 0xffff);
  out += kX2;
  if (lane == 0) out[0] = int(pack_bf16(1.0f, 2.0f) & 0xffff), out[1] = int(pack_bf16(1.0f, 2.0f) >> 16);
}

}  // namespace

std::vector<int> probe_fragments() {
  int* out = nullptr;
  cudaStream_t stream = current_stream();
  check(cudaMallocAsync(&out, kTotal * sizeof(int), stream), "probe");
  launch(probe, 1, 32, 256 * sizeof(uint16_t), out);
  std::vector<int> answers(kTotal);
  check(cudaMemcpyAsync(answers.data(), out, kTotal * sizeof(int), cudaMemcpyDeviceToHost, stream), "probe");
  check(cudaFreeAsync(out, stream), "probe");
  check(cudaStreamSynchronize(stream), "probe");
  return answers;
}

std::vector<int> expected_fragments() {
  std::vector<int> want;
  want.reserve(kTotal);
  // PTX manual, mma.m16n8k16 with .bf16, groupID = lane / 4, threadID_in_group = lane % 4:
  //   A: row groupID for i < 2 || 4 <= i < 6, else groupID + 8; column threadID·2 + (i & 1), plus 8 for i >= 4
  //   B: row threadID·2 + (i & 1), plus 8 for i >= 2; column groupID
  //   C: row groupID for i < 2, else groupID + 8; column threadID·2 + (i & 1)
  int b_at[16][8];
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) b_at[lane % 4 * 2 + (i & 1) + (i >= 2 ? 8 : 0)][lane / 4] = 4 * lane + i;
  for (int one = 0; one < kA; ++one) {
    const int i = one % 8, group = one / 8 / 4;
    const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8, k = one / 8 % 4 * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    for (int lane = 0; lane < 32; ++lane)
      for (int e = 0; e < 4; ++e)
        want.push_back((e < 2 ? lane / 4 : lane / 4 + 8) == row ? 1 + b_at[k][lane % 4 * 2 + (e & 1)] : 0);
  }
  // ldmatrix: lane l's register m holds row l / 4 of matrix m, columns 2·(l % 4) and the next; .trans: of the
  // transposed matrix.
  for (int registers : {4, 2})
    for (bool trans : {false, true})
      for (int lane = 0; lane < 32; ++lane)
        for (int m = 0; m < registers; ++m)
          for (int h = 0; h < 2; ++h) {
            const int i = lane / 4, j = lane % 4 * 2 + h;
            want.push_back(64 * m + (trans ? 8 * j + i : 8 * i + j));
          }
  want.push_back(0x3f80);  // 1 in the lower half
  want.push_back(0x4000);  // 2 in the upper
  return want;
}

}  // namespace mt::cuda
