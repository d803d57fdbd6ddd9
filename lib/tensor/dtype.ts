/** Element types. */

/** The dtype of activations; sums are float32 in either case. */
export type Precision = 'float32' | 'bfloat16'

/** What frozen matrices are stored in with their scales; quantize() makes them, linear layers read them. */
export type QuantizedDType = 'int8' | 'nf4'

/**
 * Element types. float32 and bfloat16 hold activations; float16 holds weights; integers hold ids, masks and positions;
 * int8 and nf4 are quantised matrices, whose elements can only be read by dequantize().
 */
export type DType = 'float32' | 'bfloat16' | 'float16' | 'int64' | 'int32' | 'uint8' | QuantizedDType
/**
 * What elements are read and written as. 16-bit floats are `Uint16Array`s of their bits, quantised matrices are their
 * bytes, scales included.
 */
export type TypedArray = Float32Array | Int32Array | Uint8Array | BigInt64Array | Uint16Array

/** The array of each dtype, in the order of native/core/dtype.h, where the place of a dtype is its number. */
export const ARRAYS = {
  float32: Float32Array,
  bfloat16: Uint16Array,
  float16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
  int8: Uint8Array,
  nf4: Uint8Array,
} as const

/** The number of each dtype in native code. */
export const DTYPE_NUMBERS = Object.fromEntries(Object.keys(ARRAYS).map((dtype, i) => [dtype, i])) as Record<
  DType,
  number
>

/** Whether a dtype is that of quantised matrices. */
export const isQuantized = (dtype: DType): dtype is QuantizedDType => dtype === 'int8' || dtype === 'nf4'

/** Bytes of one element, of quantised ones without their scales. */
export const itemSize = (dtype: DType): number => (dtype === 'nf4' ? 0.5 : ARRAYS[dtype].BYTES_PER_ELEMENT)

/**
 * Bytes of a contiguous tensor. Of quantised matrices the parts begin at multiples of 64, as native/core/quantised.h
 * lays them out.
 */
export function bytesOf(dtype: DType, shape: readonly number[]): number {
  const n = shape.reduce((a, b) => a * b, 1)
  if (!isQuantized(dtype) || n === 0) return n * itemSize(dtype)
  const [rows, width] = shape as [number, number]
  const kept = Math.ceil(width / 128)
  const parts =
    dtype === 'int8'
      ? [n, 4 * rows, 4 * kept, 2 * rows * kept]
      : [Math.ceil(n / 2), Math.ceil(n / 64), 8 * Math.ceil(n / 16384), 4 * (256 + 16)]
  return parts.reduce((at, bytes) => Math.ceil((at + bytes) / 64) * 64, 0)
}
