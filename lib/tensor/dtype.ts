/** Element types. */

/** The dtype of activations; sums are float32 in either case. */
export type Precision = 'float32' | 'bfloat16'
