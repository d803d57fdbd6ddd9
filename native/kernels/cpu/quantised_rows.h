// Rows of quantised matrices; included by each_isa.h, after halves.h and with core/quantised.h around it.

#if defined(MT_X86) && MT_LANES == 16
/// to[i] = map[codes[i]]·g.scale + g.offset. The map lies in registers: with a load for each code, the scales took a
/// fifth as long as the product.
MT_NOINLINE inline void group_scales(const float* map, ScaleGroup g, const uint8_t* codes, int64_t n, float* to) {
  __m512 table[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) table[i] = _mm512_loadu_ps(map + 16 * i);
  const __m512 scale = _mm512_set1_ps(g.scale), offset = _mm512_set1_ps(g.offset);
  for (int64_t i = 0; i < n; i += 16) {
    const auto there = __mmask16(n - i < 16 ? (1u << (n - i)) - 1 : 0xffff);
    const __m512i code = _mm512_maskz_cvtepu8_epi32(0xffff, _mm_maskz_loadu_epi8(there, codes + i));
    // 32 numbers by the lowest five bits, of which the others choose.
    __m512 part[8];
#pragma GCC unroll 8
    for (int p = 0; p < 8; ++p) part[p] = _mm512_permutex2var_ps(table[2 * p], code, table[2 * p + 1]);
#pragma GCC unroll 3
    for (int bit = 0; bit < 3; ++bit) {
      const __mmask16 upper = _mm512_test_epi32_mask(code, _mm512_set1_epi32(32 << bit));
#pragma GCC unroll 4
      for (int p = 0; p < 4 >> bit; ++p) part[p] = _mm512_mask_blend_ps(upper, part[2 * p], part[2 * p + 1]);
    }
    _mm512_mask_storeu_ps(to + i, there, part[0] * scale + offset);
  }
}
#else
inline void group_scales(const float* map, ScaleGroup g, const uint8_t* codes, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = map[codes[i]] * g.scale + g.offset;
}
#endif
/// The scales of n blocks of nf4 from number i on.
inline void block_scales(const Quantised& q, int64_t i, int64_t n, float* to) {
  for (int64_t held; n > 0; i += held, to += held, n -= held) {
    held = std::min(n, round_up(i + 1, kGroupBlocks) - i);
    group_scales(q.map, q.groups[i / kGroupBlocks], q.blocks + i, held, to);
  }
}
/// Level number i of a row of codes, two in a byte.
MT_INLINE float level_at(const uint8_t* codes, int64_t i) {
  return kNf4Levels[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4];
}

/// 16 levels that begin at a whole byte, times their scale.
MT_INLINE void sixteen(const uint8_t* codes, float scale, float* to) {
#if defined(MT_X86) && MT_LANES == 16
  // Each lane gets the four bytes that its number lies in; a permutation reads the lowest four bits of an index.
  const __m512i half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const __m512i shift = _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24);
  const __m512i bytes = _mm512_zextsi128_si512(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
  const __m512i index = _mm512_srlv_epi32(_mm512_maskz_permutexvar_epi32(0xffff, half, bytes), shift);
  const __m512 levels = _mm512_maskz_permutexvar_ps(0xffff, index, _mm512_loadu_ps(kNf4Levels));
  _mm512_storeu_ps(to, levels * _mm512_set1_ps(scale));
#elif defined(MT_X86) && MT_LANES == 8
  const __m256i shift = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
  for (int i = 0; i < 2; ++i) {
    int32_t bytes;
    std::memcpy(&bytes, codes + 4 * i, sizeof bytes);
    const __m256i index = _mm256_srlv_epi32(_mm256_set1_epi32(bytes), shift);
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(kNf4Levels), index);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(kNf4Levels + 8), index);
    const __m256 levels = _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
    _mm256_storeu_ps(to + 8 * i, levels * _mm256_set1_ps(scale));
  }
#else
  for (int i = 0; i < 8; ++i) {
    to[2 * i] = kNf4Levels[codes[i] >> 4] * scale;
    to[2 * i + 1] = kNf4Levels[codes[i] & 15] * scale;
  }
#endif
}

/// to[i] = element (row, col + i) as float32.
MT_NOINLINE inline void dequantise_row(const Quantised& q, int64_t row, int64_t col, int64_t n, float* to) {
  if (q.dtype == DType::i8) {
    const auto* codes = reinterpret_cast<const int8_t*>(q.codes) + row * q.width + col;
    const float scale = q.scales[row];
    for (int64_t i = 0; i < n; ++i) to[i] = float(codes[i]) * scale;
    const int32_t* end = q.columns + q.kept_columns;
    for (const int32_t* c = std::lower_bound(q.columns, end, int32_t(col)); c != end && *c < col + n; ++c)
      to[*c - col] = float(q.kept[row * q.kept_columns + (c - q.columns)]);
    return;
  }
  // Blocks run over the ends of rows.
  for (int64_t i = row * q.width + col, end = i + n; i < end;) {
    const int64_t block = i / kBlockElements, last = std::min(end, (block + 1) * kBlockElements);
    const float scale = kernels::block_scale(q, block);
    if (i % 2) *to++ = level_at(q.codes, i++) * scale;
    for (; i + 16 <= last; i += 16, to += 16) sixteen(q.codes + i / 2, scale, to);
    for (; i < last; ++i) *to++ = level_at(q.codes, i) * scale;
  }
}

