/** Arithmetic of shapes. */

/** Number of elements: the product of the dimensions. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)

/** The smallest multiple of `step` that is at least `n`. */
export const roundUp = (n: number, step: number): number => Math.ceil(n / step) * step

/** Offsets of strided elements, in row-major order of their indices. */
export function* offsets(shape: readonly number[], strides: readonly number[]): Generator<number> {
  const index = shape.map(() => 0)
  for (let n = sizeOf(shape); n > 0; n--) {
    yield index.reduce((at, i, d) => at + i * strides[d]!, 0)
    for (let d = shape.length - 1; d >= 0 && ++index[d]! === shape[d]; d--) index[d] = 0
  }
}
