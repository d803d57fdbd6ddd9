// Small matrix products on operands in cache; included like vec.h.

/// One register tile: M rows by N vectors of c (+)= a·b, k terms in order.
template <int M, int N>
MT_INLINE void tile(float* c, int64_t c_row, const float* a, int64_t a_row, int64_t a_col, const float* b,
                    int64_t b_row, int64_t k, bool add) {
  vec acc[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[m][n] = add ? load(c + m * c_row + n * kLanes) : splat(0.0f);
  for (int64_t i = 0; i < k; ++i) {
    vec right[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) right[n] = load(b + i * b_row + n * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      vec left = splat(a[m * a_row + i * a_col]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[m][n] = fma(left, right[n], acc[m][n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(c + m * c_row + n * kLanes, acc[m][n]);
}

/// All rows for one block of N vectors. Rows are divided evenly, so that no tile is thin; tiles one vector wide have
/// more rows, to keep the multipliers busy.
template <int N>
MT_NOINLINE void columns(float* c, int64_t c_row, const float* a, int64_t a_row, int64_t a_col, const float* b,
                         int64_t b_row, int64_t rows, int64_t k, bool add) {
  constexpr int kRows = N == 1 ? 8 : 6;
  for (int64_t left = rows; left > 0;) {
    int64_t tiles = (left + kRows - 1) / kRows, m = (left + tiles - 1) / tiles;
    switch (m) {
      case 1: tile<1, N>(c, c_row, a, a_row, a_col, b, b_row, k, add); break;
      case 2: tile<2, N>(c, c_row, a, a_row, a_col, b, b_row, k, add); break;
      case 3: tile<3, N>(c, c_row, a, a_row, a_col, b, b_row, k, add); break;
      case 4: tile<4, N>(c, c_row, a, a_row, a_col, b, b_row, k, add); break;
      case 5: tile<5, N>(c, c_row, a, a_row, a_col, b, b_row, k, add); break;
      case 6: tile<6, N>(c, c_row, a, a_row, a_col, b, b_row, k, add); break;
      case 7:
        if constexpr (kRows > 6) tile<7, N>(c, c_row, a, a_row, a_col, b, b_row, k, add);
        break;
      default:
        if constexpr (kRows > 6) tile<8, N>(c, c_row, a, a_row, a_col, b, b_row, k, add);
        break;
    }
    c += m * c_row;
    a += m * a_row;
    left -= m;
  }
}

/// c[rows, width] (+)= a[rows, k]·b[k, width]. a may lie in any order; width is rounded up to whole vectors, so rows of
/// b and c must reach that far.
inline void multiply(float* c, int64_t c_row, const float* a, int64_t a_row, int64_t a_col, const float* b,
                     int64_t b_row, int64_t rows, int64_t width, int64_t k, bool add) {
  constexpr int kMost = kRegisters == 32 ? 4 : 2;  // 6 rows of that many vectors fill the registers
  for (int64_t left = (width + kLanes - 1) / kLanes; left > 0;) {
    int64_t blocks = (left + kMost - 1) / kMost, n = (left + blocks - 1) / blocks;
    switch (n) {
      case 1: columns<1>(c, c_row, a, a_row, a_col, b, b_row, rows, k, add); break;
      case 2: columns<2>(c, c_row, a, a_row, a_col, b, b_row, rows, k, add); break;
      case 3:
        if constexpr (kMost > 2) columns<3>(c, c_row, a, a_row, a_col, b, b_row, rows, k, add);
        break;
      default:
        if constexpr (kMost > 2) columns<4>(c, c_row, a, a_row, a_col, b, b_row, rows, k, add);
        break;
    }
    c += n * kLanes;
    b += n * kLanes;
    left -= n;
  }
}

#if defined(MT_X86) || defined(MT_WITH_NEON)
/// As many rows and columns as a register R has numbers.
template <typename R>
MT_INLINE void transpose_block(float* to, int64_t to_row, const float* from, int64_t from_row) {
  constexpr int n = sizeof(R) / sizeof(float);
  R r[n];
  for (int i = 0; i < n; ++i) std::memcpy(&r[i], from + i * from_row, sizeof(R));
  transpose(r);
  for (int i = 0; i < n; ++i) std::memcpy(to + i * to_row, &r[i], sizeof(R));
}
#endif

/// to[c·to_row + r] = from[r·from_row + c]; rows where skip[r], if given, is not 0 become zeros, and so do rows up to
/// `padded`.
inline void transpose(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t padded,
                      int64_t width, const float* skip) {
  int64_t r = 0;
  const auto one = [&](int64_t row, int64_t c) {
    to[c * to_row + row] = row < rows && (!skip || skip[row] == 0) ? from[row * from_row + c] : 0.0f;
  };
#if defined(MT_X86) || defined(MT_WITH_NEON)
  const auto kept = [&](int64_t n) {
    for (int64_t i = r; skip && i < r + n; ++i)
      if (skip[i] != 0) return false;
    return true;
  };
#if MT_LANES >= 8
  for (; r + 8 <= rows && kept(8); r += 8) {
    int64_t c = 0;
    for (; c + 8 <= width; c += 8)
      transpose_block<__m256>(to + c * to_row + r, to_row, from + r * from_row + c, from_row);
    for (; c < width; ++c)
      for (int64_t i = r; i < r + 8; ++i) one(i, c);
  }
#endif
  for (; r + 4 <= rows; r += 4) {
    int64_t c = 0;
    if (kept(4))
      for (; c + 4 <= width; c += 4)
        transpose_block<four>(to + c * to_row + r, to_row, from + r * from_row + c, from_row);
    for (; c < width; ++c)
      for (int64_t i = r; i < r + 4; ++i) one(i, c);
  }
#endif
  for (; r < padded; ++r)
    for (int64_t c = 0; c < width; ++c) one(r, c);
}

/// Rows of `width` numbers times `factor` to rows of to_row, zeros behind them; rows where skip[r] is not 0 become
/// zeros.
inline void copy_rows(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t width,
                      float factor, const float* skip) {
  for (int64_t r = 0; r < rows; ++r, to += to_row, from += from_row) {
    bool zero = skip && skip[r] != 0;
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) store(to + c, zero ? splat(0.0f) : load(from + c) * splat(factor));
    for (; c < width; ++c) to[c] = zero ? 0 : from[c] * factor;
    for (; c < to_row; ++c) to[c] = 0;
  }
}
