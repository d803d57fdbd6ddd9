// How forward attention on tensor cores is cut into blocks. Plain C++: tests ask it without a device.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace mt::cuda {

/// How a launch is cut up: units of a block, warps of a unit, rows in shared memory (multiples of 16), blocks of a
/// unit. Forward, the keys of a unit may be split between blocks: into so many pieces of `span` keys. Of its segments
/// of k_rows keys `stages` lie in shared memory at once, the next on its way while one is in use.
struct Cut {
  int units, warps, q_rows, k_rows, blocks, splits = 1, span = 0, stages = 1;
};

/// The padded width of a head of d ≤ 128 columns.
constexpr int padded_width(int d) { return d <= 64 ? 64 : d <= 96 ? 96 : 128; }
/// Elements from one row to the next in shared memory: eight rows of a matrix fall into different banks.
constexpr int row_pitch(int width) { return width + 8; }
constexpr int most_warps(int width) { return width == 64 ? 10 : 8; }
/// Blocks of more warps have a multiprocessor to themselves: two do not fit into its registers.
constexpr int shared_warps(int width) { return width == 64 ? 6 : 4; }

constexpr int pieces(int n, int size) { return (n + size - 1) / size; }
constexpr int whole(int n) { return pieces(n, 16) * 16; }

constexpr int kSegment = 160;   // keys that lie in shared memory at a time, where there are more
constexpr int kLeastSpan = 64;  // keys: fewer are not worth a block and a second pass

/// Short units share a block of four warps.
inline int side_by_side(int64_t units, int warps) { return int(std::min<int64_t>(std::max(1, 4 / warps), units)); }

/// What a call of forward attention is, as far as its cut depends on it.
struct ForwardSize {
  int64_t units;
  int nq, nk, d;
  bool all_keys;  // a pass needs every key in shared memory: mode attention
  bool splits;    // keys may be split: no masks
};
/// What a block may have, and how many multiprocessors there are to fill.
struct Room {
  size_t shared;
  int processors;
};

/// Keys, values and a number for each key.
inline size_t forward_bytes(int width, const Cut& cut) {
  return size_t(cut.stages * cut.units) * size_t(cut.k_rows) * (2 * size_t(row_pitch(width)) * 2 + sizeof(float));
}
inline int64_t forward_blocks(int64_t units, const Cut& cut) {
  return (units + cut.units - 1) / cut.units * cut.blocks * cut.splits;
}

/// The cut; one of no units where the keys do not fit.
inline Cut forward_cut(const ForwardSize& s, const Room& room) {
  const int width = padded_width(s.d), tiles = pieces(s.nq, 16);
  Cut cut{};
  cut.blocks = pieces(tiles, most_warps(width));
  cut.warps = pieces(tiles, cut.blocks);
  cut.units = side_by_side(s.units, cut.warps);
  cut.k_rows = whole(s.all_keys ? s.nk : pieces(s.nk, pieces(s.nk, kSegment)));
  // Fewer side by side where they do not fit, or would leave multiprocessors without a block.
  while (cut.units > 1 && (forward_bytes(width, cut) > room.shared || forward_blocks(s.units, cut) < room.processors))
    cut.units /= 2;
  if (forward_bytes(width, cut) > room.shared) return {};
  // Few queries over many keys, as in decoding: what is left of the card goes to pieces of the keys.
  if (s.splits && tiles == 1)
    cut.splits = int(
        std::max<int64_t>(1, std::min<int64_t>(room.processors / forward_blocks(s.units, cut), s.nk / kLeastSpan)));
  cut.span = s.nk;
  if (cut.splits > 1) {
    cut.span = whole(pieces(s.nk, cut.splits));
    cut.splits = pieces(s.nk, cut.span);
    cut.k_rows = whole(pieces(cut.span, pieces(cut.span, kSegment)));
  }
  // No other block computes while a lone one waits for its next segment.
  cut.stages = cut.k_rows < cut.span && cut.units * cut.warps > shared_warps(width) ? 2 : 1;
  if (forward_bytes(width, cut) > room.shared) cut.stages = 1;
  return cut;
}

}  // namespace mt::cuda
