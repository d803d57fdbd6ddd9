/** Arithmetic of shapes. */

/** Number of elements: the product of the dimensions. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)

/** The smallest multiple of `step` that is at least `n`. */
export const roundUp = (n: number, step: number): number => Math.ceil(n / step) * step
