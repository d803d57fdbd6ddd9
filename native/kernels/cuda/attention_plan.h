// How attention on tensor cores is cut into blocks, and what a block holds in shared memory. Plain C++, so that tests
// call it without a device.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/routing.h"

namespace mt::cuda {

/// How a launch is cut up.
struct Cut {
  int units;           // of a block
  int warps;           // of a unit
  int q_rows, k_rows;  // queries and keys in shared memory, multiples of 16
  int blocks;          // of a unit
  int splits = 1;      // forward: pieces of a unit's keys, each for a block of its own
  int span = 0;        // keys of a piece
  int stages = 1;      // segments of k_rows keys in shared memory: with two, one is loaded while the other is used
};

/// Bytes of shared memory that a block may have, and the number of multiprocessors.
struct Room {
  size_t shared;
  int processors;
};

constexpr int pieces(int n, int size) { return (n + size - 1) / size; }
constexpr int round_up16(int n) { return pieces(n, 16) * 16; }

/// The padded width of a head of d ≤ 128 columns.
constexpr int padded_width(int d) { return d <= 64 ? 64 : d <= 96 ? 96 : 128; }
/// Elements from one row to the next in shared memory, so that eight rows of a matrix fall into different banks.
constexpr int row_pitch(int width) { return width + 8; }
/// A multiprocessor's 65,536 registers are 204 a thread in ten warps, 255 in eight. The kernels take up to 166 where
/// the width is 64, and 215 where it is 128 (docs/kernels.md).
constexpr int most_warps(int width) { return width == 64 ? 10 : 8; }
/// Two blocks of more warps than this do not share a multiprocessor: forward takes 152 registers a thread where the
/// width is 64, and 207 where it is 128.
constexpr int shared_warps(int width) { return width == 64 ? 6 : 4; }

/// Units of a block: short ones share a block of four warps.
inline int side_by_side(int64_t units, int warps) { return int(std::min<int64_t>(std::max(1, 4 / warps), units)); }

// ---- forward ----

/// The most keys in shared memory at a time. With their values they take 46 KiB where the width is 64, so that four
/// blocks share a multiprocessor's 227 KiB, and 87 KiB where it is 128: two blocks.
constexpr int kSegment = 160;
constexpr int kLeastSpan = 64;  // keys of a piece: fewer are not worth a block and the second pass

/// What the cut of forward attention depends on.
struct ForwardSize {
  int64_t units;
  int nq, nk, d;
  bool all_keys;  // a pass needs every key in shared memory: routing mixture
  bool splits;    // keys may be split: no masks
};

/// What a block holds in shared memory: for each stage and unit keys and values, and a number for each key.
inline size_t forward_bytes(int width, const Cut& cut) {
  return size_t(cut.stages * cut.units) * size_t(cut.k_rows) * (2 * size_t(row_pitch(width)) * 2 + sizeof(float));
}
inline int64_t forward_blocks(int64_t units, const Cut& cut) {
  return (units + cut.units - 1) / cut.units * cut.blocks * cut.splits;
}

/// The cut; its `units` is 0 where the keys do not fit.
inline Cut forward_cut(const ForwardSize& s, const Room& room) {
  const int width = padded_width(s.d), tiles = pieces(s.nq, 16);
  Cut cut{};
  cut.blocks = pieces(tiles, most_warps(width));
  cut.warps = pieces(tiles, cut.blocks);
  cut.units = side_by_side(s.units, cut.warps);
  cut.k_rows = round_up16(s.all_keys ? s.nk : pieces(s.nk, pieces(s.nk, kSegment)));
  // Fewer units a block where they do not fit, or where multiprocessors would get no block.
  while (cut.units > 1 && (forward_bytes(width, cut) > room.shared || forward_blocks(s.units, cut) < room.processors))
    cut.units /= 2;
  if (forward_bytes(width, cut) > room.shared) return {};
  // Few queries over many keys, as in decoding: the keys are split between blocks, for all multiprocessors.
  if (s.splits && tiles == 1)
    cut.splits = int(
        std::max<int64_t>(1, std::min<int64_t>(room.processors / forward_blocks(s.units, cut), s.nk / kLeastSpan)));
  cut.span = s.nk;
  if (cut.splits > 1) {
    cut.span = round_up16(pieces(s.nk, cut.splits));
    cut.splits = pieces(s.nk, cut.span);
    cut.k_rows = round_up16(pieces(cut.span, pieces(cut.span, kSegment)));
  }
  // A block that has a multiprocessor to itself loads the next segment ahead: no other block computes while it waits.
  cut.stages = cut.k_rows < cut.span && cut.units * cut.warps > shared_warps(width) ? 2 : 1;
  if (forward_bytes(width, cut) > room.shared) cut.stages = 1;
  return cut;
}

// ---- backward ----

constexpr size_t kHalfShared = 112 << 10;  // of a multiprocessor's shared memory, 228 KiB: two blocks fit
constexpr int kSide = 64;                  // rows of either side that a block of a long sequence holds: four warps'

/// What a unit of backward holds in shared memory, in bytes from its start.
struct BackwardLayout {
  size_t q, dout;   // bf16 (q_rows, row_pitch)
  size_t k, v;      // bf16 (k_rows, row_pitch)
  size_t key_bias;  // float (k_rows): 0, or −∞ for padding and behind the last key
  size_t max_lse;   // float (q_rows): the greatest lse of a query's softmaxes, below which exponents are taken
  size_t mean;      // float (m, q_rows): D
  size_t coef;      // float (m, q_rows), with masks: α_j·exp(max_lse − lse_j)
  size_t shares;    // float (warps, kMostChoices), with masks: dα
  size_t bytes;
};
constexpr BackwardLayout backward_layout(int width, const Cut& cut, int m, bool masked) {
  const size_t q_rows = size_t(cut.q_rows), k_rows = size_t(cut.k_rows), pitch = size_t(row_pitch(width)) * 2;
  BackwardLayout at{};
  at.dout = at.q + q_rows * pitch;
  at.k = at.dout + q_rows * pitch;
  at.v = at.k + k_rows * pitch;
  at.key_bias = at.v + k_rows * pitch;
  at.max_lse = at.key_bias + k_rows * sizeof(float);
  at.mean = at.max_lse + q_rows * sizeof(float);
  at.coef = at.mean + size_t(m) * q_rows * sizeof(float);
  at.shares = at.coef + (masked ? size_t(m) * q_rows * sizeof(float) : 0);
  at.bytes = at.shares + (masked ? size_t(cut.warps * kMostChoices) * sizeof(float) : 0);
  return at;
}

/// For blocks that hold all rows of their units.
inline Cut backward_cut(int64_t units, int nq, int nk, int width) {
  const int tiles = std::max(pieces(nq, 16), pieces(nk, 16)), warps = pieces(tiles, pieces(tiles, most_warps(width)));
  return {side_by_side(units, warps), warps, round_up16(nq), round_up16(nk), 1};
}
/// For blocks that hold some of a unit's queries and walk over its keys; and the other way round.
inline Cut backward_queries_cut(int nq, int nk) {
  const int tiles = pieces(nq, 16), blocks = pieces(tiles, kSide / 16), warps = pieces(tiles, blocks);
  return {1, warps, 16 * warps, std::min(kSide, round_up16(nk)), blocks};
}
inline Cut backward_keys_cut(int nq, int nk) {
  const int tiles = pieces(nk, 16), blocks = pieces(tiles, kSide / 16), warps = pieces(tiles, blocks);
  return {1, warps, std::min(kSide, round_up16(nq)), 16 * warps, blocks};
}

}  // namespace mt::cuda