// ---- few rows against all: each row of codes is read once ----

/// Adds the columns that are kept to the sum of a row of int8.
MT_INLINE float add_kept(const Quantised& q, int64_t row, const float* x, float total) {
  const bf16* kept = q.kept + row * q.kept_columns;
  float more = 0;
  for (int64_t c = 0; c < q.kept_columns; ++c) more += float(kept[c]) * x[q.columns[c]];
  return total + more;
}

#if defined(MT_X86) && MT_LANES >= 8
MT_INLINE vec widened(const int8_t* p) {
#if MT_LANES == 16
  const __m512i wide = _mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return (vec)_mm512_maskz_cvtepi32_ps(0xffff, wide);
#else
  return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#endif
}
/// The levels of the lowest four bits of each lane, by a table in registers.
struct Levels {
  vec table[16 / kLanes];
};
MT_INLINE Levels load_levels() {
  Levels l;
  for (int i = 0; i < 16 / kLanes; ++i) l.table[i] = load(kNf4Levels + i * kLanes);
  return l;
}
MT_INLINE vec levels_of(const Levels& l, ivec i) {
#if MT_LANES == 16
  return (vec)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)i, (__m512)l.table[0]);
#else
  return (vec)_mm256_blendv_ps(_mm256_permutevar8x32_ps((__m256)l.table[0], (__m256i)i),
                               _mm256_permutevar8x32_ps((__m256)l.table[1], (__m256i)i), (__m256)(i << 28));
#endif
}
/// The scales of the blocks that 8 kLanes numbers belong to, in the lanes that these are in.
MT_INLINE vec lane_scales(const float* p) {
#if MT_LANES == 16
  const __m512i half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const __m128 two = _mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(p)));
  return (vec)_mm512_maskz_permutexvar_ps(0xffff, half, _mm512_zextps128_ps512(two));
#else
  return splat(*p);
#endif
}

/// sums[i·C + j] = Σ x[i]·W[row + j] for R rows of x, `apart` numbers apart.
template <int R, int C>
MT_NOINLINE void int8_dots(const Quantised& q, int64_t row, const float* x, int64_t apart, float* sums) {
  const auto* codes = reinterpret_cast<const int8_t*>(q.codes) + row * q.width;
  vec total[R][C] = {};
  int64_t k = 0;
  for (; k + kLanes <= q.width; k += kLanes) {
    vec right[C];
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) right[j] = widened(codes + j * q.width + k);
    // The rows that follow lie behind each other: asked for in that order they arrive faster than in C streams.
    __builtin_prefetch(codes + C * (q.width + k), 0, 3);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const vec left = load(x + i * apart + k);
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) total[i][j] = fma(left, right[j], total[i][j]);
    }
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < C; ++j) {
      float s = sum(total[i][j]);
      for (int64_t t = k; t < q.width; ++t) s += float(codes[j * q.width + t]) * x[i * apart + t];
      sums[i * C + j] = add_kept(q, row + j, x + i * apart, s * q.scales[row + j]);
    }
}

/// The same of nf4, x in the order of its codes, and the scales of C rows. The sum of a block is formed before it is
/// scaled.
template <int R, int C>
MT_NOINLINE void nf4_dots(const Quantised& q, int64_t row, const float* x, int64_t apart, const float* scales,
                          float* sums) {
  const int64_t blocks = q.width / kBlockElements;
  const uint8_t* codes = q.codes + row * q.width / 2;
  const Levels levels = load_levels();
  vec total[R][C] = {};
  for (int64_t k = 0; k < q.width; k += 8 * kLanes, x += 8 * kLanes) {
    ivec right[C];
    vec part[R][C] = {};
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) {
      std::memcpy(&right[j], codes + (j * q.width + k) / 2, sizeof(ivec));
      __builtin_prefetch(codes + ((C + j) * q.width + k) / 2, 0, 2);
    }
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) {
      vec level[C];
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) level[j] = levels_of(levels, right[j] >> (4 * s));
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) {
        const vec left = load(x + i * apart + s * kLanes);
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) part[i][j] = fma(left, level[j], part[i][j]);
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) {
      const vec scale = lane_scales(scales + j * blocks + k / kBlockElements);
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) total[i][j] = fma(part[i][j], scale, total[i][j]);
    }
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < C; ++j) sums[i * C + j] = sum(total[i][j]);
}
#endif

