/** Element types. */

/** What activations are stored in; sums are float32 in either. */
export type Precision = 'float32' | 'bfloat16'
