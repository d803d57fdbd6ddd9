// The gradient of softmax, row by row, for one instruction set; included like vec.h, softmax.h before it. Probabilities
// come from the saved log-sum-exp, P = exp(s − lse). In place, a row [width] of scores becomes P, and the row of dP
// becomes dS.
//
// D = rowsum(P ∘ dP) is formed of dP, not of dO·O, and twice: where the softmax is saturated, a row of one key above
// all, dP − D cancels, and what is left must be right. `mean` is the first D, `rest` what rounding left of
// Σ P (dP − mean), which is 0.

/// dS = P ∘ (dP − D).
inline void softmax_row_backward(float* row, float* dP, const float* bias, int64_t width, float lse) {
  vec pd = splat(0.0f), z = splat(0.0f), left = splat(0.0f);
  for (int64_t k = 0; k < width; k += kLanes) {
    vec p = exp(load(row + k) + load(bias + k) - splat(lse));
    store(row + k, p);
    pd = fma(p, load(dP + k), pd);
    z = z + p;
  }
  const float one = sum(z);  // but for rounding
  const vec mean = splat(sum(pd) / one);
  for (int64_t k = 0; k < width; k += kLanes) {
    vec g = load(dP + k) - mean;
    store(dP + k, g);
    left = fma(load(row + k), g, left);
  }
  const vec rest = splat(sum(left) / one);
  for (int64_t k = 0; k < width; k += kLanes) store(dP + k, load(row + k) * (load(dP + k) - rest));
}

/// Routing score: dS = P ∘ (dP − D) ∘ w, dα_j += Σ P (dP − D) S M_j. `s` [width]: room for the scores.
template <int P>
void score_row_backward(float* row, float* dP, const float* bias, const int32_t* bits, const float* alpha,
                        int64_t width, float lse, float* s, double* dalpha) {
  for (int64_t k = 0; k < width; k += kLanes) store(s + k, load(row + k));
  weigh_row<P>(row, bits, alpha, width);
  softmax_row_backward(row, dP, bias, width, lse);
  vec a[P] = {};
  for (int64_t k = 0; k < width; k += kLanes) {
    ivec b = load(bits + k);
    vec g = load(dP + k), gs = g * load(s + k);
    store(dP + k, g * mask_weight<P>(b, alpha));
    if (dalpha)
      for (int j = 0; j < P; ++j) a[j] = a[j] + select(in_mask(b, j), gs, splat(0.0f));
  }
  if (dalpha)
    for (int j = 0; j < P; ++j) dalpha[j] += sum(a[j]);
}

/// Σ P_j (dP − centre) of a mask with an exponential of its own.
inline float own_mean(const float* row, const float* dP, const int32_t* bits, int j, int64_t width, float lse,
                      float centre) {
  vec d = splat(0.0f);
  for (int64_t k = 0; k < width; k += kLanes)
    d = fma(select(in_mask(load(bits + k), j), exp(load(row + k) - splat(lse)), splat(0.0f)),
            load(dP + k) - splat(centre), d);
  return sum(d);
}

/// Routing mixture: P = Σ α_j P_j, dS = Σ α_j P_j (dP − D_j), D_j = rowsum(P_j ∘ dP), dα_j += D_j. lse [P]; `e`
/// [width]: room.
template <int P>
void mixture_row_backward(float* row, float* dP, const float* bias, const int32_t* bits, const float* alpha,
                          int64_t width, const float* lse, float* e, double* dalpha) {
  float base = kNone, lent = 0;
  for (int j = 0; j < P; ++j) {
    base = lse[j] > base ? lse[j] : base;
    if (nothing_visible(lse[j])) lent += alpha[j];
  }
  if (base == kNone) {
    clear(row, width);
    return clear(dP, width);
  }
  // P_j = exp(s − base)·lift_j where base − lse_j is small, else exp(s − lse_j).
  float lift[P], mean[P], rest[P], shared[P], own[P];  // shared and own: α_j, by which of the two P_j is formed
  bool any_own = false;
  for (int j = 0; j < P; ++j) {
    const bool near = base - lse[j] < kFar;
    lift[j] = near ? std::exp(base - lse[j]) : 0;
    own[j] = !near && !nothing_visible(lse[j]) ? 1.0f : 0.0f;
    any_own |= own[j] != 0;
  }
  vec t[P] = {};
  for (int64_t k = 0; k < width; k += kLanes) {
    ivec b = load(bits + k);
    vec s = load(row + k) + load(bias + k), x = exp(s - splat(base)), xd = x * load(dP + k);
    store(row + k, s);
    store(e + k, x);
    for (int j = 0; j < P; ++j) t[j] = t[j] + select(in_mask(b, j), xd, splat(0.0f));
  }
  for (int j = 0; j < P; ++j)
    mean[j] = own[j] != 0 ? own_mean(row, dP, bits, j, width, lse[j], 0) : sum(t[j]) * lift[j];
  vec r[P] = {};
  for (int64_t k = 0; k < width; k += kLanes) {
    ivec b = load(bits + k);
    vec x = load(e + k), g = load(dP + k);
    for (int j = 0; j < P; ++j) r[j] = fma(select(in_mask(b, j), x, splat(0.0f)), g - splat(mean[j]), r[j]);
  }
  for (int j = 0; j < P; ++j)
    rest[j] = own[j] != 0 ? own_mean(row, dP, bits, j, width, lse[j], mean[j]) : sum(r[j]) * lift[j];
  for (int j = 0; j < P; ++j) {
    const float weight = weight_with_lent(j, alpha[j], lent);
    const int from = gradient_source(j, lse[j]);
    shared[j] = weight * lift[j];
    own[j] *= weight;
    if (dalpha) dalpha[j] += mean[from] + rest[from];
  }
  for (int64_t k = 0; k < width; k += kLanes) {
    ivec b = load(bits + k);
    vec x = load(e + k), g = load(dP + k), p = splat(0.0f), dS = splat(0.0f);
    for (int j = 0; j < P; ++j) {
      vec w = select(in_mask(b, j), splat(shared[j]), splat(0.0f));
      p = p + w;
      dS = fma(w, g - splat(mean[j]) - splat(rest[j]), dS);
    }
    p = p * x;
    dS = dS * x;
    if (any_own)
      for (int j = 0; j < P; ++j)
        if (own[j] != 0) {
          vec pj = select(in_mask(b, j), exp(load(row + k) - splat(lse[j])), splat(0.0f)) * splat(own[j]);
          p = p + pj;
          dS = dS + pj * (g - splat(mean[j]) - splat(rest[j]));
        }
    store(row + k, p);
    store(dP + k, dS);
  }
}