/// Whether nf4_dots reads the matrix as it lies: its steps do not run over the ends of rows.
inline bool nf4_in_place([[maybe_unused]] const Quantised& q) {
#if defined(MT_X86) && MT_LANES >= 8
  return q.dtype == DType::nf4 && q.width % (8 * kLanes) == 0;
#else
  return false;
#endif
}
/// A row of the left factor in the order in which the codes are read: number 8 i + (s ^ 1) of each 8 kLanes, which the
/// four bits s of the 32-bit word i stand for, becomes number s kLanes + i.
inline void in_order_of_codes(const Quantised& q, const float* from, float* to) {
  if (!nf4_in_place(q)) {
    std::memcpy(to, from, size_t(q.width) * sizeof(float));
    return;
  }
  for (int64_t k = 0; k < q.width; k += 8 * kLanes)
    for (int s = 0; s < 8; ++s)
      for (int i = 0; i < kLanes; ++i) to[k + s * kLanes + i] = from[k + 8 * i + (s ^ 1)];
}

#if defined(MT_X86) && MT_LANES >= 8
template <int R, int C>
inline void dots_in_place(const Quantised& q, int64_t row, const float* x, int64_t apart, const float* scales,
                          float* sums) {
  if (q.dtype == DType::i8) int8_dots<R, C>(q, row, x, apart, sums);
  else nf4_dots<R, C>(q, row, x, apart, scales, sums);
}
#endif

/// sums[i·columns + j] = Σ x[i]·W[row + j] for up to 4 rows of x, as in_order_of_codes leaves them, `apart` numbers
/// apart, and up to 4 of W. A sum has the same bits whatever else is summed with it. `scratch` holds 4 rows' scales,
/// or a row.
inline void quantised_dots(const Quantised& q, int64_t row, int64_t columns, const float* x, int64_t apart,
                           int64_t rows, float* scratch, float* sums) {
#if defined(MT_X86) && MT_LANES >= 8
  const int64_t blocks = nf4_in_place(q) ? q.width / kBlockElements : 0;
  block_scales(q, row * blocks, columns * blocks, scratch);
  for (int64_t i = 0; i < columns * blocks; i += 64) __builtin_prefetch(q.blocks + (row + columns) * blocks + i, 0, 3);
  if (q.dtype == DType::i8 || blocks) {
    if (rows == 1 && columns == 4) return dots_in_place<1, 4>(q, row, x, apart, scratch, sums);
    for (int64_t j = 0; j < columns; ++j) {
      const float* scales = scratch + j * blocks;
      float part[4] = {};
      switch (rows) {
        case 1: dots_in_place<1, 1>(q, row + j, x, apart, scales, part); break;
        case 2: dots_in_place<2, 1>(q, row + j, x, apart, scales, part); break;
        case 3: dots_in_place<3, 1>(q, row + j, x, apart, scales, part); break;
        default: dots_in_place<4, 1>(q, row + j, x, apart, scales, part); break;
      }
      for (int64_t i = 0; i < rows; ++i) sums[i * columns + j] = part[i];
    }
    return;
  }
#endif
  for (int64_t j = 0; j < columns; ++j) {
    dequantise_row(q, row + j, 0, q.width, scratch);
    for (int64_t i = 0; i < rows; ++i) {
      const float* left = x + i * apart;
      vec total = splat(0.0f);
      int64_t k = 0;
      for (; k + kLanes <= q.width; k += kLanes) total = fma(load(left + k), load(scratch + k), total);
      float s = sum(total);
      for (; k < q.width; ++k) s += left[k] * scratch[k];
      sums[i * columns + j] = s;
    }
  }
}

// ---- quantising ----

/// Levels of n numbers that are divided by the largest of their block, as numbers from 0 to 15: the nearest, where two
/// are equally near the lower.
MT_NOINLINE inline void nf4_codes(const float* x, float inverse, int64_t n, uint8_t* codes) {
  for (int64_t i = 0; i < n; ++i) {
    const float y = x[i] * inverse;
    int32_t code = 0;
    for (float edge : kNf4Edges) code += y > edge;
    codes[i] = uint8_t(code);
  }
}
/// The largest |x|, or NaN where one is.
MT_NOINLINE inline float largest(const float* x, int64_t n) {
  float most = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float size = std::fabs(x[i]);
    most = size > most || size != size ? size : most;
  }
  return most;
}
/// In double, where 127 x is exact: ties, which 16-bit numbers have, go to even.
MT_NOINLINE inline void int8_codes(const float* x, float most, int64_t n, int8_t* codes) {
  for (int64_t i = 0; i < n; ++i) codes[i] = int8_t(int32_t(std::nearbyint(double(x[i]) * 127 / double(most))));
}
/// most[i] = max(most[i], |x[i]|·inverse)
MT_NOINLINE inline void raise(const float* x, float inverse, int64_t n, float* most) {
  for (int64_t i = 0; i < n; ++i) {
    const float size = std::fabs(x[i]) * inverse;
    most[i] = size > most[i] ? size : most[i];
  }
}
