/** Arithmetic of shapes. */

/** Number of elements: the product of the dimensions. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)
