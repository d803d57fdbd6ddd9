// exp and log of a vector; included like vec.h and after it.

/// e^x for x <= 88, relative error below 1.5e-7; exactly 0 below −87.3, −inf included. e^0 is exactly 1; NaN in, NaN
/// out.
MT_INLINE vec exp(vec x) {
  const vec magic = splat(12582912.0f);  // 1.5·2^23: adding it rounds to an integer and leaves that in the low bits
  vec shifted = fma(x, splat(1.44269504088896341f), magic), n = shifted - magic;
  vec r = fma(n, splat(-0.693359375f), x);  // ln 2 in two parts, the first exact in products
  r = fma(n, splat(2.12194440e-4f), r);
  vec y = splat(1.9875691500e-4f);  // Cephes' polynomial for (e^r − 1 − r) / r²
  y = fma(y, r, splat(1.3981999507e-3f));
  y = fma(y, r, splat(8.3334519073e-3f));
  y = fma(y, r, splat(4.1665795894e-2f));
  y = fma(y, r, splat(1.6666665459e-1f));
  y = fma(y, r, splat(5.0000001201e-1f));
  y = fma(y, r * r, r) + splat(1.0f);
  // Lanes outside the range may overflow the integer; their wrapped values are discarded.
  return select(splat(-87.3f) > x, splat(0.0f), as_float(add_wrapping(as_int(y), as_int(shifted) << 23)));
}

/// ln x of normal x > 0, relative error below 1.5e-7; ln 1 is exactly 0. Other x give an unspecified number.
MT_INLINE vec log(vec x) {
  const ivec half = isplat(0x3f3504f3);  // √½: x = 2^e·(1 + f), √½ <= 1 + f < √2
  ivec e = (as_int(x) - half) >> 23;
  vec f = as_float(as_int(x) - (e << 23)) - splat(1.0f), n = to_float(e), square = f * f;
  vec y = splat(7.0376836292e-2f);  // Cephes' polynomial for (ln(1 + f) − f + f²/2) / f³
  y = fma(y, f, splat(-1.1514610310e-1f));
  y = fma(y, f, splat(1.1676998740e-1f));
  y = fma(y, f, splat(-1.2420140846e-1f));
  y = fma(y, f, splat(1.4249322787e-1f));
  y = fma(y, f, splat(-1.6668057665e-1f));
  y = fma(y, f, splat(2.0000714765e-1f));
  y = fma(y, f, splat(-2.4999993993e-1f));
  y = fma(y, f, splat(3.3333331174e-1f));
  y = fma(n, splat(-2.12194440e-4f), y * f * square);
  y = fma(splat(-0.5f), square, y);
  return fma(n, splat(0.693359375f), f + y);
}
