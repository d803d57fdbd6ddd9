// Gradients without a derivative: central differences. What a backward pass is checked against.

/** (f(x + h d) - f(x - h d)) / 2h: the slope of f at x along d. */
export function directional(
  f: (x: Float64Array) => number,
  x: Float64Array,
  direction: ArrayLike<number>,
  h = 1e-5,
): number {
  const up = x.map((value, i) => value + h * direction[i]!)
  const down = x.map((value, i) => value - h * direction[i]!)
  return (f(up) - f(down)) / (2 * h)
}

/** The slope along every coordinate. */
export function gradient(f: (x: Float64Array) => number, x: Float64Array, h = 1e-5): Float64Array {
  const at = x.slice()
  return x.map((value, i) => {
    at[i] = value + h
    const up = f(at)
    at[i] = value - h
    const down = f(at)
    at[i] = value
    return (up - down) / (2 * h)
  })
}
