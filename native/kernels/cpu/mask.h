// The keys that a query sees, for one instruction set; included like vec.h. Padding, the keys that causality hides and
// the lanes behind the last key all carry a bias of −∞, so that no loop over keys needs a condition. Rows of scores,
// biases and mask bits reach to a whole vector, `width` = round_up(keys).

constexpr float kNone = -INFINITY;  // the bias of a key that is not seen, and what a softmax over nothing leaves

inline int64_t round_up(int64_t keys) { return (keys + kLanes - 1) / kLanes * kLanes; }

/// [width]: the bias of the keys for query i. `room` is used where it differs from one query to the next.
inline const float* query_bias(const AttentionUnit& u, int64_t i, int64_t width, float* room) {
  if (u.sees_all() && !u.bias) return u.key_bias;
  int64_t seen = u.keys_seen(i);
  for (int64_t k = 0; k < width; ++k) room[k] = k < seen ? u.key_bias[k] : kNone;
  if (u.bias) {
    const float* bias = u.bias + (u.nq - 1 - i) * u.bias_stride;
    for (int64_t k = 0; k < seen; ++k) room[k] += bias[k * u.bias_stride];
  }
  return room;
}

/// Lanes whose pair M_j keeps.
MT_INLINE ivec in_mask(ivec bits, int j) { return (bits & isplat(1 << j)) != isplat(0); }

/// Σ_j weights_j M_j for a vector of pairs.
template <int P>
MT_INLINE vec mask_weight(ivec bits, const float* weights) {
  vec w = splat(0.0f);
#pragma GCC unroll 8
  for (int j = 0; j < P; ++j) w = w + select(in_mask(bits, j), splat(weights[j]), splat(0.0f));
  return w;
}

/// row [width] = row ∘ Σ_j weights_j M_j.
template <int P>
void weigh_row(float* row, const int32_t* bits, const float* weights, int64_t width) {
  for (int64_t k = 0; k < width; k += kLanes) store(row + k, load(row + k) * mask_weight<P>(load(bits + k), weights));
}

/// f(the number of masks as a constant): with it, sums of each mask stay in registers.
template <typename F>
auto for_masks(int p, F f) {
  switch (p) {
    case 1: return f(std::integral_constant<int, 1>());
    case 2: return f(std::integral_constant<int, 2>());
    case 3: return f(std::integral_constant<int, 3>());
    case 4: return f(std::integral_constant<int, 4>());
    case 5: return f(std::integral_constant<int, 5>());
    case 6: return f(std::integral_constant<int, 6>());
    case 7: return f(std::integral_constant<int, 7>());
    default: return f(std::integral_constant<int, 8>());
  }
}
