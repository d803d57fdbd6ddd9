/** Element types. */

/** The dtype of activations; sums are float32 in either case. */
export type Precision = 'float32' | 'bfloat16'

/**
 * Element types. float32 and bfloat16 hold activations; float16 holds weights; integers hold ids, masks and positions.
 */
export type DType = 'float32' | 'bfloat16' | 'float16' | 'int64' | 'int32' | 'uint8'
/** What elements are read and written as. 16-bit floats are `Uint16Array`s of their bits. */
export type TypedArray = Float32Array | Int32Array | Uint8Array | BigInt64Array | Uint16Array

/** The array of each dtype, in the order of native/core/dtype.h, where the place of a dtype is its number. */
export const ARRAYS = {
  float32: Float32Array,
  bfloat16: Uint16Array,
  float16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
} as const

/** The number of each dtype in native code. */
export const DTYPE_NUMBERS = Object.fromEntries(Object.keys(ARRAYS).map((dtype, i) => [dtype, i])) as Record<
  DType,
  number
>

/** Bytes of one element. */
export const itemSize = (dtype: DType): number => ARRAYS[dtype].BYTES_PER_ELEMENT
